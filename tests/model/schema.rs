//! The schema of a table that two lanes write to. Each has one epoch in which a new field comes up; to lane 0 it looks
//! like a number, to lane 1 like text.

use crate::engine::{Model, Steps};
use crate::{breaks, gets_stuck, holds};

const LANES: usize = 2;

const OTHER_BYTES: &str = "a file of the table has other bytes than the table says";
const OTHER_TYPE: &str = "a file of the table has another type than the table";
const OTHER_ROWS: &str = "a file has other rows than its cut says";

/// A type of the field, or how a lane has encoded it: 0 there is none, 1 a number, 2 text, 3 not in its column.
type Kind = u8;

const RESCUED: Kind = 3;

struct Schema {
    /// Whether the schema is a commit of its own before the cut, which names it, and a redo goes by that one.
    is_first: bool,
    /// Whether a put leaves alone what is there.
    puts_if_absent: bool,
    crashes: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Step {
    #[default]
    Read,
    Publish,
    Put,
    Commit,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Writer {
    step: Step,
    lane: u8,
    /// The column's type as it was read.
    known: Kind,
    encoded: Kind,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    /// The type of the table's column.
    column: Kind,
    /// For each lane what its cut says, which type the cut names (plus one), its file, and what the table says of it.
    cuts: [Kind; LANES],
    named: [Kind; LANES],
    files: [Kind; LANES],
    live: [Kind; LANES],
    writers: [Option<Writer>; 2],
    crashes: u8,
}

/// How a lane encodes its field for a column of that type.
fn encode(lane: usize, column: Kind) -> Kind {
    let own = if lane == 0 { 1 } else { 2 };
    if column == 0 || column == own { own } else { RESCUED }
}

impl Schema {
    fn step(&self, state: &State, index: usize, writer: Writer, steps: &mut Steps<State>) {
        let (me, lane) = (u8::try_from(index).unwrap_or(1), usize::from(writer.lane));
        let about = [me, writer.lane, state.column];
        let mut next = state.clone();
        let mut own = writer;
        let name = match writer.step {
            Step::Read => {
                own.known = state.column;
                if state.live[lane] != 0 {
                    next.writers[index] = None;
                    steps.fair("it is committed", about, next);
                    return;
                }
                own.step = Step::Publish;
                if state.cuts[lane] != 0 {
                    let column = if self.is_first { state.named[lane] - 1 } else { state.column };
                    (own.step, own.encoded) = (Step::Put, encode(lane, column));
                }
                "read the table and the cut"
            }
            Step::Publish if self.is_first && writer.known == 0 => {
                if state.column == 0 {
                    next.column = encode(lane, 0);
                }
                own.known = next.column;
                "commit the schema, or read it"
            }
            Step::Publish => {
                own.encoded = encode(lane, writer.known);
                own.step = Step::Put;
                if state.cuts[lane] == 0 {
                    (next.cuts[lane], next.named[lane]) = (own.encoded, writer.known + 1);
                } else if state.cuts[lane] != own.encoded {
                    next.writers[index] = None;
                    steps.fair("publish the cut, a loss", about, next);
                    return;
                }
                "publish the cut"
            }
            Step::Put => {
                if !self.puts_if_absent || state.files[lane] == 0 {
                    next.files[lane] = writer.encoded;
                }
                own.step = Step::Commit;
                "put the file"
            }
            Step::Commit => {
                if state.live[lane] != 0 {
                    next.writers[index] = None;
                    steps.fair("it is committed", about, next);
                    return;
                }
                let kind = writer.encoded;
                if kind != RESCUED && state.column != 0 && state.column != kind {
                    next.writers[index] = Some(Writer { lane: writer.lane, ..Writer::default() });
                    steps.fair("commit, refused for its type", about, next);
                    return;
                }
                if kind != RESCUED && state.column == 0 {
                    next.column = kind;
                }
                next.live[lane] = if self.puts_if_absent { state.files[lane] } else { kind };
                next.writers[index] = None;
                steps.fair("commit", about, next);
                return;
            }
        };
        next.writers[index] = Some(own);
        steps.fair(name, about, next);
    }
}

impl Model for Schema {
    type State = State;

    fn initial(&self) -> State {
        let none = [0; LANES];
        let (cuts, named, files, live) = (none, none, none, none);
        State { column: 0, cuts, named, files, live, writers: [None; 2], crashes: self.crashes }
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        for index in 0..2 {
            let me = u8::try_from(index).unwrap_or(1);
            let Some(writer) = state.writers[index] else {
                for lane in 0..2 {
                    let mut next = state.clone();
                    next.writers[index] = Some(Writer { lane, ..Writer::default() });
                    steps.fair("start", [me, lane, 0], next);
                }
                continue;
            };
            if state.crashes > 0 {
                let mut next = state.clone();
                next.crashes -= 1;
                next.writers[index] = None;
                steps.unfair("crash", [me, 0, 0], next);
            }
            self.step(state, index, writer, steps);
        }
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        for lane in 0..LANES {
            let (cut, file, live) = (state.cuts[lane], state.files[lane], state.live[lane]);
            if live != 0 && live != file {
                return Some(OTHER_BYTES);
            }
            if live != 0 && live != RESCUED && live != state.column {
                return Some(OTHER_TYPE);
            }
            if file != 0 && cut != 0 && file != cut {
                return Some(OTHER_ROWS);
            }
        }
        None
    }

    fn is_complete(&self, state: &State) -> bool {
        !state.live.contains(&0)
    }

    fn describe(&self, state: &State) -> String {
        let State { column, cuts, files, live, .. } = state;
        format!("column {column}, cuts {cuts:?}, files {files:?}, table {live:?}")
    }
}

#[test]
fn a_schema_is_committed_before_the_cut_that_names_it() {
    holds("schema, two crashes", &Schema { is_first: true, puts_if_absent: false, crashes: 2 });
    holds("schema, two crashes, put if absent", &Schema { is_first: true, puts_if_absent: true, crashes: 2 });
    let late = Schema { is_first: false, puts_if_absent: false, crashes: 1 };
    breaks("the schema is committed with the rows", &late, OTHER_ROWS);
    gets_stuck("the schema is committed with the rows", &late);
    let late = Schema { puts_if_absent: true, ..late };
    breaks("the schema is committed with the rows, put if absent", &late, OTHER_TYPE);
}
