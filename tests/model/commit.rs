//! One lane of one generation: cut, files, and a commit to each of two outputs; two writers, which may be of different
//! versions of the program. `docs/INVARIANTS.md` P1 to P9.
//!
//! Three events are there from the beginning; a cut takes one or more. Events 1 and 2 are rows of output 0 in window 0,
//! event 3 is a row of output 1 in window 1.

use crate::engine::{Model, Steps};
use crate::{breaks, gets_stuck, holds, holds_in_full};

const EVENTS: u8 = 3;
const OUTPUTS: usize = 2;
const EPOCHS: usize = 3;
const WINDOWS: usize = 2;
const PARTS: usize = 2;
const PLACES_AN_OUTPUT: usize = EPOCHS * WINDOWS * PARTS;
const PLACES: usize = OUTPUTS * PLACES_AN_OUTPUT;

const GAP: &str = "rows differ from what the table's epochs took";
const TWICE: &str = "an event is in the table twice";
const MISSING: &str = "a file of the table is not there";
const OTHER: &str = "a file of the table has other bytes than the table says";
const BACKWARDS: &str = "a table went back to an earlier epoch";
const LISTED_TWICE: &str = "an event is listed twice";

/// Where a restart begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Restart {
    /// At the smallest epoch over the outputs.
    Smallest,
    /// At the epoch of the first output.
    FirstOutput,
}

/// What a commit is made against.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    /// The snapshot in which the epoch before was read.
    AsRead,
    /// Whatever is newest.
    Newest,
}

/// What a put does to an object that is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Put {
    /// Leaves it alone.
    IfAbsent,
    /// Replaces it.
    Overwrites,
}

/// In what the second writer's version differs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Second {
    /// In nothing.
    Same,
    /// The same rows are other bytes.
    OtherBytes,
    /// It also spreads the rows over other files.
    OtherBoundaries,
}

