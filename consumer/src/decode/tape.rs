//! One JSON event, parsed once into a flat tape of nodes.
//!
//! Strict: one object per event, nothing before or after it but white space, valid UTF-8, no duplicate field in an
//! object, no number or escape that RFC 8259 does not know. What is wrong is said with the byte where it is.
//!
//! ```text
//! {"a":1,"b":[true]}  ->  Object(next=6) Key(a) Number Key(b) Array(next=6) True
//! ```
//! `next` of a container is the index after its last node; every other value is one node.

use std::fmt;

/// Objects and arrays inside each other; deeper events are dead letters. serde_json's own limit is 128.
pub(crate) const DEPTH_MAX: usize = 64;

/// Fields of one object up to which a duplicate is looked for pairwise; larger objects use a set.
const PAIRWISE_FIELDS_MAX: usize = 16;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    True,
    False,
    /// A number without fraction or exponent.
    Integer,
    /// A number with a fraction or an exponent.
    Float,
    /// A string without escapes: its bytes are its content.
    Text,
    /// A string with escapes.
    EscapedText,
    /// A field's name, without escapes or unescaped into the scratch space.
    Key,
    Object,
    Array,
}

/// One node of the tape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    /// First byte of its text: of the content for strings, of the literal for numbers.
    start: u32,
    /// The byte after its text.
    end: u32,
    /// For containers: the index of the node after the last one inside.
    pub(crate) next: u32,
}

/// Why an event is not one JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ParseError {
    pub(crate) what: &'static str,
    /// The byte of the event where it was noticed, from 0.
    pub(crate) at: usize,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

/// The tape of one event; its space is used again for the next.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    nodes: Vec<Node>,
    /// Content of strings that had escapes. Offsets into it have [`SCRATCH`] set.
    scratch: String,
}

/// Marks a key's offsets as pointing into the scratch space.
const SCRATCH: u32 = 1 << 31;

impl Tape {
    /// Parses an event. After an error the tape has no meaning.
    pub(crate) fn parse(&mut self, event: &[u8]) -> Result<(), ParseError> {
        self.nodes.clear();
        self.scratch.clear();
        if let Err(error) = std::str::from_utf8(event) {
            return Err(ParseError { what: "invalid UTF-8", at: error.valid_up_to() });
        }
        debug_assert!(event.len() < SCRATCH as usize, "events are bounded by EVENT_BYTES_MAX");
        let mut parser = Parser { event, at: 0, tape: self };
        parser.skip_space();
        match parser.peek() {
            Some(b'{') => parser.object(1)?,
            Some(_) => {
                return Err(parser.error("an event must be a JSON object; something else is"));
            }
            None => return Err(parser.error("an event must be a JSON object; it is empty")),
        }
        parser.skip_space();
        if parser.at < event.len() { Err(parser.error("trailing data after the object")) } else { Ok(()) }
    }

    /// Makes a scalar null: it has been taken out of the event and is no column.
    pub(crate) fn take_out(&mut self, index: usize) {
        debug_assert!(!matches!(self.nodes[index].kind, Kind::Object | Kind::Array), "containers have nodes inside");
        self.nodes[index].kind = Kind::Null;
    }

    pub(crate) fn node(&self, index: usize) -> Node {
        self.nodes[index]
    }

    /// Returns the index after the value at `index`.
    pub(crate) fn after(&self, index: usize) -> usize {
        let node = self.nodes[index];
        if matches!(node.kind, Kind::Object | Kind::Array) { node.next as usize } else { index + 1 }
    }

    /// Returns the literal of a number, or a key's or string's content; for [`Kind::EscapedText`] use [`Tape::text`].
    pub(crate) fn raw<'a>(&'a self, node: Node, event: &'a [u8]) -> &'a str {
        text_of(self.raw_bytes(node, event))
    }

    /// Returns the same as [`Tape::raw`] as bytes; they were checked to be UTF-8 when the event was parsed.
    pub(crate) fn raw_bytes<'a>(&'a self, node: Node, event: &'a [u8]) -> &'a [u8] {
        if node.start & SCRATCH != 0 {
            return &self.scratch.as_bytes()[(node.start & !SCRATCH) as usize..(node.end & !SCRATCH) as usize];
        }
        &event[node.start as usize..node.end as usize]
    }

    /// Returns a string's content.
    pub(crate) fn text<'a>(&'a self, node: Node, event: &'a [u8]) -> std::borrow::Cow<'a, str> {
        if node.kind == Kind::EscapedText {
            let mut content = String::new();
            unescape(self.raw(node, event), &mut content);
            content.into()
        } else {
            self.raw(node, event).into()
        }
    }

    fn push(&mut self, kind: Kind, start: usize, end: usize) {
        let offset = |at: usize| u32::try_from(at).expect("events are bounded by EVENT_BYTES_MAX");
        self.nodes.push(Node { kind, start: offset(start), end: offset(end), next: 0 });
    }

