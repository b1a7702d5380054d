//! Which columns a table with a transform has: those it had, and what the SQL gives for the columns of the events now.

use std::sync::Arc;

use headwater_lake::schema::{Column, SchemaVersion, TableSchema, holdable_name};

use super::stage::{Slot, Stage};
use super::{Transform, convert, own_columns, sql_schema};
use crate::decode::{Acceptance, META_COLUMNS, meta_columns};

/// Plans a transform for one base: a table at the beginning of an epoch, or at the version that a cut names.
#[derive(Debug)]
pub(crate) struct Planner {
    transform: Arc<dyn Transform>,
    /// The table; `None` while there is none.
    base: Option<TableSchema>,
    /// Names that the partitioning has taken, in lower case.
    reserved: Vec<String>,
}

impl Planner {
    pub(crate) fn new(transform: Arc<dyn Transform>, base: Option<TableSchema>, reserved: &[String]) -> Self {
        Self { transform, base, reserved: reserved.iter().map(|name| name.to_lowercase()).collect() }
    }

    /// Plans the stage for events with these columns. The table gets columns only with a version that it had not: so
    /// the same version always has the same.
    ///
    /// # Errors
    /// Why the types do not allow it. A function of the columns, not of their versions.
    pub(crate) fn stage(&self, input: &TableSchema) -> Result<Stage, String> {
        let plan = self.transform.plan(&Arc::new(sql_schema(input)))?;
        let base_version = self.base.as_ref().map_or(SchemaVersion(0), |base| base.version);
        let may_grow = base_version < input.version;
        let mut columns: Vec<Column> = self.base.as_ref().map_or_else(Vec::new, |base| own_columns(base).to_vec());
        let mut sources = vec![None; columns.len()];
        for (index, output) in plan.outputs().into_iter().enumerate() {
            let wrong = |what: String| format!("column {}: {what}", output.name);
            let Some(kind) = convert::stored_as(&output.kind, input.version).map_err(wrong)? else {
                // Null in every row until a field is known; then it makes a column.
                continue;
            };
            match columns.iter().position(|column| column.source() == output.name) {
                Some(at) => {
                    convert::merge(&mut columns[at].kind, &kind, may_grow).map_err(wrong)?;
                    sources[at] = Some(index);
                }
                None if may_grow => {
                    let name = holdable_name(&output.name, |name| self.is_taken(name, &columns));
                    let source = (name != output.name).then(|| output.name.clone());
                    columns.push(Column { name, source, kind, since: input.version });
                    sources.push(Some(index));
                }
                None => {}
            }
        }
        let slots = columns.iter().zip(sources).map(|(column, source)| Slot { column: column.clone(), source });
        let slots = slots.collect();
        let table = TableSchema {
            version: input.version,
            columns: meta_columns().chain(columns).collect(),
            input: Some(own_columns(input).to_vec()),
        };
        Ok(Stage::new(plan, input.clone(), table, slots))
    }

    fn is_taken(&self, name: &str, columns: &[Column]) -> bool {
        META_COLUMNS.iter().any(|(meta, _)| *meta == name)
            || self.reserved.iter().any(|reserved| reserved == name)
            || columns.iter().any(|column| column.name.to_lowercase() == name)
    }
}

impl Acceptance for Planner {
    fn accept(&self, columns: &[Column]) -> Result<(), String> {
        let version = self.base.as_ref().map_or(SchemaVersion(0), |base| base.version).next();
        let columns = meta_columns().chain(columns.iter().cloned()).collect();
        self.stage(&TableSchema { version, columns, input: None }).map(drop)
    }
}
