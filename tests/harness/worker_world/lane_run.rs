//! One run of a lane: reads its shards in turn, decides when to cut, and does what the commit protocol says. As thin as
//! possible after `lane`, `reading` and `shards` of the consumer; what it decides by is the product's.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_common::accounts::Account;
use headwater_common::timestamp::Timestamp;
use headwater_common::window::Start;
use headwater_consumer::lease::machine::Course;
use headwater_lake::commit::{Action, Fact, Machine, Proposal, Standing};
use headwater_lake::cut::{self, Cut, FileIntent, OutputIntent};
use headwater_lake::layout::{Epoch, GenerationNumber, Lane, Output};
use headwater_lake::schema::SchemaVersion;

use super::Sabotage;
use super::clock::Time;
use super::lake::digest;
use super::network::{Answer, Request};
use super::reader::Reader;
use super::stream::Row;
use crate::parts::{Chance, Version};

/// How long a lane waits when none of its shards had anything new: doubles while nothing comes.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_millis(1_600);

/// When a lane cuts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) rows: usize,
    pub(super) age: Duration,
}

/// What a run does next.
pub(super) enum Step {
    Ask(Request),
    Pause(Duration),
    End(End),
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// As it was told to.
    Stopped,
    /// Another writer was faster.
    Fenced,
}

/// What a run is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    Answer,
    Turn(u64),
}

pub(super) struct Run {
    pub(super) lane: Lane,
    pub(super) term: u64,
    pub(super) course: Course,
    pub(super) waits: Waits,
    pub(super) reader: Reader,
    /// It has taken up positions; when it does so again, another writer was faster.
    pub(super) is_begun: bool,
    machine: Machine<Version>,
    limits: Limits,
    /// The rows of the epoch at hand.
    rows: Vec<Row>,
    is_fenced: bool,
    is_tired: bool,
    pause: Duration,
    sabotage: Sabotage,
}

impl Run {
    pub(super) fn new(lane: Lane, term: u64, limits: Limits, sabotage: Sabotage) -> Self {
        Self {
            lane,
            term,
            course: Course::Run,
            waits: Waits::Answer,
            reader: Reader::new(lane, sabotage),
            is_begun: false,
            machine: Machine::new(Standing::Live),
            limits,
            rows: Vec::new(),
            is_fenced: false,
            is_tired: false,
            pause: PAUSE_MIN,
            sabotage,
        }
    }

    /// Says what to do next.
    pub(super) fn step(&mut self, now: Time, chance: &mut Chance) -> Result<Step, String> {
        if !self.is_begun && self.course != Course::Run {
            return Ok(Step::End(End::Stopped));
        }
        loop {
            let request = match self.machine.next() {
                Action::Idle(after) => match self.idle(after, now, chance) {
                    Some(step) => return Ok(step),
                    None => continue,
                },
                Action::Release => {
                    self.rows.clear();
                    self.apply(Fact::Released)?;
                    continue;
                }
                Action::ReadTable(output) => Request::Table(output),
                Action::ReadCut(epoch) => Request::Cut(epoch),
                Action::Resume(after) => Request::Positions(after),
                Action::PublishCut => Request::Publish(Box::new(self.cut()?.clone())),
                Action::Inspect(_) => Request::File(self.cut()?.epoch),
                Action::MakeFiles(_) => Request::ReadAgain(self.cut()?.segments.clone()),
                Action::Put(_) => Request::Put(self.cut()?.epoch, self.rows.clone()),
                Action::Commit(output) => {
                    let cut = self.cut()?;
                    let rows = cut.output(Output::Events).files.first().map(|file| file.digest);
                    let base = self.machine.table(output).ok_or("a table that was not read")?.snapshot;
                    Request::Commit { epoch: cut.epoch, output, base, rows }
                }
                Action::EncodeAgain | Action::ChangeSchema(_) => return Err("nothing has a schema here".to_owned()),
                Action::ReadPointer | Action::Blocked(_) => return Err("a seal that nobody put".to_owned()),
                Action::Closed(_) => return Err("a lane that nobody closed".to_owned()),
            };
            return Ok(Step::Ask(request));
        }
    }

