//! What the worlds of cutovers and of workers have in common: how they draw what happens; and what the latter keeps of a
//! lane.

use std::collections::BTreeMap;

use headwater_lake::cut::Cut;
use headwater_lake::layout::{Epoch, Output};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// A table at one version: how many commits it has.
pub(crate) type Version = usize;

/// Draws what happens.
pub(crate) struct Chance {
    pub(crate) random: SmallRng,
    /// Whether things go wrong.
    pub(crate) is_troubled: bool,
}

impl Chance {
    pub(crate) fn new(seed: u64, is_troubled: bool) -> Self {
        Self { random: SmallRng::seed_from_u64(seed), is_troubled }
    }

    pub(crate) fn one_in(&mut self, times: u32) -> bool {
        self.random.random_ratio(1, times)
    }

    pub(crate) fn trouble_one_in(&mut self, times: u32) -> bool {
        self.is_troubled && self.one_in(times)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end)
    }
}

/// What is stored of one lane; `F` is a file.
#[derive(Debug, Clone)]
pub(crate) struct LaneTables<F> {
    /// Cut n is at n - 1.
    pub(crate) cuts: Vec<Cut>,
    /// The last committed epoch of each output.
    pub(crate) committed: [Epoch; 2],
    /// The files by epoch, one each at most.
    pub(crate) files: BTreeMap<Epoch, F>,
}

impl<F> Default for LaneTables<F> {
    fn default() -> Self {
        Self { cuts: Vec::new(), committed: [Epoch(0); 2], files: BTreeMap::new() }
    }
}

impl<F> LaneTables<F> {
    pub(crate) fn cut(&self, epoch: Epoch) -> Option<&Cut> {
        self.cuts.get(index(epoch.0.checked_sub(1)?))
    }

    pub(crate) fn committed_everywhere(&self) -> Epoch {
        self.committed[0].min(self.committed[1])
    }

    /// The cuts that an output lacks.
    pub(crate) fn uncommitted(&self) -> &[Cut] {
        &self.cuts[index(self.committed_everywhere().0)..]
    }

    /// Says whether there is no cut of that epoch yet, so that one can be created.
    pub(crate) fn is_free(&self, epoch: Epoch) -> Result<bool, String> {
        let next = self.cuts.len() as u64 + 1;
        if epoch.0 > next { Err("there is a gap before it".to_owned()) } else { Ok(epoch.0 == next) }
    }

    /// Creates the file of an epoch; false when there is one.
    pub(crate) fn put(&mut self, epoch: Epoch, file: F) -> bool {
        let is_new = !self.files.contains_key(&epoch);
        if is_new {
            self.files.insert(epoch, file);
        }
        is_new
    }

    /// Commits an epoch to an output, and checks what no reader may ever see.
    pub(crate) fn commit(&mut self, output: Output, epoch: Epoch) -> Result<(), String> {
        let before = self.committed[output as usize];
        if epoch != before.next() {
            return Err(format!("{output} commits epoch {epoch} after {before}"));
        }
        let cut = self.cut(epoch).ok_or_else(|| format!("epoch {epoch} has no cut"))?;
        if !cut.output(output).files.is_empty() && !self.files.contains_key(&epoch) {
            return Err(format!("epoch {epoch} is committed without its file"));
        }
        self.committed[output as usize] = epoch;
        Ok(())
    }
}

/// Returns a number as a place in a list.
pub(crate) fn index(number: u64) -> usize {
    usize::try_from(number).expect("toy numbers are small")
}
