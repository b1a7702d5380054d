//! The commit protocol in a simulated world: the product's own [`Machine`] decides, this world acts, and between any
//! two actions a writer may crash, pause for any length, lose an answer, or have it come true later.
//!
//! The world is small on purpose (toy rows, real cuts), so that a schedule takes microseconds and 100,000 of them fit
//! into CI. A schedule is a function of its seed. [`Sabotage`] takes one sentence of the protocol out at a time; the
//! tests show that each of them is missed.

use std::collections::{BTreeMap, BTreeSet};

use headwater_common::accounts::Account;
use headwater_common::position::{Position, Segment, ShardId};
use headwater_common::timestamp::Timestamp;
use headwater_common::window::Start;
use headwater_lake::commit::{Action, Fact, FileRef, Machine, Proposal, Table};
use headwater_lake::cut::{self, Cut, FileIntent, OutputIntent};
use headwater_lake::digest::RowDigest;
use headwater_lake::layout::{Epoch, GenerationNumber, Lane, Output};
use headwater_lake::schema::SchemaVersion;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// A sentence of the protocol that is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The protocol as it is.
    None,
    /// "create `_cuts/<lane>/<n>.json` if absent": a later cut replaces an earlier one.
    CutIsOverwritten,
    /// "A writer that finds another's cut there has lost": it goes on with its own.
    FenceIsIgnored,
    /// "Put the files create-if-absent": a later file replaces an earlier one.
    FileIsOverwritten,
    /// "Only against the snapshot in which `txn(lane) = n-1` was read": the base is refreshed, `txn` is not looked at.
    BaseIsRefreshed,
    /// "read `txn(lane)` in every output; m is the smallest": only the events table is asked.
    RestartFromEventsOnly,
    /// "redo it by the cut's boundaries": the redo takes what it would take itself.
    RedoByOwnBoundaries,
    /// "a redo encodes with it, never with the current one": the redo takes the newest schema.
    RedoWithCurrentSchema,
    /// "a Delta metadata commit of its own, before the cut": the schema is not committed.
    SchemaIsNotCommitted,
    /// "on conflict the schema is read again and the rows are encoded again": they are not.
    SchemaConflictIsIgnored,
    /// "look first which of its files are there and adopt them": everything is made again from the log.
    RedoNeverAdopts,
    /// "An answer that never came is unknown": it is taken for a yes.
    UnknownIsYes,
    /// "read back, then decide; never delete on unknown": what is in doubt is deleted and written again.
    UnknownIsDeleted,
}

/// Every sentence that can be taken out.
pub const SABOTAGES: [Sabotage; 12] = [
    Sabotage::CutIsOverwritten,
    Sabotage::FenceIsIgnored,
    Sabotage::FileIsOverwritten,
    Sabotage::BaseIsRefreshed,
    Sabotage::RestartFromEventsOnly,
    Sabotage::RedoByOwnBoundaries,
    Sabotage::RedoWithCurrentSchema,
    Sabotage::SchemaIsNotCommitted,
    Sabotage::SchemaConflictIsIgnored,
    Sabotage::RedoNeverAdopts,
    Sabotage::UnknownIsYes,
    Sabotage::UnknownIsDeleted,
];

const LANES: u32 = 2;
const WRITERS_PER_LANE: usize = 2;
const EVENTS_PER_LANE: u64 = 7;
/// Steps of a schedule in which things go wrong; afterwards everything must come to a good end.
const TROUBLED_STEPS: usize = 220;
/// Steps in which a world without trouble must be done.
const CALM_STEPS: usize = 4_000;

/// What happened in a schedule, for tests that want to know that it was eventful.
#[derive(Debug, Clone, Copy, Default)]
pub struct Statistics {
    /// Writers that crashed.
    pub crashes: u64,
    /// Answers that were lost.
    pub unknowns: u64,
    /// Epochs that were redone after a restart.
    pub redos: u64,
    /// Writers that found another's cut.
    pub fenced: u64,
    /// Schema changes that lost a race.
    pub schema_conflicts: u64,
    /// Files that were found and adopted.
    pub adopted: u64,
}

/// Runs one schedule.
///
/// # Errors
/// Says which promise was broken.
pub fn run(seed: u64, sabotage: Sabotage) -> Result<Statistics, String> {
    let mut world = World::new(seed, sabotage);
    for _ in 0..TROUBLED_STEPS {
        world.step(true)?;
    }
    world.settle()?;
    world.check_complete()?;
    Ok(world.statistics)
}

