//! The rules that can be taken out, and which promise breaks without each.

/// A rule that is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Everything as it is.
    None,
    /// "A child waits until its parents' end is committed": it is read as soon as it is listed.
    ChildDoesNotWait,
    /// "… is *committed*, whichever lane they are in": that the end is in a published cut is enough.
    PublishedIsEnough,
    /// "Children from TRIM_HORIZON whatever the start says": a child is read from its newest event.
    ChildBeginsAtTheEnd,
    /// "Closed shards drained", "an empty read is an ordinary day": it is taken for the end of a closed shard.
    EmptyReadIsTheEnd,
    /// "Rows inside a file follow the cut's segments, then position": they have an order of their own.
    RowsAreSorted,
    /// "No position comes from a lease": a worker goes on where the one before it had read to.
    PositionIsAHint,
    /// "The lease is a hint, the cut is the fence": who has the lease replaces the cut that is there.
    CutIsOverwritten,
    /// "A writer that finds another's cut there has lost": it goes on with its own.
    FenceIsIgnored,
    /// "A lease whose counter stands still for so long is expired": nobody takes it.
    ExpiredIsLeft,
    /// "Steal for balance": nobody asks for a lane.
    NobodyAsks,
    /// "Renew": an owner gives no sign of life.
    NobodyRenews,
}

/// Every rule that can be taken out, and the promise that a schedule breaks then.
pub const SABOTAGES: [(Sabotage, &str); 11] = [
    (Sabotage::ChildDoesNotWait, "W3"),
    (Sabotage::PublishedIsEnough, "W3"),
    (Sabotage::ChildBeginsAtTheEnd, "W2"),
    (Sabotage::EmptyReadIsTheEnd, "W1"),
    (Sabotage::RowsAreSorted, "W2"),
    (Sabotage::PositionIsAHint, "W7"),
    (Sabotage::CutIsOverwritten, "W6"),
    (Sabotage::FenceIsIgnored, "W6"),
    (Sabotage::ExpiredIsLeft, "W4"),
    (Sabotage::NobodyAsks, "W5"),
    (Sabotage::NobodyRenews, "W5"),
];