/// What a redo goes by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Redo {
    /// The files that the cut names; what is there is what the table gets.
    TheCut,
    /// Its own way to make files.
    Itself,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compaction {
    Never,
    /// The compacted file is listed like any other, and what was compacted is deleted later.
    Plain,
    /// It is in a folder that listings skip, and what was compacted stays.
    Hidden,
    /// Listed like any other; what was compacted is deleted in the very same moment, as no store can.
    Swapped,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Retention {
    Never,
    /// A redo makes every file again from the log.
    RedoReads,
    /// A redo adopts what is there, and reads the log for the rest.
    RedoAdopts,
}

struct Commit {
    crashes: u8,
    /// Requests without an answer: done, or on their way.
    unknowns: u8,
    restart: Restart,
    base: Base,
    put: Put,
    second: Second,
    redo: Redo,
    compaction: Compaction,
    /// Whether files are deleted that nothing refers to.
    deletes_unreferenced: bool,
    retention: Retention,
    checks_listing: bool,
}

/// The design that holds.
const DESIGN: Commit = Commit {
    crashes: 1,
    unknowns: 0,
    restart: Restart::Smallest,
    base: Base::AsRead,
    put: Put::IfAbsent,
    second: Second::OtherBoundaries,
    redo: Redo::TheCut,
    compaction: Compaction::Never,
    deletes_unreferenced: false,
    retention: Retention::Never,
    checks_listing: true,
};

/// The same without what two versions need.
const ONE_VERSION: Commit = Commit { put: Put::Overwrites, second: Second::Same, redo: Redo::Itself, ..DESIGN };

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Step {
    #[default]
    Down,
    ReadTable(u8),
    ReadCut,
    Publish,
    ReadBackCut,
    PutFiles,
    Commit(u8),
    ReadTableAgain(u8),
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Writer {
    step: Step,
    epoch: u8,
    /// The epoch takes the events after `from`, up to `to`.
    from: u8,
    to: u8,
    /// For each output, the lane's commits and its epoch as they were read.
    bases: [u8; OUTPUTS],
    committed: [u8; OUTPUTS],
    /// Files that are put.
    put: u8,
}

/// An object: its events, a bit each, and whose bytes they are. 0: there is none.
type Object = u8;

fn object(version: u8, event: u8) -> Object {
    0x80 | version << 3 | bit(event)
}

fn bit(event: u8) -> u8 {
    1 << (event - 1)
}

fn events_of(object: Object) -> u8 {
    object & 7
}

/// A request that is on its way.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Late {
    Cut { epoch: u8, to: u8, version: u8 },
    Put { place: u8, object: Object },
    Commit { output: u8, layout: u8, version: u8, epoch: u8, from: u8, to: u8, at: u8 },
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    /// The last event of each cut, and whose version made it; 0: there is none. Cut 0 is before all events.
    cuts: [u8; EPOCHS + 1],
    cut_versions: [u8; EPOCHS + 1],
    files: [Object; PLACES],
    /// What the tables say of the files.
    live: [Object; PLACES],
    /// Places that a compaction has taken out of the table, a bit each.
    removed: u32,
    /// The compacted file, and what the table says of it.
    compacted: Object,
    compacted_live: Object,
    committed: [u8; OUTPUTS],
    highest: [u8; OUTPUTS],
    /// The lane's commits, and all commits.
    lane_commits: [u8; OUTPUTS],
    commits: [u8; OUTPUTS],
    writers: [Writer; 2],
    late: [Option<Late>; 2],
    crashes: u8,
    unknowns: u8,
    /// Events that the log has forgotten.
    forgotten: u8,
}

fn output_of(event: u8) -> usize {
    usize::from(event == EVENTS)
}

fn window_of(event: u8) -> usize {
    usize::from(event == EVENTS)
}

/// What an epoch takes, and how it becomes files.
#[derive(Clone, Copy)]
struct Plan {
    epoch: u8,
    from: u8,
    to: u8,
    /// 0: a file a window. 1: the second event of a window gets a file of its own.
    layout: u8,
    version: u8,
}

impl Plan {
    fn files(self) -> Vec<(usize, Object)> {
        let mut files: Vec<(usize, Object)> = Vec::new();
        for event in self.from + 1..=self.to {
            let (output, window) = (output_of(event), window_of(event));
            let is_second = (self.from + 1..event).any(|e| output_of(e) == output && window_of(e) == window);
            let part = usize::from(self.layout == 1 && is_second);
            let place = ((output * EPOCHS + usize::from(self.epoch) - 1) * WINDOWS + window) * PARTS + part;
            match files.iter_mut().find(|(other, _)| *other == place) {
                Some((_, known)) => *known |= bit(event),
                None => files.push((place, object(self.version, event))),
            }
        }
        files
    }
}

impl Commit {
    fn plan(&self, state: &State, index: usize) -> Plan {
        let writer = state.writers[index];
        let own = u8::try_from(index).unwrap_or(1);
        let layout = match (self.second, self.redo) {
            (Second::OtherBoundaries, Redo::TheCut) => state.cut_versions[usize::from(writer.epoch)],
            (Second::OtherBoundaries, Redo::Itself) => own,
            _ => 0,
        };
        Plan { epoch: writer.epoch, from: writer.from, to: writer.to, layout, version: self.version(index) }
    }

    fn version(&self, index: usize) -> u8 {
        if self.second == Second::Same { 0 } else { u8::try_from(index).unwrap_or(1) }
    }

    fn put(&self, state: &mut State, place: usize, object: Object) {
        if self.put == Put::Overwrites || state.files[place] == 0 {
            state.files[place] = object;
        }
    }

    fn commit(&self, state: &mut State, output: usize, plan: Plan) {
        for (place, object) in plan.files() {
            if place / PLACES_AN_OUTPUT == output {
                let is_adopted = self.redo == Redo::TheCut && state.files[place] != 0;
                state.live[place] = if is_adopted { state.files[place] } else { object };
                state.removed &= !(1 << place);
            }
        }
        state.committed[output] = plan.epoch;
        state.highest[output] = state.highest[output].max(plan.epoch);
        state.lane_commits[output] += 1;
        state.commits[output] += 1;
    }

    fn write(&self, state: &State, index: usize, steps: &mut Steps<State>) {
        let writer = state.writers[index];
        let me = u8::try_from(index).unwrap_or(1);
        if state.crashes > 0 && !matches!(writer.step, Step::Down | Step::Done) {
            let mut next = state.clone();
            next.writers[index] = Writer::default();
            next.crashes -= 1;
            steps.unfair("crash", [me, 0, 0], next);
        }
        let mut next = state.clone();
        let to = &mut next.writers[index];
        match writer.step {
            Step::Down => {
                to.step = Step::ReadTable(0);
                steps.fair("start", [me, 0, 0], next);
            }
            Step::ReadTable(output) => {
                read_table(state, to, output);
                to.step = if output == 0 { Step::ReadTable(1) } else { Step::ReadCut };
                steps.fair("read the table", [me, output, state.committed[usize::from(output)]], next);
            }
            Step::ReadCut => {
                let least = match self.restart {
                    Restart::Smallest => writer.committed[0].min(writer.committed[1]),
                    Restart::FirstOutput => writer.committed[0],
                };
                let from = state.cuts[usize::from(least)];
                let found = state.cuts.get(usize::from(least) + 1).copied().unwrap_or(0);
                (to.epoch, to.from) = (least + 1, from);
                (to.step, to.to) = match found {
                    _ if from == EVENTS => (Step::Done, 0),
                    0 => (Step::Publish, 0),
                    end => (Step::PutFiles, end),
                };
                steps.fair("read the cut", [me, least + 1, found], next);
            }
            Step::Publish => self.publish(state, index, steps),
            Step::ReadBackCut => {
                let epoch = usize::from(writer.epoch);
                let is_own = state.cuts[epoch] == writer.to && state.cut_versions[epoch] == self.version(index);
                match state.cuts[epoch] {
                    0 => (to.step, to.to) = (Step::Publish, 0),
                    _ if is_own => to.step = Step::PutFiles,
                    _ => *to = Writer::default(),
                }
                steps.fair("read the cut back", [me, writer.epoch, state.cuts[epoch]], next);
            }
            Step::PutFiles => self.put_next(state, index, steps),
            Step::Commit(output) => self.commit_next(state, index, usize::from(output), steps),
            Step::ReadTableAgain(output) => {
                read_table(state, to, output);
                to.step = Step::Commit(output);
                let found = state.committed[usize::from(output)];
                if found + 1 < writer.epoch {
                    *to = Writer::default();
                }
                steps.fair("read the table again", [me, output, found], next);
            }
            Step::Done => {}
        }
    }

    fn publish(&self, state: &State, index: usize, steps: &mut Steps<State>) {
        let writer = state.writers[index];
        let (me, version) = (u8::try_from(index).unwrap_or(1), self.version(index));
        if state.forgotten > writer.from {
            // The next events are gone: a loud error.
            return;
        }
        for to in writer.from + 1..=EVENTS {
            let (epoch, about) = (usize::from(writer.epoch), [me, writer.epoch, to]);
            let mut next = state.clone();
            next.writers[index].to = to;
            if state.cuts[epoch] == 0 {
                (next.cuts[epoch], next.cut_versions[epoch]) = (to, version);
                next.writers[index].step = Step::PutFiles;
            } else if state.cuts[epoch] == to && state.cut_versions[epoch] == version {
                next.writers[index].step = Step::PutFiles;
            } else {
                next.writers[index] = Writer::default();
            }
            steps.fair("publish the cut", about, next.clone());
            if state.unknowns == 0 {
                continue;
            }
            let waiting = Writer { step: Step::ReadBackCut, to, put: 0, ..writer };
            (next.writers[index], next.unknowns) = (waiting, state.unknowns - 1);
            steps.unfair("publish the cut, no answer", about, next);
            if let Some(slot) = free(state) {
                let mut next = state.clone();
                (next.writers[index], next.unknowns) = (waiting, state.unknowns - 1);
                next.late[slot] = Some(Late::Cut { epoch: writer.epoch, to, version });
                steps.unfair("send the cut, no answer", about, next);
            }
        }
    }

    fn put_next(&self, state: &State, index: usize, steps: &mut Steps<State>) {
        let writer = state.writers[index];
        let me = u8::try_from(index).unwrap_or(1);
        let files = self.plan(state, index).files();
        let Some((place, object)) = files.get(usize::from(writer.put)).copied() else {
            let mut next = state.clone();
            (next.writers[index].step, next.writers[index].put) = (Step::Commit(0), 0);
            steps.fair("all files are put", [me, writer.epoch, 0], next);
            return;
        };
        let must_read = self.retention == Retention::RedoReads || state.files[place] == 0;
        if state.forgotten > writer.from && must_read {
            return;
        }
        let about = [me, u8::try_from(place).unwrap_or(u8::MAX), events_of(object)];
        let mut next = state.clone();
        self.put(&mut next, place, object);
        next.writers[index].put += 1;
        steps.fair("put a file", about, next.clone());
        if state.unknowns == 0 {
            return;
        }
        next.unknowns -= 1;
        next.writers[index].put -= 1;
        steps.unfair("put a file, no answer", about, next);
        if let Some(slot) = free(state) {
            let mut next = state.clone();
            next.unknowns -= 1;
            next.late[slot] = Some(Late::Put { place: about[1], object });
            steps.unfair("send a file, no answer", about, next);
        }
    }

    fn commit_next(&self, state: &State, index: usize, output: usize, steps: &mut Steps<State>) {
        let writer = state.writers[index];
        let plan = self.plan(state, index);
        let label = u8::try_from(output).unwrap_or(1);
        let about = [u8::try_from(index).unwrap_or(1), label, writer.epoch];
        let goes_on = |state: &mut State| {
            let writer = &mut state.writers[index];
            writer.step = Step::Commit(1);
            if output == 1 {
                let step = if writer.to == EVENTS { Step::Done } else { Step::Publish };
                *writer = Writer { step, epoch: writer.epoch + 1, from: writer.to, to: 0, put: 0, ..*writer };
            }
        };
        let mut next = state.clone();
        if writer.committed[output] >= writer.epoch {
            goes_on(&mut next);
            steps.fair("it is committed", about, next);
            return;
        }
        if self.base == Base::AsRead && state.lane_commits[output] != writer.bases[output] {
            next.writers[index].step = Step::ReadTableAgain(label);
            steps.fair("commit, a conflict", about, next);
            return;
        }
        self.commit(&mut next, output, plan);
        let mut unanswered = next.clone();
        next.writers[index].bases[output] = next.lane_commits[output];
        next.writers[index].committed[output] = writer.epoch;
        goes_on(&mut next);
        steps.fair("commit", about, next);
        if state.unknowns == 0 {
            return;
        }
        unanswered.writers[index].step = Step::ReadTableAgain(label);
        unanswered.unknowns -= 1;
        steps.unfair("commit, no answer", about, unanswered);
        if let Some(slot) = free(state) {
            let mut next = state.clone();
            next.writers[index].step = Step::ReadTableAgain(label);
            next.unknowns -= 1;
            let Plan { epoch, from, to, layout, version } = plan;
            let at = state.commits[output];
            next.late[slot] = Some(Late::Commit { output: label, layout, version, epoch, from, to, at });
            steps.unfair("send a commit, no answer", about, next);
        }
    }

    fn deliver(&self, state: &State, slot: usize, steps: &mut Steps<State>) {
        let Some(late) = state.late[slot] else {
            return;
        };
        let mut next = state.clone();
        next.late[slot] = None;
        if next.late[0].is_none() {
            next.late.swap(0, 1);
        }
        match late {
            Late::Cut { epoch, to, version } => {
                if next.cuts[usize::from(epoch)] == 0 {
                    next.cuts[usize::from(epoch)] = to;
                    next.cut_versions[usize::from(epoch)] = version;
                }
                steps.unfair("a late cut comes", [epoch, to, 0], next);
            }
            Late::Put { place, object } => {
                self.put(&mut next, usize::from(place), object);
                steps.unfair("a late file comes", [place, events_of(object), 0], next);
            }
            Late::Commit { output, layout, version, epoch, from, to, at } => {
                if next.commits[usize::from(output)] == at {
                    self.commit(&mut next, usize::from(output), Plan { epoch, from, to, layout, version });
                }
                steps.unfair("a late commit comes", [output, epoch, 0], next);
            }
        }
    }

    /// Compaction of window 0 of output 0, vacuum, and the log's retention.
    fn maintain(&self, state: &State, steps: &mut Steps<State>) {
        let is_original = |place: &usize| state.live[*place] != 0 && (place / PARTS).is_multiple_of(WINDOWS);
        let originals: Vec<usize> = (0..PLACES_AN_OUTPUT).filter(is_original).collect();
        let all = originals.iter().fold(0, |events, place| events | events_of(state.live[*place]));
        if self.compaction != Compaction::Never && originals.len() >= 2 {
            if state.compacted == 0 {
                let mut next = state.clone();
                next.compacted = 0x80 | all;
                steps.unfair("put a compacted file", [all, 0, 0], next);
            } else if state.compacted_live == 0 && all == events_of(state.compacted) {
                let mut next = state.clone();
                for place in originals {
                    next.live[place] = 0;
                    next.removed |= 1 << place;
                    if self.compaction == Compaction::Swapped {
                        next.files[place] = 0;
                    }
                }
                next.compacted_live = next.compacted;
                next.commits[0] += 1;
                steps.unfair("commit a compaction", [0, 0, 0], next);
            }
        }
        for place in 0..PLACES {
            let is_removed = state.removed >> place & 1 == 1;
            let keeps = matches!(self.compaction, Compaction::Never | Compaction::Hidden);
            let goes = if is_removed { !keeps } else { self.deletes_unreferenced && state.live[place] == 0 };
            if goes && state.files[place] != 0 {
                let mut next = state.clone();
                next.files[place] = 0;
                steps.unfair("delete a file", [u8::try_from(place).unwrap_or(u8::MAX), 0, 0], next);
            }
        }
        if self.retention != Retention::Never && state.forgotten < EVENTS {
            let mut next = state.clone();
            next.forgotten += 1;
            steps.unfair("the log forgets an event", [next.forgotten, 0, 0], next);
        }
    }

    /// Rows that who lists files finds twice.
    fn listed_twice(&self, state: &State) -> bool {
        for output in 0..OUTPUTS {
            let mut seen = 0;
            for place in output * PLACES_AN_OUTPUT..(output + 1) * PLACES_AN_OUTPUT {
                if seen & events_of(state.files[place]) != 0 {
                    return true;
                }
                seen |= events_of(state.files[place]);
            }
            let is_listed = match self.compaction {
                Compaction::Swapped => state.compacted_live != 0,
                Compaction::Hidden => false,
                _ => state.compacted != 0,
            };
            if output == 0 && is_listed && seen & events_of(state.compacted) != 0 {
                return true;
            }
        }
        false
    }
}

fn read_table(state: &State, writer: &mut Writer, output: u8) {
    let output = usize::from(output);
    writer.bases[output] = state.lane_commits[output];
    writer.committed[output] = state.committed[output];
}

/// Returns where one more request can be on its way.
fn free(state: &State) -> Option<usize> {
    state.late.iter().position(Option::is_none)
}

impl Model for Commit {
    type State = State;

    fn initial(&self) -> State {
        State {
            cuts: [0; EPOCHS + 1],
            cut_versions: [0; EPOCHS + 1],
            files: [0; PLACES],
            live: [0; PLACES],
            removed: 0,
            compacted: 0,
            compacted_live: 0,
            committed: [0; OUTPUTS],
            highest: [0; OUTPUTS],
            lane_commits: [0; OUTPUTS],
            commits: [0; OUTPUTS],
            writers: [Writer::default(); 2],
            late: [None; 2],
            crashes: self.crashes,
            unknowns: self.unknowns,
            forgotten: 0,
        }
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        for index in 0..2 {
            self.write(state, index, steps);
            self.deliver(state, index, steps);
        }
        self.maintain(state, steps);
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        for output in 0..OUTPUTS {
            if state.committed[output] < state.highest[output] {
                return Some(BACKWARDS);
            }
            let mut seen = 0;
            for place in output * PLACES_AN_OUTPUT..(output + 1) * PLACES_AN_OUTPUT {
                let (live, file) = (state.live[place], state.files[place]);
                if live == 0 {
                    continue;
                }
                if seen & events_of(live) != 0 {
                    return Some(TWICE);
                }
                seen |= events_of(live);
                if file != live {
                    return Some(if file == 0 { MISSING } else { OTHER });
                }
            }
            if output == 0 {
                if seen & events_of(state.compacted_live) != 0 {
                    return Some(TWICE);
                }
                seen |= events_of(state.compacted_live);
            }
            let end = state.cuts[usize::from(state.committed[output])];
            let expected = (1..=end).filter(|event| output_of(*event) == output).fold(0, |all, event| all | bit(event));
            if seen != expected {
                return Some(GAP);
            }
        }
        (self.checks_listing && self.listed_twice(state)).then_some(LISTED_TWICE)
    }

    fn is_complete(&self, state: &State) -> bool {
        let least = usize::from(state.committed[0].min(state.committed[1]));
        let end = state.cuts[least];
        if state.forgotten > end && end < EVENTS {
            // What is promised then: an epoch whose files are all there is committed.
            if state.cuts[least + 1] == 0 {
                return true;
            }
            let (epoch, to) = (u8::try_from(least + 1).unwrap_or(u8::MAX), state.cuts[least + 1]);
            let layout = state.cut_versions[least + 1];
            let files = Plan { epoch, from: end, to, layout, version: 0 }.files();
            return files.iter().any(|(place, _)| state.files[*place] == 0);
        }
        state.committed.iter().all(|epoch| state.cuts[usize::from(*epoch)] == EVENTS)
    }

    fn describe(&self, state: &State) -> String {
        let objects = |of: &[Object; PLACES]| -> Vec<(usize, u8, u8)> {
            let there = of.iter().enumerate().filter(|(_, object)| **object != 0);
            there.map(|(place, object)| (place, events_of(*object), object >> 3 & 1)).collect()
        };
        let (cuts, committed) = (&state.cuts[1..], state.committed);
        let (files, live) = (objects(&state.files), objects(&state.live));
        format!("cuts up to {cuts:?}, committed {committed:?}, files {files:?}, tables {live:?}")
    }
}

#[test]
fn every_event_is_in_the_tables_once() {
    holds("commit, two versions, a crash", &DESIGN);
    holds("commit, two versions, an unknown outcome", &Commit { crashes: 0, unknowns: 1, ..DESIGN });
    holds("commit, one version, a crash and an unknown outcome", &Commit { unknowns: 1, ..ONE_VERSION });
    let retention = Retention::RedoAdopts;
    holds("commit while the log forgets", &Commit { retention, second: Second::Same, ..DESIGN });
    let hidden = Compaction::Hidden;
    holds("commit with compaction", &Commit { unknowns: 1, compaction: hidden, ..ONE_VERSION });
}

#[test]
fn every_event_is_in_the_tables_once_in_large_scopes() {
    let twice = Commit { crashes: 2, unknowns: 1, ..DESIGN };
    holds_in_full("commit, two versions, a crash and an unknown outcome", &Commit { crashes: 1, ..twice });
    holds_in_full("commit, two versions, two crashes and an unknown outcome", &twice);
    let same = Commit { second: Second::Same, unknowns: 2, ..twice };
    holds_in_full("commit, one version, two crashes and two unknown outcomes", &same);
    let hidden = Compaction::Hidden;
    holds_in_full("commit with compaction, two versions, two crashes", &Commit { compaction: hidden, ..twice });
}

#[test]
fn each_sentence_of_the_commit_is_missed() {
    let one = ONE_VERSION;
    let first = Commit { restart: Restart::FirstOutput, unknowns: 1, ..one };
    gets_stuck("a restart takes the first output's epoch", &first);
    let newest = Commit { base: Base::Newest, ..one };
    breaks("the base is refreshed without reading the epoch", &newest, BACKWARDS);
    let compaction = Compaction::Plain;
    let unlisted = Commit { compaction, checks_listing: false, ..newest };
    breaks("the same with compaction", &unlisted, MISSING);
    breaks("the same with compaction, twice", &unlisted, TWICE);
    let bytes = Commit { put: Put::Overwrites, second: Second::OtherBytes, redo: Redo::Itself, ..DESIGN };
    breaks("another version's bytes replace a file", &bytes, OTHER);
    let boundaries = Commit { second: Second::OtherBoundaries, ..bytes };
    breaks("another version goes by its own boundaries", &boundaries, LISTED_TWICE);
    breaks("a put replaces what is there", &Commit { put: Put::Overwrites, ..DESIGN }, OTHER);
    breaks("a compacted file is listed", &Commit { compaction, ..one }, LISTED_TWICE);
    let swapped = Commit { compaction: Compaction::Swapped, unknowns: 1, crashes: 0, ..DESIGN };
    breaks("a late file comes behind a compaction", &Commit { second: Second::Same, ..swapped }, LISTED_TWICE);
    breaks("what nothing refers to is deleted", &Commit { deletes_unreferenced: true, crashes: 0, ..one }, MISSING);
    let retention = Retention::RedoReads;
    gets_stuck("a redo reads the log although all files are there", &Commit { retention, ..one });
}
