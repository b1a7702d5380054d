//! The name of an archive: its stream's identity, as a folder can have it.

use std::fmt::{self, Write};
use std::str::FromStr;

/// The folder of an archive below `__archive`.
///
/// The one rule: of the identity's bytes, ASCII letters, digits and `-` stay, and so does a `.` that is not the first;
/// `:` becomes `__`; every other byte becomes `_` and two hexadecimal digits. So two streams never share a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArchiveName(String);

/// The text is not the name of an archive.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not the name of an archive, such as log__550e8400-e29b-41d4-a716-446655440000")]
pub struct ParseError {
    text: String,
}

impl ArchiveName {
    /// Returns the name of a stream's archive.
    pub fn of_stream(identity: &str) -> Self {
        let mut name = String::with_capacity(identity.len() + 8);
        for byte in identity.bytes() {
            match byte {
                b'.' if !name.is_empty() => name.push('.'),
                b'-' => name.push('-'),
                b':' => name.push_str("__"),
                _ if byte.is_ascii_alphanumeric() => name.push(char::from(byte)),
                _ => write!(name, "_{byte:02x}").expect("writing to a string does not fail"),
            }
        }
        Self(name)
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ArchiveName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let good = !text.is_empty()
            && !text.starts_with('.')
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if good { Ok(Self(text.to_owned())) } else { Err(ParseError { text: text.to_owned() }) }
    }
}

impl fmt::Display for ArchiveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_become_folders_that_differ() {
        let check = |identity: &str, folder: &str| {
            let name = ArchiveName::of_stream(identity);
            assert_eq!(name.as_str(), folder);
            assert_eq!(folder.parse::<ArchiveName>().unwrap(), name);
        };
        check("log:550e8400-e29b", "log__550e8400-e29b");
        check("arn:aws:kinesis:eu-west-1:1:stream/a.b_c", "arn__aws__kinesis__eu-west-1__1__stream_2fa.b_5fc");
        check("..", "_2e.");
        check("ä", "_c3_a4");
        for bad in ["", ".", "..", "a/b", "../x", "a b", "ä"] {
            assert!(bad.parse::<ArchiveName>().is_err(), "{bad}");
        }
    }
}
