//! Runs lanes: all of a generation, or those that the leases say, as long as they say so.
//!
//! ```text
//!   order Run ------------------> start (if it does not run)
//!   order Cut ------------------> tell: cut, commit, end     --(deadline)--> drop
//!   order Leave, or no order ---> tell: end                  --(deadline)--> drop
//!   a run ends -----------------> tell the keeper, which writes the row then
//! ```
//!
//! Guarantees: a lane has one run at a time in this process; the first failure of a run, or the pointer's move, ends all
//! others in order; leases are let go after the runs have ended. A run that is dropped is one that crashed, which the
//! commit protocol is made for. A lane that is closed for others is kept, as one that is at its end, until every lane of
//! its set is closed: so a worker that waits for those of another takes them over when that one is dead.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use headwater_lake::Error as LakeError;
use headwater_lake::commit::Standing;
use headwater_lake::lanes;
use headwater_lake::layout::{Lane, LaneSetNumber};
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::Instant;

use crate::driver::{Consumer, Ended, Error, LANES_POLL};
use crate::follow::{Follower, Signals, Told, is_true};
use crate::lane::LaneRunner;
use crate::lease::keeper::{Board, Event, Orders, Tenure};
use crate::lease::machine::{Course, Ending};
use crate::lease::{self, Leases};

/// What all runs have in common.
pub(crate) struct Supervisor<'a> {
    consumer: &'a Consumer,
    standing: Standing,
    follower: Option<Arc<Follower>>,
    shutdown: watch::Receiver<bool>,
    /// Whether the lanes have nothing to do but to be closed.
    closes_lanes: bool,
    runs: BTreeMap<Lane, Run>,
    tasks: JoinSet<Result<Ended, Error>>,
    /// Whether a lane has ended closed.
    has_closed: bool,
    ended: Ended,
    failure: Option<Error>,
}

/// A run of a lane.
struct Run {
    term: u64,
    tell: watch::Sender<Told>,
    task: AbortHandle,
    /// When it is dropped, should it not have ended.
    ends_by: Option<Instant>,
}

/// The part of a supervisor that has leases.
struct Shared {
    tenure: Tenure,
    hand_over: Duration,
    set: LaneSetNumber,
    /// When to look whether every lane of the set is closed.
    look_at: Option<Instant>,
    /// The last run of each lane whose end was told.
    told_ends: BTreeMap<Lane, u64>,
    /// Nothing is started any more.
    is_closing: bool,
    /// The keeper has ended.
    is_kept: bool,
}

/// How a task ended.
type Joined = Result<(Id, Result<Ended, Error>), JoinError>;

/// What a supervisor waits for.
enum News {
    Joined(Box<Joined>),
    Orders,
    KeeperEnded,
    ShutDown,
    Overdue,
    LookAtSet,
}

impl<'a> Supervisor<'a> {
    pub(crate) fn new(
        consumer: &'a Consumer,
        standing: Standing,
        follower: Option<Arc<Follower>>,
        shutdown: &watch::Receiver<bool>,
    ) -> Self {
        Self {
            consumer,
            standing,
            follower,
            shutdown: shutdown.clone(),
            closes_lanes: false,
            runs: BTreeMap::new(),
            tasks: JoinSet::new(),
            has_closed: false,
            ended: Ended::Done,
            failure: None,
        }
    }

    /// Makes it one that closes lanes for others, or leaves it as it is.
    pub(crate) fn closing(self, closes_lanes: bool) -> Self {
        Self { closes_lanes, ..self }
    }

    /// Runs these lanes until all have ended.
    pub(crate) async fn run_all(mut self, lanes: Vec<Lane>) -> Result<Ended, Error> {
        for lane in lanes {
            self.start(lane, 0, None);
        }
        while let Some(joined) = self.tasks.join_next_with_id().await {
            self.note_end(joined);
        }
        let ended = self.outcome();
        self.failure.map_or(Ok(ended), Err)
    }

    /// Returns how the lanes have ended, all together.
    fn outcome(&self) -> Ended {
        if self.has_closed && self.ended == Ended::Done { Ended::Closed } else { self.ended }
    }

