//! Seals: what one means, and what a lane that meets one does. Pure.
//!
//! A seal is an empty cut that carries the number of the pointer that it was put for. It stops a generation where all
//! can see it, so that another one can catch up to the same positions before it becomes live. Nothing ever takes a seal
//! away: a pointer makes it void.

use std::time::Duration;

use crate::layout::{GenerationNumber, PointerNumber};
use crate::pointer::Pointer;

/// What a seal means to who meets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealState {
    /// Its pointer was decided and the generation is live: an empty epoch, committed and passed.
    Void,
    /// It blocks the lane and is never committed.
    InEffect,
}

/// What a writer writes its generation for, and so how it judges the seals it meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// For readers: the generation is live, or was when the writer last looked.
    #[default]
    Live,
    /// For a cutover: the generation is brought up to date so that the pointer after `after` can name it. It is not
    /// live, so that the seals it was left with are in effect for everyone else; to this writer those up to `after` are
    /// void, as they will be once the pointer is there. Later seals block it: they tell that it has lost.
    Candidate {
        /// The highest pointer that the tool has read. It names another generation.
        after: PointerNumber,
    },
}

/// Says what the seal for pointer `seal` means in `generation`, as far as `highest` is the highest pointer.
///
/// Void when that pointer exists and the highest one names this generation; else in effect.
pub fn seal_state(
    seal: PointerNumber,
    generation: GenerationNumber,
    standing: Standing,
    highest: &Pointer,
) -> SealState {
    let is_decided = seal <= highest.number;
    let is_void = match standing {
        Standing::Live => is_decided && highest.generation == generation,
        Standing::Candidate { after } => seal <= after || (is_decided && highest.generation == generation),
    };
    if is_void { SealState::Void } else { SealState::InEffect }
}

/// What a consumer does whose lane is blocked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unblock {
    /// Another generation is live: go on there, from its own positions.
    MoveTo(Pointer),
    /// The seal is void: pass it.
    Pass,
    /// The seal is overdue: create this pointer, which names the consumer's own generation. Whether that succeeds or
    /// another was faster, look again.
    Break(Pointer),
    /// Look again later.
    Wait,
}

/// Decides for a consumer of `generation` that has been blocked by `seal` for so long.
pub fn unblock(
    seal: PointerNumber,
    generation: GenerationNumber,
    highest: &Pointer,
    waited: Duration,
    seal_wait: Duration,
) -> Unblock {
    if highest.generation != generation {
        return Unblock::MoveTo(highest.clone());
    }
    if seal <= highest.number {
        return Unblock::Pass;
    }
    // Only the very pointer that the seal was put for: then it decides between this consumer and the tool.
    if seal == highest.number.next() && waited >= seal_wait {
        return Unblock::Break(highest.following(generation));
    }
    Unblock::Wait
}

#[cfg(test)]
mod tests {
    use super::*;

    const G1: GenerationNumber = GenerationNumber(1);
    const G2: GenerationNumber = GenerationNumber(2);

    fn pointer(number: u32, generation: GenerationNumber) -> Pointer {
        Pointer { number: PointerNumber(number), ..Pointer::first(generation) }
    }

    #[test]
    fn k2_a_seal_is_void_when_its_pointer_exists_and_the_highest_names_the_generation() {
        let check = |seal, highest: &Pointer, expect| {
            assert_eq!(seal_state(PointerNumber(seal), G1, Standing::Live, highest), expect, "{seal} {highest:?}");
        };
        check(2, &pointer(1, G1), SealState::InEffect);
        check(2, &pointer(2, G2), SealState::InEffect);
        check(2, &pointer(2, G1), SealState::Void);
        check(2, &pointer(3, G1), SealState::Void);
        check(2, &pointer(3, G2), SealState::InEffect);
        check(4, &pointer(3, G1), SealState::InEffect);
    }

    #[test]
    fn k6_who_brings_a_generation_up_to_date_passes_what_it_was_left_with_and_no_later_seal() {
        let standing = Standing::Candidate { after: PointerNumber(3) };
        let check = |seal, highest: &Pointer, expect| {
            assert_eq!(seal_state(PointerNumber(seal), G1, standing, highest), expect, "{seal} {highest:?}");
        };
        check(2, &pointer(3, G2), SealState::Void);
        check(3, &pointer(3, G2), SealState::Void);
        // It became live, and is to be left again: this writer has lost.
        check(5, &pointer(4, G1), SealState::InEffect);
        check(5, &pointer(5, G2), SealState::InEffect);
        check(5, &pointer(5, G1), SealState::Void);
    }

    #[test]
    fn k4_an_overdue_seal_is_broken_by_its_own_pointer_only() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(60));
        let check = |seal, highest: Pointer, waited, expect| {
            assert_eq!(unblock(PointerNumber(seal), G1, &highest, waited, long), expect, "{seal} {highest:?}");
        };
        check(2, pointer(1, G1), short, Unblock::Wait);
        check(2, pointer(1, G1), long, Unblock::Break(pointer(2, G1)));
        check(2, pointer(2, G1), short, Unblock::Pass);
        check(2, pointer(2, G2), long, Unblock::MoveTo(pointer(2, G2)));
        check(2, pointer(3, G1), long, Unblock::Pass);
        // A seal for a pointer whose predecessor nobody has seen: no tool puts one, and nobody guesses.
        check(4, pointer(2, G1), long, Unblock::Wait);
    }
}
