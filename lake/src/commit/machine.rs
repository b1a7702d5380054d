//! The commit protocol, as a function from facts to the next action.
//!
//! ```text
//!            +--------------------------- fenced, or behind --------------------------+
//!            v                                                                        |
//! start -> ReadTable* -> ReadCut --(absent)-> Resume -> Idle -> ChangeSchema* -> PublishCut
//!            |              |                   ^                                     |
//!            |           (present: redo)        +-- Release <- Commit* <- Put* <------+
//!            |              |                         |           ^
//!            |              +----> Inspect* -> MakeFiles ---------+
//!            |              |                         |           |
//!            |           (a seal) -> ReadPointer -(void)----------+
//!            |                            +------(in effect)-> Blocked   until Machine::look_again
//!            v                                        v
//!      ReadCut of the last epoch -----------------> Closed   for good: that cut closes the lane
//! ```
//!
//! It performs nothing and waits for nothing: [`Machine::next`] names the one thing to be done now, and
//! [`Machine::apply`] takes what came of it. So a simulation can crash, pause or interleave writers between any two
//! actions, and the product runs the very same decisions.

use std::collections::BTreeMap;

use super::seal::{SealState, Standing, seal_state};
use crate::cut::Cut;
use crate::layout::{Epoch, LaneSetNumber, Output, PointerNumber};
use crate::pointer::Pointer;

/// What a writer knows of one output's table. `S` is whatever the adapter needs as the base of a commit.
#[derive(Debug, Clone)]
pub struct Table<S> {
    /// The lane's last committed epoch, as read in `snapshot`.
    pub committed: Epoch,
    /// The base of the next commit. Never refreshed without reading `committed` again.
    pub snapshot: S,
}

/// A file's place in a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileRef {
    /// The output.
    pub output: Output,
    /// The file's index in that output's intent.
    pub index: usize,
}

/// An epoch that is ready to be written: its rows are encoded with the schema that its cut names.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// The cut to publish.
    pub cut: Cut,
    /// Outputs that need a metadata commit first, so that their table has the schema named in the cut.
    pub schema_changes: Vec<Output>,
}

/// The one thing to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Read the table of this output: answer [`Fact::Table`].
    ReadTable(Output),
    /// Read the cut of this epoch: answer [`Fact::Cut`].
    ReadCut(Epoch),
    /// Take up reading after this epoch, forgetting whatever was buffered: answer [`Fact::Resumed`].
    Resume(Epoch),
    /// Nothing to be done until there is a proposal for the epoch after this one: [`Machine::propose`].
    Idle(Epoch),
    /// Commit the schema that the proposal needs: answer [`Fact::Committed`], [`Fact::Conflict`] or [`Fact::Unknown`].
    ChangeSchema(Output),
    /// Encode the same rows again with the table's new schema: answer with [`Machine::propose`].
    EncodeAgain,
    /// Read the highest pointer, to judge a seal by: answer [`Fact::Pointer`].
    ReadPointer,
    /// The lane is sealed for this pointer, and nothing is to be done until there is news: [`Machine::look_again`].
    Blocked(PointerNumber),
    /// The lane is over: its last cut closes it, and is committed. Lanes of this set go on. Nothing is ever to be done.
    Closed(LaneSetNumber),
    /// Create the proposal's cut if absent: answer [`Fact::Created`], [`Fact::Exists`] or [`Fact::Unknown`].
    PublishCut,
    /// Look whether this file is there: answer [`Fact::File`].
    Inspect(FileRef),
    /// Make these files again from the log, by the cut's boundaries: answer [`Fact::Made`].
    MakeFiles(Vec<FileRef>),
    /// Create this file if absent: answer [`Fact::Created`], [`Fact::Exists`] or [`Fact::Unknown`].
    Put(FileRef),
    /// Commit the epoch to this output: answer [`Fact::Committed`], [`Fact::Conflict`] or [`Fact::Unknown`].
    Commit(Output),
    /// The epoch is done. Tell whoever likes to know: answer [`Fact::Released`].
    Release,
}

