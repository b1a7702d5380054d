//! Cuts a byte stream into records without ever holding more than one of them and one chunk.

use std::io::{self, Read};

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// A window on a byte stream: what was read and not consumed yet.
pub(crate) struct Window {
    reader: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    start: usize,
    ended: bool,
    /// Whether a quiet pipe is an error of its own rather than waited for.
    says_when_quiet: bool,
    /// Bytes consumed, from the beginning of the (decompressed) stream.
    pub(crate) offset: u64,
    /// Lines consumed.
    pub(crate) line: u64,
}

impl Window {
    /// Returns a window at the beginning of a stream, behind a byte order mark if there is one.
    pub(crate) fn new(reader: Box<dyn Read + Send>) -> io::Result<Self> {
        let buffer = Vec::new();
        let mut window = Self { reader, buffer, start: 0, ended: false, says_when_quiet: false, offset: 0, line: 0 };
        while window.bytes().len() < 3 && window.more()? {}
        if window.bytes().starts_with(b"\xef\xbb\xbf") {
            window.consume(3);
        }
        Ok(window)
    }

    /// Returns what has been read and not consumed.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// From now on [`Window::more`] fails with `WouldBlock` when the reader does: nothing is lost, it can be asked again.
    pub(crate) fn say_when_quiet(&mut self) {
        self.says_when_quiet = true;
    }

    /// Reads on; returns false at the end of the stream.
    pub(crate) fn more(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        let length = self.buffer.len();
        if self.buffer.capacity() < length + CHUNK_BYTES {
            // By a quarter, not to the double: the longest rows should not cost twice their length.
            self.buffer.reserve_exact(CHUNK_BYTES.max(length / 4));
        }
        self.buffer.resize(length + CHUNK_BYTES, 0);
        let count = loop {
            match self.reader.read(&mut self.buffer[length..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.says_when_quiet => {}
                other => break other,
            }
        };
        self.buffer.truncate(length + *count.as_ref().unwrap_or(&0));
        self.ended = count? == 0;
        Ok(!self.ended)
    }

    /// Goes on behind the next `count` bytes, which have been read.
    pub(crate) fn consume(&mut self, count: usize) {
        let consumed = &self.buffer[self.start..self.start + count];
        self.line += memchr::memchr_iter(b'\n', consumed).count() as u64;
        self.start += count;
        self.offset += count as u64;
    }

    /// Goes on behind the end of the line, however long it is.
    pub(crate) fn skip_line(&mut self) -> io::Result<()> {
        // What is skipped is not looked at again: a pipe that is quiet meanwhile is waited for.
        let says_when_quiet = std::mem::replace(&mut self.says_when_quiet, false);
        let skipped = self.skip_to_line_end();
        self.says_when_quiet = says_when_quiet;
        skipped
    }

    fn skip_to_line_end(&mut self) -> io::Result<()> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', self.bytes()) {
                self.consume(end + 1);
                return Ok(());
            }
            let all = self.bytes().len();
            self.consume(all);
            if !self.more()? {
                return Ok(());
            }
        }
    }

    /// Returns the length of the line at hand without its end, and with it; reads on as needed. `None` at the end of
    /// the stream, `Err(limit)` inside when the line is longer than `limit`.
    pub(crate) fn line(&mut self, limit: usize) -> io::Result<Option<Result<(usize, usize), usize>>> {
        let mut searched = 0;
        loop {
            let bytes = self.bytes();
            if let Some(end) = memchr::memchr(b'\n', &bytes[searched..]) {
                let end = searched + end;
                let content = if end > 0 && bytes[end - 1] == b'\r' { end - 1 } else { end };
                return Ok(Some(if content > limit { Err(limit) } else { Ok((content, end + 1)) }));
            }
            searched = bytes.len();
            if searched > limit {
                return Ok(Some(Err(limit)));
            }
            if !self.more()? {
                return Ok((searched > 0).then_some(Ok((searched, searched))));
            }
        }
    }
}
