//! How fast records go to each shard: a bucket of tokens in bytes and one in records, full at first, that holds what
//! the shard takes in a second.
//!
//! A token comes back a good second after it was taken, not drop by drop: so no second of the service's holds more than
//! the shard takes, also when one call was on its way for longer than the next. A bucket that drips lets nearly twice
//! as much through in its first second, which the service counts and refuses. When a shard throttles all the same (others write to it too), its buckets shrink to half, at most once
//! a second, never below a sixteenth, and grow back by a tenth a second.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use headwater_common::position::ShardId;

use super::limits::{WRITE_BYTES_PER_SECOND, WRITE_RECORDS_PER_SECOND};
use super::shard_map::ShardMap;

/// How long a token is gone: a second, and what two calls differ in on their way.
const GONE: Duration = Duration::from_millis(1_050);

const SECOND: Duration = Duration::from_secs(1);

/// All of a bucket; parts of it are thousandths.
const WHOLE: usize = 1_000;

/// What is left of the buckets of a shard that throttles without end.
const SHARE_MIN: usize = WHOLE / 16;

/// What comes back in a second without a throttle.
const SHARE_PER_SECOND: usize = WHOLE / 10;

/// Tokens come back at the end of such a slot, in milliseconds; it bounds what is remembered of a second.
const SLOT_MILLIS: u128 = 10;

/// Throttles of a shard, one a second, after which its map is in doubt.
const THROTTLES_BEFORE_DOUBT: u32 = 3;

/// An amount of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tokens {
    /// Payload and partition keys in bytes.
    pub bytes: usize,
    /// Records.
    pub records: usize,
}

#[derive(Debug, Clone, Copy)]
struct Taken {
    back_at: Duration,
    tokens: Tokens,
}

/// The tokens of one shard.
#[derive(Debug, Clone)]
struct Bucket {
    /// What is gone, in the order in which it comes back.
    taken: VecDeque<Taken>,
    gone: Tokens,
    /// How large the bucket was at `since`, in thousandths of what the shard takes.
    share: usize,
    since: Duration,
    throttled_at: Option<Duration>,
    throttles_in_a_row: u32,
}

impl Bucket {
    fn full(now: Duration) -> Self {
        Self {
            taken: VecDeque::new(),
            gone: Tokens::default(),
            share: WHOLE,
            since: now,
            throttled_at: None,
            throttles_in_a_row: 0,
        }
    }

    /// Takes back what has been gone for long enough.
    fn settle(&mut self, now: Duration) {
        while let Some(first) = self.taken.front().filter(|first| first.back_at <= now) {
            self.gone.bytes -= first.tokens.bytes;
            self.gone.records -= first.tokens.records;
            self.taken.pop_front();
        }
    }

    fn share(&self, now: Duration) -> usize {
        let seconds = usize::try_from(now.saturating_sub(self.since).as_secs()).unwrap_or(usize::MAX);
        self.share.saturating_add(seconds.saturating_mul(SHARE_PER_SECOND)).min(WHOLE)
    }

    fn size(&self, now: Duration) -> Tokens {
        let share = self.share(now);
        let part = |whole: usize| whole * share / WHOLE;
        Tokens { bytes: part(WRITE_BYTES_PER_SECOND), records: part(WRITE_RECORDS_PER_SECOND) }
    }

    fn left(&self, now: Duration) -> Tokens {
        let size = self.size(now);
        Tokens {
            bytes: size.bytes.saturating_sub(self.gone.bytes),
            records: size.records.saturating_sub(self.gone.records),
        }
    }

    fn take(&mut self, now: Duration, tokens: Tokens) {
        // What is larger than the bucket is owed: it comes back over several seconds.
        let size = self.size(now).bytes;
        let mut left = tokens;
        let mut back_at = end_of_slot(now + GONE);
        loop {
            let part = Tokens { bytes: left.bytes.min(size), records: left.records };
            self.note(back_at, part);
            left = Tokens { bytes: left.bytes - part.bytes, records: 0 };
            if left.bytes == 0 {
                return;
            }
            back_at += GONE;
        }
    }

    fn note(&mut self, back_at: Duration, tokens: Tokens) {
        self.gone.bytes += tokens.bytes;
        self.gone.records += tokens.records;
        // What is owed may stand behind this moment already; that is rare, and the list is short.
        let place = self.taken.partition_point(|taken| taken.back_at < back_at);
        match self.taken.get_mut(place).filter(|taken| taken.back_at == back_at) {
            Some(taken) => {
                taken.tokens.bytes += tokens.bytes;
                taken.tokens.records += tokens.records;
            }
            None => self.taken.insert(place, Taken { back_at, tokens }),
        }
    }

