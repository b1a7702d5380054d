//! The processes of workers: each has the product's coordinator, the runs that it orders, a clock of its own, and may
//! be paused, cut off and killed.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_consumer::lease::WorkerId;
use headwater_consumer::lease::machine::{self, Course, Ending, Kind, Machine, Moment, Settings, Timing, Write};
use headwater_lake::layout::Lane;
use rand::Rng;

use super::clock::{Clock, RATE_MAX, RATE_MIN, Time};
use super::lane_run::{End, Run, Step, Waits};
use super::network::{Answer, PLACES, Request, Sender};
use super::{Happening, LEASE, Sabotage, World};

/// The least time between two looks at what is to be done.
const WAKE_MIN: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Up,
    /// Since when, and whether its clock stands still.
    Paused(Time, bool),
    Ended,
}

pub(super) struct Process {
    pub(super) name: WorkerId,
    pub(super) state: State,
    pub(super) machine: Machine,
    pub(super) clock: Clock,
    pub(super) max_leases: usize,
    /// It was told to leave.
    pub(super) is_leaving: bool,
    pub(super) cut_off_until: [Time; PLACES.len()],
    /// When it last gave up waiting for an answer about leases.
    pub(super) leases_were_lost_at: Time,
    /// Since when it could take one more lane, as far as the world sees.
    pub(super) free_since: Option<Time>,
    runs: BTreeMap<Lane, Run>,
    /// The last run of each lane.
    terms: BTreeMap<Lane, u64>,
    /// Requests about leases that are under way, and when they began.
    asked: usize,
    began: Moment,
    /// The sleep that it is in; wakes of an earlier one are passed over.
    sleep: u64,
    /// What came while it was paused.
    inbox: Vec<Happening>,
}

impl Process {
    pub(super) fn is_up(&self) -> bool {
        self.state == State::Up
    }
}

impl World {
    pub(super) fn start_process(&mut self, max_leases: usize) -> Result<(), String> {
        let (index, now) = (self.processes.len(), self.queue.now());
        let random = &mut self.chance.random;
        let offset = Duration::from_secs(random.random_range(0..1_000_000));
        let clock = Clock::new(now, offset, random.random_range(RATE_MIN..=RATE_MAX));
        let name: WorkerId = format!("w{index}").parse().expect("it is one word");
        let timing = Timing { duration: LEASE, hand_over: LEASE };
        let settings = Settings { worker: name.clone(), max_leases, timing, seed: random.random() };
        let lanes = self.lanes.iter().copied();
        self.processes.push(Process {
            name,
            state: State::Up,
            machine: Machine::new(settings, lanes, clock.shows(now)),
            began: clock.shows(now),
            clock,
            max_leases,
            is_leaving: false,
            cut_off_until: [Time::ZERO; PLACES.len()],
            leases_were_lost_at: Time::ZERO,
            free_since: None,
            runs: BTreeMap::new(),
            terms: BTreeMap::new(),
            asked: 0,
            sleep: 0,
            inbox: Vec::new(),
        });
        self.tell(|| format!("w{index} starts, for {max_leases} lanes at most"));
        self.coordinate(index)
    }

    pub(super) fn kill(&mut self, index: usize) {
        self.statistics.count("crashes");
        self.tell(|| format!("w{index} dies"));
        self.end(index);
    }

    fn end(&mut self, index: usize) {
        let process = &mut self.processes[index];
        process.state = State::Ended;
        process.runs.clear();
        process.inbox.clear();
        self.start_another();
    }

    pub(super) fn pause(&mut self, index: usize, pause: Duration, is_suspended: bool) {
        self.statistics.count_if(pause > LEASE, "pauses longer than a lease");
        self.tell(|| format!("w{index} stands still for {pause:?}, its clock too: {is_suspended}"));
        self.processes[index].state = State::Paused(self.queue.now(), is_suspended);
        self.queue.after(pause, Happening::GoOn(index));
    }

    /// A process goes on after a pause, with all that has come meanwhile.
    pub(super) fn go_on(&mut self, index: usize) -> Result<(), String> {
        let now = self.queue.now();
        let process = &mut self.processes[index];
        let State::Paused(since, is_suspended) = process.state else {
            return Ok(());
        };
        process.state = State::Up;
        if is_suspended {
            process.clock.stood_still(now - since);
        }
        let inbox = std::mem::take(&mut process.inbox);
        self.tell(|| format!("w{index} goes on"));
        inbox.into_iter().try_for_each(|happening| self.happen(happening))
    }

