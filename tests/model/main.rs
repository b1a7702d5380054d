//! The protocols as explicit-state models: what `docs/model.md` says was checked is checked here again.
//!
//! Each module has one model, the design that holds, and the same design with a sentence taken out, which must be found
//! broken. Scopes that take minutes or many gigabytes run with `HEADWATER_MODEL=full` only; without it they say that
//! they are skipped.

#![allow(clippy::print_stdout, reason = "a run says what it has looked at")]

mod commit;
mod cutover;
mod engine;
mod kappa;
mod lanes;
mod schema;
mod shared_commit;
mod sqs;

use engine::{Model, explore};

/// States that a scope of a test may have.
const STATES_MAX: usize = 2_000_000;

/// States that a full scope may have.
const STATES_MAX_FULL: usize = 80_000_000;

/// Asserts that every promise holds in every state.
fn holds(what: &str, model: &impl Model) {
    check(what, model, STATES_MAX);
}

/// The same in a scope that is too large for every day.
fn holds_in_full(what: &str, model: &impl Model) {
    #[expect(clippy::disallowed_methods, reason = "a scope chosen by hand")]
    let wanted = std::env::var("HEADWATER_MODEL");
    if wanted.as_deref() == Ok("full") {
        check(what, model, STATES_MAX_FULL);
    } else {
        println!("SKIPPED: {what}: takes up to minutes and 16 GB; run with HEADWATER_MODEL=full");
    }
}

fn check(what: &str, model: &impl Model, limit: usize) {
    let found = explore(model, limit, None);
    println!("{what}: {} states", found.states);
    assert!(found.is_exhaustive, "{what}: more than {limit} states");
    for (promise, way) in &found.broken {
        println!("{promise}:\n{way}");
    }
    if let Some(way) = &found.stuck {
        println!("no fair steps lead to an end:\n{way}");
    }
    assert!(found.holds(), "{what}: the design does not hold");
}

/// Asserts that a promise is broken.
fn breaks(what: &str, model: &impl Model, promise: &str) {
    let found = explore(model, STATES_MAX, Some(promise));
    let way = found.broken.iter().find(|(broken, _)| *broken == promise);
    let (_, way) = way.unwrap_or_else(|| panic!("{what}: nobody misses it in {} states", found.states));
    println!("{what}: {promise}, after {} steps", way.lines().count() - 1);
}

/// Asserts that there is a state from which no fair steps lead to an end.
fn gets_stuck(what: &str, model: &impl Model) {
    let found = explore(model, STATES_MAX, None);
    assert!(found.is_exhaustive, "{what}: more than {STATES_MAX} states");
    let way = found.stuck.unwrap_or_else(|| panic!("{what}: nobody misses it in {} states", found.states));
    println!("{what}: stuck after {} steps", way.lines().count() - 1);
}