    /// Returns when so much is there; for more than the bucket holds, when it is full.
    fn ready_at(&self, now: Duration, wanted: Tokens) -> Duration {
        let size = self.size(now);
        let wanted = Tokens { bytes: wanted.bytes.min(size.bytes), records: wanted.records.min(size.records) };
        let mut gone = self.gone;
        let mut at = now;
        for taken in &self.taken {
            let is_there = gone.bytes + wanted.bytes <= size.bytes && gone.records + wanted.records <= size.records;
            if is_there {
                break;
            }
            gone.bytes -= taken.tokens.bytes;
            gone.records -= taken.tokens.records;
            at = at.max(taken.back_at);
        }
        at
    }

    /// Shrinks the bucket; returns true when the shard throttles again and again.
    fn throttled(&mut self, now: Duration) -> bool {
        let last = self.throttled_at;
        // One answer names many records, and calls that were on their way say the same again.
        if last.is_some_and(|last| now.saturating_sub(last) < SECOND) {
            return false;
        }
        let is_in_a_row = last.is_some_and(|last| now.saturating_sub(last) < SECOND * 4);
        self.throttles_in_a_row = if is_in_a_row { self.throttles_in_a_row + 1 } else { 1 };
        self.share = (self.share(now) / 2).max(SHARE_MIN);
        self.since = now;
        self.throttled_at = Some(now);
        self.throttles_in_a_row >= THROTTLES_BEFORE_DOUBT
    }
}

/// The tokens of all shards of a map, by their places in it.
#[derive(Debug, Clone)]
pub struct Pacing {
    buckets: Vec<Bucket>,
    is_on: bool,
}

impl Pacing {
    /// Returns full buckets; without `is_on` they never run empty.
    pub fn new(shards: usize, is_on: bool, now: Duration) -> Self {
        Self { buckets: vec![Bucket::full(now); shards], is_on }
    }

    /// Goes on with another map: a shard that is in both keeps its buckets, a new one begins with full ones.
    pub fn follow(&mut self, old: &ShardMap, new: &ShardMap, now: Duration) {
        let kept = old.shards().iter().map(|shard| shard.id.clone()).zip(self.buckets.drain(..));
        let mut kept: HashMap<_, _> = kept.collect();
        let bucket = |shard: &ShardId| kept.remove(shard).unwrap_or_else(|| Bucket::full(now));
        self.buckets = new.shards().iter().map(|shard| &shard.id).map(bucket).collect();
    }

    /// Returns what may go to a shard now.
    pub fn left(&mut self, shard: usize, now: Duration) -> Tokens {
        if !self.is_on {
            return Tokens { bytes: usize::MAX, records: usize::MAX };
        }
        let bucket = &mut self.buckets[shard];
        bucket.settle(now);
        bucket.left(now)
    }

    /// Returns true when so much may go to a shard now. More than the bucket holds may when the bucket is full.
    pub fn has(&mut self, shard: usize, now: Duration, wanted: Tokens) -> bool {
        if !self.is_on {
            return true;
        }
        let bucket = &mut self.buckets[shard];
        bucket.settle(now);
        bucket.ready_at(now, wanted) <= now
    }

    /// Takes tokens for what goes to a shard.
    pub fn take(&mut self, shard: usize, now: Duration, tokens: Tokens) {
        if self.is_on {
            self.buckets[shard].take(now, tokens);
        }
    }

    /// Returns when `least` may go to a shard, and besides it as much as waits, or as the shard takes in half a second
    /// if that is less: what stands before an empty bucket goes out in few calls rather than record by record.
    pub fn ready_at(&mut self, shard: usize, now: Duration, least: Tokens, waiting: Tokens) -> Duration {
        if !self.is_on {
            return now;
        }
        let bucket = &mut self.buckets[shard];
        bucket.settle(now);
        let Tokens { bytes, records } = bucket.size(now);
        let wanted = Tokens {
            bytes: waiting.bytes.min(bytes.div_ceil(2)).max(least.bytes),
            records: waiting.records.min(records.div_ceil(2)).max(least.records),
        };
        bucket.ready_at(now, wanted)
    }

    /// Notes that a shard refused records; returns true when it does so again and again.
    pub fn throttled(&mut self, shard: usize, now: Duration) -> bool {
        self.buckets[shard].throttled(now)
    }
}