/// What came of an action.
#[derive(Debug, Clone)]
pub enum Fact<S> {
    /// The table as it is now.
    Table(Table<S>),
    /// The cut, if there is one.
    Cut(Option<Box<Cut>>),
    /// The highest pointer.
    Pointer(Pointer),
    /// Reading continues after the epoch.
    Resumed,
    /// It was created by this call.
    Created,
    /// Something is there already; nothing was written.
    Exists,
    /// Whether it was written is not known.
    Unknown,
    /// The file: absent, or there with that row digest.
    File(Option<crate::digest::RowDigest>),
    /// The missing files are at hand.
    Made,
    /// Committed; this is the table now.
    Committed(S),
    /// Not committed: the table has moved since the base was read.
    Conflict,
    /// The hints are given.
    Released,
}

/// Something that must never be so. The writer stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A file named by a cut holds other rows.
    #[error("{key} holds other rows than its cut says ({actual} instead of {expected}): something else wrote it")]
    OtherRows {
        /// The file's key.
        key: String,
        /// Digest in the cut.
        expected: String,
        /// Digest in the file.
        actual: String,
    },
    /// A table went back to an earlier epoch.
    #[error("the {output} table has epoch {found} where epoch {known} was committed: the lake was changed or restored")]
    WentBack {
        /// The output.
        output: Output,
        /// The epoch read now.
        found: Epoch,
        /// The epoch known before.
        known: Epoch,
    },
    /// A cut that is committed is gone.
    #[error("epoch {epoch} is committed and its cut is gone: cuts are never deleted while their generation exists")]
    CutIsGone {
        /// The epoch.
        epoch: Epoch,
    },
    /// The log's rows for a cut are not the ones it named.
    #[error("the rows read again for epoch {epoch} differ from its cut: {what}")]
    RedoDiffers {
        /// The epoch.
        epoch: Epoch,
        /// What differs.
        what: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileState {
    /// Not looked at yet (redo), or at hand and to be put (own epoch).
    Unseen,
    /// Must be made again.
    Missing,
    /// At hand, to be put.
    AtHand,
    /// A put found something there, or got no answer: look.
    Doubtful,
    /// There, with the rows of the cut.
    There,
}

#[derive(Debug)]
enum Phase {
    Recover,
    /// The last committed cut is looked at: it may close the lane.
    FindLast,
    FindCut,
    /// The next cut is a seal.
    Judge(Box<Cut>),
    Blocked(PointerNumber),
    Closed(LaneSetNumber),
    Resume,
    Idle,
    Evolve(Box<Proposal>),
    ReloadForSchema(Output),
    EncodeAgain,
    Publish(Box<Cut>),
    ReadBack(Box<Cut>),
    Write {
        cut: Box<Cut>,
        files: BTreeMap<FileRef, FileState>,
        reload: Option<Output>,
    },
    Release {
        redo: bool,
        closes: Option<LaneSetNumber>,
    },
}

/// One lane's writer: where it is in the protocol.
#[derive(Debug)]
pub struct Machine<S> {
    /// What it writes: both outputs of a pipeline, or an archive's only one.
    outputs: &'static [Output],
    /// What was read of each output; incomplete only while recovering.
    tables: BTreeMap<Output, Table<S>>,
    phase: Phase,
    /// Whether the epoch being written was found there: reading then resumes after it.
    redo: bool,
    /// What it judges seals by.
    standing: Standing,
}

impl<S: Clone> Default for Machine<S> {
    fn default() -> Self {
        Self::new(Standing::Live)
    }
}

impl<S: Clone> Machine<S> {
    /// Returns a machine that begins by reading the tables.
    pub fn new(standing: Standing) -> Self {
        Self { outputs: &Output::ALL, tables: BTreeMap::new(), phase: Phase::Recover, redo: false, standing }
    }

    /// Returns the machine for these outputs; every cut names each of them and no other.
    #[must_use]
    pub fn writing(self, outputs: &'static [Output]) -> Self {
        debug_assert!(!outputs.is_empty() && self.tables.is_empty(), "the outputs are known before anything is read");
        Self { outputs, ..self }
    }

    /// Returns the table of an output as last read.
    pub fn table(&self, output: Output) -> Option<&Table<S>> {
        self.tables.get(&output)
    }

    /// Returns the cut that is being published or written.
    pub fn cut(&self) -> Option<&Cut> {
        match &self.phase {
            Phase::Evolve(proposal) => Some(&proposal.cut),
            Phase::Publish(cut) | Phase::ReadBack(cut) | Phase::Write { cut, .. } => Some(cut),
            _ => None,
        }
    }

    /// Returns what is to be done now.
    pub fn next(&self) -> Action {
        match &self.phase {
            Phase::Recover => Action::ReadTable(self.unread().expect("recovery ends with the last table")),
            Phase::FindLast => Action::ReadCut(self.committed_everywhere()),
            Phase::FindCut => Action::ReadCut(self.committed_everywhere().next()),
            Phase::Judge(_) => Action::ReadPointer,
            Phase::Blocked(seal) => Action::Blocked(*seal),
            Phase::Closed(next) => Action::Closed(*next),
            Phase::Resume => Action::Resume(self.committed_everywhere()),
            Phase::Idle => Action::Idle(self.committed_everywhere()),
            Phase::Evolve(proposal) => match proposal.schema_changes.first() {
                Some(output) => Action::ChangeSchema(*output),
                None => unreachable!("without changes the cut is published"),
            },
            Phase::ReloadForSchema(output) => Action::ReadTable(*output),
            Phase::EncodeAgain => Action::EncodeAgain,
            Phase::Publish(_) => Action::PublishCut,
            Phase::ReadBack(cut) => Action::ReadCut(cut.epoch),
            Phase::Write { reload: Some(output), .. } => Action::ReadTable(*output),
            Phase::Write { cut, files, reload: None } => self.next_write(cut, files),
            Phase::Release { .. } => Action::Release,
        }
    }

    fn next_write(&self, cut: &Cut, files: &BTreeMap<FileRef, FileState>) -> Action {
        let with = |wanted: FileState| files.iter().find(|(_, state)| **state == wanted).map(|(file, _)| *file);
        // Everything is looked at before anything is made again: if all is there, the log is not read.
        if let Some(file) = with(FileState::Unseen).or_else(|| with(FileState::Doubtful)) {
            return Action::Inspect(file);
        }
        if with(FileState::Missing).is_some() {
            let missing = files.iter().filter(|(_, state)| **state == FileState::Missing);
            return Action::MakeFiles(missing.map(|(file, _)| *file).collect());
        }
        if let Some(file) = with(FileState::AtHand) {
            return Action::Put(file);
        }
        match self.outputs_before(cut.epoch).first() {
            Some(output) => Action::Commit(*output),
            None => unreachable!("an epoch that is committed everywhere is released"),
        }
    }

    /// Offers the next epoch, when [`Action::Idle`] or [`Action::EncodeAgain`] asks for it.
    ///
    /// # Panics
    /// When it was not asked for, or the cut is not the next one: a bug of the caller.
    pub fn propose(&mut self, proposal: Proposal) {
        assert!(matches!(self.phase, Phase::Idle | Phase::EncodeAgain), "a proposal was not asked for");
        assert_eq!(proposal.cut.epoch, self.committed_everywhere().next(), "P1: epochs have no gaps");
        self.phase = if proposal.schema_changes.is_empty() {
            Phase::Publish(Box::new(proposal.cut))
        } else {
            Phase::Evolve(Box::new(proposal))
        };
    }

    /// Begins anew after [`Action::Blocked`]: the tables are read again, since others may have passed the seal.
    ///
    /// # Panics
    /// When the lane was not blocked: a bug of the caller.
    pub fn look_again(&mut self) {
        assert!(matches!(self.phase, Phase::Blocked(_)), "the lane is not blocked");
        self.phase = self.restart();
    }

    /// Begins anew when the cut that was asked for names a schema which the tables, read before it, do not have yet: a cut
    /// is published after its schema, so they have it now.
    ///
    /// # Panics
    /// When no cut was asked for after the tables were read: a bug of the caller.
    pub fn read_tables_again(&mut self) {
        assert!(matches!(self.phase, Phase::FindCut), "the tables were not read before this");
        self.phase = self.restart();
    }

    /// Returns true when the cut that is asked for now is the next one, after the tables were read.
    pub fn is_finding_cut(&self) -> bool {
        matches!(self.phase, Phase::FindCut)
    }

    /// Takes what came of the action that [`Machine::next`] named.
    ///
    /// # Errors
    /// When the lake is in a state that no writer of this protocol leaves behind.
    ///
    /// # Panics
    /// When the fact does not answer the action: a bug of the caller.
    pub fn apply(&mut self, fact: Fact<S>) -> Result<(), Violation> {
        let phase = std::mem::replace(&mut self.phase, Phase::Recover);
        self.phase = match (phase, fact) {
            (Phase::Recover, Fact::Table(table)) => self.recovered(table),
            (Phase::FindLast, Fact::Cut(Some(cut))) => cut.closes.map_or(Phase::FindCut, Phase::Closed),
            (Phase::FindLast, Fact::Cut(None)) => {
                return Err(Violation::CutIsGone { epoch: self.committed_everywhere() });
            }
            (Phase::FindCut, Fact::Cut(None)) => {
                self.redo = false;
                Phase::Resume
            }
            (Phase::FindCut, Fact::Cut(Some(cut))) if cut.seal.is_some() => Phase::Judge(cut),
            (Phase::FindCut, Fact::Cut(Some(cut))) => {
                self.redo = true;
                self.write(cut, FileState::Unseen)
            }
            (Phase::Judge(cut), Fact::Pointer(highest)) => self.judged(cut, &highest),
            (Phase::Resume, Fact::Resumed) => Phase::Idle,
            (Phase::Evolve(proposal), fact) => self.evolved(proposal, fact),
            (Phase::ReloadForSchema(output), Fact::Table(table)) => self.reloaded_for_schema(output, table)?,
            (Phase::Publish(cut), Fact::Created) => self.write(cut, FileState::AtHand),
            (Phase::Publish(cut), Fact::Exists | Fact::Unknown) => Phase::ReadBack(cut),
            (Phase::ReadBack(cut), Fact::Cut(found)) => self.read_back(cut, found),
            (Phase::Write { cut, files, reload }, fact) => self.wrote(cut, files, reload, fact)?,
            (Phase::Release { closes: Some(next), .. }, Fact::Released) => Phase::Closed(next),
            (Phase::Release { redo: false, .. }, Fact::Released) => Phase::Idle,
            (Phase::Release { redo: true, .. }, Fact::Released) => Phase::FindCut,
            (phase, _) => panic!("the fact does not answer the action of {phase:?}"),
        };
        Ok(())
    }

    fn recovered(&mut self, table: Table<S>) -> Phase {
        let output = self.unread().expect("recovery ends with the last table");
        self.tables.insert(output, table);
        match self.unread() {
            Some(_) => Phase::Recover,
            None if self.committed_everywhere() == Epoch(0) => Phase::FindCut,
            None => Phase::FindLast,
        }
    }

    fn unread(&self) -> Option<Output> {
        self.outputs.iter().copied().find(|output| !self.tables.contains_key(output))
    }

    fn restart(&mut self) -> Phase {
        self.tables.clear();
        self.redo = false;
        Phase::Recover
    }

    fn judged(&mut self, cut: Box<Cut>, highest: &Pointer) -> Phase {
        let seal = cut.seal.expect("only a seal is judged");
        match seal_state(seal, cut.generation, self.standing, highest) {
            SealState::Void => {
                self.redo = true;
                self.write(cut, FileState::Unseen)
            }
            SealState::InEffect => Phase::Blocked(seal),
        }
    }

    fn evolved(&mut self, mut proposal: Box<Proposal>, fact: Fact<S>) -> Phase {
        let output = proposal.schema_changes.remove(0);
        match fact {
            Fact::Committed(snapshot) => {
                self.table_mut(output).snapshot = snapshot;
                if proposal.schema_changes.is_empty() {
                    Phase::Publish(Box::new(proposal.cut))
                } else {
                    Phase::Evolve(proposal)
                }
            }
            Fact::Conflict | Fact::Unknown => Phase::ReloadForSchema(output),
            fact => panic!("a schema change has no answer of this kind: {}", name_of(&fact)),
        }
    }

    fn reloaded_for_schema(&mut self, output: Output, table: Table<S>) -> Result<Phase, Violation> {
        let known = self.table_mut(output).committed;
        if table.committed < known {
            return Err(Violation::WentBack { output, found: table.committed, known });
        }
        let lost = table.committed > known;
        *self.table_mut(output) = table;
        Ok(if lost { self.restart() } else { Phase::EncodeAgain })
    }

    fn read_back(&mut self, ours: Box<Cut>, found: Option<Box<Cut>>) -> Phase {
        match found {
            // An unknown outcome that did not happen: publish again.
            None => Phase::Publish(ours),
            // Ours, or another writer's that intends the very same.
            Some(found) if found == ours => self.write(ours, FileState::AtHand),
            // Fenced: who created it owns the epoch.
            Some(_) => self.restart(),
        }
    }

    fn write(&mut self, cut: Box<Cut>, state: FileState) -> Phase {
        let files = self
            .outputs_before(cut.epoch)
            .into_iter()
            .flat_map(|output| (0..cut.output(output).files.len()).map(move |index| FileRef { output, index }))
            .map(|file| (file, state))
            .collect();
        Phase::Write { cut, files, reload: None }
    }

    fn wrote(
        &mut self,
        cut: Box<Cut>,
        mut files: BTreeMap<FileRef, FileState>,
        reload: Option<Output>,
        fact: Fact<S>,
    ) -> Result<Phase, Violation> {
        if let Some(output) = reload {
            let Fact::Table(table) = fact else { panic!("a reload is answered by the table") };
            return self.reloaded_for_commit(output, table, cut, files);
        }
        match (self.next_write(&cut, &files), fact) {
            (Action::Inspect(file), Fact::File(Some(digest))) => {
                let intent = &cut.output(file.output).files[file.index];
                if digest != intent.digest {
                    return Err(Violation::OtherRows {
                        key: intent.key.clone(),
                        expected: intent.digest.to_string(),
                        actual: digest.to_string(),
                    });
                }
                files.insert(file, FileState::There);
            }
            (Action::Inspect(file), Fact::File(None)) => {
                let doubtful = files.get(&file) == Some(&FileState::Doubtful);
                files.insert(file, if doubtful { FileState::AtHand } else { FileState::Missing });
            }
            (Action::MakeFiles(made), Fact::Made) => {
                files.extend(made.into_iter().map(|file| (file, FileState::AtHand)));
            }
            (Action::Put(file), Fact::Created) => _ = files.insert(file, FileState::There),
            (Action::Put(file), Fact::Exists | Fact::Unknown) => _ = files.insert(file, FileState::Doubtful),
            (Action::Commit(output), Fact::Committed(snapshot)) => {
                self.tables.insert(output, Table { committed: cut.epoch, snapshot });
                return Ok(self.committed_or_more(cut, files));
            }
            (Action::Commit(output), Fact::Conflict | Fact::Unknown) => {
                return Ok(Phase::Write { cut, files, reload: Some(output) });
            }
            (action, fact) => panic!("{action:?} has no answer of this kind: {}", name_of(&fact)),
        }
        Ok(Phase::Write { cut, files, reload: None })
    }

    /// Epoch n or more: done. n - 1: try again, against this snapshot. Less: the lake is not what it was.
    fn reloaded_for_commit(
        &mut self,
        output: Output,
        table: Table<S>,
        cut: Box<Cut>,
        files: BTreeMap<FileRef, FileState>,
    ) -> Result<Phase, Violation> {
        let known = self.table_mut(output).committed;
        if table.committed < known {
            return Err(Violation::WentBack { output, found: table.committed, known });
        }
        let overtaken = table.committed > cut.epoch;
        *self.table_mut(output) = table;
        Ok(if overtaken { self.restart() } else { self.committed_or_more(cut, files) })
    }

    fn committed_or_more(&self, cut: Box<Cut>, files: BTreeMap<FileRef, FileState>) -> Phase {
        if self.outputs_before(cut.epoch).is_empty() {
            Phase::Release { redo: self.redo, closes: cut.closes }
        } else {
            Phase::Write { cut, files, reload: None }
        }
    }

    fn outputs_before(&self, epoch: Epoch) -> Vec<Output> {
        let behind = self.tables.iter().filter(|(_, table)| table.committed < epoch);
        behind.map(|(output, _)| *output).collect()
    }

    /// The smallest epoch over all outputs: where a restart begins.
    fn committed_everywhere(&self) -> Epoch {
        self.tables.values().map(|table| table.committed).min().expect("every output was read")
    }

    fn table_mut(&mut self, output: Output) -> &mut Table<S> {
        self.tables.get_mut(&output).expect("every output was read")
    }
}

fn name_of<S>(fact: &Fact<S>) -> &'static str {
    match fact {
        Fact::Table(_) => "a table",
        Fact::Cut(_) => "a cut",
        Fact::Pointer(_) => "a pointer",
        Fact::Resumed => "resumed",
        Fact::Created => "created",
        Fact::Exists => "exists",
        Fact::Unknown => "unknown",
        Fact::File(_) => "a file",
        Fact::Made => "made",
        Fact::Committed(_) => "committed",
        Fact::Conflict => "conflict",
        Fact::Released => "released",
    }
}

#[cfg(test)]
mod tests;