    pub(super) fn leave(&mut self, index: usize) -> Result<(), String> {
        self.statistics.count("workers that left");
        self.tell(|| format!("w{index} leaves"));
        let process = &mut self.processes[index];
        process.is_leaving = true;
        process.machine.close(Ending::Release);
        self.coordinate(index)
    }

    /// Returns what happens to a process now; what happens to one that is paused is kept for later.
    pub(super) fn now_or_later(&mut self, index: usize, happening: Happening) -> Option<Happening> {
        let process = &mut self.processes[index];
        match process.state {
            State::Up => return Some(happening),
            State::Paused(..) => process.inbox.push(happening),
            State::Ended => {}
        }
        None
    }

    pub(super) fn wake(&mut self, index: usize, sleep: u64) -> Result<(), String> {
        if self.processes[index].sleep == sleep { self.coordinate(index) } else { Ok(()) }
    }

    pub(super) fn turn(&mut self, index: usize, lane: Lane, turn: u64) -> Result<(), String> {
        let run = self.processes[index].runs.get(&lane);
        if run.is_some_and(|run| run.waits == Waits::Turn(turn)) { self.advance(index, lane) } else { Ok(()) }
    }

    pub(super) fn hear(&mut self, sender: Sender, answer: Answer) -> Result<(), String> {
        let index = sender.process;
        if self.crashes_now() {
            self.kill(index);
            return Ok(());
        }
        match sender.run {
            None => self.hear_of_leases(index, answer)?,
            Some((lane, term)) => self.hear_in_a_run(index, lane, term, answer)?,
        }
        if self.processes[index].is_up() && self.crashes_now() {
            self.kill(index);
        }
        Ok(())
    }

    fn crashes_now(&mut self) -> bool {
        self.plan.crash_one_in.is_some_and(|times| self.chance.trouble_one_in(times))
    }

    fn hear_of_leases(&mut self, index: usize, answer: Answer) -> Result<(), String> {
        let now = self.queue.now();
        let process = &mut self.processes[index];
        let shows = process.clock.shows(now);
        process.asked -= 1;
        match answer {
            Answer::Rows(rows) => process.machine.learned(rows, shows),
            Answer::Row(write, answer) => process.machine.answered(&write, answer, process.began, shows),
            Answer::None => process.machine.look_failed(shows),
            _ => unreachable!("a coordinator asks for leases only"),
        }
        self.coordinate(index)
    }

    fn hear_in_a_run(&mut self, index: usize, lane: Lane, term: u64, answer: Answer) -> Result<(), String> {
        let now = self.queue.now();
        let process = &mut self.processes[index];
        let Some(run) = process.runs.get_mut(&lane).filter(|run| run.term == term) else {
            return Ok(());
        };
        self.statistics.count_if(self.leases.owner(lane) != Some(&process.name), "actions of zombies");
        if !run.hear(answer, now)? {
            self.statistics.count("readers of what is forgotten");
            self.kill(index);
            return Ok(());
        }
        if self.sabotage == Sabotage::PositionIsAHint {
            self.hints.insert(lane, run.reader.positions.clone());
        }
        self.advance(index, lane)
    }

    /// Lets a run do what comes next.
    fn advance(&mut self, index: usize, lane: Lane) -> Result<(), String> {
        let now = self.queue.now();
        let process = &mut self.processes[index];
        let Some(run) = process.runs.get_mut(&lane) else {
            return Ok(());
        };
        match run.step(now, &mut self.chance)? {
            Step::Ask(request) => {
                run.waits = Waits::Answer;
                let sender = Sender { process: index, run: Some((lane, run.term)) };
                self.send(sender, request);
            }
            Step::Pause(pause) => {
                self.turns += 1;
                run.waits = Waits::Turn(self.turns);
                self.queue.after(pause, Happening::Turn(index, lane, self.turns));
            }
            Step::End(end) => {
                let (term, shows) = (run.term, process.clock.shows(now));
                process.runs.remove(&lane);
                match end {
                    End::Stopped => process.machine.stopped(lane, term, shows),
                    End::Fenced => process.machine.fenced(lane, term, shows),
                }
                self.statistics.count_if(end == End::Fenced, "runs that were fenced");
                self.tell(|| format!("run {term} of lane {lane} at w{index} is {end:?}"));
                self.sleep_until(index, now);
            }
        }
        Ok(())
    }