/// When a writer crashes: before it does what it is about to do, or when it has done it and does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before.
    Before,
    /// After.
    After,
}

/// Runs a schedule whose only trouble is one crash, at action number `at`; returns whether there was such an action.
///
/// # Errors
/// Says which promise was broken.
pub fn run_with_crash(seed: u64, at: usize, moment: Moment) -> Result<bool, String> {
    let mut world = World::new(seed, Sabotage::None);
    for _ in 0..at {
        if world.is_complete() {
            return Ok(false);
        }
        world.step(false)?;
    }
    let index = world.random.random_range(0..world.writers.len());
    if moment == Moment::After {
        world.act(index, false)?;
    }
    world.crash(index);
    world.settle()?;
    world.check_complete()?;
    Ok(true)
}

/// One event: a pure function of lane and number.
#[derive(Debug, Clone, Copy)]
struct Event {
    window: i64,
    dead: bool,
    /// The column it needs.
    column: u8,
}

fn event(lane: u32, number: u64) -> Event {
    let mixed = (u64::from(lane) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number.wrapping_mul(0xD134_2543_DE82_EF95);
    Event { window: (mixed >> 7 & 1).cast_signed(), dead: mixed >> 11 & 3 == 0, column: (mixed >> 17 & 3) as u8 }
}

/// A row as it is in a file: which event, whether its column was there to hold its value, and how many columns the
/// file had (the nulls of the others are in its bytes).
type Row = (u32, u64, bool, u8);

/// A row as a reader gets it.
type Read = (u32, u64, bool);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Object {
    rows: Vec<Row>,
    /// Which bytes: another writer version writes the same rows differently.
    bytes: u8,
}

/// Columns by the version they came with.
type Columns = Vec<(u8, SchemaVersion)>;

#[derive(Debug, Clone, Default)]
struct DeltaCommit {
    adds: Vec<(String, u8)>,
    transaction: Option<(Lane, Epoch)>,
    columns: Option<Columns>,
}

/// A request that is still on its way.
#[derive(Debug, Clone)]
enum Late {
    Cut(Lane, Cut),
    File(String, Object),
    Commit(Output, usize, DeltaCommit),
}

/// A table at one version: how many commits it has.
type Version = usize;

struct World {
    random: SmallRng,
    sabotage: Sabotage,
    cuts: BTreeMap<(Lane, Epoch), Cut>,
    objects: BTreeMap<(Output, String), Object>,
    logs: BTreeMap<Output, Vec<DeltaCommit>>,
    late: Vec<Late>,
    writers: Vec<Writer>,
    /// Events up to these numbers are gone from the stream.
    trimmed: Vec<u64>,
    statistics: Statistics,
}

struct Writer {
    lane: Lane,
    machine: Machine<Version>,
    /// Which bytes it writes.
    version: u8,
    position: u64,
    /// The rows of the epoch at hand, by output and file.
    rows: BTreeMap<FileRef, Vec<Row>>,
    proposed_columns: BTreeMap<Output, Columns>,
    /// The last event of the epoch at hand.
    to: u64,
}

impl World {
    fn new(seed: u64, sabotage: Sabotage) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let lanes = (0..LANES).map(|index| Lane::of_first_set(index, LANES));
        let writers = lanes.flat_map(|lane| std::iter::repeat_n(lane, WRITERS_PER_LANE));
        let writers = writers.map(|lane| Writer::new(lane, random.random_range(0..2))).collect();
        let logs = Output::ALL.map(|output| (output, Vec::new())).into();
        Self {
            random,
            sabotage,
            cuts: BTreeMap::new(),
            objects: BTreeMap::new(),
            logs,
            late: Vec::new(),
            writers,
            trimmed: vec![0; LANES as usize],
            statistics: Statistics::default(),
        }
    }

    /// Lets one writer do one thing, or the network deliver something late.
    fn step(&mut self, troubled: bool) -> Result<(), String> {
        if !self.late.is_empty() && self.random.random_ratio(1, 6) {
            let index = self.random.random_range(0..self.late.len());
            let late = self.late.swap_remove(index);
            self.arrive(late)?;
        }
        if troubled && self.random.random_ratio(1, 12) {
            self.trim();
        }
        let index = self.random.random_range(0..self.writers.len());
        if troubled && self.random.random_ratio(1, 14) {
            self.crash(index);
            return Ok(());
        }
        let lost = troubled && self.random.random_ratio(1, 9);
        self.act(index, lost)?;
        if troubled && self.random.random_ratio(1, 14) {
            self.crash(index);
        }
        Ok(())
    }

    fn crash(&mut self, index: usize) {
        self.statistics.crashes += 1;
        let version = self.random.random_range(0..2);
        self.writers[index] = Writer::new(self.writers[index].lane, version);
    }

    /// Retention removes events whose files are all there, whether they are committed or not.
    fn trim(&mut self) {
        let index = self.random.random_range(0..LANES);
        let lane = Lane::of_first_set(index, LANES);
        let mut covered = 0;
        for (_, cut) in self.cuts.range((lane, Epoch(0))..=(lane, Epoch(u64::MAX))) {
            let there = Output::ALL.into_iter().all(|output| {
                cut.output(output).files.iter().all(|file| self.objects.contains_key(&(output, file.key.clone())))
            });
            if !there {
                break;
            }
            covered = number_of(cut.segments[0].to);
        }
        let trimmed = &mut self.trimmed[index as usize];
        *trimmed = covered.max(*trimmed);
    }

    fn arrive(&mut self, late: Late) -> Result<(), String> {
        match late {
            Late::Cut(lane, cut) => _ = self.create_cut(lane, cut),
            Late::File(key, object) => {
                let output = if key.starts_with("dead") { Output::DeadLetters } else { Output::Events };
                self.create_file(output, key, object);
            }
            Late::Commit(output, version, commit) => _ = self.create_commit(output, version, commit)?,
        }
        Ok(())
    }

    fn create_cut(&mut self, lane: Lane, cut: Cut) -> bool {
        let key = (lane, cut.epoch);
        if self.cuts.contains_key(&key) && self.sabotage != Sabotage::CutIsOverwritten {
            return false;
        }
        self.cuts.insert(key, cut);
        true
    }

    fn create_file(&mut self, output: Output, key: String, object: Object) -> bool {
        if self.objects.contains_key(&(output, key.clone())) && self.sabotage != Sabotage::FileIsOverwritten {
            return false;
        }
        self.objects.insert((output, key), object);
        true
    }

    /// Creates a version of a Delta log if it is the next one, and checks what no reader may ever see.
    fn create_commit(&mut self, output: Output, version: usize, commit: DeltaCommit) -> Result<bool, String> {
        let version = if self.sabotage == Sabotage::BaseIsRefreshed { self.logs[&output].len() } else { version };
        if version != self.logs[&output].len() {
            return Ok(false);
        }
        if let Some((lane, epoch)) = commit.transaction {
            let before = self.transaction(output, lane, version);
            if epoch != before.next() {
                return Err(format!("{output}: lane {lane} commits epoch {epoch} after {before}"));
            }
        }
        let known: BTreeSet<&String> =
            self.logs[&output].iter().flat_map(|commit| commit.adds.iter().map(|(key, _)| key)).collect();
        for (key, bytes) in &commit.adds {
            if known.contains(key) {
                return Err(format!("{output}: {key} is added twice"));
            }
            match self.objects.get(&(output, key.clone())) {
                None => return Err(format!("{output}: {key} is added and not there")),
                Some(object) if object.bytes != *bytes => {
                    return Err(format!("{output}: {key} has other bytes"));
                }
                Some(_) => {}
            }
        }
        self.logs.get_mut(&output).expect("all outputs have a log").push(commit);
        Ok(true)
    }

    fn transaction(&self, output: Output, lane: Lane, version: Version) -> Epoch {
        let commits = self.logs[&output][..version].iter().rev();
        let mut transactions = commits.filter_map(|commit| commit.transaction);
        transactions.find(|(of, _)| *of == lane).map_or(Epoch(0), |(_, epoch)| epoch)
    }

    fn columns(&self, output: Output, version: Version) -> Columns {
        let commits = self.logs[&output][..version].iter().rev();
        commits.filter_map(|commit| commit.columns.clone()).next().unwrap_or_default()
    }

    /// Does what a writer's machine asks for. A lost answer: the request happened, did not, or will.
    fn act(&mut self, index: usize, lost: bool) -> Result<(), String> {
        let (lane, action) = (self.writers[index].lane, self.writers[index].machine.next());
        let fact = match action {
            Action::Idle(after) => return self.propose(index, after.next(), false),
            Action::EncodeAgain => {
                self.statistics.schema_conflicts += 1;
                let Action::EncodeAgain = action else { unreachable!() };
                let epoch = self.writers[index].epoch();
                return self.propose(index, epoch, true);
            }
            Action::ReadTable(output) => {
                let asked = if self.sabotage == Sabotage::RestartFromEventsOnly { Output::Events } else { output };
                let version = self.logs[&output].len();
                let committed = self.transaction(asked, lane, self.logs[&asked].len());
                Fact::Table(Table { committed, snapshot: version })
            }
            Action::ReadCut(epoch) => self.read_cut(index, epoch),
            // Seals are the other world's: `cutover_world`.
            Action::ReadPointer | Action::Blocked(_) => return Err("a seal that nobody put".to_owned()),
            Action::Closed(_) => return Err("a lane that nobody closed".to_owned()),
            Action::Resume(after) => {
                let cut = self.cuts.get(&(lane, after));
                self.writers[index].position = cut.map_or(0, |cut| number_of(cut.segments[0].to));
                Fact::Resumed
            }
            Action::ChangeSchema(output) => self.change_schema(index, output, lost)?,
            Action::PublishCut => self.publish(index, lost)?,
            Action::Inspect(file) => self.inspect(index, file)?,
            Action::MakeFiles(files) => {
                let from = self.writers[index].machine.cut().map_or(0, |cut| number_of(cut.segments[0].from));
                if !self.is_readable(lane, from) {
                    self.crash(index);
                    return Ok(());
                }
                self.make_files(index, &files)?
            }
            Action::Put(file) => self.put(index, file, lost)?,
            Action::Commit(output) => self.commit(index, output, lost)?,
            Action::Release => {
                let writer = &mut self.writers[index];
                writer.rows.clear();
                writer.position = writer.position.max(writer.to);
                Fact::Released
            }
        };
        self.writers[index].machine.apply(fact).map_err(|violation| violation.to_string())
    }

    fn read_cut(&mut self, index: usize, epoch: Epoch) -> Fact<Version> {
        let writer = &self.writers[index];
        let found = self.cuts.get(&(writer.lane, epoch)).cloned();
        let recovering = writer.machine.cut().is_none();
        // A writer that recovers looks at the last committed cut as well.
        let is_committed = Output::ALL.iter().all(|output| {
            let table = writer.machine.table(*output);
            table.is_some_and(|table| table.committed >= epoch)
        });
        match (&found, recovering) {
            (Some(_), true) if is_committed => {}
            (Some(_), true) => self.statistics.redos += 1,
            (Some(found), false) if writer.machine.cut() != Some(found) => self.statistics.fenced += 1,
            _ => {}
        }
        Fact::Cut(found.map(Box::new))
    }

    /// Takes a few events and offers them as the next epoch.
    fn propose(&mut self, index: usize, epoch: Epoch, again: bool) -> Result<(), String> {
        let left = EVENTS_PER_LANE - self.writers[index].position;
        if left == 0 {
            return Ok(());
        }
        let taken = if again {
            self.writers[index].to - self.writers[index].position
        } else {
            self.random.random_range(1..=left.min(3))
        };
        let writer = &self.writers[index];
        let (lane, from) = (writer.lane, writer.position);
        let to = from + taken;
        if !self.is_readable(lane, from) {
            self.crash(index);
            return Ok(());
        }
        let mut columns = BTreeMap::new();
        let mut changes = Vec::new();
        for output in Output::ALL {
            let snapshot = writer.machine.table(output).expect("read before it is idle").snapshot;
            let base = if again && self.sabotage == Sabotage::SchemaConflictIsIgnored {
                writer.proposed_columns[&output].clone()
            } else {
                self.columns(output, snapshot)
            };
            let grown = grow(base.clone(), lane, from, to, output);
            // A table without a version is created, with whatever columns.
            if grown != base || snapshot == 0 {
                changes.push(output);
            }
            columns.insert(output, grown);
        }
        if self.sabotage == Sabotage::SchemaIsNotCommitted {
            changes.retain(|output| writer.machine.table(*output).is_some_and(|table| table.snapshot == 0));
        }
        let (cut, rows) = self.cut(lane, epoch, from, to, &columns);
        let writer = &mut self.writers[index];
        writer.to = to;
        writer.rows = rows;
        writer.proposed_columns = columns;
        writer.machine.propose(Proposal { cut, schema_changes: changes });
        Ok(())
    }

    /// Whether the stream still has what comes after an event. A writer whose position retention has passed stops with
    /// an error and is started again; if that does not help, the end of the schedule finds it stuck.
    fn is_readable(&self, lane: Lane, from: u64) -> bool {
        from >= self.trimmed[lane.index as usize]
    }

    fn cut(
        &self,
        lane: Lane,
        epoch: Epoch,
        from: u64,
        to: u64,
        columns: &BTreeMap<Output, Columns>,
    ) -> (Cut, BTreeMap<FileRef, Vec<Row>>) {
        let mut outputs = BTreeMap::new();
        let mut all_rows = BTreeMap::new();
        for output in Output::ALL {
            let mut files = Vec::new();
            for window in 0..2 {
                let rows = rows_of(lane, from, to, output, window, &columns[&output]);
                if rows.is_empty() {
                    continue;
                }
                let prefix = if output == Output::DeadLetters { "dead" } else { "event" };
                all_rows.insert(FileRef { output, index: files.len() }, rows.clone());
                files.push(FileIntent {
                    key: format!("{prefix}/window={window}/{lane}-{epoch}-0"),
                    window: Start(Timestamp::from_micros(window)),
                    first_row: 0,
                    rows: rows.len() as u64,
                    digest: digest(&rows),
                });
            }
            outputs.insert(output, OutputIntent { schema: newest(&columns[&output]), files });
        }
        let at = |number: u64| Position::of_record(number.into());
        let cut = Cut {
            version: cut::VERSION,
            generation: GenerationNumber(1),
            lane,
            epoch,
            pipeline: String::new(),
            segments: vec![Segment { shard: ShardId::from("0"), from: at(from), to: at(to) }],
            account: Account { read: to - from, ..Account::default() },
            bytes: 0,
            outputs,
            positions: None,
            seal: None,
            closes: None,
        }
        .versioned();
        (cut, all_rows)
    }

    fn change_schema(&mut self, index: usize, output: Output, lost: bool) -> Result<Fact<Version>, String> {
        let writer = &self.writers[index];
        let base = writer.machine.table(output).expect("it was read").snapshot;
        let columns = Some(writer.proposed_columns[&output].clone());
        self.try_commit(output, base, DeltaCommit { columns, ..DeltaCommit::default() }, lost)
    }

    fn publish(&mut self, index: usize, lost: bool) -> Result<Fact<Version>, String> {
        let writer = &self.writers[index];
        let (lane, cut) = (writer.lane, writer.machine.cut().expect("it is being published").clone());
        if lost {
            return self.lose(Late::Cut(lane, cut));
        }
        let created = self.create_cut(lane, cut);
        Ok(if created || self.sabotage == Sabotage::FenceIsIgnored { Fact::Created } else { Fact::Exists })
    }

    fn inspect(&mut self, index: usize, file: FileRef) -> Result<Fact<Version>, String> {
        let intent = self.writers[index].intent(file);
        if self.sabotage == Sabotage::RedoNeverAdopts && !self.writers[index].rows.contains_key(&file) {
            return Ok(Fact::File(None));
        }
        let found = self.objects.get(&(file.output, intent.key.clone()));
        self.statistics.adopted += u64::from(found.is_some());
        let adopted = found.map(|object| digest(&object.rows));
        Ok(Fact::File(adopted))
    }

    /// Reads the epoch again from the stream, by the cut.
    fn make_files(&mut self, index: usize, files: &[FileRef]) -> Result<Fact<Version>, String> {
        let writer = &self.writers[index];
        let cut = writer.machine.cut().expect("it is being redone").clone();
        let segment = &cut.segments[0];
        let (from, mut to) = (number_of(segment.from), number_of(segment.to));
        if self.sabotage == Sabotage::RedoByOwnBoundaries {
            to = (from + u64::from(self.writers[index].version) + 1).min(EVENTS_PER_LANE);
        }
        let mut columns = BTreeMap::new();
        for output in Output::ALL {
            let newest = self.columns(output, self.logs[&output].len());
            let named = cut.output(output).schema;
            let with_current = self.sabotage == Sabotage::RedoWithCurrentSchema;
            let known = newest.into_iter().filter(|(_, since)| with_current || *since <= named);
            columns.insert(output, known.collect());
        }
        let mut rows = BTreeMap::new();
        for file in files {
            let intent = &cut.output(file.output).files[file.index];
            let window = intent.window.0.micros();
            let found = rows_of(cut.lane, from, to, file.output, window, &columns[&file.output]);
            // The product compares and stops; the sabotaged writer goes on to see what comes of it.
            let sabotaged = self.sabotage == Sabotage::RedoByOwnBoundaries;
            if digest(&found) != intent.digest && !sabotaged {
                return Err(format!("{} comes out differently when it is made again", intent.key));
            }
            rows.insert(*file, found);
        }
        let writer = &mut self.writers[index];
        writer.rows = rows;
        writer.to = number_of(segment.to);
        Ok(Fact::Made)
    }

    fn put(&mut self, index: usize, file: FileRef, lost: bool) -> Result<Fact<Version>, String> {
        let writer = &self.writers[index];
        let key = writer.intent(file).key;
        let rows = writer.rows.get(&file).expect("the machine puts what is at hand").clone();
        let object = Object { rows, bytes: writer.version };
        if lost {
            if self.sabotage == Sabotage::UnknownIsDeleted {
                self.objects.remove(&(file.output, key));
                return Ok(Fact::Unknown);
            }
            return self.lose(Late::File(key, object));
        }
        Ok(if self.create_file(file.output, key, object) { Fact::Created } else { Fact::Exists })
    }

    fn commit(&mut self, index: usize, output: Output, lost: bool) -> Result<Fact<Version>, String> {
        let writer = &self.writers[index];
        let cut = writer.machine.cut().expect("it is being written");
        let base = writer.machine.table(output).expect("it was read").snapshot;
        let mut adds = Vec::new();
        for file in &cut.output(output).files {
            let object = self.objects.get(&(output, file.key.clone()));
            let object = object.ok_or_else(|| format!("{} is to be committed and not there", file.key))?;
            adds.push((file.key.clone(), object.bytes));
        }
        let transaction = Some((writer.lane, cut.epoch));
        self.try_commit(output, base, DeltaCommit { adds, transaction, columns: None }, lost)
    }

    fn try_commit(
        &mut self,
        output: Output,
        base: Version,
        commit: DeltaCommit,
        lost: bool,
    ) -> Result<Fact<Version>, String> {
        if lost {
            if self.sabotage == Sabotage::UnknownIsYes {
                self.statistics.unknowns += 1;
                return Ok(Fact::Committed(base + 1));
            }
            return self.lose(Late::Commit(output, base, commit));
        }
        let is_schema = commit.columns.is_some();
        if self.create_commit(output, base, commit)? {
            return Ok(Fact::Committed(self.logs[&output].len()));
        }
        if is_schema && self.sabotage == Sabotage::SchemaConflictIsIgnored {
            return Ok(Fact::Committed(self.logs[&output].len()));
        }
        Ok(Fact::Conflict)
    }

    /// The answer is lost: the request happens now, later, or never.
    fn lose(&mut self, request: Late) -> Result<Fact<Version>, String> {
        self.statistics.unknowns += 1;
        match self.random.random_range(0..3) {
            0 => self.arrive(request)?,
            1 => self.late.push(request),
            _ => {}
        }
        let is_yes = self.sabotage == Sabotage::UnknownIsYes;
        Ok(if is_yes { Fact::Created } else { Fact::Unknown })
    }

    /// Without trouble everything must come to a good end.
    fn settle(&mut self) -> Result<(), String> {
        for late in std::mem::take(&mut self.late) {
            self.arrive(late)?;
        }
        for _ in 0..CALM_STEPS {
            if self.is_complete() {
                return Ok(());
            }
            self.step(false)?;
        }
        Err("without any trouble the lanes do not come to an end: stuck".to_owned())
    }

    fn is_complete(&self) -> bool {
        (0..LANES).all(|index| {
            let lane = Lane::of_first_set(index, LANES);
            let committed: Vec<_> =
                Output::ALL.map(|output| self.transaction(output, lane, self.logs[&output].len())).into();
            let same = committed[0] == committed[1];
            let cut = self.cuts.get(&(lane, committed[0]));
            same && cut.is_some_and(|cut| number_of(cut.segments[0].to) == EVENTS_PER_LANE)
        })
    }

    /// Every event is a row once, with its column, for who reads the Delta log and for who lists files.
    fn check_complete(&self) -> Result<(), String> {
        for output in Output::ALL {
            let mut expected: Vec<Read> = (0..LANES)
                .flat_map(|lane| (1..=EVENTS_PER_LANE).map(move |number| (lane, number, true)))
                .filter(|(lane, number, _)| is_in(event(*lane, *number), output))
                .collect();
            expected.sort_unstable();
            let mut by_delta: Vec<Read> = Vec::new();
            for (key, bytes) in self.logs[&output].iter().flat_map(|commit| &commit.adds) {
                let object = self.objects.get(&(output, key.clone())).ok_or_else(|| format!("{key} is gone"))?;
                if object.bytes != *bytes {
                    return Err(format!("{key} was replaced by other bytes"));
                }
                by_delta.extend(object.rows.iter().map(as_read));
            }
            by_delta.sort_unstable();
            if by_delta != expected {
                return Err(format!("{output}: readers of the Delta log get {by_delta:?}, not {expected:?}"));
            }
            let listed = self.objects.iter().filter(|((of, _), _)| *of == output);
            let mut by_listing: Vec<Read> = listed.flat_map(|(_, object)| object.rows.iter().map(as_read)).collect();
            by_listing.sort_unstable();
            if by_listing != expected {
                return Err(format!("{output}: readers that list get {by_listing:?}, not {expected:?}"));
            }
            let columns = self.columns(output, self.logs[&output].len());
            let missing = expected
                .iter()
                .find(|(lane, number, _)| !columns.iter().any(|(column, _)| *column == event(*lane, *number).column));
            if let Some(row) = missing.filter(|_| output == Output::Events) {
                return Err(format!("the table has no column for {row:?}"));
            }
        }
        Ok(())
    }
}

