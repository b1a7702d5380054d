//! Reads ahead of the sender, on a thread of its own: inputs to rows to batches, within bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use headwater_common::timestamp::Timestamp;
use headwater_stream::Put;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::columns::write_string;
use crate::pace::{Pace, Pacer};
use crate::rejects::Rejects;
use crate::rows::{self, EVENT_ID_FIELD, Found, Reject, Row, Rows};
use crate::run::{Error, Options};
use crate::state::State;

/// Rows of a batch at most; it bounds a transaction of the log.
const BATCH_ROWS_MAX: usize = 20_000;

/// Bytes of batches that are read and not acknowledged yet, besides the one that is being made.
const AHEAD_BYTES_MAX: u32 = 8 * 1024 * 1024;

/// A batch that is larger, mostly of one row, goes alone.
const LARGE_BATCH_BYTES: usize = 5 * 1024 * 1024;

/// Bytes that a row takes besides its body and key, at most for ids that are made here.
const ROW_OVERHEAD_BYTES: usize = 128;

/// Bytes of a row that the reject file shows at most.
const RAW_BYTES_MAX: usize = 64 * 1024;

/// What the reader can say once it has read all.
pub(crate) struct Finished {
    /// Rows that cannot be events.
    pub(crate) bad: u64,
    pub(crate) misfits: u64,
}

/// Rows that go out together, and where the run stands when they are acknowledged.
pub(crate) struct Batch {
    pub(crate) puts: Vec<Put>,
    pub(crate) bytes: usize,
    pub(crate) state: State,
    pub(crate) last_time: Option<Timestamp>,
    /// Rows so far that cannot be events.
    pub(crate) bad: u64,
    /// Where its rows are from, should the stream not take one.
    pub(crate) origins: Origins,
    /// Its share of [`AHEAD_BYTES_MAX`], given back when it is acknowledged.
    pub(crate) room: OwnedSemaphorePermit,
}

/// Where the rows of a batch are from, and what they are.
pub(crate) struct Origins {
    arena: Bytes,
    spans: Vec<Span>,
}

impl Origins {
    /// Returns the input of a row, by its place among the options' inputs, and the row as one that cannot be sent.
    pub(crate) fn reject(&self, row: usize, reason: String) -> (usize, Reject) {
        let Span { input, line, byte, payload, end, .. } = self.spans[row];
        let raw = &self.arena[payload..end.min(payload + RAW_BYTES_MAX)];
        (input, Reject { line, byte, reason, raw: String::from_utf8_lossy(raw).into_owned() })
    }

    /// Returns the bytes of a row, its key included.
    pub(crate) fn bytes(&self, row: usize) -> usize {
        self.spans[row].end - self.spans[row].start
    }
}

/// Reads rows and makes batches, on a thread of its own.
pub(crate) struct Reader {
    options: Options,
    state: State,
    /// Rows of each file to be skipped.
    skip: Vec<u64>,
    rows_max: usize,
    bytes_max: usize,
    span_max: Option<std::time::Duration>,
    stop: Arc<AtomicBool>,
    batches: mpsc::Sender<Batch>,
    /// Bytes that may still be read ahead.
    room: Arc<Semaphore>,
    /// Keys and payloads of the batch, one after another: one allocation a batch, not three a row.
    arena: Vec<u8>,
    /// Where each row's key and payload begin and end in there.
    spans: Vec<Span>,
    /// Space for an event id.
    id: Vec<u8>,
    first_time: Option<Timestamp>,
    last_time: Option<Timestamp>,
    rows_left: Option<u64>,
    rejects: Arc<Rejects>,
    bad: u64,
    misfits: u64,
}

/// Where a row's key begins, where its payload begins, and where that ends; and where the row is from.
struct Span {
    start: usize,
    payload: usize,
    end: usize,
    input: usize,
    line: u64,
    byte: u64,
}

/// Nobody wants more rows.
struct Enough;

