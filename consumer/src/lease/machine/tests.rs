//! One rule at a time. What many workers do under every trouble is in `world`.

mod world;

use super::*;
use crate::lease::claim::WorkerId;

const DURATION: Duration = Duration::from_secs(30);

/// The rows as they are.
#[derive(Default)]
struct Table {
    rows: BTreeMap<Lane, Claim>,
}

impl Table {
    /// Does a conditional write.
    fn apply(&mut self, write: &Write) -> Answer {
        let found = self.rows.get(&write.lane).cloned();
        if found != write.expected {
            return Answer::Lost(found);
        }
        match &write.next {
            Some(next) => self.rows.insert(write.lane, next.clone()),
            None => self.rows.remove(&write.lane),
        };
        Answer::Done
    }

    fn owner(&self, index: u32) -> Option<String> {
        self.rows.get(&lane(index)).and_then(|claim| claim.owner.as_ref().map(ToString::to_string))
    }
}

const LANES: u32 = 4;

fn lane(index: u32) -> Lane {
    format!("{index}of{LANES}").parse().unwrap()
}

fn worker(name: &str) -> WorkerId {
    name.parse().unwrap()
}

fn at(seconds: u64) -> Moment {
    Moment(Duration::from_secs(1000 + seconds))
}

fn machine(name: &str, max_leases: usize) -> Machine {
    let timing = Timing { duration: DURATION, hand_over: DURATION };
    let settings = Settings { worker: worker(name), max_leases, timing, seed: 7 };
    Machine::new(settings, (0..LANES).map(lane), at(0))
}

/// Lets a worker do all that is to be done now, and returns what it wrote.
fn settle(machine: &mut Machine, table: &mut Table, now: Moment) -> Vec<Kind> {
    let mut kinds = Vec::new();
    loop {
        if machine.wants_look(now) {
            machine.learned(table.rows.clone(), now);
        }
        let writes = machine.decide(now);
        if writes.is_empty() {
            kinds.sort();
            return kinds;
        }
        for write in writes {
            kinds.push(write.kind);
            machine.answered(&write, table.apply(&write), now, now);
        }
    }
}

/// Lets a worker live for a while, second by second; its runs end as soon as they are told to.
fn live(machine: &mut Machine, table: &mut Table, seconds: std::ops::Range<u64>) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for second in seconds {
        kinds.extend(settle(machine, table, at(second)));
        let told: Vec<_> = machine.orders().into_iter().filter(|(_, order)| order.course != Course::Run).collect();
        for (lane, order) in told {
            machine.stopped(lane, order.term, at(second));
        }
        kinds.extend(settle(machine, table, at(second)));
    }
    kinds
}

#[test]
fn a_worker_alone_takes_everything_and_renews_it() {
    let (mut table, mut one) = (Table::default(), machine("one", 99));
    live(&mut one, &mut table, 0..10);
    assert_eq!(one.census(), Census { owned: 4, unowned: 0, starving: 0 });
    assert_eq!(one.orders().len(), 4);
    let counters: u64 = table.rows.values().map(|claim| claim.counter).sum();
    let kinds = live(&mut one, &mut table, 10..70);
    assert!(kinds.iter().all(|kind| *kind == Kind::Renew), "{kinds:?}");
    let renewed: u64 = table.rows.values().map(|claim| claim.counter).sum::<u64>() - counters;
    assert_eq!(renewed, 4 * 6, "every third of a duration");
}

#[test]
fn fm01_a_lane_is_handed_over_only_after_its_run_has_ended() {
    let (mut table, mut one, mut two) = (Table::default(), machine("one", 99), machine("two", 99));
    live(&mut one, &mut table, 0..10);
    let kinds = settle(&mut two, &mut table, at(10));
    assert_eq!(kinds, [Kind::Ask, Kind::Ask], "two of the four, and no lane is taken");
    settle(&mut one, &mut table, at(20));
    let told: Vec<_> = one.orders().into_iter().filter(|(_, order)| order.course == Course::Cut).collect();
    assert_eq!(told.len(), 2);
    for second in 20..35 {
        settle(&mut one, &mut table, at(second));
        settle(&mut two, &mut table, at(second));
        assert!(two.orders().is_empty(), "the runs have not ended: they are still renewed and still one's");
    }
    for (lane, order) in &told {
        one.stopped(*lane, order.term, at(35));
    }
    assert_eq!(settle(&mut one, &mut table, at(35)).iter().filter(|kind| **kind == Kind::Give).count(), 2);
    let kinds = live(&mut two, &mut table, 35..40);
    assert_eq!(kinds, [Kind::Adopt, Kind::Adopt]);
    assert_eq!((one.orders().len(), two.orders().len()), (2, 2));
    assert_eq!(one.lost(), 0);
}

