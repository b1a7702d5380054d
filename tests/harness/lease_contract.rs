//! What every lease table promises, as a suite that each adapter passes.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use headwater_common::timestamp::Timestamp;
use headwater_consumer::lease::row::{LeaseKey, Row};
use headwater_consumer::lease::store::Outcome;
use headwater_consumer::lease::{Claim, LeaseStore, WorkerId};
use headwater_lake::layout::Epoch;
use tokio::task::JoinSet;

/// Lanes of the largest read: more than any service takes at once.
const LANES: u32 = 250;

/// Workers that want the same lane.
const RIVALS: u64 = 8;

/// Runs the suite. `make` gives an empty lease table of that name.
pub async fn suite<F: Future<Output = Arc<dyn LeaseStore>>>(make: impl Fn(&'static str) -> F) {
    creates_a_row_once(make("creates").await.as_ref()).await;
    replaces_exactly_one_claim(make("replaces").await.as_ref()).await;
    keeps_every_column(make("keeps").await.as_ref()).await;
    removes_exactly_one_claim(make("removes").await.as_ref()).await;
    reads_many_rows_and_leaves_out_what_is_not_there(make("reads").await.as_ref()).await;
    lets_one_of_many_win(make("rivals").await).await;
}

/// Returns the name of a worker.
pub fn worker(name: &str) -> WorkerId {
    name.parse().expect("a worker's name")
}

/// Returns the key of a lane of table `t`.
pub fn key(index: u32) -> LeaseKey {
    format!("v1/t/g00001/{index}of{LANES}").parse().expect("the key of a lease")
}

/// Returns a row as its first owner writes it.
pub fn row(index: u32, owner: &str) -> Row {
    Row {
        key: key(index),
        claim: Claim::taken(&worker(owner), None),
        checkpoint: Epoch(0),
        owner_switches: 0,
        lake: "file:///lake/".into(),
        renewed_at: Some(Timestamp::from_micros(1_000_000_000_000_000)),
    }
}

async fn found(store: &dyn LeaseStore, index: u32) -> Option<Row> {
    store.read(&[key(index)]).await.unwrap().into_iter().next()
}

async fn creates_a_row_once(store: &dyn LeaseStore) {
    let row = row(0, "one");
    assert_eq!(store.create(&row).await.unwrap(), Outcome::Done);
    assert_eq!(found(store, 0).await.as_ref(), Some(&row));
    let other = Row { claim: Claim::taken(&worker("two"), None), ..row.clone() };
    assert_eq!(store.create(&other).await.unwrap(), Outcome::Lost(Some(row.clone())));
    assert_eq!(store.create(&row).await.unwrap(), Outcome::Lost(Some(row.clone())), "also the same row");
    assert_eq!(found(store, 0).await, Some(row));
}

async fn replaces_exactly_one_claim(store: &dyn LeaseStore) {
    let row = row(0, "one");
    let next = Row { claim: row.claim.renewed(), ..row.clone() };
    assert_eq!(store.update(&row.claim, &next).await.unwrap(), Outcome::Lost(None), "there is no row yet");
    store.create(&row).await.unwrap();
    let wrong = [
        row.claim.renewed(),
        row.claim.wished(&worker("two")),
        Claim { owner: None, ..row.claim.clone() },
        Claim { owner: Some(worker("two")), ..row.claim.clone() },
    ];
    for claim in wrong {
        assert_eq!(store.update(&claim, &next).await.unwrap(), Outcome::Lost(Some(row.clone())), "{claim:?}");
    }
    assert_eq!(store.update(&row.claim, &next).await.unwrap(), Outcome::Done);
    assert_eq!(store.update(&row.claim, &next).await.unwrap(), Outcome::Lost(Some(next.clone())), "it was replaced");
    let wished = Row { claim: next.claim.wished(&worker("two")), ..next.clone() };
    assert_eq!(store.update(&next.claim, &wished).await.unwrap(), Outcome::Done);
    assert_eq!(store.update(&next.claim, &next).await.unwrap(), Outcome::Lost(Some(wished)), "a wish is seen");
}

async fn keeps_every_column(store: &dyn LeaseStore) {
    let mut row = row(0, "one");
    store.create(&row).await.unwrap();
    let mut steps = vec![row.claim.wished(&worker("two"))];
    steps.push(steps[0].handed_over());
    steps.push(steps[1].handed_over());
    steps.push(Claim::taken(&worker("three"), steps.last()));
    for (step, claim) in (1_u32..).zip(steps) {
        let before = row.claim.clone();
        row = Row {
            claim,
            checkpoint: Epoch(u64::MAX - u64::from(step)),
            owner_switches: u64::from(step),
            renewed_at: row.renewed_at.filter(|_| step % 2 == 0).or(Some(Timestamp::from_micros(i64::from(step)))),
            ..row
        };
        assert_eq!(store.update(&before, &row).await.unwrap(), Outcome::Done, "step {step}");
        assert_eq!(found(store, 0).await.as_ref(), Some(&row), "step {step}");
    }
    let silent = Row { renewed_at: None, claim: row.claim.renewed(), ..row.clone() };
    store.update(&row.claim, &silent).await.unwrap();
    assert_eq!(found(store, 0).await, Some(silent));
}

async fn removes_exactly_one_claim(store: &dyn LeaseStore) {
    let row = row(0, "one");
    assert_eq!(store.delete(&row.key, &row.claim).await.unwrap(), Outcome::Lost(None));
    store.create(&row).await.unwrap();
    let lost = Outcome::Lost(Some(row.clone()));
    assert_eq!(store.delete(&row.key, &row.claim.renewed()).await.unwrap(), lost);
    assert_eq!(store.delete(&row.key, &row.claim).await.unwrap(), Outcome::Done);
    assert_eq!(found(store, 0).await, None);
    assert_eq!(store.create(&row).await.unwrap(), Outcome::Done, "a lane may come again");
}

async fn reads_many_rows_and_leaves_out_what_is_not_there(store: &dyn LeaseStore) {
    let keys: Vec<_> = (0..LANES).map(key).collect();
    assert!(store.read(&keys).await.unwrap().is_empty());
    assert!(store.read(&[]).await.unwrap().is_empty());
    for index in (0..LANES).step_by(2) {
        store.create(&row(index, "one")).await.unwrap();
    }
    let rows: BTreeSet<_> = store.read(&keys).await.unwrap().into_iter().map(|row| row.key).collect();
    assert_eq!(rows, (0..LANES).step_by(2).map(key).collect());
    let all: BTreeSet<_> = store.keys("").await.unwrap().into_iter().collect();
    assert_eq!(all, rows.iter().map(ToString::to_string).collect());
    let some: BTreeSet<_> = store.keys("v1/t/g00001/2of").await.unwrap().into_iter().collect();
    assert_eq!(some, BTreeSet::from([key(2).to_string()]));
    assert!(store.keys("v2/").await.unwrap().is_empty());
}

async fn lets_one_of_many_win(store: Arc<dyn LeaseStore>) {
    let row = row(0, "one");
    store.create(&row).await.unwrap();
    let mut rivals = JoinSet::new();
    for rival in 0..RIVALS {
        let (store, before) = (Arc::clone(&store), row.clone());
        rivals.spawn(async move {
            let claim = Claim::taken(&worker(&format!("rival-{rival}")), Some(&before.claim));
            let next = Row { claim, ..before.clone() };
            (store.update(&before.claim, &next).await.unwrap(), next)
        });
    }
    let (mut winners, mut losers) = (Vec::new(), Vec::new());
    while let Some(joined) = rivals.join_next().await {
        let (outcome, next) = joined.unwrap();
        match outcome {
            Outcome::Done => winners.push(next),
            Outcome::Lost(found) => losers.extend(found),
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(losers, vec![winners[0].clone(); losers.len()], "who lost is told who won");
    assert_eq!(found(store.as_ref(), 0).await.as_ref(), winners.first());
}