    /// Runs those of these lanes that the leases give to this worker, until the shutdown, until all lanes are to be left,
    /// or, where there is an end, until each lane is at it here or is another worker's. Where lanes are closed for others,
    /// until all of the set are.
    pub(crate) async fn run_shared(mut self, lanes: Vec<Lane>, leases: &Leases) -> Result<Ended, Error> {
        let mut shared = Shared {
            tenure: Tenure::begin(self.consumer, leases, &lanes, self.closes_lanes),
            hand_over: leases.timing.hand_over,
            set: lanes.first().map_or(LaneSetNumber::FIRST, |lane| lane.set),
            look_at: None,
            told_ends: BTreeMap::new(),
            is_closing: false,
            is_kept: true,
        };
        while !(shared.is_closing && self.runs.is_empty()) {
            match self.next(&mut shared).await {
                News::Joined(joined) => self.pass_on_end(*joined, &mut shared).await,
                News::Orders => self.follow_orders(&mut shared).await,
                News::Overdue => self.drop_the_overdue(),
                News::LookAtSet => self.look_at_set(&mut shared).await,
                News::ShutDown => self.close(&mut shared).await,
                News::KeeperEnded => {
                    shared.is_kept = false;
                    self.tell_all(Told::Cut);
                    self.close(&mut shared).await;
                }
            }
        }
        let (kept, ended) = (self.let_go(&mut shared).await, self.outcome());
        match (self.failure, kept) {
            (None, Ok(())) => Ok(ended),
            (None, Err(error)) => Err(self.consumer.lease_error(error)),
            (Some(failure), kept) => {
                if let Err(error) = kept {
                    tracing::error!(error = ?error, "the leases failed as well");
                }
                Err(failure)
            }
        }
    }

    /// Waits for whatever comes first. A `select!` beside the one in `follow`, because these are not one thing to be
    /// done unless it is to be stopped, but five to be heard of; all of them may be given up and waited for again.
    async fn next(&mut self, shared: &mut Shared) -> News {
        let ends_by = self.runs.values().filter_map(|run| run.ends_by).min();
        let look_at = shared.look_at;
        tokio::select! {
            biased;
            Some(joined) = self.tasks.join_next_with_id() => News::Joined(Box::new(joined)),
            () = is_true(&mut self.shutdown), if !shared.is_closing => News::ShutDown,
            changed = shared.tenure.orders.changed(), if shared.is_kept => match changed {
                Ok(()) => News::Orders,
                Err(_) => News::KeeperEnded,
            },
            () = until(ends_by) => News::Overdue,
            () = until(look_at), if !shared.is_closing => News::LookAtSet,
        }
    }

    fn start(&mut self, lane: Lane, term: u64, board: Option<Arc<Board>>) {
        let (tell, told) = watch::channel(Told::GoOn);
        let (consumer, standing, follower) = (self.consumer.clone(), self.standing, self.follower.clone());
        let signals = Signals { shutdown: self.shutdown.clone(), told };
        let closes_lanes = self.closes_lanes;
        let task = self.tasks.spawn(async move {
            let mut signals = signals;
            let starting = LaneRunner::start(consumer, lane, standing, follower);
            let Ok(runner) = signals.unless_stopped(starting).await else {
                return Ok(Ended::Done);
            };
            let runner = runner?;
            runner.sharing(board).closing(closes_lanes).run(signals).await
        });
        self.runs.insert(lane, Run { term, tell, task, ends_by: None });
    }

