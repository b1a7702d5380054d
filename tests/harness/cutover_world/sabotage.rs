//! The sentences of the protocol that can be taken out.

/// A sentence of the protocol that is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The protocol as it is.
    None,
    /// "The tool reads pointer k first. It may create pointer k+1 only, never another": it creates the next one,
    /// whichever that is.
    AnyPointerIsCreated,
    /// "Finding k+1 there it stops": the tool replaces what is there.
    PointerIsReplaced,
    /// "It publishes in each lane of g a seal": one lane gets none.
    LaneIsNotSealed,
    /// "That carries the number k+1": a seal of a live generation is void, whatever its number.
    SealHasNoNumber,
    /// "Every published data cut of g is committed": nobody looks.
    CutIsLeftUncommitted,
    /// "g+1 has caught up to at least g's positions", for a rollback "bring g up to date": nobody looks.
    TargetIsBehind,
    /// "Void when … the highest pointer names this generation": it is void when its pointer exists.
    VoidWhoeverIsLive,
    /// "A seal in effect … is never committed": it is committed, though the lane stays blocked.
    SealInEffectIsCommitted,
    /// "A void one is an empty epoch, committed and passed": it blocks.
    VoidSealBlocks,
    /// "It creates pointer k+1 itself; the one pointer decides": an overdue seal is passed without a pointer.
    SealIsBrokenWithoutPointer,
    /// "Pointer k+1 itself", no other: a blocked consumer creates the next one, whichever that is.
    BrokenByAnyPointer,
    /// "After a set time it creates pointer k+1 itself": it waits for ever.
    OverdueSealIsKept,
    /// "Every consumer looks for the next pointer at each cut and each idle tick": only when it is blocked.
    PointerIsNotLookedFor,
    /// "Goes on from the named generation's own positions": from those it had.
    PositionsAreKept,
    /// "Seals up to the pointer it has read are void to" a candidate, "later ones block it": none does.
    CandidatePassesEverySeal,
    /// "`gc` first creates a pointer that lists the retired ones": it removes at once.
    RemovedBeforeRetired,
    /// "Rollback refuses those": it does not.
    RetiredIsNotRefused,
    /// "The first says what the set is": a later one says it again.
    SetIsReplaced,
    /// "Nothing is published behind a closing cut": who finds the lane's last epoch committed does not look at its cut.
    ClosingIsForgotten,
    /// "Lanes begin when every lane of the set before is closed": when one is.
    OneClosedLaneIsEnough,
    /// "And that is committed in every output": when the closing cuts are published.
    ClosingIsNotCommitted,
    /// "They begin where those of the set before have ended": where the generation begins.
    LanesBeginAnew,
    /// "A running consumer notices the next set": it does not.
    NextLanesAreNotLookedFor,
    /// "A tool seals the lanes that are worked on": those that the generation was made with.
    ToolKnowsFirstLanes,
    /// "When all are closed it seals those of the next set": closed lanes count as sealed.
    ClosedIsSealed,
    /// "A candidate carries out what is left of a change of lanes": it closes none.
    CandidateClosesNothing,
}

/// Every sentence that can be taken out.
pub const SABOTAGES: [Sabotage; 26] = [
    Sabotage::AnyPointerIsCreated,
    Sabotage::PointerIsReplaced,
    Sabotage::LaneIsNotSealed,
    Sabotage::SealHasNoNumber,
    Sabotage::CutIsLeftUncommitted,
    Sabotage::TargetIsBehind,
    Sabotage::VoidWhoeverIsLive,
    Sabotage::SealInEffectIsCommitted,
    Sabotage::VoidSealBlocks,
    Sabotage::SealIsBrokenWithoutPointer,
    Sabotage::BrokenByAnyPointer,
    Sabotage::OverdueSealIsKept,
    Sabotage::PointerIsNotLookedFor,
    Sabotage::PositionsAreKept,
    Sabotage::CandidatePassesEverySeal,
    Sabotage::RemovedBeforeRetired,
    Sabotage::RetiredIsNotRefused,
    Sabotage::SetIsReplaced,
    Sabotage::ClosingIsForgotten,
    Sabotage::OneClosedLaneIsEnough,
    Sabotage::ClosingIsNotCommitted,
    Sabotage::LanesBeginAnew,
    Sabotage::NextLanesAreNotLookedFor,
    Sabotage::ToolKnowsFirstLanes,
    Sabotage::ClosedIsSealed,
    Sabotage::CandidateClosesNothing,
];
