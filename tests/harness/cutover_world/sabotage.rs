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
}

/// Every sentence that can be taken out.
pub const SABOTAGES: [Sabotage; 17] = [
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
];
