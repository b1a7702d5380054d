//! What a worker takes and asks for once it has read the rows.
//!
//! What is nobody's is taken first, up to this worker's share, and beyond it when nobody took it for a look. Only when
//! nothing is free does a worker ask the one that has most lanes for one of them, and only when it has two lanes less
//! itself: so no wish makes another one necessary, and at rest counts differ by at most one. A wish counts as if it
//! were fulfilled, whoever has it.

use std::collections::{BTreeMap, BTreeSet};

use headwater_lake::layout::Lane;
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::{Census, Kind, Machine, Moment, Rest, Write};
use crate::lease::claim::{Claim, WorkerId};

/// Rounds in which one worker could take all lanes that are nobody's: with many that begin at once each gets some.
const ROUNDS: usize = 4;

/// How many lanes a worker asks for in one round.
const WISHES_MAX: usize = 2;

/// The least part of a pause between two looks; the rest is drawn, so that workers don't look in step.
const PAUSE_MIN: f64 = 0.8;

/// A lane that may be taken.
struct Free {
    lane: Lane,
    kind: Kind,
    /// Since when it is nobody's; `None` when it is this worker's to take.
    since: Option<Moment>,
}

/// How the lanes are spread.
struct Survey {
    free: Vec<Free>,
    /// Workers that have lanes or ask for some, and this one.
    workers: BTreeSet<WorkerId>,
    /// How many lanes each of them has once all wishes are fulfilled.
    counts: BTreeMap<WorkerId, usize>,
}

impl Machine {
    /// Returns what is to be taken and asked for, by the rows as they are known, and says when to look again.
    pub(super) fn round(&mut self, now: Moment) -> Vec<Write> {
        let mut survey = self.survey(now);
        survey.free.shuffle(&mut self.random);
        self.is_all_taken = survey.free.is_empty();
        let (mut writes, is_more) = self.takes(&survey, now);
        if self.is_all_taken {
            writes.extend(self.wishes(&mut survey));
        }
        let timing = self.settings.timing;
        let is_waiting = is_more || !self.wished.is_empty() || writes.iter().any(|write| write.kind == Kind::Ask);
        let pause = if is_waiting { timing.hurry_every() } else { timing.look_every() };
        let part = self.random.random_range(PAUSE_MIN..1.0);
        self.look_due = now.plus(pause.mul_f64(part));
        writes
    }

    fn survey(&self, now: Moment) -> Survey {
        let me = &self.settings.worker;
        let mut survey = Survey { free: Vec::new(), workers: BTreeSet::from([me.clone()]), counts: BTreeMap::new() };
        for (lane, seen) in &self.seen {
            let claim = seen.claim.as_ref();
            if !self.mine.contains_key(lane)
                && let Some((kind, since)) = self.freedom(*lane, claim, seen.since, now)
            {
                survey.free.push(Free { lane: *lane, kind, since });
                continue;
            }
            survey.workers.extend(claim.and_then(|claim| claim.owner.clone()));
            survey.workers.extend(claim.and_then(|claim| claim.wish.clone()));
            if let Some(worker) = claim.and_then(Claim::owner_to_be) {
                *survey.counts.entry(worker.clone()).or_default() += 1;
            }
        }
        survey
    }

    /// Returns as what a lane may be taken that this worker does not have, and since when it is nobody's.
    fn freedom(&self, lane: Lane, claim: Option<&Claim>, since: Moment, now: Moment) -> Option<(Kind, Option<Moment>)> {
        let timing = self.settings.timing;
        let Some(claim) = claim else {
            return Some((Kind::Create, Some(since)));
        };
        let Some(owner) = &claim.owner else {
            return Some((Kind::Take, Some(since)));
        };
        if *owner == self.settings.worker {
            return Some((Kind::Adopt, None));
        }
        if now.since(since) >= timing.duration {
            return Some((Kind::Take, Some(since.plus(timing.duration))));
        }
        let asked = self.wished.get(&lane)?;
        (now.since(*asked) >= timing.hand_over).then_some((Kind::Force, None))
    }

    /// Returns what is taken, and whether more is to be had soon.
    fn takes(&mut self, survey: &Survey, now: Moment) -> (Vec<Write>, bool) {
        let timing = self.settings.timing;
        let me = &self.settings.worker;
        let share = self.lanes.len().div_ceil(survey.workers.len());
        let at_once_max = self.lanes.len().div_ceil(ROUNDS);
        // Lanes that are at their end take no room: what others leave behind has to be ended as well.
        let finished = self.mine.values().filter(|mine| mine.rest == Rest::Finished).count();
        let mut count = survey.counts.get(me).copied().unwrap_or(0).saturating_sub(finished);
        let (mut writes, mut is_more, mut taken, mut starving) = (Vec::new(), false, 0, 0);
        for Free { lane, kind, since } in &survey.free {
            let waited = since.map(|since| now.since(since));
            if count >= self.settings.max_leases {
                starving += usize::from(waited.is_some_and(|waited| waited >= timing.duration));
                continue;
            }
            let is_others = count >= share && waited.is_some_and(|waited| waited < timing.look_every());
            if is_others || waited.is_some() && taken >= at_once_max {
                is_more = true;
                continue;
            }
            let expected = self.seen.get(lane).and_then(|seen| seen.claim.clone());
            let next = Some(Claim::taken(me, expected.as_ref()));
            writes.push(Write { lane: *lane, kind: *kind, expected, next });
            count += 1;
            taken += usize::from(waited.is_some());
        }
        let unowned = survey.free.iter().filter(|free| free.since.is_some()).count() - taken;
        self.census = Census { unowned, starving, ..self.census };
        (writes, is_more)
    }

    /// Returns what this worker asks those for that have most.
    fn wishes(&mut self, survey: &mut Survey) -> Vec<Write> {
        let me = self.settings.worker.clone();
        let mut writes: Vec<Write> = Vec::new();
        while writes.len() < WISHES_MAX {
            let own = survey.counts.get(&me).copied().unwrap_or(0);
            let others = survey.counts.iter().filter(|(worker, _)| **worker != me);
            let most = others.map(|(_, count)| *count).max().unwrap_or(0);
            if own >= self.settings.max_leases || most < own + 2 {
                break;
            }
            let richest: BTreeSet<&WorkerId> =
                survey.counts.iter().filter(|(_, count)| **count == most).map(|(worker, _)| worker).collect();
            let candidates: Vec<_> = self
                .seen
                .iter()
                .filter_map(|(lane, seen)| Some((*lane, seen.claim.as_ref()?)))
                .filter(|(lane, claim)| {
                    let is_theirs = claim.owner.as_ref().is_some_and(|owner| richest.contains(owner));
                    is_theirs && claim.wish.is_none() && !writes.iter().any(|write| write.lane == *lane)
                })
                .collect();
            let Some((lane, claim)) = candidates.choose(&mut self.random).copied() else {
                break;
            };
            let owner = claim.owner.clone().expect("the lane is one of the richest's");
            writes.push(Write { lane, kind: Kind::Ask, expected: Some(claim.clone()), next: Some(claim.wished(&me)) });
            *survey.counts.entry(owner).or_default() -= 1;
            *survey.counts.entry(me.clone()).or_default() += 1;
        }
        writes
    }
}