impl Writer {
    fn new(lane: Lane, version: u8) -> Self {
        Self {
            lane,
            machine: Machine::default(),
            version,
            position: 0,
            rows: BTreeMap::new(),
            proposed_columns: BTreeMap::new(),
            to: 0,
        }
    }

    fn intent(&self, file: FileRef) -> FileIntent {
        self.machine.cut().expect("it has one").output(file.output).files[file.index].clone()
    }

    fn epoch(&self) -> Epoch {
        let committed = Output::ALL.into_iter().filter_map(|output| self.machine.table(output));
        committed.map(|table| table.committed).min().unwrap_or_default().next()
    }
}

fn is_in(event: Event, output: Output) -> bool {
    event.dead == (output == Output::DeadLetters)
}

/// Adds the columns that events need. The dead-letter table has its columns from the beginning.
fn grow(mut columns: Columns, lane: Lane, from: u64, to: u64, output: Output) -> Columns {
    let version = newest(&columns).next();
    if output == Output::DeadLetters {
        return if columns.is_empty() { (0..4).map(|column| (column, version)).collect() } else { columns };
    }
    for number in from + 1..=to {
        let event = event(lane.index, number);
        if is_in(event, output) && !columns.iter().any(|(column, _)| *column == event.column) {
            columns.push((event.column, version));
        }
    }
    columns
}

