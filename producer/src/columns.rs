//! What type a CSV column has, told from its first rows, and how its cells become JSON.

use std::io::Write;

use headwater_common::json::plain_length;
use serde::{Deserialize, Serialize};

/// Digits that a number may have; with more it might not come back as it was.
const SIGNIFICANT_DIGITS_MAX: usize = 17;

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CellType {
    /// 64-bit integers.
    Integer,
    /// Numbers.
    Float,
    /// `true` or `false`, in any of three spellings.
    Boolean,
    /// Text.
    String,
}

/// What is told of a column while its first rows are looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Candidate(Option<CellType>);

impl Candidate {
    /// Takes in a cell that is not null.
    pub fn see(&mut self, cell: &[u8]) {
        let kind = cell_type(cell);
        self.0 = Some(match (self.0, kind) {
            (None, kind) => kind,
            (Some(known), kind) if known == kind => known,
            (Some(CellType::Integer), CellType::Float) | (Some(CellType::Float), CellType::Integer) => CellType::Float,
            _ => CellType::String,
        });
    }

    /// Returns the type; a column of nulls is text.
    pub fn decide(self) -> CellType {
        self.0.unwrap_or(CellType::String)
    }
}

fn cell_type(cell: &[u8]) -> CellType {
    if boolean(cell).is_some() {
        return CellType::Boolean;
    }
    match number(cell) {
        Some(Number::Integer) => CellType::Integer,
        Some(Number::Float) => CellType::Float,
        None => CellType::String,
    }
}

fn boolean(cell: &[u8]) -> Option<&'static [u8]> {
    match cell {
        b"true" | b"True" | b"TRUE" => Some(b"true"),
        b"false" | b"False" | b"FALSE" => Some(b"false"),
        _ => None,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Number {
    Integer,
    Float,
}

/// Digits that a 64-bit integer always holds.
const INTEGER_DIGITS: usize = 18;

/// Returns what number a cell is, when it is a JSON number that every reader gets back as it was. `007` is none.
fn number(cell: &[u8]) -> Option<Number> {
    let digits_of = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let magnitude = cell.strip_prefix(b"-").unwrap_or(cell);
    let whole = digits_of(magnitude);
    if whole == 0 || (whole > 1 && magnitude[0] == b'0') {
        return None;
    }
    let mut rest = &magnitude[whole..];
    if rest.is_empty() {
        // `-0` is a float's zero; as an integer it would lose its sign.
        if cell == b"-0" {
            return Some(Number::Float);
        }
        let fits = whole <= INTEGER_DIGITS || parse::<i64>(cell).is_some();
        return fits.then_some(Number::Integer);
    }
    let mut significant = whole;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = digits_of(fraction);
        if digits == 0 {
            return None;
        }
        significant += digits;
        rest = &fraction[digits..];
    }
    let mut is_finite = true;
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = match exponent {
            [b'+' | b'-', digits @ ..] => digits,
            digits => digits,
        };
        let digits = digits_of(exponent);
        if digits == 0 {
            return None;
        }
        rest = &exponent[digits..];
        is_finite = rest.is_empty() && parse::<f64>(cell).is_some_and(f64::is_finite);
    }
    (rest.is_empty() && significant <= SIGNIFICANT_DIGITS_MAX && is_finite).then_some(Number::Float)
}

fn parse<T: std::str::FromStr>(cell: &[u8]) -> Option<T> {
    std::str::from_utf8(cell).ok()?.parse().ok()
}

/// Integers beyond 2^53 may change when they become floats.
fn is_exact_as_float(integer: &[u8]) -> bool {
    parse::<i64>(integer).is_some_and(|integer| integer.unsigned_abs() <= 1 << 53)
}

/// Appends a cell, which is UTF-8, as JSON and returns false when it does not fit the column's type: then it is a
/// string.
pub fn write_cell(cell: &[u8], kind: CellType, out: &mut Vec<u8>) -> bool {
    match kind {
        CellType::String => {}
        CellType::Boolean => {
            if let Some(word) = boolean(cell) {
                out.extend_from_slice(word);
                return true;
            }
        }
        CellType::Integer => {
            if number(cell) == Some(Number::Integer) {
                out.extend_from_slice(cell);
                return true;
            }
        }
        CellType::Float => {
            if let Some(found) = number(cell).filter(|found| *found == Number::Float || is_exact_as_float(cell)) {
                out.extend_from_slice(cell);
                // So that who reads one row knows that the column is one of fractions.
                if found == Number::Integer || cell == b"-0" {
                    out.extend_from_slice(b".0");
                }
                return true;
            }
        }
    }
    write_string(cell, out);
    kind == CellType::String
}

/// Appends text, which is UTF-8, as a JSON string.
pub fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text;
    loop {
        let (plain, special) = rest.split_at(plain_length(rest));
        out.extend_from_slice(plain);
        let Some((byte, behind)) = special.split_first() else { break };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => write!(out, "\\u{control:04x}").expect("writing to memory does not fail"),
        }
        rest = behind;
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cells: &[&str], kind: CellType, json: &[&str]) {
        let mut candidate = Candidate::default();
        cells.iter().for_each(|cell| candidate.see(cell.as_bytes()));
        assert_eq!(candidate.decide(), kind, "{cells:?}");
        for (cell, json) in cells.iter().zip(json) {
            let mut out = Vec::new();
            assert!(write_cell(cell.as_bytes(), kind, &mut out));
            assert_eq!(String::from_utf8(out).unwrap(), *json);
        }
    }

    #[test]
    fn s6_types_are_told_from_the_cells() {
        check(&["1", "-20"], CellType::Integer, &["1", "-20"]);
        check(&["1", "2.50"], CellType::Float, &["1.0", "2.50"]);
        check(&["1e5", "-0"], CellType::Float, &["1e5", "-0.0"]);
        check(&["True", "false"], CellType::Boolean, &["true", "false"]);
        check(&["007", "12"], CellType::String, &["\"007\"", "\"12\""]);
        check(&["12345678901234567890"], CellType::String, &["\"12345678901234567890\""]);
        check(&["0.123456789012345678"], CellType::String, &["\"0.123456789012345678\""]);
        check(&["1e999", ".5", "1.", "+1", "NaN"], CellType::String, &["\"1e999\"", "\".5\"", "\"1.\""]);
        check(&["a\"b\\\n\u{1}"], CellType::String, &["\"a\\\"b\\\\\\n\\u0001\""]);
        check(&[], CellType::String, &[]);
    }

    #[test]
    fn a_later_misfit_is_sent_as_a_string() {
        let mut out = Vec::new();
        assert!(!write_cell(b"n/a", CellType::Integer, &mut out));
        assert_eq!(out, b"\"n/a\"");
    }
}
