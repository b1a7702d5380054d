//! Whether what comes after decoding can do with the columns that an event asks for.

use std::sync::Arc;

use headwater_lake::schema::Column;

use super::misfit::{Misfit, Reason};

/// Says whether rows can be made of these columns. An event that asks for others is refused, not the whole stream.
pub trait Acceptance: std::fmt::Debug + Send + Sync {
    /// Returns why not. A function of the columns alone.
    ///
    /// # Errors
    /// The reason, for people.
    fn accept(&self, columns: &[Column]) -> Result<(), String>;
}

/// Asks, and remembers the last answer: events that are refused tend to ask for the same.
#[derive(Debug)]
pub(crate) struct Judge {
    acceptance: Arc<dyn Acceptance>,
    refused: Option<(Vec<Column>, String)>,
}

impl Judge {
    pub(crate) fn new(acceptance: Arc<dyn Acceptance>) -> Self {
        Self { acceptance, refused: None }
    }

    pub(crate) fn accept(&mut self, columns: &[Column]) -> Result<(), Misfit> {
        let misfit = |reason: &str| Misfit {
            reason: Reason::Transform,
            message: format!("the transform cannot be planned with a new field of this event: {reason}"),
        };
        if let Some((known, reason)) = &self.refused
            && known == columns
        {
            return Err(misfit(reason));
        }
        self.acceptance.accept(columns).map_err(|reason| {
            let refusal = misfit(&reason);
            self.refused = Some((columns.to_vec(), reason));
            refusal
        })
    }
}
