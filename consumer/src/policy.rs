//! When to cut: a function of what is buffered and what time it is.

use std::time::Duration;

use headwater_common::quantity::Bytes;
use headwater_common::timestamp::Timestamp;

/// Stretches of shards that one cut lists at most; it bounds the size of a cut.
const SEGMENTS_MAX: usize = 10_000;

/// Bytes of rows of one window, as a multiple of those that may be in memory: its file is made in memory, a row group at
/// a time, in far fewer bytes than its rows have.
const WINDOW_TIMES_MAX: usize = 2;

/// Windows from which on rows go to disk instead of ending the epoch: its files would be small.
pub const SPILL_WINDOWS_MIN: usize = 4;

/// The bounds of an epoch; whichever is reached first ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Encoded bytes of a file, on average.
    pub file_bytes: Bytes,
    /// Events.
    pub rows: u64,
    /// Time since the first buffered event was read.
    pub age: Duration,
    /// Time since the last event was read.
    pub idle: Duration,
    /// Memory of all stages and lanes of the process.
    pub memory: Bytes,
    /// Bytes of rows on disk, of all lanes of the process.
    pub spill: Bytes,
    /// Whether a window that the newest event time has passed ends the epoch.
    pub window_close: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: Bytes::mebibytes(128),
            rows: 1_000_000,
            age: Duration::from_secs(60),
            idle: Duration::from_secs(5),
            memory: Bytes::mebibytes(192),
            spill: Bytes::mebibytes(1024),
            window_close: false,
        }
    }
}

/// What is buffered.
#[derive(Debug, Clone, Copy)]
pub struct Buffered {
    /// Events.
    pub events: u64,
    /// Memory that they take.
    pub memory_bytes: usize,
    /// Bytes of rows on disk.
    pub spilled_bytes: u64,
    /// Bytes that a file will have when they are encoded, as far as can be told.
    pub file_bytes: usize,
    /// Bytes of the rows of the window that has most of them, in memory and on disk.
    pub window_bytes: u64,
    /// Stretches of shards, their ends included.
    pub segments: usize,
    /// Whether another lane waits for the end of a shard that is among them.
    pub ends_awaited: bool,
    /// Whether a quiet shard's mark is overdue.
    pub marks_overdue: bool,
    /// Whether a window is over.
    pub closed_window: bool,
    /// When the first of them was read; a shard's end counts as an event here.
    pub first_read_at: Timestamp,
    /// When the last of them was read.
    pub last_read_at: Timestamp,
}

/// Why an epoch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A file is large enough.
    FileBytes,
    /// There are enough events.
    Rows,
    /// The first event has waited long enough.
    Age,
    /// Nothing came any more.
    Idle,
    /// The budget of memory is used.
    Memory,
    /// There is too much on disk.
    Spill,
    /// One window has so many rows that its file would not fit the memory.
    WindowBytes,
    /// The cut would list too many stretches.
    Segments,
    /// A window is over.
    WindowClosed,
    /// A shard ended, and another lane waits for that.
    ShardEnd,
    /// It is time to note until when a shard was quiet.
    Mark,
    /// The end of the run.
    Shutdown,
    /// The lane is to be closed, because other lanes were asked for.
    LaneClosed,
    /// Another generation ended an epoch here.
    Recorded,
}

/// Returns how many bytes of a lane's rows may be in memory: a third of its budget, since the encoder and what is being
/// read need the rest.
pub fn rows_in_memory_max(limits: &Limits, lanes: usize) -> usize {
    limits.memory.as_usize() / 3 / lanes.max(1)
}

/// Returns why the epoch ends now, or `None` when it goes on.
pub fn decide(limits: &Limits, lanes: usize, buffered: &Buffered, now: Timestamp) -> Option<Reason> {
    let memory = rows_in_memory_max(limits, lanes);
    if buffered.segments == 0 {
        return buffered.marks_overdue.then_some(Reason::Mark);
    }
    let reached = [
        (buffered.ends_awaited, Reason::ShardEnd),
        (buffered.events >= limits.rows, Reason::Rows),
        (buffered.file_bytes >= limits.file_bytes.as_usize(), Reason::FileBytes),
        (buffered.memory_bytes >= memory, Reason::Memory),
        (buffered.spilled_bytes >= limits.spill.0 / lanes.max(1) as u64, Reason::Spill),
        (buffered.window_bytes >= (memory * WINDOW_TIMES_MAX) as u64, Reason::WindowBytes),
        (buffered.segments >= SEGMENTS_MAX, Reason::Segments),
        (limits.window_close && buffered.closed_window, Reason::WindowClosed),
        (now.since(buffered.first_read_at) >= limits.age, Reason::Age),
        (now.since(buffered.last_read_at) >= limits.idle, Reason::Idle),
    ];
    reached.into_iter().find(|(yes, _)| *yes).map(|(_, reason)| reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl Fn(&mut Buffered), now_seconds: i64, expect: Option<Reason>) {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let mut buffered = Buffered {
            events: 1,
            memory_bytes: 0,
            spilled_bytes: 0,
            file_bytes: 0,
            window_bytes: 0,
            segments: 1,
            ends_awaited: false,
            marks_overdue: false,
            closed_window: true,
            first_read_at: at(100),
            last_read_at: at(100),
        };
        change(&mut buffered);
        assert_eq!(decide(&Limits::default(), 1, &buffered, at(now_seconds)), expect);
    }

    #[test]
    fn fm21_fm51_every_bound_ends_an_epoch() {
        check(|_| {}, 101, None);
        check(|b| b.segments = 0, 999, None);
        check(|b| b.events = 1_000_000, 101, Some(Reason::Rows));
        check(|b| b.file_bytes = 128 << 20, 101, Some(Reason::FileBytes));
        check(|b| b.memory_bytes = 64 << 20, 101, Some(Reason::Memory));
        check(|b| b.spilled_bytes = 1 << 30, 101, Some(Reason::Spill));
        check(|b| b.window_bytes = 128 << 20, 101, Some(Reason::WindowBytes));
        check(|b| b.segments = SEGMENTS_MAX, 101, Some(Reason::Segments));
        check(|_| {}, 105, Some(Reason::Idle));
        check(|b| b.last_read_at = Timestamp::from_micros(159_000_000), 160, Some(Reason::Age));
        // A shard's end waits like an event, unless somebody waits for it.
        check(|b| b.events = 0, 104, None);
        check(|b| b.events = 0, 105, Some(Reason::Idle));
        check(|b| (b.events, b.ends_awaited) = (0, true), 101, Some(Reason::ShardEnd));
        check(|b| (b.segments, b.marks_overdue) = (0, true), 101, Some(Reason::Mark));
        // A clock that goes back ends nothing.
        check(|_| {}, 50, None);
    }
}
