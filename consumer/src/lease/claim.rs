//! Whom a lane belongs to: the part of a lease that decisions are made from. Conditional writes compare all of it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest name of a worker, bytes.
const WORKER_BYTES_MAX: usize = 256;

/// The name of a worker. No two processes that run at the same time share one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(Arc<str>);

/// A name that no worker can have.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a worker's name: 1 to 256 bytes of printable ASCII without a space")]
pub struct BadWorkerId {
    text: String,
}

impl WorkerId {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WorkerId {
    type Err = BadWorkerId;

    fn from_str(text: &str) -> Result<Self, BadWorkerId> {
        let is_good = (1..=WORKER_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_good { Ok(Self(text.into())) } else { Err(BadWorkerId { text: text.to_owned() }) }
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Whom a lane belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Who has the lane; `None` once it was released.
    pub owner: Option<WorkerId>,
    /// Grows by one with each sign of life, and whenever the owner changes.
    pub counter: u64,
    /// Who asks for the lane: the owner is to hand it over. Is no sign of life, so it leaves the counter alone.
    pub wish: Option<WorkerId>,
}

impl Claim {
    /// Returns the claim of a worker that takes the lane, after the claim that is there.
    pub fn taken(by: &WorkerId, after: Option<&Self>) -> Self {
        Self { owner: Some(by.clone()), counter: after.map_or(0, |claim| claim.counter) + 1, wish: None }
    }

    /// Returns the claim with one more sign of life.
    #[must_use]
    pub fn renewed(&self) -> Self {
        Self { counter: self.counter + 1, ..self.clone() }
    }

    /// Returns the claim with a worker's wish in it.
    #[must_use]
    pub fn wished(&self, by: &WorkerId) -> Self {
        Self { wish: Some(by.clone()), ..self.clone() }
    }

    /// Returns the claim without a wish.
    #[must_use]
    pub fn withdrawn(&self) -> Self {
        Self { wish: None, ..self.clone() }
    }

    /// Returns the claim once its owner has let go: it is whose wish it was, or nobody's.
    #[must_use]
    pub fn handed_over(&self) -> Self {
        let owner = self.wish.clone().filter(|wish| self.owner.as_ref() != Some(wish));
        Self { owner, counter: self.counter + 1, wish: None }
    }

    /// Returns whom the lane belongs to once the wish in it is fulfilled.
    pub fn owner_to_be(&self) -> Option<&WorkerId> {
        self.owner.as_ref().map(|owner| self.wish.as_ref().unwrap_or(owner))
    }

    /// Returns true when the other claim is of the same owner with no sign of life between the two.
    pub fn is_as_alive_as(&self, other: &Self) -> bool {
        self.owner == other.owner && self.counter == other.counter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str) -> WorkerId {
        name.parse().unwrap()
    }

    #[test]
    fn a_wish_is_no_sign_of_life_and_all_else_is() {
        let (one, two) = (worker("one"), worker("two"));
        let taken = Claim::taken(&one, None);
        assert_eq!(taken, Claim { owner: Some(one.clone()), counter: 1, wish: None });
        let wished = taken.wished(&two);
        assert!(wished.is_as_alive_as(&taken) && wished != taken);
        assert_eq!(wished.withdrawn(), taken);
        assert_eq!((taken.owner_to_be(), wished.owner_to_be()), (Some(&one), Some(&two)));
        let given = wished.renewed().handed_over();
        assert_eq!(given, Claim { owner: Some(two.clone()), counter: 3, wish: None });
        let released = given.handed_over();
        assert_eq!((released.owner.as_ref(), released.counter), (None, 4));
        assert_eq!(Claim::taken(&one, Some(&released)).counter, 5);
    }

    #[test]
    fn a_workers_name_is_one_word() {
        assert_eq!(worker("host-1:4242:9f").as_str(), "host-1:4242:9f");
        for bad in ["", "two words", "zeile\n", "ü", &"x".repeat(257)] {
            assert!(bad.parse::<WorkerId>().is_err(), "{bad:?}");
        }
    }
}
