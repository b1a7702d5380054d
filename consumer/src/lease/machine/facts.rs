//! What the coordinator is told, and what it says.

use std::time::Duration;

use headwater_lake::layout::Lane;

use crate::lease::claim::{Claim, WorkerId};

/// A moment on the worker's own clock, which only goes forward: the time since some moment before it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Duration);

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A lease whose counter stands still for so long, as this worker sees it, is expired.
    pub duration: Duration,
    /// An owner that is asked for a lane and does not hand it over for so long loses it.
    pub hand_over: Duration,
}

/// What a worker is run with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name.
    pub worker: WorkerId,
    /// How many lanes it takes at most.
    pub max_leases: usize,
    /// How long things take.
    pub timing: Timing,
    /// Decides which of several lanes it takes.
    pub seed: u64,
}

/// What a conditional write is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nobody ever had the lane.
    Create,
    /// Its lease is expired or was released.
    Take,
    /// The lane was given to this worker, or is left from an earlier process of its name.
    Adopt,
    /// Its owner did not hand it over in time.
    Force,
    /// The owner is asked to hand it over.
    Ask,
    /// The owner is no longer asked.
    Withdraw,
    /// A sign of life.
    Renew,
    /// To whom asked for it.
    Give,
    /// To whoever comes.
    Release,
    /// The lane is no longer there.
    Remove,
}

/// A conditional write of one lane's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The lane.
    pub lane: Lane,
    /// What it is for.
    pub kind: Kind,
    /// What must be there: all of it, or no row at all.
    pub expected: Option<Claim>,
    /// What is there afterwards; `None` when the row is to be removed.
    pub next: Option<Claim>,
}

/// What came of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was written.
    Done,
    /// Something else was there, and still is: nothing was written.
    Lost(Option<Claim>),
    /// Whether it was written is not known.
    Unclear,
}

/// What is to become of a lane's work. A run has a number; one with a higher number begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// The number of the run.
    pub term: u64,
    /// What is to become of it.
    pub course: Course,
}

/// What is to become of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It goes on.
    Run,
    /// It cuts and commits what is buffered, and ends.
    Cut,
    /// It ends; what is buffered is another worker's.
    Leave,
}

/// How a worker ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Others go on with its lanes.
    Release,
    /// Nobody goes on: the lanes are closed, or of a generation that is live no more.
    Remove,
}

/// How the lanes are spread, as far as this worker knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// Lanes that are this worker's.
    pub owned: usize,
    /// Lanes that are nobody's.
    pub unowned: usize,
    /// Lanes that have been nobody's for a whole duration, and that this worker may not take.
    pub starving: usize,
}

impl Moment {
    /// Returns the moment so much later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// Returns the time since an earlier moment; zero for a later one.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Timing {
    /// Returns how long apart renewals are: two may fail before a lease expires.
    pub fn renew_every(&self) -> Duration {
        self.duration / 3
    }

    /// Returns how long apart the rows are read, at most.
    pub fn look_every(&self) -> Duration {
        self.duration / 6
    }

    /// Returns how long apart the rows are read while lanes are on their way.
    pub fn hurry_every(&self) -> Duration {
        self.duration / 15
    }

    /// Returns how long to wait after a request that failed.
    pub fn retry_after(&self) -> Duration {
        self.duration / 30
    }
}
