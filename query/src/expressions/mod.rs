//! The SQL of a pipeline's transform: one `SELECT … FROM events WHERE …`, row by row and nothing else.
//!
//! Guarantees: what it gives for a row is a function of that row alone, today and whenever the epoch is made again.
//! So every function is `Immutable`, every plan is a projection and a filter over `events`, and whatever else SQL can
//! say is refused with the reason, already when the text is read. A field that no event has had yet is null. Nothing
//! in here touches the world: no session, no catalog, no clock.
//!
//! ```text
//! text -> parse -> check (the shape, the names of functions) -> plan (with the columns there are) -> evaluate
//! ```

mod check;
mod functions;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use arrow_schema::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::ast::Statement;

use self::functions::Functions;
pub use self::plan::{Planned, PlannedColumn};

/// A transform that cannot be, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    reason: String,
}

/// A transform that was read and found to be allowed.
pub struct Expressions {
    statement: Statement,
    canonical: String,
    /// Columns that every row has anyway: they may be read, and are no output.
    carried: Vec<String>,
    /// The fields of the event that it names.
    fields: BTreeSet<String>,
    /// How the outputs that have a name of their own are written.
    texts: BTreeMap<String, String>,
    /// How its WHERE is written.
    predicate: Option<String>,
    functions: Functions,
}

impl Expressions {
    /// Reads a transform. `carried` are the columns that every row has anyway, `input` those that are known from the
    /// beginning, the carried ones among them.
    ///
    /// # Errors
    /// When the text is not one of the allowed kind, or cannot be planned while no other column is known.
    pub fn parse(sql: &str, carried: &[&str], input: &SchemaRef) -> Result<Self, Refused> {
        let functions = Functions::immutable_and_others();
        let carried: Vec<String> = carried.iter().map(|name| (*name).to_owned()).collect();
        let check::Checked { statement, canonical, fields, texts, predicate } =
            check::check(sql, &carried, &functions)?;
        let expressions = Self { statement, canonical, carried, fields, texts, predicate, functions };
        expressions.plan(input)?;
        Ok(expressions)
    }

    /// Returns the text as it would be printed: without comments, its white space and keywords in one way.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// Plans it for the columns there are.
    ///
    /// # Errors
    /// When the types do not allow it, saying where.
    pub fn plan(&self, input: &SchemaRef) -> Result<Planned, Refused> {
        plan::plan(self, input)
    }
}

impl fmt::Debug for Expressions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expressions").field("canonical", &self.canonical).finish_non_exhaustive()
    }
}

impl Refused {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

impl From<DataFusionError> for Refused {
    fn from(error: DataFusionError) -> Self {
        Self::new(first_line(&error))
    }
}

/// The engine's messages may go on for long, and name what no user has written.
fn first_line(error: &DataFusionError) -> String {
    const LENGTH_MAX: usize = 300;
    let text = crate::engine::first_line(error);
    text.chars().take(LENGTH_MAX).collect()
}

#[cfg(test)]
mod tests;