#[test]
fn fm13_a_lease_that_stands_still_for_a_duration_is_taken() {
    let (mut table, mut one, mut two) = (Table::default(), machine("one", 99), machine("two", 99));
    live(&mut one, &mut table, 0..10);
    // Worker one is dead. What its clock said does not matter, only how long its counters stand still.
    let kinds = live(&mut two, &mut table, 10..40);
    assert_eq!(kinds, [Kind::Ask, Kind::Ask]);
    live(&mut two, &mut table, 40..60);
    assert_eq!(two.census().owned, 4);
    // Should it come back, it finds its lanes lost, and leaves them.
    let kinds = settle(&mut one, &mut table, at(60));
    assert!(kinds.iter().all(|kind| matches!(kind, Kind::Renew | Kind::Ask)), "{kinds:?}");
    assert!(!one.orders().values().any(|order| order.course == Course::Run));
    assert_eq!(one.lost(), 4);
}

#[test]
fn fm13_an_owner_that_does_not_hand_over_in_time_loses_the_lane() {
    let (mut table, mut one, mut two) = (Table::default(), machine("one", 99), machine("two", 99));
    live(&mut one, &mut table, 0..10);
    settle(&mut two, &mut table, at(10));
    let mut forced = 0;
    for second in 10..60 {
        // Its runs never end, and it renews all the same.
        settle(&mut one, &mut table, at(second));
        forced += settle(&mut two, &mut table, at(second)).iter().filter(|kind| **kind == Kind::Force).count();
        assert!(forced == 0 || second >= 40, "before the deadline, at second {second}");
    }
    assert_eq!((forced, two.census().owned), (2, 2));
    let left = one.orders().values().filter(|order| order.course == Course::Leave).count();
    assert_eq!((left, one.lost()), (2, 2), "it is told");
}

#[test]
fn fm13_a_worker_that_cannot_renew_lets_go_by_its_own_clock() {
    let (mut table, mut one) = (Table::default(), machine("one", 99));
    live(&mut one, &mut table, 0..10);
    let renewed = (0..LANES).filter(|index| one.believes_in(lane(*index), at(10))).count();
    assert_eq!(renewed, 4);
    for second in 10..70 {
        let now = at(second);
        if one.wants_look(now) {
            one.look_failed(now);
        }
        for write in one.decide(now) {
            one.answered(&write, Answer::Unclear, now, now);
        }
    }
    assert!((0..LANES).all(|index| !one.believes_in(lane(index), at(70))));
    assert!(one.orders().values().all(|order| order.course == Course::Cut), "what it has read may still be cut");
    assert_eq!(one.lost(), 4);
}

#[test]
fn fm13_a_lane_that_was_given_to_a_dead_worker_is_taken_again() {
    let (mut table, mut one, mut two) = (Table::default(), machine("one", 99), machine("two", 99));
    live(&mut one, &mut table, 0..10);
    settle(&mut two, &mut table, at(10));
    // Worker two dies with its wishes in the rows.
    live(&mut one, &mut table, 10..80);
    assert_eq!(one.census().owned, 4);
}

#[test]
fn fm14_workers_without_a_lane_are_idle_and_step_in() {
    let (mut table, mut workers) = (Table::default(), Vec::new());
    for index in 0..6 {
        workers.push(machine(&format!("worker-{index}"), 99));
    }
    let together = |workers: &mut Vec<Machine>, table: &mut Table, seconds: std::ops::Range<u64>| {
        for second in seconds {
            for machine in workers.iter_mut() {
                live(machine, table, second..second + 1);
            }
        }
        let mut counts: Vec<_> = workers.iter().map(|machine| machine.census().owned).collect();
        counts.sort_unstable();
        counts
    };
    assert_eq!(together(&mut workers, &mut table, 0..200), [0, 0, 1, 1, 1, 1]);
    workers.retain(|machine| machine.census().owned == 0);
    let counts = together(&mut workers, &mut table, 200..260);
    assert_eq!(counts.iter().sum::<usize>(), 4, "within two durations");
    assert_eq!(together(&mut workers, &mut table, 260..300), [2, 2]);
}

#[test]
fn fm14_lanes_that_nobody_may_take_are_counted() {
    let (mut table, mut one, mut two) = (Table::default(), machine("one", 1), machine("two", 2));
    for second in 0..40 {
        live(&mut one, &mut table, second..second + 1);
        live(&mut two, &mut table, second..second + 1);
    }
    assert_eq!(one.census(), Census { owned: 1, unowned: 1, starving: 1 });
    assert_eq!(two.census(), Census { owned: 2, unowned: 1, starving: 1 });
}

#[test]
fn a_lost_answer_is_looked_up_before_anything_is_believed() {
    let (mut table, mut one) = (Table::default(), machine("one", 99));
    one.learned(BTreeMap::new(), at(0));
    for write in one.decide(at(0)) {
        table.apply(&write);
        one.answered(&write, Answer::Unclear, at(0), at(0));
    }
    assert!(one.orders().is_empty());
    live(&mut one, &mut table, 1..12);
    assert_eq!(one.orders().len(), 4, "the rows said whose they are");
    // The answers of all renewals are lost; the renewals went through.
    for write in one.decide(at(21)) {
        table.apply(&write);
        one.answered(&write, Answer::Unclear, at(21), at(22));
    }
    let kinds = live(&mut one, &mut table, 23..40);
    assert!(kinds.iter().all(|kind| *kind == Kind::Renew), "{kinds:?}");
    assert_eq!((one.lost(), one.has_namesake()), (0, false));
    assert!((0..LANES).all(|index| one.believes_in(lane(index), at(40))));
}

