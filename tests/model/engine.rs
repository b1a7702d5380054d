//! An explicit-state model checker: every state that can be reached, breadth first.
//!
//! Safety: a state that breaks a promise is reported with a shortest way to it. Liveness: from every state that can be
//! reached there is a way to a complete one by *fair* steps alone, those that come sooner or later when the consumers
//! live. Crashes, late requests and everything that a person does are not fair: nothing may depend on them.

use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};

/// What is checked.
pub(crate) trait Model {
    /// Everything that decides how it can go on.
    type State: Clone + Eq + Hash;

    /// Returns where everything begins.
    fn initial(&self) -> Self::State;

    /// Adds every step that is possible in a state.
    fn steps(&self, state: &Self::State, steps: &mut Steps<Self::State>);

    /// Says which promise the state breaks.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;

    /// Returns true when all work is done.
    fn is_complete(&self, state: &Self::State) -> bool;

    /// Describes a state, for who reads a trace.
    fn describe(&self, state: &Self::State) -> String;
}

/// A step's name, and the numbers that tell it from its like.
type Label = (&'static str, [u8; 3]);

/// The steps that are possible in a state.
pub(crate) struct Steps<S> {
    found: Vec<(Label, bool, S)>,
}

impl<S> Steps<S> {
    /// Adds a step that comes sooner or later.
    pub(crate) fn fair(&mut self, name: &'static str, about: [u8; 3], next: S) {
        self.found.push(((name, about), true, next));
    }

    /// Adds a step that may come or not.
    pub(crate) fn unfair(&mut self, name: &'static str, about: [u8; 3], next: S) {
        self.found.push(((name, about), false, next));
    }

    /// Adds a step that is fair or not.
    pub(crate) fn add(&mut self, name: &'static str, about: [u8; 3], is_fair: bool, next: S) {
        self.found.push(((name, about), is_fair, next));
    }
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Explored {
    /// States that can be reached, as far as they were looked at.
    pub(crate) states: usize,
    /// Whether these are all.
    pub(crate) is_exhaustive: bool,
    /// The promises that are broken, each with a shortest way there.
    pub(crate) broken: Vec<(&'static str, String)>,
    /// A way to a state from which no fair steps lead to a complete one. Looked for only when all states are known.
    pub(crate) stuck: Option<String>,
}

impl Explored {
    /// Returns true when every promise holds in every state.
    pub(crate) fn holds(&self) -> bool {
        self.is_exhaustive && self.broken.is_empty() && self.stuck.is_none()
    }
}

/// Explores all states, up to `limit` of them. With `wanted` it ends when that promise is found broken.
pub(crate) fn explore<M: Model>(model: &M, limit: usize, wanted: Option<&str>) -> Explored {
    let mut known = Known::new();
    known.insert(model.initial());
    let mut parents = vec![0_u32];
    let mut is_bad = vec![false];
    let mut fair_into: Vec<(u32, u32)> = Vec::new();
    let mut broken: Vec<(&'static str, u32)> = Vec::new();
    let mut steps = Steps { found: Vec::new() };
    let mut here = 0;
    while here < known.states.len() && known.states.len() <= limit {
        let place = number(here);
        if let Some(promise) = model.broken(&known.states[here]) {
            is_bad[here] = true;
            if !broken.iter().any(|(other, _)| *other == promise) {
                broken.push((promise, place));
            }
            if wanted == Some(promise) {
                break;
            }
            here += 1;
            continue;
        }
        model.steps(&known.states[here], &mut steps);
        for (_, is_fair, next) in steps.found.drain(..) {
            let (to, is_new) = known.insert(next);
            if is_new {
                parents.push(place);
                is_bad.push(false);
            }
            if is_fair && to != place {
                fair_into.push((to, place));
            }
        }
        here += 1;
    }
    let is_exhaustive = here == known.states.len();
    let way = |to: u32| way_to(model, &known.states, &parents, to);
    let stuck = if is_exhaustive { first_stuck(model, &known.states, &is_bad, fair_into).map(way) } else { None };
    let broken = broken.iter().map(|(promise, place)| (*promise, way(*place))).collect();
    Explored { states: known.states.len(), is_exhaustive, broken, stuck }
}

/// Returns a state from which no fair steps lead to a complete one, or to a broken promise, which is told apart.
fn first_stuck<M: Model>(model: &M, states: &[M::State], is_bad: &[bool], mut into: Vec<(u32, u32)>) -> Option<u32> {
    into.sort_unstable();
    let mut reaches: Vec<bool> =
        states.iter().zip(is_bad).map(|(state, bad)| !bad && model.is_complete(state)).collect();
    let mut unseen: Vec<u32> = (0..number(states.len())).filter(|place| reaches[*place as usize]).collect();
    while let Some(place) = unseen.pop() {
        let first = into.partition_point(|(to, _)| *to < place);
        for (_, from) in into[first..].iter().take_while(|(to, _)| *to == place) {
            if !reaches[*from as usize] {
                reaches[*from as usize] = true;
                unseen.push(*from);
            }
        }
    }
    let stuck = (0..states.len()).find(|place| !reaches[*place] && !is_bad[*place]);
    stuck.map(number)
}

/// Writes down a shortest way to a state.
fn way_to<M: Model>(model: &M, states: &[M::State], parents: &[u32], to: u32) -> String {
    let mut way = vec![to];
    while way[way.len() - 1] != 0 {
        way.push(parents[way[way.len() - 1] as usize]);
    }
    way.reverse();
    let mut text = String::new();
    let mut steps = Steps { found: Vec::new() };
    for pair in way.windows(2) {
        steps.found.clear();
        model.steps(&states[pair[0] as usize], &mut steps);
        let step = steps.found.iter().find(|(_, _, next)| *next == states[pair[1] as usize]);
        let ((name, about), ..) = step.expect("the way was found by steps");
        text.push_str(&format!("  {name} {about:?}\n"));
    }
    text + &format!("  => {}", model.describe(&states[to as usize]))
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("there are fewer states than that")
}

/// The states that are known, each once, in the order they were found.
struct Known<S> {
    states: Vec<S>,
    /// Places in `states` plus one, by hash; 0 is free. At most half full.
    slots: Vec<u32>,
}

impl<S: Eq + Hash> Known<S> {
    fn new() -> Self {
        Self { states: Vec::new(), slots: vec![0; 1 << 16] }
    }

    /// Returns the place of a state, and whether it is new.
    fn insert(&mut self, state: S) -> (u32, bool) {
        if self.states.len() * 2 >= self.slots.len() {
            self.grow();
        }
        let mut slot = self.slot(&state);
        while self.slots[slot] != 0 {
            let place = self.slots[slot] - 1;
            if self.states[place as usize] == state {
                return (place, false);
            }
            slot = (slot + 1) % self.slots.len();
        }
        let place = number(self.states.len());
        self.slots[slot] = place + 1;
        self.states.push(state);
        (place, true)
    }

    fn grow(&mut self) {
        self.slots = vec![0; self.slots.len() * 2];
        for place in 0..self.states.len() {
            let mut slot = self.slot(&self.states[place]);
            while self.slots[slot] != 0 {
                slot = (slot + 1) % self.slots.len();
            }
            self.slots[slot] = number(place) + 1;
        }
    }

    fn slot(&self, state: &S) -> usize {
        let hash = BuildHasherDefault::<Mixer>::default().hash_one(state);
        // The number of slots is a power of two: the upper bits of a product are the well mixed ones.
        usize::try_from(hash >> 20).unwrap_or(usize::MAX) & (self.slots.len() - 1)
    }
}

/// Hashes small keys quickly.
#[derive(Default)]
struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.mix(u64::from(byte));
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.mix(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.mix(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}