fn newest(columns: &Columns) -> SchemaVersion {
    columns.iter().map(|(_, since)| *since).max().unwrap_or(SchemaVersion(0))
}

/// Rows of a stretch. Their content depends on the columns: on whether their own is there, and, as nulls in the bytes
/// of a real file would, on how many there are.
fn rows_of(lane: Lane, from: u64, to: u64, output: Output, window: i64, columns: &Columns) -> Vec<Row> {
    (from + 1..=to)
        .map(|number| (number, event(lane.index, number)))
        .filter(|(_, event)| is_in(*event, output) && event.window == window)
        .map(|(number, event)| {
            (lane.index, number, columns.iter().any(|(column, _)| *column == event.column), columns.len() as u8)
        })
        .collect()
}

fn digest(rows: &[Row]) -> RowDigest {
    RowDigest(rows.iter().fold(rows.len() as u128, |sum, (lane, number, held, width)| {
        let row = u128::from(*lane) << 80 | u128::from(*number) << 9 | u128::from(*width) << 1 | u128::from(*held);
        sum.wrapping_mul(1_000_003).wrapping_add(row)
    }))
}

fn as_read(row: &Row) -> Read {
    (row.0, row.1, row.2)
}

fn number_of(position: Position) -> u64 {
    position.sequence.as_u64().expect("toy numbers are small")
}
