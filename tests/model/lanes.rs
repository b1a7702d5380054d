//! Other lanes for a live table, with and without cutovers. The model is `kappa`.

use crate::kappa::{BACK, EARLY, Kappa, LEFT, Sabotage, TWICE};
use crate::{breaks, gets_stuck, holds, holds_in_full};

/// Two consumers of which one asks for one lane in place of two, and a crash.
const DESIGN: Kappa<2> = Kappa {
    consumers: 2,
    tools: 0,
    runs: 0,
    events: 1,
    lanes: 2,
    asks: 1,
    replays: 0,
    crashes: 1,
    is_about_tools: false,
    sabotage: Sabotage::None,
};

/// One consumer, and a cutover meanwhile.
const WITH_CUTOVER: Kappa<2> = Kappa { consumers: 1, tools: 1, runs: 1, crashes: 0, ..DESIGN };

/// Lanes that are changed twice: from two to one to two.
const TWICE_CHANGED: Kappa<3> = Kappa {
    consumers: 2,
    tools: 0,
    runs: 0,
    events: 1,
    lanes: 2,
    asks: 2,
    replays: 0,
    crashes: 1,
    is_about_tools: false,
    sabotage: Sabotage::None,
};

#[test]
fn other_lanes_lose_nothing() {
    holds("fewer lanes, two consumers, a crash", &DESIGN);
    holds("more lanes, two consumers, a crash", &Kappa { lanes: 1, ..DESIGN });
    holds("fewer lanes and more again, two consumers, a crash", &TWICE_CHANGED);
    holds("more lanes and fewer again, two consumers, two crashes", &Kappa { lanes: 1, crashes: 2, ..TWICE_CHANGED });
    holds("two events a shard, two consumers, a crash", &Kappa { events: 2, ..DESIGN });
}

#[test]
fn other_lanes_and_a_cutover_lose_nothing() {
    holds("fewer lanes during a cutover", &WITH_CUTOVER);
    holds("more lanes during a cutover", &Kappa { lanes: 1, ..WITH_CUTOVER });
    let tools = Kappa { runs: 2, is_about_tools: true, ..WITH_CUTOVER };
    holds("fewer lanes during a cutover: tools come to their end", &tools);
}

#[test]
fn other_lanes_lose_nothing_in_large_scopes() {
    holds_in_full(
        "fewer lanes and more again, two events a shard, two crashes",
        &Kappa { events: 2, crashes: 2, ..TWICE_CHANGED },
    );
    holds_in_full("fewer lanes during a cutover, two consumers", &Kappa { consumers: 2, ..WITH_CUTOVER });
    holds_in_full(
        "more lanes during a cutover, two consumers, a crash",
        &Kappa { consumers: 2, lanes: 1, crashes: 1, ..WITH_CUTOVER },
    );
    holds_in_full("fewer lanes during cutover and rollback, a crash", &Kappa { runs: 2, crashes: 1, ..WITH_CUTOVER });
    holds_in_full("fewer lanes during two cutovers at once", &Kappa { tools: 2, runs: 2, ..WITH_CUTOVER });
    let both = Kappa { consumers: 1, tools: 1, runs: 2, crashes: 0, ..TWICE_CHANGED };
    holds_in_full("fewer lanes and more again during cutover and rollback", &both);
}

#[test]
fn each_sentence_of_other_lanes_is_missed() {
    let lanes = |sabotage| Kappa { sabotage, ..DESIGN };
    let cutover = |sabotage| Kappa { sabotage, ..WITH_CUTOVER };
    breaks("a closing is forgotten", &lanes(Sabotage::ClosingIsForgotten), TWICE);
    breaks("one closed lane is enough", &lanes(Sabotage::OneClosedLaneIsEnough), TWICE);
    // A closing takes nothing, so no row would be wrong; but then a lane's last epoch would not say that it is closed.
    breaks("closings are not committed first", &lanes(Sabotage::ClosingIsNotCommitted), EARLY);
    breaks("a later set begins anew", &lanes(Sabotage::BeginsAnew), TWICE);
    breaks("a set is replaced", &Kappa { sabotage: Sabotage::SetIsReplaced, ..TWICE_CHANGED }, TWICE);
    gets_stuck("nobody looks for the next set", &lanes(Sabotage::SetIsNotLookedFor));
    for promise in [LEFT, BACK] {
        breaks("a tool knows the first set only", &cutover(Sabotage::ToolKnowsFirstSet), promise);
        breaks("a tool takes closed lanes for sealed", &cutover(Sabotage::ClosedIsSealed), promise);
    }
    let tools = Kappa { runs: 2, is_about_tools: true, ..cutover(Sabotage::CandidateClosesNothing) };
    gets_stuck("a candidate does not close lanes", &tools);
}