    fn close(&mut self, index: usize) {
        self.nodes[index].next = u32::try_from(self.nodes.len()).expect("no more nodes than bytes");
    }
}

struct Parser<'a> {
    event: &'a [u8],
    at: usize,
    tape: &'a mut Tape,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.event.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn error(&self, what: &'static str) -> ParseError {
        let what = if self.at >= self.event.len() && what != EMPTY { "the object is truncated" } else { what };
        ParseError { what, at: self.at }
    }

    fn object(&mut self, depth: usize) -> Result<(), ParseError> {
        let index = self.tape.nodes.len();
        self.tape.push(Kind::Object, self.at, self.at);
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            self.tape.close(index);
            return Ok(());
        }
        let mut fields = 0;
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.error("expected a field name"));
            }
            self.key()?;
            fields += 1;
            self.skip_space();
            if self.peek() != Some(b':') {
                return Err(self.error("expected `:`"));
            }
            self.at += 1;
            self.value(depth)?;
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    self.tape.close(index);
                    return self.refuse_duplicates(index, fields);
                }
                _ => return Err(self.error("expected `,` or `}`")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), ParseError> {
        let index = self.tape.nodes.len();
        self.tape.push(Kind::Array, self.at, self.at);
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            self.tape.close(index);
            return Ok(());
        }
        loop {
            self.value(depth)?;
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    self.tape.close(index);
                    return Ok(());
                }
                _ => return Err(self.error("expected `,` or `]`")),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), ParseError> {
        self.skip_space();
        match self.peek() {
            Some(b'"') => {
                let (start, end, escaped) = self.string()?;
                self.tape.push(if escaped { Kind::EscapedText } else { Kind::Text }, start, end);
                Ok(())
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'{' | b'[') if depth == DEPTH_MAX => Err(self.error("nested too deeply")),
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b't') => self.literal(b"true", Kind::True),
            Some(b'f') => self.literal(b"false", Kind::False),
            Some(b'n') => self.literal(b"null", Kind::Null),
            _ => Err(self.error("expected a value")),
        }
    }

    fn literal(&mut self, word: &'static [u8], kind: Kind) -> Result<(), ParseError> {
        if !self.event[self.at..].starts_with(word) {
            return Err(self.error("expected a value"));
        }
        self.tape.push(kind, self.at, self.at + word.len());
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), ParseError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.error("expected a digit")),
        }
        let mut kind = Kind::Integer;
        if self.peek() == Some(b'.') {
            self.at += 1;
            kind = Kind::Float;
            self.at_least_one_digit()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            kind = Kind::Float;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.at_least_one_digit()?;
        }
        self.tape.push(kind, start, self.at);
        Ok(())
    }

    fn at_least_one_digit(&mut self) -> Result<(), ParseError> {
        if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return Err(self.error("expected a digit"));
        }
        self.digits();
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    /// Reads a string and returns the bounds of its content, and whether it has escapes.
    fn string(&mut self) -> Result<(usize, usize, bool), ParseError> {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok((start, self.at - 1, escaped));
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(0..0x20) => return Err(self.error("a control character in a string")),
                Some(_) => self.at += 1,
                None => return Err(self.error("expected `\"`")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), ParseError> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                let unit = self.code_unit()?;
                match unit {
                    0xD800..0xDC00 => {
                        let followed = self.event[self.at..].starts_with(b"\\u");
                        self.at += usize::from(followed);
                        if !followed || !(0xDC00..0xE000).contains(&self.code_unit()?) {
                            return Err(self.error("half of a surrogate pair"));
                        }
                        Ok(())
                    }
                    0xDC00..0xE000 => Err(self.error("half of a surrogate pair")),
                    _ => Ok(()),
                }
            }
            _ => Err(self.error("an unknown escape")),
        }
    }

    /// Reads `uXXXX`.
    fn code_unit(&mut self) -> Result<u32, ParseError> {
        let digits = self.event.get(self.at + 1..self.at + 5);
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let Some(digits) = digits else {
            return Err(self.error("a bad \\u escape"));
        };
        self.at += 5;
        Ok(hex(digits))
    }

    fn key(&mut self) -> Result<(), ParseError> {
        let (start, end, escaped) = self.string()?;
        if !escaped {
            self.tape.push(Kind::Key, start, end);
            return Ok(());
        }
        let raw = std::str::from_utf8(&self.event[start..end]).expect("the event was checked");
        let begin = self.tape.scratch.len();
        unescape(raw, &mut self.tape.scratch);
        let finish = self.tape.scratch.len();
        self.tape.push(Kind::Key, begin | SCRATCH as usize, finish | SCRATCH as usize);
        Ok(())
    }

    /// Of duplicate fields no value is the right one, so the event is refused.
    fn refuse_duplicates(&self, object: usize, fields: usize) -> Result<(), ParseError> {
        let duplicate = if fields <= PAIRWISE_FIELDS_MAX {
            let mut names: [&[u8]; PAIRWISE_FIELDS_MAX] = [&[]; PAIRWISE_FIELDS_MAX];
            let mut seen = 0;
            self.names(object).any(|name| {
                let known = names[..seen].contains(&name);
                names[seen] = name;
                seen += 1;
                known
            })
        } else {
            let mut names = std::collections::HashSet::with_capacity(fields);
            self.names(object).any(|name| !names.insert(name))
        };
        if duplicate { Err(ParseError { what: "a field comes twice", at: self.at - 1 }) } else { Ok(()) }
    }

    fn names(&self, object: usize) -> impl Iterator<Item = &[u8]> {
        let tape = &*self.tape;
        let event = self.event;
        let end = tape.nodes[object].next as usize;
        let mut at = object + 1;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let name = tape.raw_bytes(tape.nodes[at], event);
            at = tape.after(at + 1);
            Some(name)
        })
    }
}

