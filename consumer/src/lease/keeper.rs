//! Acts for one worker: reads the rows, asks the machine, writes what it names, and publishes what is to become of each
//! lane's run.
//!
//! ```text
//! supervisor --- Stopped, Fenced, Close ---> keeper (one task) --- conditional writes, reads ---> lease table
//!     ^                                        |    ^
//!     +------------------ orders --------------+    +-- last committed epochs (board), from the lanes in passing
//! ```
//!
//! Guarantees: nothing is written that the machine did not name; all writes of one round are answered before the next;
//! a lease is let go only after its run has ended; the task ends when its supervisor is dropped. What may work later is
//! tried again for as long as the leases last, and a warning says so once a minute; what the user must mend is an error.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_common::clock::Clock;
use headwater_common::outcome::{Again, Classified};
use headwater_lake::layout::{Epoch, Lane};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Leases;
use super::claim::Claim;
use super::error::Error;
use super::machine::{Answer, Course, Ending, Kind, Machine, Moment, Order, Settings, Write};
use super::row::{LeaseKey, Row, check_keys};
use super::store::{LeaseStore, Outcome};
use crate::driver::{Consumer, Until};
use crate::metrics;

/// Writes that are under way at once.
const WRITES_AT_ONCE_MAX: usize = 16;

/// Rounds of writes between two looks at what the supervisor says; a lost write may call for another one at once.
const ROUNDS_MAX: usize = 8;

/// How long the keeper sleeps at least, and at most.
const SLEEP_MIN: Duration = Duration::from_millis(1);
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// How often the same complaint is logged.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What is to become of each lane's run; a lane that is not named has none.
pub(crate) type Orders = BTreeMap<Lane, Order>;

/// What a supervisor tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A run has ended; what it had read is committed, or forgotten.
    Stopped(Lane, u64),
    /// A run has ended because another writer was faster.
    Fenced(Lane, u64),
    /// A run has come to its end.
    Finished(Lane, u64),
    /// The worker ends, or leaves this set of lanes.
    Close(Ending),
}

/// Where lanes note the last epoch that each has committed, in passing.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<BTreeMap<Lane, Epoch>>);

impl Board {
    /// Notes an epoch.
    pub(crate) fn post(&self, lane: Lane, epoch: Epoch) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(lane, epoch);
    }

    fn epoch(&self, lane: Lane) -> Option<Epoch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&lane).copied()
    }
}

/// A running keeper, as its supervisor has it. Ends when it is dropped, without letting go of the leases.
pub(crate) struct Tenure {
    /// What is to become of each run. Its sender is gone once the keeper has ended.
    pub(crate) orders: watch::Receiver<Orders>,
    /// Where the runs note their epochs.
    pub(crate) board: Arc<Board>,
    events: mpsc::Sender<Event>,
    task: JoinSet<Result<(), Error>>,
}

impl Tenure {
    /// Begins to take lanes of the consumer's generation. While lanes are closed for others a worker stays, whatever end
    /// was asked for: the next ones begin when all are closed, also those of a worker that is dead.
    pub(crate) fn begin(consumer: &Consumer, leases: &Leases, lanes: &[Lane], closes_lanes: bool) -> Self {
        let (open, is_bounded) = (&consumer.generation, consumer.until != Until::Forever && !closes_lanes);
        let (tell_orders, orders) = watch::channel(Orders::new());
        // A run ends once, and is told once more at most.
        let (tell_events, events) = mpsc::channel(2 * lanes.len() + 2);
        let board = Arc::new(Board::default());
        let settings = Settings {
            worker: leases.worker.clone(),
            max_leases: leases.max_leases,
            timing: leases.timing,
            seed: consumer.seed,
        };
        let key =
            |lane: &Lane| LeaseKey { table: open.table.clone(), generation: open.description.number, lane: *lane };
        let keeper = Keeper {
            keys: lanes.iter().map(|lane| (*lane, key(lane))).collect(),
            lake: open.store.url().to_string(),
            machine: Machine::new(settings, lanes.iter().copied(), Moment(Duration::ZERO)),
            leases: leases.clone(),
            board: Arc::clone(&board),
            clock: Arc::clone(&consumer.clock),
            began_at: Instant::now(),
            rows: BTreeMap::new(),
            events,
            orders: tell_orders,
            is_bounded,
            is_checked: false,
            is_alone: false,
            ends_by: None,
            lost: 0,
            complained: BTreeMap::new(),
        };
        let mut task = JoinSet::new();
        task.spawn(keeper.run());
        Self { orders, board, events: tell_events, task }
    }

