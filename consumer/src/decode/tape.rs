//! One JSON event, parsed once into a flat tape of nodes.
//!
//! Strict: one object per event, nothing before or after it but white space, valid UTF-8, no duplicate field in an
//! object, no number or escape that RFC 8259 does not know. What is wrong is said with the byte where it is.
//!
//! ```text
//! {"a":1,"b":[true]}  ->  Object(next=6) Key(a) Number Key(b) Array(next=6) True
//! ```
//! `next` of a container is the index after its last node; every other value is one node.

use super::scan::{EMPTY, ParseError, Quoted, Scanner, text_of, unescape};

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
        let mut parser = Parser { scan: Scanner { event, at: 0 }, tape: self };
        parser.scan.skip_space();
        match parser.scan.peek() {
            Some(b'{') => parser.object(1)?,
            Some(_) => {
                return Err(parser.scan.error("an event must be a JSON object; something else is"));
            }
            None => return Err(parser.scan.error(EMPTY)),
        }
        parser.scan.skip_space();
        if parser.scan.at < event.len() { Err(parser.scan.error("trailing data after the object")) } else { Ok(()) }
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
    scan: Scanner<'a>,
    tape: &'a mut Tape,
}

impl Parser<'_> {
    fn object(&mut self, depth: usize) -> Result<(), ParseError> {
        let index = self.tape.nodes.len();
        self.tape.push(Kind::Object, self.scan.at, self.scan.at);
        self.scan.at += 1;
        self.scan.skip_space();
        if self.scan.peek() == Some(b'}') {
            self.scan.at += 1;
            self.tape.close(index);
            return Ok(());
        }
        let mut fields = 0;
        loop {
            self.scan.skip_space();
            if self.scan.peek() != Some(b'"') {
                return Err(self.scan.error("expected a field name"));
            }
            self.key()?;
            fields += 1;
            self.scan.skip_space();
            if self.scan.peek() != Some(b':') {
                return Err(self.scan.error("expected `:`"));
            }
            self.scan.at += 1;
            self.value(depth)?;
            self.scan.skip_space();
            match self.scan.peek() {
                Some(b',') => self.scan.at += 1,
                Some(b'}') => {
                    self.scan.at += 1;
                    self.tape.close(index);
                    return self.refuse_duplicates(index, fields);
                }
                _ => return Err(self.scan.error("expected `,` or `}`")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), ParseError> {
        let index = self.tape.nodes.len();
        self.tape.push(Kind::Array, self.scan.at, self.scan.at);
        self.scan.at += 1;
        self.scan.skip_space();
        if self.scan.peek() == Some(b']') {
            self.scan.at += 1;
            self.tape.close(index);
            return Ok(());
        }
        loop {
            self.value(depth)?;
            self.scan.skip_space();
            match self.scan.peek() {
                Some(b',') => self.scan.at += 1,
                Some(b']') => {
                    self.scan.at += 1;
                    self.tape.close(index);
                    return Ok(());
                }
                _ => return Err(self.scan.error("expected `,` or `]`")),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), ParseError> {
        self.scan.skip_space();
        match self.scan.peek() {
            Some(b'"') => {
                let Quoted { start, end, escaped } = self.scan.string()?;
                self.tape.push(if escaped { Kind::EscapedText } else { Kind::Text }, start, end);
                Ok(())
            }
            Some(b'-' | b'0'..=b'9') => {
                let number = self.scan.number()?;
                let kind = if number.is_integer { Kind::Integer } else { Kind::Float };
                self.tape.push(kind, number.start, number.end);
                Ok(())
            }
            Some(b'{' | b'[') if depth == DEPTH_MAX => Err(self.scan.error("nested too deeply")),
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b't') => self.word(b"true", Kind::True),
            Some(b'f') => self.word(b"false", Kind::False),
            Some(b'n') => self.word(b"null", Kind::Null),
            _ => Err(self.scan.error("expected a value")),
        }
    }

    fn word(&mut self, word: &'static [u8], kind: Kind) -> Result<(), ParseError> {
        let start = self.scan.at;
        self.scan.literal(word)?;
        self.tape.push(kind, start, self.scan.at);
        Ok(())
    }

    fn key(&mut self) -> Result<(), ParseError> {
        let Quoted { start, end, escaped } = self.scan.string()?;
        if !escaped {
            self.tape.push(Kind::Key, start, end);
            return Ok(());
        }
        let raw = text_of(&self.scan.event[start..end]);
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
        if duplicate { Err(ParseError { what: "a field comes twice", at: self.scan.at - 1 }) } else { Ok(()) }
    }

    fn names(&self, object: usize) -> impl Iterator<Item = &[u8]> {
        let tape = &*self.tape;
        let event = self.scan.event;
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
