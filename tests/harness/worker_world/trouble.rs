//! What goes wrong, when, and to whom.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use headwater_common::position::ShardId;
use rand::Rng;

use super::clock::Time;
use super::network::PLACES;
use super::plan::Scripted;
use super::workers::State;
use super::{Happening, LEASE, World};

/// How many changes of shards one step takes at most.
const RESHARD_MAX: usize = 1_000;

impl World {
    pub(super) fn join(&mut self) -> Result<(), String> {
        let alive = self.processes.iter().filter(|process| process.state != State::Ended).count();
        if alive >= self.plan.workers_max {
            return Ok(());
        }
        let is_bound = self.plan.has_bounds && self.chance.one_in(3);
        let max_leases = if is_bound { 1 + self.chance.below(self.plan.lanes as usize) } else { usize::MAX };
        self.start_process(max_leases)
    }

    /// A process has ended; mostly another one takes its place.
    pub(super) fn start_another(&mut self) {
        if !self.chance.one_in(4) {
            let pause = self.long();
            self.queue.after(pause, Happening::Start);
        }
    }

    pub(super) fn reshard(&mut self) -> Result<(), String> {
        self.plan_next(self.plan.reshard_every, Happening::Reshard);
        let count = self.stream.open_count();
        let wanted = if count < self.plan.shards_max && self.chance.one_in(2) { count + 1 } else { count.max(2) - 1 };
        self.reshape(wanted);
        Ok(())
    }

    fn reshape(&mut self, wanted: usize) {
        for _ in 0..RESHARD_MAX {
            match self.stream.open_count().cmp(&wanted) {
                Ordering::Less => {
                    let is_split = self.stream.split(self.queue.now(), &mut self.chance);
                    self.statistics.count_if(is_split, "splits");
                }
                Ordering::Equal => break,
                Ordering::Greater => {
                    let is_merged = self.stream.merge(self.queue.now(), &mut self.chance);
                    self.statistics.count_if(is_merged, "merges");
                }
            }
        }
        self.tell(|| format!("the stream has {} open shards", self.stream.open_count()));
    }

    fn forget(&mut self) {
        let (stream, lake, now) = (&mut self.stream, &self.lake, self.queue.now());
        let lanes: BTreeMap<ShardId, u32> =
            stream.closed().map(|shard| (shard.clone(), stream.lane_of(shard))).collect();
        let is_any = stream.forget(now, |shard| lake.has_all_of(shard, lanes[shard]));
        self.statistics.count_if(is_any, "shards that were forgotten");
    }

    pub(super) fn make_trouble(&mut self) -> Result<(), String> {
        self.plan_next(self.plan.trouble_every, Happening::Trouble);
        let Some(index) = self.choose() else {
            return self.join();
        };
        match self.chance.below(10) {
            0..3 => {
                let (pause, is_suspended) = (self.long(), self.chance.one_in(3));
                self.pause(index, pause, is_suspended);
                Ok(())
            }
            3..5 => {
                self.kill(index);
                Ok(())
            }
            5..7 => {
                self.cut_off(index);
                Ok(())
            }
            7 => self.join(),
            8 => self.leave(index),
            _ => {
                self.forget();
                Ok(())
            }
        }
    }

    fn cut_off(&mut self, index: usize) {
        let until = self.queue.now() + self.long();
        let chosen = self.chance.below(PLACES.len());
        for place in PLACES {
            if place as usize == chosen || self.chance.one_in(3) {
                self.processes[index].cut_off_until[place as usize] = until;
                self.tell(|| format!("w{index} is cut off from the {place:?} until {until:?}"));
            }
        }
    }

    pub(super) fn follow_script(&mut self, index: usize) -> Result<(), String> {
        let chosen = self.choose();
        match (self.plan.script[index].1, chosen) {
            (Scripted::Shards(count), _) => self.reshape(count),
            (Scripted::Join, _) | (_, None) => self.join()?,
            (Scripted::Kill, Some(chosen)) => self.kill(chosen),
            (Scripted::Leave, Some(chosen)) => self.leave(chosen)?,
        }
        Ok(())
    }

    /// Chooses one of the processes that are neither dead nor paused.
    fn choose(&mut self) -> Option<usize> {
        let up = self.up();
        (!up.is_empty()).then(|| up[self.chance.below(up.len())])
    }

    /// Everything works from now on; what is left of the events is put.
    pub(super) fn end_trouble(&mut self) -> Result<(), String> {
        self.tell(|| "the trouble is over".to_owned());
        self.chance.is_troubled = false;
        while self.puts_left > 0 {
            self.put();
        }
        for index in 0..self.processes.len() {
            self.processes[index].cut_off_until = [Time::ZERO; PLACES.len()];
            self.go_on(index)?;
        }
        let staying = self.up().into_iter().filter(|index| !self.processes[*index].is_leaving);
        let room = staying.map(|index| self.processes[index].max_leases).fold(0, usize::saturating_add);
        if room < self.plan.lanes as usize { self.start_process(usize::MAX) } else { Ok(()) }
    }

    /// Returns a time of which some are short and some longer than leases.
    fn long(&mut self) -> Duration {
        let most = [0.3, 1.0, 4.0][self.chance.below(3)];
        LEASE.mul_f64(most * self.chance.random.random_range(0.1..1.0))
    }
}
