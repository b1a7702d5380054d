//! What can go wrong with leases, said so that a user knows what to do.

use headwater_common::outcome::{Again, Classified, Effect};

use super::claim::WorkerId;

/// An error of the leases.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lease table refused, or did not answer.
    #[error("{place}: {operation} failed{}", .hint.map(|hint| format!("; {hint}")).unwrap_or_default())]
    Store {
        /// The lease table.
        place: String,
        /// The operation, as the service names it.
        operation: &'static str,
        /// What the user can do, where that is known.
        hint: Option<&'static str>,
        /// Whether the operation took effect.
        effect: Effect,
        /// Whether it may work later.
        again: Again,
        /// What the service said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The lease table holds what is no lease of Headwater.
    #[error(
        "{place} holds `{key}`, which is no lease of Headwater: it is another application's. Name a lease table of \
        its own"
    )]
    NotALease {
        /// The lease table.
        place: String,
        /// The key.
        key: String,
    },
    /// The lease table holds a lease of the same table that another version wrote.
    #[error(
        "{place} holds `{key}`, which another version of Headwater wrote; this one writes {known}. Run one version \
        only: stop the workers of the other, and delete its rows; no position is lost with them"
    )]
    OtherVersion {
        /// The lease table.
        place: String,
        /// The key.
        key: String,
        /// The version of keys that this one writes.
        known: &'static str,
    },
    /// A row whose content is not that of a lease.
    #[error("{place}: the row `{key}` is damaged: {what}. Stop the workers and delete it; no position is lost with it")]
    Damaged {
        /// The lease table.
        place: String,
        /// The row's key.
        key: String,
        /// What was found.
        what: String,
    },
    /// The lease table cannot hold leases.
    #[error("{place} is no lease table: {what}. Name another one, or let --create-lease-table make one")]
    NotALeaseTable {
        /// The table.
        place: String,
        /// What is wrong with it.
        what: String,
    },
    /// A table of the same name in another lake has its leases there.
    #[error(
        "{place} holds the leases of a table of that name in another lake: {found}, not {wanted}. Give each lake a \
        lease table of its own; all workers of one lake name it the same way"
    )]
    OtherLake {
        /// The lease table.
        place: String,
        /// The lake in the rows.
        found: String,
        /// The lake at hand.
        wanted: String,
    },
    /// Another process has this worker's name.
    #[error("another process runs as worker {worker}: give each worker a --worker-id of its own, or none")]
    Namesake {
        /// The name.
        worker: WorkerId,
    },
}

impl Classified for Error {
    fn effect(&self) -> Effect {
        match self {
            Self::Store { effect, .. } => *effect,
            _ => Effect::DidNotHappen,
        }
    }

    fn again(&self) -> Again {
        match self {
            Self::Store { again, .. } => *again,
            _ => Again::WillNotHelp,
        }
    }
}
