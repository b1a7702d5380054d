//! A queue that forgets, in place of a log: three messages, two workers, up to three epochs a lane.

use crate::engine::{Model, Steps};
use crate::{breaks, gets_stuck, holds, holds_in_full};

const MESSAGES: usize = 3;
const ALL: u8 = (1 << MESSAGES) - 1;
const EPOCHS: usize = 3;

const TWICE: &str = "a message is in the table twice";
const LISTED_TWICE: &str = "a message is listed twice";

/// Which lane a message goes to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lanes {
    /// There is one.
    One,
    /// That of the worker that has received it.
    OfTheWorker,
    /// By the hash of its id; each lane has a worker.
    ByHash,
}

struct Sqs {
    lanes: Lanes,
    /// Whether the messages of an epoch are written down before its cut, which names them.
    has_spool: bool,
    crashes: u8,
    /// Messages that the queue forgets before they are deleted.
    expiries: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Step {
    #[default]
    ReadTable,
    Choose,
    Publish,
    Put,
    Commit,
    Delete,
}

/// Messages, a bit each.
type Messages = u8;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Worker {
    step: Step,
    lane: u8,
    epoch: u8,
    held: Messages,
    cut: Messages,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    queue: Messages,
    cuts: [[Messages; EPOCHS + 1]; 2],
    files: [[bool; EPOCHS + 1]; 2],
    committed: [u8; 2],
    workers: [Option<Worker>; 2],
    crashes: u8,
    expiries: u8,
}

impl State {
    fn taken(&self) -> Messages {
        let of =
            |lane: usize| (1..=usize::from(self.committed[lane])).fold(0, |all, epoch| all | self.cuts[lane][epoch]);
        of(0) | of(1)
    }
}

impl Sqs {
    fn count(&self) -> usize {
        if self.lanes == Lanes::One { 1 } else { 2 }
    }

    fn step(&self, state: &State, index: usize, worker: Worker, steps: &mut Steps<State>) {
        let (me, lane, epoch) = (u8::try_from(index).unwrap_or(1), usize::from(worker.lane), usize::from(worker.epoch));
        let about = [me, worker.lane, worker.epoch];
        let mut next = state.clone();
        let mut own = worker;
        let name = match worker.step {
            Step::ReadTable => {
                let epoch = usize::from(state.committed[lane]) + 1;
                if epoch > EPOCHS {
                    return;
                }
                own.epoch = state.committed[lane] + 1;
                own.step = Step::Choose;
                if state.cuts[lane][epoch] != 0 {
                    (own.step, own.cut) = (Step::Put, state.cuts[lane][epoch]);
                }
                "read the table"
            }
            Step::Choose => {
                // What earlier cuts of the lane have, and what other lanes have committed, is not taken again.
                let mut seen = (1..epoch).fold(0, |all, earlier| all | state.cuts[lane][earlier]);
                if self.count() == 2 {
                    let other = 1 - lane;
                    let committed = 1..=usize::from(state.committed[other]);
                    seen |= committed.fold(0, |all, epoch| all | state.cuts[other][epoch]);
                }
                let again = worker.held & seen;
                match worker.held {
                    0 => return,
                    _ if again != 0 => {
                        next.queue &= !again;
                        own.held &= !again;
                        "drop what came again"
                    }
                    new => {
                        (own.cut, own.step) = (new, Step::Publish);
                        "choose what to take"
                    }
                }
            }
            Step::Publish => {
                (own.step, own.cut) = (Step::ReadTable, 0);
                if state.cuts[lane][epoch] == 0 {
                    next.cuts[lane][epoch] = worker.cut;
                    (own.step, own.cut) = (Step::Put, worker.cut);
                }
                "publish the cut"
            }
            Step::Put => {
                let is_at_hand = self.has_spool || worker.held & worker.cut == worker.cut;
                if !is_at_hand && !state.files[lane][epoch] {
                    return;
                }
                next.files[lane][epoch] = true;
                own.step = Step::Commit;
                "put the file"
            }
            Step::Commit => {
                if usize::from(state.committed[lane]) + 1 == epoch {
                    next.committed[lane] = worker.epoch;
                }
                own.step = Step::Delete;
                "commit"
            }
            Step::Delete => {
                next.queue &= !worker.cut;
                own.held &= !worker.cut;
                (own.cut, own.step) = (0, Step::ReadTable);
                "delete the messages"
            }
        };
        next.workers[index] = Some(own);
        steps.fair(name, about, next);
    }

