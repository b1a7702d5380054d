//! CSV records, strictly: what a lenient parser would guess at is a bad row.
//!
//! csv-core takes the fields apart; the check of the quotes is ours, since it accepts any. After a bad row reading
//! goes on with the line after the row's first one, so that a quote that is never closed costs one row, not the rest.

use std::io;

use csv_core::ReadRecordResult;

use crate::lines::Window;

/// A record longer than this is a bad row.
const RECORD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The fields of one record.
#[derive(Debug, Default)]
pub(crate) struct Record {
    text: Vec<u8>,
    ends: Vec<usize>,
    fields: usize,
}

impl Record {
    /// Returns how many fields there are.
    pub(crate) fn len(&self) -> usize {
        self.fields
    }

    /// Returns a field's bytes.
    pub(crate) fn field(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.text[start..self.ends[index]]
    }

    /// Returns true when every field by itself is UTF-8: a character must not lie across two of them.
    pub(crate) fn fields_are_text(&self) -> bool {
        self.text().is_ascii() || (0..self.fields).all(|index| std::str::from_utf8(self.field(index)).is_ok())
    }

    /// Returns the fields with delimiters between them, for messages.
    pub(crate) fn joined(&self, delimiter: u8) -> Vec<u8> {
        let fields: Vec<_> = (0..self.fields).map(|index| self.field(index)).collect();
        fields.join(&delimiter)
    }

    /// Gives back the space that the record does not use.
    pub(crate) fn shrink(&mut self) {
        self.text.truncate(self.text().len());
        self.text.shrink_to_fit();
        self.ends.truncate(self.fields);
        self.ends.shrink_to_fit();
    }

    /// Returns the bytes of all fields.
    pub(crate) fn text(&self) -> &[u8] {
        if self.fields == 0 { &[] } else { &self.text[..self.ends[self.fields - 1]] }
    }
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A record, in the caller's space.
    Record,
    /// A row that is none, and why.
    Bad {
        reason: &'static str,
        raw: Vec<u8>,
    },
    End,
}

/// Reads records of one stream.
pub(crate) struct CsvReader {
    window: Window,
    parser: csv_core::Reader,
    delimiter: u8,
    quote: u8,
}

/// Where a record began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Line, from 1.
    pub(crate) line: u64,
    /// Byte of the decompressed stream, from 0.
    pub(crate) byte: u64,
}

impl CsvReader {
    /// From now on a quiet pipe is an error of the kind `WouldBlock`; what was read of a record is not lost.
    pub(crate) fn say_when_quiet(&mut self) {
        self.window.say_when_quiet();
    }

    /// Reads on in a window.
    pub(crate) fn behind(window: Window, delimiter: u8, quote: u8) -> Self {
        let parser = csv_core::ReaderBuilder::new().delimiter(delimiter).quote(quote).double_quote(true).build();
        let mut reader = Self { window, parser, delimiter, quote };
        reader.begin_anew();
        reader
    }

    /// Brings the parser back to the beginning of a record. Its first record is an empty one: otherwise it would take a
    /// byte order mark off the next, where it is text.
    fn begin_anew(&mut self) {
        self.parser.reset();
        self.parser.read_record(b"\n", &mut [0], &mut [0]);
    }

    /// Returns where the next record begins.
    pub(crate) fn place(&self) -> Place {
        Place { line: self.window.line + 1, byte: self.window.offset }
    }

