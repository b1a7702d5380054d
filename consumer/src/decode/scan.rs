//! The tokens of JSON, strictly: no number, escape or character that RFC 8259 does not know.
//!
//! Both ways of reading an event are made of these: the direct one ([`super::direct`]) and the tape ([`super::tape`]).

use std::fmt;

use headwater_common::json::plain_length;

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

/// Said of an event without any byte that counts; every other event that ends too early is truncated.
pub(crate) const EMPTY: &str = "an event must be a JSON object; it is empty";

/// Reads tokens of an event, which has been checked to be UTF-8.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    pub(crate) event: &'a [u8],
    /// The byte that is read next.
    pub(crate) at: usize,
}

/// A string's content.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quoted {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Whether it has escapes, so that its bytes are not its content.
    pub(crate) escaped: bool,
}

/// A number's literal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Without fraction and exponent.
    pub(crate) is_integer: bool,
    has_exponent: bool,
    negative: bool,
    /// All digits without the dot as one number, when there are at most [`DIGITS_MAX`].
    digits: u64,
    digit_count: usize,
    fraction_count: usize,
}

/// Decimal digits that a `u64` always holds.
const DIGITS_MAX: usize = 19;

/// Integers up to here are floats without loss.
const EXACT_MAX: u64 = 1 << 53;

/// The powers of ten that are floats without loss.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

impl Number {
    /// Returns the integer that the literal is, if it is one of at most 64 bits.
    pub(crate) fn integer(&self, event: &[u8]) -> Option<i64> {
        if !self.is_integer {
            return None;
        }
        if self.digit_count < DIGITS_MAX {
            let magnitude = i64::try_from(self.digits).expect("18 digits are below 2^63");
            return Some(if self.negative { -magnitude } else { magnitude });
        }
        text_of(&event[self.start..self.end]).parse().ok()
    }

    /// Returns the float nearest to the literal, when that is quick to tell; the tape knows the rest.
    pub(crate) fn quick_float(&self) -> Option<f64> {
        // Both are exact, so the one rounding of the division is the only one (Clinger 1990, section 3).
        let exact = self.digit_count <= DIGITS_MAX && self.digits <= EXACT_MAX && !self.has_exponent;
        let power = EXACT_POWERS.get(self.fraction_count).filter(|_| exact)?;
        #[expect(clippy::cast_precision_loss, reason = "at most 2^53")]
        let magnitude = self.digits as f64 / power;
        // An integer has no negative zero, whatever its column.
        let negative = self.negative && !(self.is_integer && self.digits == 0);
        Some(if negative { -magnitude } else { magnitude })
    }
}

impl Scanner<'_> {
    #[inline]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.event.get(self.at).copied()
    }

    #[inline]
    pub(crate) fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    pub(crate) fn error(&self, what: &'static str) -> ParseError {
        let what = if self.at >= self.event.len() && what != EMPTY { "the object is truncated" } else { what };
        ParseError { what, at: self.at }
    }

    pub(crate) fn literal(&mut self, word: &'static [u8]) -> Result<(), ParseError> {
        if !self.event[self.at..].starts_with(word) {
            return Err(self.error("expected a value"));
        }
        self.at += word.len();
        Ok(())
    }

    #[inline]
    pub(crate) fn number(&mut self) -> Result<Number, ParseError> {
        let start = self.at;
        let negative = self.peek() == Some(b'-');
        self.at += usize::from(negative);
        let first = self.at;
        let mut digits = 0;
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(&mut digits),
            _ => return Err(self.error("expected a digit")),
        }
        let mut number = Number {
            start,
            end: self.at,
            is_integer: true,
            has_exponent: false,
            negative,
            digits,
            digit_count: self.at - first,
            fraction_count: 0,
        };
        if self.peek() == Some(b'.') {
            self.at += 1;
            number.is_integer = false;
            let first = self.at;
            self.at_least_one_digit(&mut number.digits)?;
            number.fraction_count = self.at - first;
            number.digit_count += number.fraction_count;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            number.is_integer = false;
            number.has_exponent = true;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.at_least_one_digit(&mut 0)?;
        }
        number.end = self.at;
        Ok(number)
    }

    fn at_least_one_digit(&mut self, digits: &mut u64) -> Result<(), ParseError> {
        if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return Err(self.error("expected a digit"));
        }
        self.digits(digits);
        Ok(())
    }

    /// Reads on while there are digits, and appends them to a number; what overflows has more than [`DIGITS_MAX`].
    #[inline]
    fn digits(&mut self, digits: &mut u64) {
        while let Some(byte @ b'0'..=b'9') = self.peek() {
            *digits = digits.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
            self.at += 1;
        }
    }

    /// Reads a string, which begins here.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<Quoted, ParseError> {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += plain_length(&self.event[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Quoted { start, end: self.at - 1, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.error("a control character in a string")),
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
}

/// Returns a token's bytes as text.
pub(crate) fn text_of(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the event was checked, and tokens begin and end at ASCII bytes")
}

fn hex(digits: &[u8]) -> u32 {
    let value = |digit: u8| char::from(digit).to_digit(16).expect("checked to be hexadecimal");
    digits.iter().fold(0, |sum, digit| sum * 16 + value(*digit))
}

/// Appends the content of a string whose escapes were checked when it was scanned.
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

    proptest::proptest! {
        #[test]
        fn a_quick_float_is_the_nearest(literal in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,24})?") {
            let number = Scanner { event: literal.as_bytes(), at: 0 }.number().unwrap();
            if let Some(quick) = number.quick_float() {
                let nearest: f64 = literal.parse().unwrap();
                proptest::prop_assert!(quick.to_bits() == nearest.to_bits() || (number.is_integer && nearest == 0.0));
            }
            proptest::prop_assert_eq!(number.integer(literal.as_bytes()), literal.parse().ok());
        }
    }
}