    /// Tells the keeper something. When it has ended there is nobody to be told.
    pub(crate) async fn tell(&self, event: Event) {
        let _ = self.events.send(event).await;
    }

    /// Waits for the end of the keeper; it has been told to close, or has failed.
    pub(crate) async fn ended(&mut self) -> Result<(), Error> {
        match self.task.join_next().await {
            None => Ok(()),
            Some(joined) => joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())),
        }
    }
}

/// What goes on for a while and is said once a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Complaint {
    Unreachable,
    Starving,
}

struct Keeper {
    keys: BTreeMap<Lane, LeaseKey>,
    lake: String,
    machine: Machine,
    leases: Leases,
    board: Arc<Board>,
    clock: Arc<dyn Clock>,
    began_at: Instant,
    /// The rows as they were last seen, for the columns that are hints.
    rows: BTreeMap<Lane, Row>,
    events: mpsc::Receiver<Event>,
    orders: watch::Sender<Orders>,
    /// The worker ends by itself once all lanes have come to their end.
    is_bounded: bool,
    /// The table holds nothing that is to be refused.
    is_checked: bool,
    /// The supervisor is gone.
    is_alone: bool,
    /// When the last writes must have gone through; others take the lanes by themselves a little later.
    ends_by: Option<Moment>,
    /// Lost lanes that were counted.
    lost: u64,
    complained: BTreeMap<Complaint, Moment>,
}

impl Keeper {
    async fn run(mut self) -> Result<(), Error> {
        while !self.is_over() {
            self.step().await?;
            if !self.is_over() {
                self.wait().await;
            }
        }
        if !self.machine.is_closed() {
            tracing::warn!("leases could not be released; they expire by themselves");
        }
        Ok(())
    }

    fn now(&self) -> Moment {
        Moment(self.began_at.elapsed())
    }

    fn is_over(&self) -> bool {
        self.machine.is_closed() || self.ends_by.is_some_and(|by| self.now() >= by)
    }

    /// Does all that is to be done now.
    async fn step(&mut self) -> Result<(), Error> {
        if self.machine.wants_look(self.now())
            && let Err(error) = self.look().await
        {
            let now = self.now();
            self.machine.look_failed(now);
            self.complain_or_fail(error)?;
        }
        for _ in 0..ROUNDS_MAX {
            let writes = self.machine.decide(self.now());
            self.publish();
            if !writes.is_empty() {
                self.perform(writes).await?;
            } else if self.is_bounded && !self.machine.is_ending() && self.machine.is_finished() {
                self.machine.close(Ending::Release);
            } else {
                break;
            }
        }
        self.publish();
        if self.machine.has_namesake() {
            return Err(Error::Namesake { worker: self.leases.worker.clone() });
        }
        Ok(())
    }

    /// Sleeps until there is something to do, or to hear.
    async fn wait(&mut self) {
        let wakes_at = self.ends_by.map_or(self.machine.wakes_at(), |by| by.min(self.machine.wakes_at()));
        let sleep = wakes_at.since(self.now()).clamp(SLEEP_MIN, SLEEP_MAX);
        if self.is_alone {
            return tokio::time::sleep(sleep).await;
        }
        if let Ok(event) = tokio::time::timeout(sleep, self.events.recv()).await {
            self.hear(event);
            while let Ok(event) = self.events.try_recv() {
                self.hear(Some(event));
            }
        }
    }

