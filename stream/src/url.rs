//! Names of streams: `log:PATH`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::Error;

/// A stream as the user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamUrl {
    /// `log:PATH`: the embedded log in that folder.
    Log(PathBuf),
}

impl FromStr for StreamUrl {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        let bad = |reason| Error::BadUrl { url: url.to_owned(), reason };
        let parts = url.split_once(':').map(|(scheme, rest)| (scheme, rest.strip_prefix("//").unwrap_or(rest)));
        match parts {
            Some(("log", "")) => Err(bad("it names no folder; write log:PATH")),
            Some(("log", path)) => Ok(Self::Log(path.into())),
            Some(("kinesis" | "sqs" | "sqs+https" | "firehose" | "s3" | "s3-events+sqs" | "archive", _)) => {
                Err(bad("this version has the embedded log only; write log:PATH"))
            }
            _ => Err(bad("write log:PATH for the embedded log")),
        }
    }
}

impl fmt::Display for StreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(path) => write!(f, "log:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_named_by_its_folder() {
        let check = |url: &str, path: Option<&str>| {
            let parsed = url.parse::<StreamUrl>().ok();
            assert_eq!(parsed, path.map(|path| StreamUrl::Log(path.into())), "{url}");
        };
        check("log:data/stream", Some("data/stream"));
        check("log:///data/stream", Some("/data/stream"));
        check("log:////data/stream", Some("//data/stream"));
        check("log:", None);
        check("log://", None);
        check("kinesis://name", None);
    }
}