const EMPTY: &str = "an event must be a JSON object; it is empty";

/// Returns a node's bytes as text.
pub(crate) fn text_of(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the event was checked, and nodes begin and end at ASCII bytes")
}

fn hex(digits: &[u8]) -> u32 {
    let value = |digit: u8| char::from(digit).to_digit(16).expect("checked to be hexadecimal");
    digits.iter().fold(0, |sum, digit| sum * 16 + value(*digit))
}

/// Appends the content of a string whose escapes were checked when it was parsed.
pub(crate) fn unescape(raw: &str, out: &mut String) {
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = rest.as_bytes()[at + 1];
        rest = &rest[at + 2..];
        match escape {
            b'b' => out.push('\u{8}'),
            b'f' => out.push('\u{c}'),
            b'n' => out.push('\n'),
            b'r' => out.push('\r'),
            b't' => out.push('\t'),
            b'u' => {
                let mut code = hex(&rest.as_bytes()[..4]);
                rest = &rest[4..];
                if (0xD800..0xDC00).contains(&code) {
                    let low = hex(&rest.as_bytes()[2..6]);
                    rest = &rest[6..];
                    code = 0x1_0000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                }
                out.push(char::from_u32(code).expect("surrogates were checked to come in pairs"));
            }
            plain => out.push(char::from(plain)),
        }
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fm04_what_is_not_one_object_is_refused_with_its_place() {
        let check = |event: &[u8], expect: &str| {
            let error = Tape::default().parse(event).unwrap_err();
            assert_eq!(error.to_string(), expect, "{}", String::from_utf8_lossy(event));
        };
        check(b"", "an event must be a JSON object; it is empty at byte 0");
        check(b"  ", "an event must be a JSON object; it is empty at byte 2");
        check(b"[{}]", "an event must be a JSON object; something else is at byte 0");
        check(b"7", "an event must be a JSON object; something else is at byte 0");
        check(br#"{"a":1"#, "the object is truncated at byte 6");
        check(br#"{"a":"#, "the object is truncated at byte 5");
        check(br#"{"a":1}{"b":2}"#, "trailing data after the object at byte 7");
        check(br#"{"a":1,}"#, "expected a field name at byte 7");
        check(br#"{"a":01}"#, "expected `,` or `}` at byte 6");
        check(br#"{"a":+1}"#, "expected a value at byte 5");
        check(br#"{"a":NaN}"#, "expected a value at byte 5");
        check(b"{\"a\":\"\xff\"}", "invalid UTF-8 at byte 6");
        check(br#"{"a":"\x"}"#, "an unknown escape at byte 7");
        check(br#"{"a":"\ud800"}"#, "half of a surrogate pair at byte 12");
        check(b"{\"a\":\"\n\"}", "a control character in a string at byte 6");
        check(br#"{"a":1,"a":2}"#, "a field comes twice at byte 12");
        check(br#"{"a":1,"\u0061":2}"#, "a field comes twice at byte 17");
        let deep = format!("{}{}", r#"{"a":"#.repeat(DEPTH_MAX + 1), "}".repeat(DEPTH_MAX + 1));
        assert_eq!(Tape::default().parse(deep.as_bytes()).unwrap_err().what, "nested too deeply");
    }

    #[test]
    fn strings_are_unescaped() {
        let event = br#"{"k\n":"a\u00e4\ud83d\ude00\"\\\/b"}"#;
        let mut tape = Tape::default();
        tape.parse(event).unwrap();
        assert_eq!(tape.raw(tape.node(1), event), "k\n");
        assert_eq!(tape.text(tape.node(2), event), "aä😀\"\\/b");
    }
}