    /// Takes that a run has ended, and returns what a keeper is to be told. The first failure or move ends the others.
    fn note_end(&mut self, joined: Joined) -> Event {
        let (id, result) = match joined {
            Ok((id, result)) => (id, Some(result)),
            Err(error) if error.is_cancelled() => (error.id(), None),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let lane = self.runs.iter().find(|(_, run)| run.task.id() == id).map(|(lane, _)| *lane);
        let lane = lane.expect("every task is a run");
        let run = self.runs.remove(&lane).expect("it was found there");
        let was_told = *run.tell.borrow() != Told::GoOn || *self.shutdown.borrow();
        match result {
            Some(Ok(Ended::Fenced)) => return Event::Fenced(lane, run.term),
            Some(Ok(Ended::Done)) if !was_told => return Event::Finished(lane, run.term),
            Some(Ok(Ended::Done)) | None => {}
            // The other lanes find out by themselves.
            Some(Ok(Ended::Closed)) => {
                self.has_closed = true;
                return Event::Finished(lane, run.term);
            }
            Some(Ok(ended)) => {
                self.ended = ended;
                self.tell_all(Told::Leave);
            }
            Some(Err(error)) => {
                self.tell_all(Told::Cut);
                match &self.failure {
                    None => self.failure = Some(error),
                    Some(_) => tracing::error!(error = ?error, "another lane failed as well"),
                }
            }
        }
        Event::Stopped(lane, run.term)
    }

    /// Tells the keeper that a run has ended.
    async fn pass_on_end(&mut self, joined: Joined, shared: &mut Shared) {
        let event = self.note_end(joined);
        if let Event::Stopped(lane, term) | Event::Fenced(lane, term) | Event::Finished(lane, term) = event {
            shared.told_ends.insert(lane, term);
        }
        if self.has_closed {
            shared.look_at = Some(Instant::now());
        }
        // What it had buffered and did not commit is waited for by nobody here.
        self.consumer.progress.oldest_unflushed_micros.store(0, Ordering::Relaxed);
        // Before the end of the run, so that its lane is not taken anew.
        if *self.shutdown.borrow() || self.failure.is_some() || self.ended != Ended::Done {
            self.close(shared).await;
        }
        shared.tenure.tell(event).await;
    }

    /// Starts and stops runs as the leases say now.
    async fn follow_orders(&mut self, shared: &mut Shared) {
        let orders: Orders = shared.tenure.orders.borrow_and_update().clone();
        // While the worker ends, a run may take as long as it needs.
        let ends_by = (!shared.is_closing).then(|| Instant::now() + shared.hand_over);
        for (lane, run) in &mut self.runs {
            let order = orders.get(lane).filter(|order| order.term == run.term);
            match order.map(|order| order.course) {
                Some(Course::Run) => {}
                Some(Course::Cut) => run.tell(Told::Cut, ends_by),
                Some(Course::Leave) | None => run.tell(Told::Leave, ends_by),
            }
        }
        for (lane, order) in orders {
            let is_over = shared.told_ends.get(&lane).is_some_and(|term| *term >= order.term);
            if is_over || self.runs.contains_key(&lane) {
                continue;
            }
            if order.course == Course::Run && !shared.is_closing {
                self.start(lane, order.term, Some(Arc::clone(&shared.tenure.board)));
            } else {
                // It was to run, and never did.
                shared.told_ends.insert(lane, order.term);
                shared.tenure.tell(Event::Stopped(lane, order.term)).await;
            }
        }
    }

    /// Looks whether every lane of the set is closed, whoever has it: then the worker goes on with the next one. Where
    /// all lanes here are closed nobody else looks for the pointer.
    async fn look_at_set(&mut self, shared: &mut Shared) {
        match self.elsewhere(shared.set).await {
            Ok(None) => shared.look_at = Some(Instant::now() + LANES_POLL),
            Ok(Some(ended)) => {
                self.ended = ended;
                self.tell_all(Told::Leave);
                self.close(shared).await;
            }
            Err(error) => {
                self.failure.get_or_insert(self.consumer.lake_error(error));
                self.tell_all(Told::Cut);
                self.close(shared).await;
            }
        }
    }

    /// Returns why there is nothing more to be done in this set of lanes.
    async fn elsewhere(&self, set: LaneSetNumber) -> Result<Option<Ended>, LakeError> {
        if let Some(follower) = &self.follower
            && follower.has_moved(self.consumer.clock.now()).await?
        {
            return Ok(Some(Ended::Moved));
        }
        let current = lanes::current(&self.consumer.generation).await?;
        Ok((current.set.number > set).then_some(Ended::Closed))
    }

    /// Begins to end: nothing is started any more, and the leases of runs that have ended are let go.
    async fn close(&mut self, shared: &mut Shared) {
        if !std::mem::replace(&mut shared.is_closing, true) {
            let ending = if self.ended == Ended::Done { Ending::Release } else { Ending::Remove };
            shared.tenure.tell(Event::Close(ending)).await;
        }
    }

    /// All runs have ended: waits until the leases are let go.
    async fn let_go(&mut self, shared: &mut Shared) -> Result<(), lease::Error> {
        while shared.is_kept {
            match shared.tenure.orders.changed().await {
                // Leases that were on their way when the end came.
                Ok(()) => self.follow_orders(shared).await,
                Err(_) => shared.is_kept = false,
            }
        }
        shared.tenure.ended().await
    }

    fn drop_the_overdue(&mut self) {
        let now = Instant::now();
        for (lane, run) in &mut self.runs {
            if run.ends_by.is_some_and(|by| by <= now) {
                tracing::warn!(%lane, "the lane did not end in time; dropped, what is left is redone by its next owner");
                run.task.abort();
                run.ends_by = None;
            }
        }
    }

    fn tell_all(&mut self, told: Told) {
        for run in self.runs.values_mut() {
            run.tell(told, None);
        }
    }
}

impl Run {
    fn tell(&mut self, told: Told, ends_by: Option<Instant>) {
        let is_news = self.tell.send_if_modified(|before| {
            let is_news = *before < told;
            *before = told.max(*before);
            is_news
        });
        if is_news && self.ends_by.is_none() {
            self.ends_by = ends_by;
        }
    }
}

/// Waits until then; for ever without a time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
