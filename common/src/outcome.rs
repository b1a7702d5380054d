//! What an error from outside says about the thing that was asked for.

/// Whether a request that failed took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It took effect although an error came back.
    Happened,
    /// It certainly did not take effect.
    DidNotHappen,
    /// No answer came, or one that does not tell: read back, then decide; never delete.
    Unknown,
}

/// Whether trying the same request again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It may work later: a time-out, a throttle, a lost connection.
    MayHelp,
    /// It will fail the same way: wrong name, no permission, broken content.
    WillNotHelp,
}

/// An error from outside, classified where it entered.
pub trait Classified: std::error::Error {
    /// Returns whether the request took effect.
    fn effect(&self) -> Effect;
    /// Returns whether to try again.
    fn again(&self) -> Again;
}