    fn hear(&mut self, event: Option<Event>) {
        let now = self.now();
        match event {
            Some(Event::Stopped(lane, term)) => self.machine.stopped(lane, term, now),
            Some(Event::Fenced(lane, term)) => self.machine.fenced(lane, term, now),
            Some(Event::Finished(lane, term)) => self.machine.finished(lane, term, now),
            Some(Event::Close(ending)) => self.machine.close(ending),
            None => {
                self.is_alone = true;
                self.machine.close(Ending::Release);
            }
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        if !self.is_checked
            && let Some(key) = self.keys.values().next()
        {
            check_keys(&self.leases.store.place(), &key.table, &self.leases.store.keys("").await?)?;
            self.is_checked = true;
        }
        let keys: Vec<LeaseKey> = self.keys.values().cloned().collect();
        let rows = self.leases.store.read(&keys).await?;
        if let Some(row) = rows.iter().find(|row| row.lake != self.lake) {
            let (found, wanted) = (row.lake.clone(), self.lake.clone());
            return Err(Error::OtherLake { place: self.leases.store.place(), found, wanted });
        }
        self.rows = rows.into_iter().map(|row| (row.key.lane, row)).collect();
        let claims = self.rows.iter().map(|(lane, row)| (*lane, row.claim.clone())).collect();
        let now = self.now();
        self.machine.learned(claims, now);
        Ok(())
    }

    async fn perform(&mut self, writes: Vec<Write>) -> Result<(), Error> {
        for some in writes.chunks(WRITES_AT_ONCE_MAX) {
            let mut tasks = JoinSet::new();
            for write in some.iter().cloned() {
                let (store, key) = (Arc::clone(&self.leases.store), self.keys[&write.lane].clone());
                let (row, began) = (self.row_after(&write), self.now());
                tasks.spawn(async move {
                    let outcome = send(store.as_ref(), &key, &write, row.as_ref()).await;
                    (write, row, began, outcome)
                });
            }
            while let Some(joined) = tasks.join_next().await {
                let (write, row, began, outcome) =
                    joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
                let answer = match outcome {
                    Ok(Outcome::Done) => {
                        self.count(&write);
                        self.remember(write.lane, row);
                        Answer::Done
                    }
                    Ok(Outcome::Lost(found)) => {
                        let claim = found.as_ref().map(|row| row.claim.clone());
                        self.remember(write.lane, found);
                        Answer::Lost(claim)
                    }
                    Err(error) => {
                        self.complain_or_fail(error)?;
                        Answer::Unclear
                    }
                };
                let now = self.now();
                self.machine.answered(&write, answer, began, now);
            }
        }
        Ok(())
    }

    fn remember(&mut self, lane: Lane, row: Option<Row>) {
        match row {
            Some(row) => self.rows.insert(lane, row),
            None => self.rows.remove(&lane),
        };
    }

    /// Returns the row that a write leaves, with the hints that this worker knows.
    fn row_after(&self, write: &Write) -> Option<Row> {
        let claim = write.next.clone()?;
        let before = self.rows.get(&write.lane);
        let known = before.map_or(Epoch(0), |row| row.checkpoint);
        let is_own = !matches!(write.kind, Kind::Ask | Kind::Withdraw);
        let checkpoint = self.board.epoch(write.lane).filter(|_| is_own).map_or(known, |epoch| epoch.max(known));
        let was = before.and_then(|row| row.claim.owner.as_ref());
        let is_switch = claim.owner.is_some() && was != claim.owner.as_ref();
        let switches = if checkpoint > known { 0 } else { before.map_or(0, |row| row.owner_switches) };
        Some(Row {
            key: self.keys[&write.lane].clone(),
            claim,
            checkpoint,
            owner_switches: switches + u64::from(is_switch && before.is_some()),
            lake: self.lake.clone(),
            renewed_at: if is_own { Some(self.clock.now()) } else { before.and_then(|row| row.renewed_at) },
        })
    }

    /// Counts what went through, and says it.
    fn count(&self, write: &Write) {
        match write.kind {
            Kind::Create | Kind::Take => ::metrics::counter!(metrics::LEASES_TAKEN).increment(1),
            Kind::Adopt | Kind::Force => ::metrics::counter!(metrics::LEASES_STOLEN).increment(1),
            Kind::Give => ::metrics::counter!(metrics::LEASES_GIVEN).increment(1),
            Kind::Renew => return,
            Kind::Ask | Kind::Withdraw | Kind::Release | Kind::Remove => {}
        }
        let from = write.expected.as_ref().and_then(owner_of);
        let to = write.next.as_ref().and_then(owner_of);
        tracing::info!(lane = %write.lane, change = ?write.kind, from, to, "lease");
    }

    /// Publishes what is to become of the runs, and how the lanes are spread.
    fn publish(&mut self) {
        let orders = self.machine.orders();
        if self.ends_by.is_none() && self.machine.is_ending() && orders.is_empty() {
            self.ends_by = Some(self.now().plus(self.leases.timing.renew_every()));
        }
        let lost = self.machine.lost();
        if lost > self.lost {
            let gone = orders.iter().filter(|(_, order)| order.course == Course::Leave);
            let gone = gone.map(|(lane, _)| lane.to_string()).collect::<Vec<_>>().join(" ");
            ::metrics::counter!(metrics::LEASES_LOST).increment(lost - self.lost);
            tracing::warn!(count = lost - self.lost, another_has = gone, "leases lost");
            self.lost = lost;
        }
        let census = self.machine.census();
        #[expect(clippy::cast_precision_loss, reason = "there are a thousand lanes at most")]
        let (owned, unowned) = (census.owned as f64, census.unowned as f64);
        ::metrics::gauge!(metrics::LEASES_OWNED).set(owned);
        ::metrics::gauge!(metrics::LEASES_UNOWNED).set(unowned);
        if census.starving > 0 && self.is_time_for(Complaint::Starving) {
            let (lanes, max_leases) = (census.starving, self.leases.max_leases);
            tracing::warn!(lanes, max_leases, "lanes have no worker; raise --max-leases, or start more workers");
        }
        self.orders.send_if_modified(|published| {
            let is_other = *published != orders;
            *published = orders;
            is_other
        });
    }

    /// What the user must mend is an error. The rest may work later; as long as it does not, lanes go on until their
    /// leases could be another's.
    fn complain_or_fail(&mut self, error: Error) -> Result<(), Error> {
        if error.again() == Again::WillNotHelp {
            return Err(error);
        }
        if self.is_time_for(Complaint::Unreachable) {
            tracing::warn!(error = ?error, "the lease table does not answer; trying again");
        }
        Ok(())
    }

    fn is_time_for(&mut self, complaint: Complaint) -> bool {
        let now = self.now();
        let is_new = self.complained.get(&complaint).is_none_or(|last| now.since(*last) >= COMPLAIN_EVERY);
        if is_new {
            self.complained.insert(complaint, now);
        }
        is_new
    }
}

fn owner_of(claim: &Claim) -> Option<&str> {
    claim.owner.as_ref().map(|owner| owner.as_str())
}

async fn send(store: &dyn LeaseStore, key: &LeaseKey, write: &Write, row: Option<&Row>) -> Result<Outcome, Error> {
    match (&write.expected, row) {
        (None, Some(row)) => store.create(row).await,
        (Some(expected), Some(row)) => store.update(expected, row).await,
        (Some(expected), None) => store.delete(key, expected).await,
        (None, None) => Ok(Outcome::Done),
    }
}