    /// Reads the next record into `record`. Empty lines are skipped.
    pub(crate) fn next(&mut self, record: &mut Record) -> io::Result<Next> {
        self.skip_empty_lines()?;
        if self.plain_line(record) {
            return Ok(Next::Record);
        }
        record.text.resize(record.text.len().max(1024), 0);
        record.ends.resize(record.ends.len().max(64), 0);
        let (mut read, mut written, mut ends) = (0, 0, 0);
        loop {
            let input = &self.window.bytes()[read..];
            // An empty input tells csv-core that the stream has ended, so there must be one unless it has.
            if input.is_empty() {
                match self.window.more() {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => {
                        // When the reader was only quiet, the record is begun anew.
                        self.begin_anew();
                        return Err(error);
                    }
                }
            }
            let input = &self.window.bytes()[read..];
            let (result, nin, nout, nend) =
                self.parser.read_record(input, &mut record.text[written..], &mut record.ends[ends..]);
            read += nin;
            written += nout;
            ends += nend;
            match result {
                ReadRecordResult::InputEmpty if read > RECORD_BYTES_MAX => {
                    return self.bad("the row is too long, or a quote is never closed");
                }
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => record.text.resize(record.text.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => record.ends.resize(record.ends.len() * 2, 0),
                ReadRecordResult::End => return Ok(Next::End),
                ReadRecordResult::Record => {
                    record.fields = ends;
                    let raw = &self.window.bytes()[..read];
                    if let Some(reason) = quote_fault(raw, self.delimiter, self.quote) {
                        return self.bad(reason);
                    }
                    self.window.consume(read);
                    // csv-core leaves the second half of a CRLF to the next record.
                    return Ok(Next::Record);
                }
            }
        }
    }

    /// Takes a line apart in which only delimiters mean something, when the next one is there and is such a line.
    fn plain_line(&mut self, record: &mut Record) -> bool {
        let bytes = self.window.bytes();
        let Some(end) = memchr::memchr(b'\n', bytes) else { return false };
        let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
        if memchr::memchr2(self.quote, b'\r', line).is_some() {
            return false;
        }
        record.text.clear();
        record.ends.clear();
        let mut start = 0;
        for delimiter in memchr::memchr_iter(self.delimiter, line).chain([line.len()]) {
            record.text.extend_from_slice(&line[start..delimiter]);
            record.ends.push(record.text.len());
            start = delimiter + 1;
        }
        record.fields = record.ends.len();
        self.window.consume(end + 1);
        true
    }

    pub(crate) fn skip_empty_lines(&mut self) -> io::Result<()> {
        loop {
            let blank = self.window.bytes().iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            let all = blank == self.window.bytes().len();
            self.window.consume(blank);
            if !all || !self.window.more()? {
                return Ok(());
            }
        }
    }

    fn bad(&mut self, reason: &'static str) -> io::Result<Next> {
        const RAW_BYTES_MAX: usize = 64 * 1024;
        let bytes = self.window.bytes();
        // Old files end their lines with a carriage return only.
        let line = memchr::memchr2(b'\n', b'\r', bytes).unwrap_or(bytes.len());
        let raw = bytes[..line.min(RAW_BYTES_MAX)].to_vec();
        if line < bytes.len() {
            self.window.consume(line)
        } else {
            self.window.skip_line()?
        }
        self.begin_anew();
        Ok(Next::Bad { reason, raw })
    }
}

/// Returns what is wrong with the quotes of a record; `None` when nothing is.
fn quote_fault(raw: &[u8], delimiter: u8, quote: u8) -> Option<&'static str> {
    memchr::memchr(quote, raw)?;
    let ends_field = |byte: Option<&u8>| byte.is_none_or(|byte| *byte == delimiter || matches!(byte, b'\r' | b'\n'));
    let mut at = 0;
    loop {
        if raw.get(at) == Some(&quote) {
            at += 1;
            loop {
                let Some(found) = memchr::memchr(quote, &raw[at..]) else {
                    return Some("a quote is never closed");
                };
                at += found + 1;
                if raw.get(at) != Some(&quote) {
                    break;
                }
                at += 1;
            }
            if !ends_field(raw.get(at)) {
                return Some("text after a closing quote");
            }
        } else {
            // A quote further inside is text: 5" disk.
            let length = raw[at..].iter().position(|byte| ends_field(Some(byte)));
            at = length.map_or(raw.len(), |length| at + length);
        }
        match raw.get(at) {
            Some(byte) if *byte == delimiter => at += 1,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static [u8]) -> Vec<String> {
        let mut reader = CsvReader::behind(Window::new(Box::new(text)).unwrap(), b',', b'"');
        let mut record = Record::default();
        let mut seen = Vec::new();
        loop {
            reader.skip_empty_lines().unwrap();
            let place = reader.place();
            match reader.next(&mut record).unwrap() {
                Next::End => return seen,
                Next::Bad { reason, .. } => seen.push(format!("{}:{}: {reason}", place.line, place.byte)),
                Next::Record => {
                    let fields: Vec<_> =
                        (0..record.len()).map(|i| String::from_utf8_lossy(record.field(i)).into_owned()).collect();
                    seen.push(fields.join("|"));
                }
            }
        }
    }

    #[test]
    fn records_are_taken_apart() {
        assert_eq!(read(b"a,b\r\n1,\"x,\"\"y\"\"\"\r\n\r\n\"l1\nl2\",\n"), ["a|b", "1|x,\"y\"", "l1\nl2|"]);
        assert_eq!(read(b"\xef\xbb\xbfa\nb"), ["a", "b"]);
        assert_eq!(read(b""), Vec::<String>::new());
        // Only the first bytes of a file are a byte order mark.
        assert_eq!(read(b"a\n\xef\xbb\xbf\"b\"\n\"c\"\n"), ["a", "\u{feff}\"b\"", "c"]);
    }

    #[test]
    fn a_bad_quote_costs_one_row() {
        assert_eq!(read(b"a,b\n\"x,1\ny,2\n"), ["a|b", "2:4: a quote is never closed", "y|2"]);
        assert_eq!(read(b"\"x\"y,1\nz,2\n"), ["1:0: text after a closing quote", "z|2"]);
        assert_eq!(read(b"5\" disk,1\nz,2\n"), ["5\" disk|1", "z|2"]);
        assert_eq!(read(b"\"x\"y,1\rz,2\r"), ["1:0: text after a closing quote", "z|2"]);
    }
}