    fn receive(&self, state: &State, index: usize, worker: Worker, steps: &mut Steps<State>) {
        for message in 0..MESSAGES {
            let bit = 1 << message;
            let is_mine = self.lanes != Lanes::ByHash || message % 2 == usize::from(worker.lane);
            if is_mine && state.queue & bit != 0 && worker.held & bit == 0 {
                let mut next = state.clone();
                next.workers[index] = Some(Worker { held: worker.held | bit, ..worker });
                let about = [u8::try_from(index).unwrap_or(1), u8::try_from(message).unwrap_or(u8::MAX), 0];
                steps.fair("receive", about, next);
            }
        }
    }
}

impl Model for Sqs {
    type State = State;

    fn initial(&self) -> State {
        State {
            queue: ALL,
            cuts: [[0; EPOCHS + 1]; 2],
            files: [[false; EPOCHS + 1]; 2],
            committed: [0; 2],
            workers: [None; 2],
            crashes: self.crashes,
            expiries: self.expiries,
        }
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        for message in (0..MESSAGES).filter(|message| state.expiries > 0 && state.queue >> message & 1 == 1) {
            let mut next = state.clone();
            next.queue &= !(1 << message);
            next.expiries -= 1;
            steps.unfair("the queue forgets a message", [u8::try_from(message).unwrap_or(u8::MAX), 0, 0], next);
        }
        for index in 0..2 {
            let me = u8::try_from(index).unwrap_or(1);
            let Some(worker) = state.workers[index] else {
                let mut next = state.clone();
                let lane = if self.count() == 2 { me } else { 0 };
                next.workers[index] = Some(Worker { lane, ..Worker::default() });
                steps.fair("start", [me, lane, 0], next);
                continue;
            };
            if state.crashes > 0 {
                let mut next = state.clone();
                next.workers[index] = None;
                next.crashes -= 1;
                steps.unfair("crash", [me, 0, 0], next);
            }
            self.receive(state, index, worker, steps);
            self.step(state, index, worker, steps);
        }
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        let (mut rows, mut listed) = (0, 0);
        for lane in 0..self.count() {
            for epoch in 1..=usize::from(state.committed[lane]) {
                if rows & state.cuts[lane][epoch] != 0 {
                    return Some(TWICE);
                }
                rows |= state.cuts[lane][epoch];
            }
            for epoch in (1..=EPOCHS).filter(|epoch| state.files[lane][*epoch]) {
                if listed & state.cuts[lane][epoch] != 0 {
                    return Some(LISTED_TWICE);
                }
                listed |= state.cuts[lane][epoch];
            }
        }
        None
    }

    fn is_complete(&self, state: &State) -> bool {
        let published = state.cuts.iter().flatten().fold(0, |all, cut| all | cut);
        let taken = state.taken();
        (taken | !state.queue) & ALL == ALL && published & !taken == 0
    }

    fn describe(&self, state: &State) -> String {
        let State { queue, cuts, files, committed, .. } = state;
        format!("queue {queue:03b}, cuts {cuts:?}, files {files:?}, committed {committed:?}")
    }
}

#[test]
fn messages_are_written_down_before_the_cut_that_names_them() {
    let hashed = Sqs { lanes: Lanes::ByHash, has_spool: true, crashes: 2, expiries: 1 };
    holds("queue, lanes by hash, two crashes, a forgotten message", &hashed);
    let one = Sqs { lanes: Lanes::One, ..hashed };
    holds("queue, one lane, a crash", &Sqs { crashes: 1, expiries: 0, ..one });
    holds_in_full("queue, one lane, two crashes, a forgotten message", &one);
}

#[test]
fn each_sentence_of_the_spool_is_missed() {
    let slots = Sqs { lanes: Lanes::OfTheWorker, has_spool: true, crashes: 0, expiries: 0 };
    breaks("a message's lane is that of its worker", &slots, LISTED_TWICE);
    breaks("the same without a spool", &Sqs { has_spool: false, crashes: 1, ..slots }, LISTED_TWICE);
    let memory = Sqs { lanes: Lanes::One, has_spool: false, crashes: 1, expiries: 1 };
    gets_stuck("messages are in memory only", &memory);
}
