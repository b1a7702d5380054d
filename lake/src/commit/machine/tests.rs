//! How a lane ends.

use std::collections::BTreeMap;

use super::*;
use crate::layout::{GenerationNumber, Lane};

const NEXT: LaneSetNumber = LaneSetNumber(2);

fn closing(epoch: u64) -> Cut {
    let place = (GenerationNumber::FIRST, Lane::of_first_set(0, 1), Epoch(epoch));
    Cut::closing(place, "00ff".into(), &BTreeMap::new(), BTreeMap::new())
}

/// A cut that takes nothing and means nothing.
fn empty(epoch: u64) -> Cut {
    Cut { closes: None, ..closing(epoch) }
}

/// Returns a machine that has read these epochs of its two outputs.
fn recovered(events: u64, dead_letters: u64) -> Machine<()> {
    let mut machine = Machine::default();
    for committed in [events, dead_letters] {
        assert!(matches!(machine.next(), Action::ReadTable(_)));
        machine.apply(Fact::Table(Table { committed: Epoch(committed), snapshot: () })).unwrap();
    }
    machine
}

#[test]
fn n3_a_lane_whose_last_epoch_closes_it_is_over_for_who_comes_later() {
    let mut machine = recovered(7, 7);
    assert_eq!(machine.next(), Action::ReadCut(Epoch(7)));
    machine.apply(Fact::Cut(Some(Box::new(closing(7))))).unwrap();
    assert_eq!(machine.next(), Action::Closed(NEXT));
}

#[test]
fn n3_a_closing_cut_that_one_output_lacks_is_committed_there_first() {
    let mut machine = recovered(7, 6);
    assert_eq!(machine.next(), Action::ReadCut(Epoch(6)));
    machine.apply(Fact::Cut(Some(Box::new(empty(6))))).unwrap();
    assert_eq!(machine.next(), Action::ReadCut(Epoch(7)));
    machine.apply(Fact::Cut(Some(Box::new(closing(7))))).unwrap();
    assert_eq!(machine.next(), Action::Commit(Output::DeadLetters));
    machine.apply(Fact::Committed(())).unwrap();
    machine.apply(Fact::Released).unwrap();
    assert_eq!(machine.next(), Action::Closed(NEXT));
}

#[test]
fn n3_who_closes_a_lane_publishes_nothing_behind_it() {
    let mut machine = recovered(0, 0);
    assert_eq!(machine.next(), Action::ReadCut(Epoch(1)), "there is no last epoch");
    machine.apply(Fact::Cut(None)).unwrap();
    machine.apply(Fact::Resumed).unwrap();
    machine.propose(Proposal { cut: closing(1), schema_changes: Vec::new() });
    machine.apply(Fact::Created).unwrap();
    for output in Output::ALL {
        assert_eq!(machine.next(), Action::Commit(output));
        machine.apply(Fact::Committed(())).unwrap();
    }
    machine.apply(Fact::Released).unwrap();
    assert_eq!(machine.next(), Action::Closed(NEXT));
}

#[test]
fn n3_who_loses_an_epoch_to_a_closing_cut_finds_the_lane_over() {
    let mut machine = recovered(0, 0);
    machine.apply(Fact::Cut(None)).unwrap();
    machine.apply(Fact::Resumed).unwrap();
    machine.propose(Proposal { cut: empty(1), schema_changes: Vec::new() });
    machine.apply(Fact::Exists).unwrap();
    machine.apply(Fact::Cut(Some(Box::new(closing(1))))).unwrap();
    // Meanwhile its winner has committed it.
    for _ in Output::ALL {
        machine.apply(Fact::Table(Table { committed: Epoch(1), snapshot: () })).unwrap();
    }
    machine.apply(Fact::Cut(Some(Box::new(closing(1))))).unwrap();
    assert_eq!(machine.next(), Action::Closed(NEXT));
}

#[test]
fn a_committed_epoch_without_its_cut_is_a_loud_error() {
    let gone = recovered(3, 3).apply(Fact::Cut(None)).unwrap_err();
    assert_eq!(gone, Violation::CutIsGone { epoch: Epoch(3) });
}