impl Reader {
    pub(crate) fn new(
        options: Options,
        state: State,
        pacer: &Pacer,
        stop: Arc<AtomicBool>,
        rejects: Arc<Rejects>,
        batches: mpsc::Sender<Batch>,
    ) -> Self {
        let (rows_max, bytes_max) = pacer.batch_max();
        Self {
            rows_max: rows_max.min(BATCH_ROWS_MAX),
            bytes_max: bytes_max.min(options.batch_bytes_max),
            span_max: pacer.batch_span(),
            rows_left: options.limit.map(|limit| limit.saturating_sub(state.sent)),
            rejects,
            bad: 0,
            skip: state.files.iter().map(|file| file.rows).collect(),
            state,
            options,
            stop,
            batches,
            room: Arc::new(Semaphore::new(AHEAD_BYTES_MAX as usize)),
            arena: Vec::new(),
            spans: Vec::new(),
            id: Vec::new(),
            first_time: None,
            last_time: None,
            misfits: 0,
        }
    }

    /// Reads all inputs to the end, or as far as somebody wants them.
    pub(crate) fn run(mut self) -> Result<Finished, Error> {
        let mut resumed = self.skip.iter().any(|rows| *rows > 0);
        loop {
            let merged = self.options.inputs.len() > 1 && matches!(self.options.pace, Pace::EventTime { .. });
            let sent_before = self.state.sent;
            let passed = if merged { self.merge()? } else { self.one_after_the_other()? };
            let pipes = self.options.inputs.iter().any(|input| input.path().is_none());
            // A pass that gave no row, unless all of it was skipped, would give none again.
            let fruitless = self.state.sent == sent_before && !resumed;
            resumed = false;
            if passed.is_err() || !self.options.repeat || pipes || fruitless {
                break;
            }
            // The event times of the next pass begin anew.
            if self.flush()?.is_err() {
                break;
            }
            self.state.pass += 1;
            self.state.files.iter_mut().for_each(|file| file.rows = 0);
            self.skip.iter_mut().for_each(|rows| *rows = 0);
        }
        // When nobody wants the last rows, the run was ended from outside.
        let _ = self.flush()?;
        Ok(Finished { bad: self.bad, misfits: self.misfits })
    }

    fn one_after_the_other(&mut self) -> Result<Result<(), Enough>, Error> {
        let mut row = Row::default();
        for index in 0..self.options.inputs.len() {
            let mut rows = self.open(index)?;
            while let Some(found) = rows.read(&mut row)? {
                if self.take(index, found, &row)?.is_err() {
                    self.misfits += rows.misfits();
                    return Ok(Err(Enough));
                }
            }
            self.misfits += rows.misfits();
        }
        Ok(Ok(()))
    }

    /// Takes the row with the earliest event time of all files, again and again. What has no time goes at once.
    fn merge(&mut self) -> Result<Result<(), Enough>, Error> {
        struct Head {
            rows: Rows,
            row: Row,
            found: Option<Found>,
        }
        let mut heads = Vec::new();
        for index in 0..self.options.inputs.len() {
            let (mut rows, mut row) = (self.open(index)?, Row::default());
            let found = rows.read(&mut row)?;
            heads.push(Head { rows, row, found });
        }
        let time_of = |head: &Head| match head.found {
            Some(Found::Row) => head.row.time,
            _ => None,
        };
        loop {
            let there = heads.iter().enumerate().filter(|(_, head)| head.found.is_some());
            let Some((_, index)) = there.map(|(index, head)| (time_of(head), index)).min() else { break };
            let Head { rows, row, found } = &mut heads[index];
            let earliest = found.take().expect("it is there");
            if self.take(index, earliest, row)?.is_err() {
                return Ok(Err(Enough));
            }
            *found = rows.read(row)?;
        }
        self.misfits += heads.iter().map(|head| head.rows.misfits()).sum::<u64>();
        Ok(Ok(()))
    }

    fn open(&mut self, index: usize) -> Result<Rows, Error> {
        let input = &self.options.inputs[index];
        let name = input.name();
        let reader = input.open().map_err(|source| rows::Error::Read { name: name.clone(), source })?;
        let types = self.state.files[index].types.clone();
        let rows = Rows::open(name, reader, &self.options.read, types)?;
        self.state.files[index].types = rows.types().map(<[_]>::to_vec);
        Ok(rows)
    }

