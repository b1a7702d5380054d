//! Two lanes in one Delta commit, by two writers that both work on both lanes. Three epochs a lane.

use crate::engine::{Model, Steps};
use crate::{breaks, holds};

const EPOCHS: u8 = 3;
const LANES: usize = 2;

const GAP: &str = "an epoch that the table has committed has no rows";
const BACKWARDS: &str = "a table went back to an earlier epoch";

/// What a writer makes of a conflict.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Conflict {
    /// Each lane is judged by the epoch that the table has of it; the lanes not done go into a new commit.
    JudgedByLane,
    /// Somebody was faster, so all of it is done.
    TakenAsDone,
}

struct SharedCommit {
    conflict: Conflict,
    crashes: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Writer {
    is_up: bool,
    /// Whether the files are put and the commit comes next.
    is_put: bool,
    /// The next epoch of each lane, the commits of each lane as read, and whether the lane is in the commit.
    next: [u8; LANES],
    bases: [u8; LANES],
    is_in: [bool; LANES],
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    cuts: [[bool; EPOCHS as usize + 1]; LANES],
    rows: [[bool; EPOCHS as usize + 1]; LANES],
    committed: [u8; LANES],
    highest: [u8; LANES],
    /// How often each lane was committed.
    commits: [u8; LANES],
    writers: [Writer; 2],
    crashes: u8,
}

impl SharedCommit {
    fn commit(&self, state: &State, index: usize, steps: &mut Steps<State>) {
        let writer = state.writers[index];
        let me = u8::try_from(index).unwrap_or(1);
        let mut next = state.clone();
        let is_conflict = (0..LANES).any(|lane| writer.is_in[lane] && state.commits[lane] != writer.bases[lane]);
        if !is_conflict {
            for lane in (0..LANES).filter(|lane| writer.is_in[*lane]) {
                let epoch = writer.next[lane];
                next.rows[lane][usize::from(epoch)] = true;
                next.committed[lane] = epoch;
                next.highest[lane] = next.highest[lane].max(epoch);
                next.commits[lane] += 1;
                let own = &mut next.writers[index];
                (own.bases[lane], own.next[lane], own.is_in[lane]) = (next.commits[lane], epoch + 1, false);
            }
            next.writers[index].is_put = false;
            steps.fair("commit", [me, u8::from(writer.is_in[0]), u8::from(writer.is_in[1])], next);
            return;
        }
        let own = &mut next.writers[index];
        own.bases = state.commits;
        for lane in 0..LANES {
            let is_done = match self.conflict {
                Conflict::TakenAsDone => writer.is_in[lane],
                Conflict::JudgedByLane => !writer.is_in[lane] || state.committed[lane] >= writer.next[lane],
            };
            if is_done {
                own.is_in[lane] = false;
                own.next[lane] = match self.conflict {
                    Conflict::TakenAsDone => writer.next[lane] + 1,
                    Conflict::JudgedByLane => state.committed[lane] + 1,
                };
            }
        }
        own.is_put = own.is_in.contains(&true);
        steps.fair("commit, a conflict", [me, 0, 0], next);
    }
}

impl Model for SharedCommit {
    type State = State;

    fn initial(&self) -> State {
        State {
            cuts: [[false; EPOCHS as usize + 1]; LANES],
            rows: [[false; EPOCHS as usize + 1]; LANES],
            committed: [0; LANES],
            highest: [0; LANES],
            commits: [0; LANES],
            writers: [Writer::default(); 2],
            crashes: self.crashes,
        }
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        for (index, writer) in state.writers.into_iter().enumerate() {
            let me = u8::try_from(index).unwrap_or(1);
            if !writer.is_up {
                let mut next = state.clone();
                let epochs = state.committed.map(|epoch| epoch + 1);
                next.writers[index] = Writer { is_up: true, next: epochs, bases: state.commits, ..Writer::default() };
                steps.fair("start", [me, 0, 0], next);
                continue;
            }
            if state.crashes > 0 {
                let mut next = state.clone();
                next.crashes -= 1;
                next.writers[index] = Writer::default();
                steps.unfair("crash", [me, 0, 0], next);
            }
            if writer.is_put {
                self.commit(state, index, steps);
                continue;
            }
            for lane in (0..LANES).filter(|lane| !writer.is_in[*lane] && writer.next[*lane] <= EPOCHS) {
                let mut next = state.clone();
                next.cuts[lane][usize::from(writer.next[lane])] = true;
                next.writers[index].is_in[lane] = true;
                steps.fair("publish a cut, or find it", [me, u8::try_from(lane).unwrap_or(1), writer.next[lane]], next);
            }
            if writer.is_in.contains(&true) {
                let mut next = state.clone();
                next.writers[index].is_put = true;
                steps.fair("all files are put", [me, 0, 0], next);
            }
        }
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        for lane in 0..LANES {
            if state.committed[lane] < state.highest[lane] {
                return Some(BACKWARDS);
            }
            if (1..=usize::from(state.committed[lane])).any(|epoch| !state.rows[lane][epoch]) {
                return Some(GAP);
            }
        }
        None
    }

    fn is_complete(&self, state: &State) -> bool {
        state.committed == [EPOCHS; LANES]
    }

    fn describe(&self, state: &State) -> String {
        format!("committed {:?}, rows {:?}", state.committed, state.rows)
    }
}

#[test]
fn lanes_that_share_a_commit_are_judged_each_for_itself() {
    holds("shared commit, two crashes", &SharedCommit { conflict: Conflict::JudgedByLane, crashes: 2 });
    let taken = SharedCommit { conflict: Conflict::TakenAsDone, crashes: 1 };
    breaks("a conflict is taken as done", &taken, GAP);
    breaks("a conflict is taken as done", &taken, BACKWARDS);
}
