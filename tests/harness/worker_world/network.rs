//! Requests and what becomes of them: heard, lost, done without an answer, or late.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_common::position::{Position, Segment, ShardId};
use headwater_consumer::lease::Claim;
use headwater_consumer::lease::machine::{self, Kind, Write};
use headwater_lake::commit::Fact;
use headwater_lake::cut::Cut;
use headwater_lake::digest::RowDigest;
use headwater_lake::layout::{Epoch, Lane, Output};
use rand::Rng;

use super::stream::{Listing, Row, Taken};
use super::{Happening, LEASE, Sabotage, World};
use crate::parts::Version;

/// What a worker may be cut off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Leases,
    Lake,
    Stream,
}

pub(super) const PLACES: [Place; 3] = [Place::Leases, Place::Lake, Place::Stream];

impl Place {
    /// How long a request takes at most that is answered, milliseconds.
    fn latency_max(self) -> u64 {
        match self {
            Self::Leases | Self::Stream => 80,
            Self::Lake => 250,
        }
    }

    /// After how long a request counts as not answered.
    fn time_out(self) -> Duration {
        match self {
            Self::Leases => LEASE / 20,
            Self::Lake | Self::Stream => LEASE / 10,
        }
    }
}

/// Who asks: a process, for the run of a lane or for its leases.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender {
    pub(super) process: usize,
    pub(super) run: Option<(Lane, u64)>,
}

#[derive(Debug)]
pub(super) enum Request {
    Look,
    Row(Write),
    Table(Output),
    Cut(Epoch),
    Positions(Epoch),
    Publish(Box<Cut>),
    File(Epoch),
    Put(Epoch, Vec<Row>),
    Commit {
        epoch: Epoch,
        output: Output,
        base: Version,
        rows: Option<RowDigest>,
    },
    /// The shards, and where those of other lanes stand, unless both are as they were seen.
    List {
        seen: (u64, u64),
        is_forced: bool,
    },
    Read(Vec<(ShardId, Position)>, usize),
    ReadAgain(Vec<Segment>),
}

#[derive(Debug)]
pub(super) enum Answer {
    Rows(BTreeMap<Lane, Claim>),
    Row(Write, machine::Answer),
    Fact(Fact<Version>),
    Positions(BTreeMap<ShardId, Position>),
    Listed {
        listing: Listing,
        ends: u64,
        start: Arc<BTreeMap<ShardId, Position>>,
        others: BTreeMap<ShardId, Position>,
    },
    /// The list is what was known.
    Unchanged,
    Read(Vec<Taken>),
    ReadAgain(Vec<Row>),
    /// The stream has forgotten the shard.
    Forgotten,
    /// Nobody knows what became of the request.
    None,
}

impl Request {
    fn place(&self) -> Place {
        match self {
            Self::Look | Self::Row(_) => Place::Leases,
            Self::List { .. } | Self::Read(..) | Self::ReadAgain(_) => Place::Stream,
            _ => Place::Lake,
        }
    }

    fn is_write(&self) -> bool {
        matches!(self, Self::Row(_) | Self::Publish(_) | Self::Put(..) | Self::Commit { .. })
    }

    fn unanswered(&self) -> Answer {
        match self {
            Self::Row(write) => Answer::Row(write.clone(), machine::Answer::Unclear),
            _ => Answer::None,
        }
    }
}

impl World {
    pub(super) fn send(&mut self, sender: Sender, request: Request) {
        let (place, now) = (request.place(), self.queue.now());
        let latency = Duration::from_millis(self.chance.random.random_range(2..=place.latency_max()));
        let process = &mut self.processes[sender.process];
        let is_cut_off = now < process.cut_off_until[place as usize];
        let is_lost = is_cut_off || self.plan.loss_one_in.is_some_and(|times| self.chance.trouble_one_in(times));
        if !is_lost {
            return self.queue.after(latency, Happening::Arrive { sender, request, is_heard: true });
        }
        self.statistics.count("requests without an answer");
        let wait = place.time_out();
        if place == Place::Leases {
            process.leases_were_lost_at = now + wait;
        }
        self.queue.after(wait, Happening::Hear { sender, answer: request.unanswered() });
        let arrives = match self.chance.below(3) {
            0 => latency,
            1 => wait + LEASE.mul_f64(self.chance.random.random_range(0.0..2.0)),
            _ => return,
        };
        if request.is_write() {
            self.queue.after(arrives, Happening::Arrive { sender, request, is_heard: false });
        }
    }

