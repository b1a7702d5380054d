//! What is looked at all the time, and when the world is at rest: W4 and W5. The lake looks at the rest.

use std::time::Duration;

use headwater_consumer::lease::WorkerId;
use headwater_lake::layout::Lane;

use super::clock::{RATE_MIN, Time};
use super::network::Place;
use super::workers::Process;
use super::{LEASE, World};

/// How long the world may take to come to rest, lease periods.
const REST_LEASES_MAX: u32 = 80;

/// A lane, as the world sees it.
#[derive(Default)]
pub(super) struct Watched {
    /// The last sign of life: its owner, and the counter.
    sign: Option<(Option<WorkerId>, u64)>,
    /// Since when it has no owner that lives and knows that it has it.
    orphan_since: Option<Time>,
}

impl Process {
    /// Says whether it has a lane: it works, can give signs of life, and believes that the lane is its own.
    fn serves(&self, lane: Lane, now: Time) -> bool {
        self.is_connected(now) && self.machine.believes_in(lane, self.clock.shows(now))
    }

    fn is_connected(&self, now: Time) -> bool {
        self.is_up() && now >= self.cut_off_until[Place::Leases as usize]
    }

    /// Returns how many more lanes it could take, `claimed` being those that are its own by the table of leases. None
    /// while it still has a run of a lane that it lost.
    fn room(&self, claimed: usize, now: Time) -> usize {
        let shows = self.clock.shows(now);
        let is_free = self.is_connected(now)
            && !self.is_leaving
            && self.machine.orders().keys().all(|lane| self.machine.believes_in(*lane, shows));
        if is_free { self.max_leases.saturating_sub(self.machine.census().owned.max(claimed)) } else { 0 }
    }
}

/// How long a lane may be without an owner: two lease periods by the slowest clock.
fn orphaned_max() -> Duration {
    LEASE * 2 * 1000 / RATE_MIN
}

impl World {
    pub(super) fn check(&mut self) -> Result<(), String> {
        let now = self.queue.now();
        let counts = self.leases.counts();
        let mut rooms = Vec::new();
        for process in self.processes.iter_mut().filter(|process| process.is_up()) {
            let room = process.room(counts.get(&process.name).copied().unwrap_or(0), now);
            let since = process.free_since.filter(|_| room > 0);
            process.free_since = (room > 0).then(|| since.unwrap_or(now).max(process.leases_were_lost_at));
            rooms.extend(process.free_since.map(|since| (since, room)));
        }
        for process in self.processes.iter_mut().filter(|process| !process.is_up()) {
            process.free_since = None;
        }
        for (lane, watched) in self.lanes.iter().zip(&mut self.watched) {
            let claim = self.leases.rows().get(lane);
            let sign = claim.map(|claim| (claim.owner.clone(), claim.counter));
            let owner = claim.and_then(|claim| claim.owner.as_ref()).map(place_of);
            let is_served = owner.is_some_and(|place| self.processes[place].serves(*lane, now));
            let is_as_before = watched.sign == sign;
            watched.orphan_since = match watched.orphan_since {
                _ if is_served => None,
                Some(since) if is_as_before => Some(since),
                _ => Some(now),
            };
            watched.sign = sign;
        }
        self.check_orphans(&rooms, now)
    }

    /// W4: if a lane was without an owner for so long, nobody had room for so long.
    fn check_orphans(&self, rooms: &[(Time, usize)], now: Time) -> Result<(), String> {
        let Some(latest) = now.checked_sub(orphaned_max()) else {
            return Ok(());
        };
        let orphans = self.watched.iter().filter(|watched| watched.orphan_since.is_some()).count();
        let free = rooms.iter().filter(|(since, _)| *since < latest).map(|(_, room)| *room);
        let free = free.fold(0, usize::saturating_add);
        let is_overdue = |watched: &&Watched| watched.orphan_since.is_some_and(|since| since < latest);
        match self.watched.iter().find(is_overdue) {
            Some(Watched { sign, orphan_since }) if free >= orphans => Err(format!(
                "W4: at {now:?} a lane has no owner since {orphan_since:?}, the last was {sign:?}; there are {orphans} \
                 such lanes, and room for {free}"
            )),
            _ => Ok(()),
        }
    }

    /// Goes on until nothing is left to be done, and looks whether it stays so.
    pub(super) fn come_to_rest(&mut self) -> Result<(), String> {
        let latest = self.queue.now() + LEASE * REST_LEASES_MAX;
        while let Err(unrest) = self.check_rest() {
            if self.queue.now() >= latest {
                return Err(format!("{unrest}, {REST_LEASES_MAX} lease periods after the last trouble"));
            }
            self.go_on_until(self.queue.now() + LEASE / 10)?;
        }
        // Whoever does not know it yet has a look.
        self.go_on_until(self.queue.now() + LEASE)?;
        let moves = self.leases.moves;
        self.go_on_until(self.queue.now() + LEASE * 2)?;
        let more = self.leases.moves - moves;
        if more > 0 {
            return Err(format!("W5: at rest lanes are moved still: {more} writes that are no signs of life"));
        }
        self.check_rest()
    }

    /// Says what is still to be done.
    fn check_rest(&self) -> Result<(), String> {
        if !self.lake.is_complete(&self.stream) {
            return Err("W1: not everything that is in the stream is in the lake".to_owned());
        }
        let up = self.up();
        if let Some(index) = up.iter().find(|index| self.processes[**index].is_leaving) {
            return Err(format!("W5: w{index} has not left"));
        }
        let now = self.queue.now();
        let mut counts = vec![0_usize; self.processes.len()];
        for lane in &self.lanes {
            let claim = self.leases.rows().get(lane).filter(|claim| claim.wish.is_none());
            let owner = claim.and_then(|claim| claim.owner.as_ref()).map(place_of);
            let Some(owner) = owner.filter(|place| self.processes[*place].serves(*lane, now)) else {
                return Err(format!("W5: lane {lane} is not at rest: {claim:?}"));
            };
            counts[owner] += 1;
        }
        let can_have_more = |index: &&usize| counts[**index] < self.processes[**index].max_leases;
        let least = up.iter().filter(can_have_more).map(|index| counts[*index]).min();
        let most = counts.iter().copied().max().unwrap_or(0);
        match least {
            Some(least) if most > least + 1 => Err(format!("W5: the workers' lanes are {counts:?}")),
            _ => Ok(()),
        }
    }
}

/// Returns a process's place by its name.
fn place_of(worker: &WorkerId) -> usize {
    worker.as_str()[1..].parse().expect("a worker's name is its number")
}