    fn take(&mut self, index: usize, found: Found, row: &Row) -> Result<Result<(), Enough>, Error> {
        if self.stop.load(Ordering::Relaxed) {
            return Ok(Err(Enough));
        }
        if let Found::Quiet = found {
            // What has come so far need not wait for what has not.
            return if self.spans.is_empty() { Ok(Ok(())) } else { self.flush() };
        }
        if self.skip[index] > 0 {
            self.skip[index] -= 1;
            return Ok(Ok(()));
        }
        if self.rows_left == Some(0) {
            return Ok(Err(Enough));
        }
        if let Found::Reject(reject) = found {
            self.state.files[index].rows += 1;
            // The next pass meets the same ones.
            if self.state.pass == 0 {
                self.rejects.write(&self.options.inputs[index].name(), &reject)?;
                self.bad += 1;
            }
            return Ok(Ok(()));
        }
        if let Some(left) = &mut self.rows_left {
            *left -= 1;
        }
        let time = row.time;
        // The id and its label take less than this.
        let bytes = row.body.len() + row.key.as_ref().map_or(0, Vec::len) + ROW_OVERHEAD_BYTES;
        let too_far =
            self.span_max.zip(self.first_time).zip(time).is_some_and(|((span, first), t)| t.since(first) > span);
        let full = self.spans.len() >= self.rows_max || self.arena.len() + bytes > self.bytes_max || too_far;
        if full && !self.spans.is_empty() && self.flush()?.is_err() {
            return Ok(Err(Enough));
        }
        self.append(index, row);
        self.state.files[index].rows += 1;
        self.first_time = self.first_time.or(time);
        self.last_time = time.or(self.last_time);
        self.state.sent += 1;
        // Not one row more is read than is wanted: the next may never come.
        Ok(if self.rows_left == Some(0) { Err(Enough) } else { Ok(()) })
    }

    /// Adds a row's key and payload to the batch.
    fn append(&mut self, index: usize, row: &Row) {
        self.id.clear();
        match &row.own_id {
            Some(id) => self.id.extend_from_slice(id),
            None => make_id(&self.state.files[index].digest, row.number, self.state.pass, &mut self.id),
        }
        let arena = &mut self.arena;
        let start = arena.len();
        arena.extend_from_slice(row.key.as_deref().unwrap_or(&self.id));
        let payload = arena.len();
        arena.push(b'{');
        if !row.body_has_id {
            write_string(EVENT_ID_FIELD.as_bytes(), arena);
            arena.push(b':');
            write_string(&self.id, arena);
            if row.body != b"}" {
                arena.push(b',');
            }
        }
        arena.extend_from_slice(&row.body);
        self.spans.push(Span { start, payload, end: arena.len(), input: index, line: row.line, byte: row.byte });
    }

    /// Hands the rows at hand to the sender. What was rejected before them is on disk before they count as done.
    fn flush(&mut self) -> Result<Result<(), Enough>, Error> {
        self.rejects.flush()?;
        let bytes = self.arena.len();
        // A batch of one large row may be larger than all the room there is.
        let wanted = u32::try_from(bytes).unwrap_or(u32::MAX).min(AHEAD_BYTES_MAX);
        let room = futures::executor::block_on(Arc::clone(&self.room).acquire_many_owned(wanted));
        let room = room.expect("the semaphore is never closed");
        let arena = Bytes::from(std::mem::take(&mut self.arena));
        let spans = std::mem::take(&mut self.spans);
        let put = |span: &Span| Put {
            partition_key: arena.slice(span.start..span.payload),
            payload: arena.slice(span.payload..span.end),
        };
        let batch = Batch {
            puts: spans.iter().map(put).collect(),
            bytes,
            state: self.state.clone(),
            last_time: self.last_time,
            bad: self.bad,
            origins: Origins { arena, spans },
            room,
        };
        self.first_time = None;
        let sent = self.batches.blocking_send(batch).map_err(|_| Enough);
        if bytes > LARGE_BATCH_BYTES {
            // The next row may be as large: it is not read while this batch is in memory.
            let all = futures::executor::block_on(self.room.acquire_many(AHEAD_BYTES_MAX));
            drop(all.expect("the semaphore is never closed"));
        }
        Ok(sent)
    }
}

/// The id of a row without one: the same whenever the row is sent again.
fn make_id(digest: &str, row: u64, pass: u32, id: &mut Vec<u8>) {
    let mut number = itoa::Buffer::new();
    id.extend_from_slice(digest.as_bytes());
    id.push(b'-');
    id.extend_from_slice(number.format(row).as_bytes());
    id.push(b'-');
    id.extend_from_slice(number.format(pass).as_bytes());
}
