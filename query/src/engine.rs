//! Runs one read-only statement.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use headwater_lake::generation;
use headwater_lake::layout::{Output, TableName};
use headwater_lake::reading;
use headwater_lake::store::LakeStore;

use crate::table::LakeTable;

/// The name under which the lake's store is known to the engine.
const STORE_URL: &str = "lake://lake";

/// Memory that a query may use for sorting and joining; with more it fails instead of taking the machine down.
const MEMORY_BYTES_MAX: usize = 2 << 30;

/// What goes wrong with a query.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lake cannot be read.
    #[error(transparent)]
    Lake(#[from] headwater_lake::Error),
    /// The statement, or its execution.
    #[error("{}", first_line(.0))]
    Sql(#[from] DataFusionError),
}

/// Tables of a lake, as they were when it was opened.
pub struct Engine {
    context: SessionContext,
    /// Files and bytes of all tables.
    totals: Vec<(String, u64, u64)>,
}

/// Rows that come as they are computed.
pub struct Answer {
    /// The rows.
    pub rows: SendableRecordBatchStream,
    plan: Arc<dyn ExecutionPlan>,
}

/// What a query read. Complete when all rows were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scanned {
    /// Files that were opened.
    pub files: u64,
    /// Bytes of column data that were read.
    pub bytes: u64,
}

impl Engine {
    /// Opens all tables of a lake at their newest version.
    ///
    /// # Errors
    /// When the lake cannot be read.
    pub async fn open(store: &LakeStore) -> Result<Self, Error> {
        let config = SessionConfig::new().with_information_schema(true).with_collect_statistics(true);
        let runtime = RuntimeEnvBuilder::new().with_memory_limit(MEMORY_BYTES_MAX, 1.0).build_arc()?;
        let context = SessionContext::new_with_config_rt(config, runtime);
        let url = ObjectStoreUrl::parse(STORE_URL)?;
        context.runtime_env().register_object_store(url.as_ref(), Arc::clone(store.objects()));
        let mut totals = Vec::new();
        for table in generation::tables(store).await? {
            let generation = generation::open_live(store, &table).await?;
            for output in Output::ALL {
                let Some(view) = reading::view(&generation, output).await? else {
                    continue;
                };
                let provider = LakeTable::new(view, url.clone());
                let (files, bytes) = provider.totals();
                let name = sql_name(&table, output);
                context.register_table(datafusion::common::TableReference::bare(name.clone()), Arc::new(provider))?;
                totals.push((name, files, bytes));
            }
        }
        Ok(Self { context, totals })
    }

    /// Returns the names of the tables.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.totals.iter().map(|(name, _, _)| name.as_str())
    }

    /// Returns the files and bytes of the tables that a plan reads.
    pub fn totals(&self, names: &HashSet<String>) -> Scanned {
        let named = self.totals.iter().filter(|(name, _, _)| names.contains(name));
        named.fold(Scanned::default(), |sum, (_, files, bytes)| Scanned {
            files: sum.files + files,
            bytes: sum.bytes + bytes,
        })
    }

    /// Starts a statement. Whatever changes anything is refused.
    ///
    /// # Errors
    /// When it is no statement, is not read-only, or names what is not there.
    pub async fn query(&self, sql: &str) -> Result<(Answer, HashSet<String>), Error> {
        let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let frame = self.context.sql_with_options(sql, read_only).await?;
        let mut names = HashSet::new();
        frame.logical_plan().apply_with_subqueries(|node| {
            if let datafusion::logical_expr::LogicalPlan::TableScan(scan) = node {
                names.insert(scan.table_name.table().to_owned());
            }
            Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
        })?;
        let task = Arc::new(frame.task_ctx());
        let plan = frame.create_physical_plan().await?;
        let rows = execute_stream(Arc::clone(&plan), task)?;
        Ok((Answer { rows, plan }, names))
    }
}

impl Answer {
    /// Returns a handle on the plan that tells what was read, also after the rows are gone.
    pub fn plan(&self) -> Arc<dyn ExecutionPlan> {
        Arc::clone(&self.plan)
    }
}

/// Returns what a plan has read so far.
pub fn scanned(plan: &Arc<dyn ExecutionPlan>) -> Scanned {
    let mut files = HashSet::new();
    let bytes = bytes_scanned(plan, &mut files);
    Scanned { files: files.len() as u64, bytes }
}

/// Adds up the bytes and notes the files; a large file may be in several groups.
fn bytes_scanned(plan: &Arc<dyn ExecutionPlan>, files: &mut HashSet<String>) -> u64 {
    let bytes = plan.metrics().and_then(|metrics| metrics.sum_by_name("bytes_scanned"));
    let source =
        plan.downcast_ref::<DataSourceExec>().and_then(|scan| scan.data_source().downcast_ref::<FileScanConfig>());
    for group in source.map_or(&[][..], |scan| &scan.file_groups) {
        files.extend(group.iter().map(|file| file.object_meta.location.to_string()));
    }
    let own = bytes.map_or(0, |bytes| bytes.as_usize() as u64);
    own + plan.children().into_iter().map(|child| bytes_scanned(child, files)).sum::<u64>()
}

fn sql_name(table: &TableName, output: Output) -> String {
    match output {
        Output::Events => table.to_string(),
        Output::DeadLetters => format!("{table}__dead_letters"),
    }
}

/// An error of the engine goes on with a backtrace that no user needs.
pub(crate) fn first_line(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    text.lines().next().unwrap_or_default().to_owned()
}
