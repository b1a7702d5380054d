//! The functions of the engine by name, and the one table `events`: all that the planner may look up.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Result, TableReference, plan_err};
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner};
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, Volatility, WindowUDF};

use super::Refused;

/// The one table that a transform reads.
pub(super) const TABLE: &str = "events";

/// Every function of the engine; those that are no scalar function are known to be refused by their kind.
pub(super) struct Functions {
    scalar: HashMap<String, Arc<ScalarUDF>>,
    aggregates: HashSet<String>,
    windows: HashSet<String>,
    planners: Vec<Arc<dyn ExprPlanner>>,
    options: ConfigOptions,
}

impl Functions {
    pub(super) fn immutable_and_others() -> Self {
        let mut scalar = HashMap::new();
        for function in SessionStateDefaults::default_scalar_functions() {
            for name in function.aliases() {
                scalar.insert(name.clone(), Arc::clone(&function));
            }
            scalar.insert(function.name().to_owned(), function);
        }
        let names = |name: &str, aliases: &[String]| -> Vec<String> {
            std::iter::once(name.to_owned()).chain(aliases.iter().cloned()).collect()
        };
        let aggregates = SessionStateDefaults::default_aggregate_functions();
        let windows = SessionStateDefaults::default_window_functions();
        Self {
            scalar,
            aggregates: aggregates.iter().flat_map(|function| names(function.name(), function.aliases())).collect(),
            windows: windows.iter().flat_map(|function| names(function.name(), function.aliases())).collect(),
            planners: SessionStateDefaults::default_expr_planners(),
            options: ConfigOptions::default(),
        }
    }

    /// Says whether a transform may call this function.
    pub(super) fn check(&self, name: &str) -> std::result::Result<(), Refused> {
        match self.scalar.get(name) {
            Some(_) if name == "version" => {
                Err(Refused::new("`version` gives something else in another version of Headwater"))
            }
            Some(function) => check_volatility(function),
            None if self.aggregates.contains(name) => {
                Err(Refused::new(format!("`{name}` is an aggregate; {}", super::check::WHY)))
            }
            None if self.windows.contains(name) => {
                Err(Refused::new(format!("`{name}` is a window function; {}", super::check::WHY)))
            }
            None if name == "unnest" => Err(Refused::new("`unnest` makes several rows of one, which is not allowed")),
            None => Err(Refused::new(format!("there is no function `{name}`"))),
        }
    }
}

/// Says whether a function gives the same for the same arguments whenever it is called.
pub(super) fn check_volatility(function: &ScalarUDF) -> std::result::Result<(), Refused> {
    let name = function.name();
    match function.signature().volatility {
        Volatility::Immutable => Ok(()),
        Volatility::Stable => Err(Refused::new(format!(
            "`{name}` is not immutable: it gives something else in the next run, and an epoch that is made again must \
             give the same rows; `_arrived_at` is the time of arrival"
        ))),
        Volatility::Volatile => Err(Refused::new(format!(
            "`{name}` is not immutable: it gives something else at each call, and an epoch that is made again must \
             give the same rows"
        ))),
    }
}

/// What the planner asks while it plans a transform.
pub(super) struct Context<'a> {
    pub(super) functions: &'a Functions,
    pub(super) events: Arc<dyn TableSource>,
}

impl ContextProvider for Context<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        if name == TableReference::bare(TABLE) {
            Ok(Arc::clone(&self.events))
        } else {
            plan_err!("there is no table `{name}`")
        }
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.functions.planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.functions.scalar.get(name).cloned()
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, _name: &str) -> Option<Arc<AggregateUDF>> {
        None
    }

    fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.functions.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.functions.scalar.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}
