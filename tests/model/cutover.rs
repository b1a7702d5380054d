//! Cutover and rollback, with one set of lanes. The model is `kappa`.

use crate::kappa::{BACK, Kappa, LEFT, Sabotage, UNFINISHED};
use crate::{breaks, gets_stuck, holds, holds_in_full};

/// A cutover, and nothing in its way but a crash.
const DESIGN: Kappa<1> = Kappa {
    consumers: 1,
    tools: 1,
    runs: 1,
    events: 1,
    lanes: 2,
    asks: 0,
    replays: 1,
    crashes: 1,
    is_about_tools: false,
    sabotage: Sabotage::None,
};

/// Two tools, a cutover each and a rollback; one lane, so that there are fewer states.
const TWO_TOOLS: Kappa<1> = Kappa { tools: 2, runs: 3, lanes: 1, ..ROLLBACK };

/// There and back.
const ROLLBACK: Kappa<1> = Kappa { runs: 2, crashes: 0, replays: 0, ..DESIGN };

#[test]
fn cutover_and_rollback_lose_nothing() {
    holds("a cutover, two consumers, a crash", &Kappa { consumers: 2, ..DESIGN });
    holds("cutover and rollback, a consumer, a crash", &Kappa { crashes: 1, ..ROLLBACK });
    holds("cutover and rollback, a rebuild ahead", &Kappa { replays: 1, ..ROLLBACK });
    holds("two cutovers and a rollback, one lane", &TWO_TOOLS);
    let there_and_back = Kappa { runs: 3, is_about_tools: true, ..ROLLBACK };
    holds("there, back and there again: tools come to their end", &there_and_back);
}

#[test]
fn cutover_and_rollback_lose_nothing_in_large_scopes() {
    holds_in_full("cutover and rollback, two consumers, a crash", &Kappa { consumers: 2, crashes: 1, ..ROLLBACK });
    let two = Kappa { tools: 2, ..ROLLBACK };
    holds_in_full("two cutovers at once, a consumer, a crash", &Kappa { crashes: 1, ..two });
    holds_in_full("two cutovers at once, one lane, two consumers", &Kappa { consumers: 2, lanes: 1, ..two });
    holds_in_full("two cutovers and a rollback, one lane, two consumers", &Kappa { consumers: 2, ..TWO_TOOLS });
    holds_in_full("two cutovers and a rollback, one lane, a crash", &Kappa { crashes: 1, ..TWO_TOOLS });
    holds_in_full("cutover and rollback, two events a shard, a crash", &Kappa { events: 2, crashes: 1, ..ROLLBACK });
}

#[test]
fn each_sentence_of_cutover_and_rollback_is_missed() {
    let there = |sabotage| Kappa { sabotage, ..DESIGN };
    let back = |sabotage| Kappa { sabotage, ..ROLLBACK };
    let two = |sabotage| Kappa { tools: 2, ..back(sabotage) };
    for promise in [UNFINISHED, BACK, LEFT] {
        breaks("a lane is not sealed", &there(Sabotage::LaneIsNotSealed), promise);
    }
    breaks("a tool creates whatever pointer is next", &two(Sabotage::PointerIsNotFixed), LEFT);
    breaks("a published cut is left uncommitted", &there(Sabotage::CutIsLeftUncommitted), UNFINISHED);
    breaks("the target is behind", &there(Sabotage::TargetIsBehind), BACK);
    breaks("a seal has no number", &there(Sabotage::SealHasNoNumber), LEFT);
    breaks("a seal is void whoever is live", &there(Sabotage::VoidWhoeverIsLive), LEFT);
    breaks("a seal in effect is committed", &there(Sabotage::SealIsCommitted), LEFT);
    gets_stuck("a void seal blocks", &there(Sabotage::VoidSealBlocks));
    gets_stuck("nobody breaks an overdue seal", &there(Sabotage::OverdueSealIsKept));
    let ahead = Kappa { replays: 1, ..back(Sabotage::PointerIsNotLookedFor) };
    gets_stuck("nobody looks for the next pointer", &ahead);
    let bold = Sabotage::CandidatePassesEverySeal;
    breaks("a candidate passes every seal", &Kappa { sabotage: bold, ..TWO_TOOLS }, BACK);
    let tools = Kappa { runs: 3, is_about_tools: true, ..back(Sabotage::CandidateJudgesAsLive) };
    gets_stuck("a candidate judges seals as consumers do", &tools);
}