    /// Says what to do between two epochs; `None` when there is one to be written now.
    fn idle(&mut self, after: Epoch, now: Time, chance: &mut Chance) -> Option<Step> {
        if self.is_fenced {
            return Some(Step::End(End::Fenced));
        }
        let is_due = match self.course {
            Course::Leave => return Some(Step::End(End::Stopped)),
            Course::Cut if self.reader.is_empty() => return Some(Step::End(End::Stopped)),
            Course::Cut => true,
            Course::Run => self.reader.is_due(self.limits, now),
        };
        if is_due {
            self.propose(after.next(), chance);
            return None;
        }
        if let Some(request) = self.reader.wants_list(now) {
            return Some(Step::Ask(request));
        }
        if std::mem::take(&mut self.is_tired) {
            return Some(Step::Pause(self.pause));
        }
        let wanted = self.reader.wanted();
        if wanted.is_empty() {
            return Some(Step::Pause(PAUSE_MAX));
        }
        Some(Step::Ask(Request::Read(wanted, self.reader.room(self.limits))))
    }

    /// Takes an answer; false when the run cannot go on, which ends the process.
    pub(super) fn hear(&mut self, answer: Answer, now: Time) -> Result<bool, String> {
        match answer {
            Answer::Fact(fact) => self.apply(fact)?,
            Answer::None => match self.machine.next() {
                Action::PublishCut | Action::Put(_) | Action::Commit(_) => self.apply(Fact::Unknown)?,
                // It is asked again.
                _ => self.is_tired = true,
            },
            Answer::Positions(positions) => {
                self.is_fenced = self.is_begun;
                self.is_begun = true;
                self.reader.resume(positions);
                self.apply(Fact::Resumed)?;
            }
            Answer::Listed { listing, ends, start, others } => {
                return Ok(self.reader.look((&listing, ends), &start, others, now));
            }
            Answer::Unchanged => self.reader.put_off_list(now),
            Answer::Read(taken) => {
                self.is_tired = !self.reader.add(taken, now);
                self.pause = if self.is_tired { (self.pause * 2).min(PAUSE_MAX) } else { PAUSE_MIN };
            }
            Answer::ReadAgain(rows) => {
                let named = self.cut()?.output(Output::Events).files.first().map(|file| file.digest);
                let rows = self.in_order(rows);
                if named != Some(digest(&rows)) {
                    return Err(format!(
                        "W1: lane {}: an epoch comes out differently when it is made again",
                        self.lane
                    ));
                }
                self.rows = rows;
                self.apply(Fact::Made)?;
            }
            Answer::Forgotten => return Ok(false),
            Answer::Rows(_) | Answer::Row(..) => unreachable!("a run does not ask for leases"),
        }
        Ok(true)
    }

    /// Offers what is buffered as the next epoch.
    fn propose(&mut self, epoch: Epoch, chance: &mut Chance) {
        let (segments, rows) = self.reader.take(chance);
        self.rows = self.in_order(rows);
        let count = self.rows.len() as u64;
        let file = FileIntent {
            key: String::new(),
            window: Start(Timestamp::from_micros(0)),
            first_row: 0,
            rows: count,
            digest: digest(&self.rows),
        };
        let files = if count > 0 { vec![file] } else { Vec::new() };
        let intent = |files| OutputIntent { schema: SchemaVersion::FIRST, files };
        let cut = Cut {
            version: cut::VERSION,
            generation: GenerationNumber::FIRST,
            lane: self.lane,
            epoch,
            pipeline: String::new(),
            segments,
            account: Account { read: count, kept: count, ..Account::default() },
            bytes: 0,
            outputs: BTreeMap::from([(Output::Events, intent(files)), (Output::DeadLetters, intent(Vec::new()))]),
            positions: None,
            seal: None,
            closes: None,
        };
        self.machine.propose(Proposal { cut: cut.versioned(), schema_changes: Vec::new() });
    }

    /// The rows as they are in the file: in the order of the segments, unless that is what is taken out.
    fn in_order(&self, mut rows: Vec<Row>) -> Vec<Row> {
        if self.sabotage == Sabotage::RowsAreSorted {
            rows.sort_by_key(|row| (row.key, std::cmp::Reverse(row.counter)));
        }
        rows
    }

    fn apply(&mut self, fact: Fact<Version>) -> Result<(), String> {
        self.machine.apply(fact).map_err(|violation| format!("P4: lane {}: {violation}", self.lane))
    }

    fn cut(&self) -> Result<&Cut, String> {
        self.machine.cut().ok_or_else(|| "the machine has no cut at hand".to_owned())
    }
}