fn end_of_slot(time: Duration) -> Duration {
    let millis = time.as_nanos().div_ceil(1_000_000).div_ceil(SLOT_MILLIS) * SLOT_MILLIS;
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinesis::shard_map::OpenShard;

    const MIB: usize = 1 << 20;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn tokens(bytes: usize, records: usize) -> Tokens {
        Tokens { bytes, records }
    }

    fn map(ids: &[&str]) -> ShardMap {
        let shard =
            |(index, id): (usize, &&str)| OpenShard { id: (*id).into(), first: index as u128, last: index as u128 };
        ShardMap::new(ids.iter().enumerate().map(shard).collect()).expect("there are shards")
    }

    #[test]
    fn a_bucket_is_full_at_first_and_full_again_a_good_second_after() {
        let mut pacing = Pacing::new(1, true, at(0));
        assert_eq!(pacing.left(0, at(0)), tokens(MIB, 1000));
        pacing.take(0, at(0), tokens(MIB, 10));
        pacing.take(0, at(500), tokens(0, 990));
        assert_eq!(pacing.left(0, at(1049)), tokens(0, 0));
        assert_eq!(pacing.left(0, at(1050)), tokens(MIB, 10));
        assert_eq!(pacing.left(0, at(1550)), tokens(MIB, 1000));
    }

    #[test]
    fn no_second_holds_more_than_a_shard_takes() {
        let mut pacing = Pacing::new(1, true, at(0));
        let mut sent: Vec<(u64, usize)> = Vec::new();
        let mut now = 0;
        while now < 10_000 {
            let left = pacing.left(0, at(now));
            // Another bite each time.
            let bytes = left.bytes.min(70_000 + (now as usize * 7919) % 400_000);
            if left.records > 0 && bytes > 0 {
                pacing.take(0, at(now), tokens(bytes, 1));
                sent.push((now, bytes));
            }
            now += 3;
        }
        let within = |begin: u64| sent.iter().filter(move |(at, _)| (begin..begin + 1050).contains(at)).map(|(_, b)| b);
        for begin in 0..9_000 {
            assert!(within(begin).sum::<usize>() <= MIB, "the second from {begin}");
        }
        let all: usize = sent.iter().map(|(_, bytes)| bytes).sum();
        assert!(all > 9 * MIB, "{all} bytes in ten seconds: what a shard takes is used");
    }

    #[test]
    fn a_record_that_is_larger_than_a_second_goes_when_the_bucket_is_full_and_is_paid_for() {
        let mut pacing = Pacing::new(1, true, at(0));
        pacing.take(0, at(0), tokens(1, 1));
        assert!(!pacing.has(0, at(0), tokens(3 * MIB, 1)));
        assert!(pacing.has(0, at(1050), tokens(3 * MIB, 1)));
        pacing.take(0, at(1050), tokens(3 * MIB, 1));
        assert!(!pacing.has(0, at(4199), tokens(1, 1)));
        assert!(pacing.has(0, at(4200), tokens(1, 1)));
    }

    #[test]
    fn what_waits_goes_out_together() {
        let mut pacing = Pacing::new(1, true, at(0));
        pacing.take(0, at(0), tokens(0, 400));
        pacing.take(0, at(300), tokens(0, 600));
        let mut ready_at = |now: u64, waiting: usize| pacing.ready_at(0, at(now), tokens(1, 1), tokens(10, waiting));
        assert_eq!(ready_at(301, 1), at(1050));
        assert_eq!(ready_at(301, 400), at(1050));
        // Half of what the shard takes in a second is worth a call.
        assert_eq!(ready_at(301, 20_000), at(1350));
        assert_eq!(ready_at(1350, 20_000), at(1350));
    }

    #[test]
    fn a_shard_that_throttles_gets_half_and_slowly_more_again() {
        let mut pacing = Pacing::new(1, true, at(0));
        assert!(!pacing.throttled(0, at(0)));
        assert_eq!(pacing.left(0, at(0)).records, 500);
        // The same second says nothing new.
        assert!(!pacing.throttled(0, at(900)));
        assert_eq!(pacing.left(0, at(900)).records, 500);
        assert_eq!(pacing.left(0, at(2000)).records, 700);
        assert_eq!(pacing.left(0, at(60_000)).records, 1000);
        let doubts: Vec<bool> = (60..70).map(|second| pacing.throttled(0, at(second * 1000))).collect();
        assert_eq!(doubts[..4], [false, false, true, true], "three seconds in a row put the map in doubt");
        let left = pacing.left(0, at(69_000)).records;
        assert!((62..=125).contains(&left), "{left}: never below a sixteenth");
    }

    #[test]
    fn buckets_follow_the_shards() {
        let mut pacing = Pacing::new(2, true, at(0));
        pacing.take(0, at(0), tokens(100, 1));
        pacing.take(1, at(0), tokens(200, 1));
        // The first is split, the second stays.
        pacing.follow(&map(&["a", "b"]), &map(&["c", "d", "b"]), at(1));
        let left: Vec<usize> = (0..3).map(|shard| MIB - pacing.left(shard, at(1)).bytes).collect();
        assert_eq!(left, [0, 0, 200]);
    }

    #[test]
    fn without_pacing_everything_goes() {
        let mut pacing = Pacing::new(1, false, at(0));
        pacing.take(0, at(0), tokens(100 * MIB, 100_000));
        assert!(pacing.has(0, at(0), tokens(10 * MIB, 1)));
        assert_eq!(pacing.ready_at(0, at(0), tokens(1, 1), tokens(MIB, 1)), at(0));
    }
}