    /// A request reaches its place.
    pub(super) fn arrive(&mut self, sender: Sender, request: Request) -> Result<Answer, String> {
        let now = self.queue.now();
        Ok(match request {
            Request::Look => Answer::Rows(self.leases.rows().clone()),
            Request::Row(write) => {
                let answer = self.leases.write(&write);
                self.count_lease_write(&write, &answer);
                Answer::Row(write, answer)
            }
            Request::List { seen, is_forced } => self.list(sender, seen, is_forced),
            Request::Read(wanted, room) => {
                let read = self.stream.read(&wanted, room, now, &mut self.chance);
                read.map_or(Answer::Forgotten, Answer::Read)
            }
            Request::ReadAgain(segments) => {
                self.statistics.count("epochs that were made again");
                self.stream.read_again(&segments).map_or(Answer::Forgotten, Answer::ReadAgain)
            }
            request => {
                let (lane, _) = sender.run.expect("only runs ask the lake");
                self.arrive_at_the_lake(lane, request)?
            }
        })
    }

    fn arrive_at_the_lake(&mut self, lane: Lane, request: Request) -> Result<Answer, String> {
        let created = |is_new: bool| if is_new { Fact::Created } else { Fact::Exists };
        Ok(Answer::Fact(match request {
            Request::Table(output) => Fact::Table(self.lake.table(lane, output)),
            Request::Cut(epoch) => Fact::Cut(self.lake.cut(lane, epoch).cloned().map(Box::new)),
            Request::Positions(after) => {
                let hint = self.hints.get(&lane).filter(|_| self.sabotage == Sabotage::PositionIsAHint);
                let positions = hint.cloned().unwrap_or_else(|| self.lake.positions_after(lane, after));
                return Ok(Answer::Positions(positions));
            }
            Request::Publish(cut) => created(self.lake.publish(*cut, &self.stream)?),
            Request::File(epoch) => {
                let found = self.lake.file(lane, epoch);
                self.statistics.count_if(found.is_some(), "files that were adopted");
                Fact::File(found)
            }
            Request::Put(epoch, rows) => created(self.lake.put(lane, epoch, rows)?),
            Request::Commit { epoch, output, base, rows } => {
                let is_committed = self.lake.commit(lane, epoch, output, base, rows)?;
                if is_committed { Fact::Committed(base + 1) } else { Fact::Conflict }
            }
            other => unreachable!("{other:?} is not for the lake"),
        }))
    }

    fn list(&mut self, sender: Sender, seen: (u64, u64), is_forced: bool) -> Answer {
        let (lane, _) = sender.run.expect("only runs ask for shards");
        let listing = self.stream.list(seen.0, self.queue.now(), &mut self.chance);
        let ends = self.lake.ends;
        if !is_forced && seen == (listing.number, ends) {
            return Answer::Unchanged;
        }
        Answer::Listed { listing, ends, start: Arc::clone(&self.stream.start), others: self.lake.others(lane) }
    }

    fn count_lease_write(&mut self, write: &Write, answer: &machine::Answer) {
        if *answer != machine::Answer::Done {
            return self.statistics.count("lost races for a lease");
        }
        let was_owned = write.expected.as_ref().is_some_and(|claim| claim.owner.is_some());
        match write.kind {
            Kind::Take if was_owned => self.statistics.count("expired leases that were taken"),
            Kind::Force => self.statistics.count("leases that were taken by force"),
            Kind::Give => self.statistics.count("lanes that were handed over"),
            Kind::Release => self.statistics.count("lanes that were released"),
            _ => {}
        }
    }
}