#[test]
fn a_run_that_was_fenced_begins_anew_only_if_the_lane_is_still_ours() {
    let (mut table, mut one) = (Table::default(), machine("one", 99));
    live(&mut one, &mut table, 0..10);
    let before = one.orders();
    one.fenced(lane(0), before[&lane(0)].term, at(11));
    one.fenced(lane(1), before[&lane(1)].term, at(11));
    let taken = Claim::taken(&worker("two"), table.rows.get(&lane(1)));
    table.rows.insert(lane(1), taken);
    settle(&mut one, &mut table, at(11));
    let after = one.orders();
    assert!(after[&lane(0)].term > before[&lane(0)].term && after[&lane(0)].course == Course::Run);
    assert!(!after.contains_key(&lane(1)), "it has ended, and it is another's");
    assert_eq!(after[&lane(2)], before[&lane(2)]);
}

#[test]
fn a_worker_that_catches_up_has_finished_when_every_lane_is_at_its_end_or_anothers() {
    let (mut table, mut one, mut two) = (Table::default(), machine("one", 99), machine("two", 99));
    live(&mut one, &mut table, 0..1);
    let first = one.orders();
    for (lane, order) in &first {
        one.finished(*lane, order.term, at(1));
    }
    assert!(!one.is_finished(), "most lanes are nobody's yet");
    live(&mut one, &mut table, 1..20);
    let orders = one.orders();
    for (lane, order) in orders.iter().filter(|(lane, _)| !first.contains_key(lane)) {
        assert!(!one.is_finished());
        one.finished(*lane, order.term, at(20));
    }
    assert!(one.is_finished());
    assert_eq!(one.orders(), orders, "the runs are not begun again");
    let kinds = live(&mut one, &mut table, 20..30);
    assert!(kinds.iter().all(|kind| *kind == Kind::Renew), "the leases are kept: {kinds:?}");
    // What has no run is handed over at once.
    settle(&mut two, &mut table, at(30));
    assert!(!two.is_finished(), "it waits for what it asked for");
    let kinds: Vec<_> = (30..37).flat_map(|second| settle(&mut one, &mut table, at(second))).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == Kind::Give).count(), 2, "{kinds:?}");
    assert!(one.is_finished());
}

#[test]
fn a_worker_that_ends_releases_its_lanes_after_their_runs_and_takes_back_its_wishes() {
    let (mut table, mut one, mut two) = (Table::default(), machine("one", 99), machine("two", 99));
    live(&mut one, &mut table, 0..10);
    settle(&mut two, &mut table, at(10));
    assert!(table.rows.values().any(|claim| claim.wish.is_some()));
    two.close(Ending::Release);
    assert_eq!(settle(&mut two, &mut table, at(11)), [Kind::Withdraw, Kind::Withdraw]);
    assert!(two.is_closed());
    assert!(table.rows.values().all(|claim| claim.wish.is_none()));
    one.close(Ending::Release);
    settle(&mut one, &mut table, at(12));
    assert!(!one.is_closed(), "its runs have not ended");
    assert!(one.orders().values().all(|order| order.course == Course::Cut));
    for (lane, order) in one.orders() {
        one.stopped(lane, order.term, at(13));
    }
    assert_eq!(settle(&mut one, &mut table, at(13)), [Kind::Release; 4]);
    assert!(one.is_closed());
    assert_eq!((0..LANES).filter_map(|index| table.owner(index)).count(), 0);
    let mut three = machine("three", 99);
    assert_eq!(settle(&mut three, &mut table, at(14)), [Kind::Take], "at once; the others with the next looks");
}

#[test]
fn rows_of_lanes_that_are_closed_are_removed() {
    let (mut table, mut one) = (Table::default(), machine("one", 99));
    live(&mut one, &mut table, 0..10);
    one.close(Ending::Remove);
    live(&mut one, &mut table, 10..12);
    assert!(one.is_closed() && table.rows.is_empty());
}

#[test]
fn a_process_that_has_our_name_is_noticed() {
    let (mut table, mut one, mut same) = (Table::default(), machine("one", 99), machine("one", 99));
    for second in 0..40 {
        live(&mut one, &mut table, second..second + 1);
        live(&mut same, &mut table, second..second + 1);
    }
    assert!(one.has_namesake() || same.has_namesake());
}

#[test]
fn an_answer_to_an_earlier_order_changes_nothing() {
    let (mut table, mut one) = (Table::default(), machine("one", 99));
    live(&mut one, &mut table, 0..10);
    let term = one.orders()[&lane(0)].term;
    one.stopped(lane(0), term + 1, at(10));
    one.fenced(lane(0), term.wrapping_sub(1), at(10));
    settle(&mut one, &mut table, at(10));
    assert_eq!(one.orders()[&lane(0)], Order { term, course: Course::Run });
}