    /// Drops a run that did not end in time, as if it had crashed.
    pub(super) fn drop_run(&mut self, index: usize, lane: Lane, term: u64) -> Result<(), String> {
        let now = self.queue.now();
        let process = &mut self.processes[index];
        if process.runs.get(&lane).is_some_and(|run| run.term == term) {
            process.runs.remove(&lane);
            process.machine.stopped(lane, term, process.clock.shows(now));
            self.statistics.count("runs that were dropped");
            self.sleep_until(index, now);
        }
        Ok(())
    }

    fn sleep_until(&mut self, index: usize, time: Time) {
        let process = &mut self.processes[index];
        process.sleep += 1;
        self.queue.at(time, Happening::Wake(index, process.sleep));
    }

    /// Lets a coordinator do what is to be done, unless it waits for answers, and its runs what they are ordered.
    pub(super) fn coordinate(&mut self, index: usize) -> Result<(), String> {
        let now = self.queue.now();
        let process = &mut self.processes[index];
        let shows = process.clock.shows(now);
        if process.machine.has_namesake() {
            return Err(format!("w{index} takes its own writes for those of another"));
        }
        if process.asked == 0 && process.machine.wants_look(shows) {
            process.asked = 1;
            self.send(Sender { process: index, run: None }, Request::Look);
        } else if process.asked == 0 {
            process.began = shows;
            let writes = process.machine.decide(shows);
            process.asked = writes.len();
            for write in writes {
                self.write(index, write);
            }
        }
        self.obey(index)?;
        let process = &mut self.processes[index];
        if process.asked > 0 {
            return Ok(());
        }
        if process.machine.is_closed() {
            self.tell(|| format!("w{index} is gone"));
            self.end(index);
        } else if let Some(time) = process.clock.when(process.machine.wakes_at()) {
            self.sleep_until(index, time.max(now + WAKE_MIN));
        }
        Ok(())
    }

    fn write(&mut self, index: usize, write: Write) {
        let was_owned = write.expected.as_ref().is_some_and(|claim| claim.owner.is_some());
        let is_left_out = match self.sabotage {
            Sabotage::ExpiredIsLeft => write.kind == Kind::Take && was_owned,
            Sabotage::NobodyAsks => write.kind == Kind::Ask,
            Sabotage::NobodyRenews => write.kind == Kind::Renew,
            _ => false,
        };
        if is_left_out {
            let process = &mut self.processes[index];
            process.asked -= 1;
            process.machine.answered(&write, machine::Answer::Unclear, process.began, process.began);
            return;
        }
        if write.kind != Kind::Renew {
            self.tell(|| format!("w{index} would {:?} lane {}", write.kind, write.lane));
        }
        self.send(Sender { process: index, run: None }, Request::Row(write));
    }

    /// Begins, tells and ends runs as the coordinator orders.
    fn obey(&mut self, index: usize) -> Result<(), String> {
        let now = self.queue.now();
        let orders = self.processes[index].machine.orders();
        self.processes[index].runs.retain(|lane, _| orders.contains_key(lane));
        for (lane, order) in orders {
            let process = &mut self.processes[index];
            if order.term > process.terms.get(&lane).copied().unwrap_or(0) {
                process.terms.insert(lane, order.term);
                if order.course == Course::Run {
                    process.runs.insert(lane, Run::new(lane, order.term, self.plan.limits, self.sabotage));
                    self.advance(index, lane)?;
                } else {
                    // It was to end before it began.
                    process.machine.stopped(lane, order.term, process.clock.shows(now));
                }
                continue;
            }
            let run = process.runs.get_mut(&lane).filter(|run| run.term == order.term && run.course != order.course);
            if let Some(run) = run {
                if run.course == Course::Run && !process.is_leaving {
                    self.queue.after(LEASE, Happening::Overdue(index, lane, order.term));
                }
                run.course = order.course;
                // What comes before the first position is given up at once.
                if run.waits != Waits::Answer || !run.is_begun {
                    self.advance(index, lane)?;
                }
            }
        }
        Ok(())
    }
}
