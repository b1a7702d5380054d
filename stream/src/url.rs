//! Names of streams: `log:PATH`, `kinesis://NAME`, and `archive:LAKE/STREAM` for one that is kept in a lake.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::Error;

/// A stream as the user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamUrl {
    /// `log:PATH`: the embedded log in that folder.
    Log(PathBuf),
    /// `kinesis://NAME` or `kinesis://ARN`: the Kinesis data stream of that name, in the account and region of the
    /// credentials, or of that ARN.
    Kinesis(String),
    /// `archive:LAKE/STREAM`: the archive of that name in the lake in that folder.
    Archive {
        /// The lake's folder.
        lake: PathBuf,
        /// The archive's folder below the lake's `__archive`.
        stream: String,
    },
}

impl FromStr for StreamUrl {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        let bad = |reason| Error::BadUrl { url: url.to_owned(), reason };
        let parts = url.split_once(':').map(|(scheme, rest)| (scheme, rest.strip_prefix("//").unwrap_or(rest)));
        match parts {
            Some(("log", "")) => Err(bad("it names no folder; write log:PATH")),
            Some(("log", path)) => Ok(Self::Log(path.into())),
            Some(("archive", path)) => archive(path).ok_or_else(|| bad("write archive:LAKE/STREAM")),
            Some(("kinesis", name)) if is_kinesis_name(name) => Ok(Self::Kinesis(name.to_owned())),
            Some(("kinesis", _)) => {
                Err(bad("write kinesis://NAME (letters, digits, `_`, `.` and `-`) or kinesis://ARN"))
            }
            Some(("sqs" | "sqs+https" | "firehose" | "s3" | "s3-events+sqs", _)) => {
                Err(bad("this version has the embedded log and Kinesis; write log:PATH or kinesis://NAME"))
            }
            _ => Err(bad("write log:PATH for the embedded log, or kinesis://NAME")),
        }
    }
}

/// Names have 1 to 128 of these characters
/// (<https://docs.aws.amazon.com/kinesis/latest/APIReference/API_CreateStream.html>).
fn is_kinesis_name(name: &str) -> bool {
    let is_arn = name.starts_with("arn:") && name.contains(":kinesis:") && name.contains(":stream/");
    let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    is_arn || (1..=128).contains(&name.len()) && name.bytes().all(named)
}

/// Takes `LAKE/STREAM` apart; the last part is the stream.
fn archive(path: &str) -> Option<StreamUrl> {
    let (lake, stream) = path.rsplit_once('/')?;
    let lake = lake.trim_end_matches('/');
    if lake.is_empty() || stream.is_empty() {
        return None;
    }
    // Two slashes in front would be taken for those after the scheme when it is written again.
    let relative = lake.trim_start_matches('/');
    let lake = if relative.len() < lake.len() { format!("/{relative}") } else { relative.to_owned() };
    Some(StreamUrl::Archive { lake: lake.into(), stream: stream.to_owned() })
}

impl fmt::Display for StreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(path) => write!(f, "log:{}", path.display()),
            Self::Kinesis(name) => write!(f, "kinesis://{name}"),
            Self::Archive { lake, stream } => write!(f, "archive:{}/{stream}", lake.display()),
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
    }

    #[test]
    fn a_kinesis_stream_is_named_by_its_name_or_its_arn() {
        let check = |url: &str, name: Option<&str>| {
            let parsed = url.parse::<StreamUrl>().ok();
            assert_eq!(parsed, name.map(|name| StreamUrl::Kinesis(name.to_owned())), "{url}");
        };
        check("kinesis://orders-2.x_y", Some("orders-2.x_y"));
        let arn = "arn:aws:kinesis:us-east-1:123456789012:stream/orders";
        check(&format!("kinesis://{arn}"), Some(arn));
        for bad in ["kinesis://", "kinesis://a/b", "kinesis://a b", "kinesis://arn:aws:sqs:us-east-1:1:q"] {
            check(bad, None);
        }
        check(&format!("kinesis://{}", "x".repeat(129)), None);
    }

    #[test]
    fn an_archive_is_named_by_its_lake_and_its_stream() {
        let check = |url: &str, expect: Option<(&str, &str)>| {
            let parsed = url.parse::<StreamUrl>().ok();
            let expect = expect.map(|(lake, stream)| StreamUrl::Archive { lake: lake.into(), stream: stream.into() });
            assert_eq!(parsed, expect, "{url}");
            if let Some(parsed) = parsed {
                assert_eq!(parsed.to_string().parse::<StreamUrl>().ok(), Some(parsed), "{url}");
            }
        };
        check("archive:./data/lake/log__1", Some(("./data/lake", "log__1")));
        check("archive:lake/log__1", Some(("lake", "log__1")));
        check("archive:///data/lake/log__1", Some(("/data/lake", "log__1")));
        check("archive:////lake//log__1", Some(("/lake", "log__1")));
        for bad in ["archive:", "archive:lake", "archive:/lake", "archive:lake/", "archive://"] {
            check(bad, None);
        }
    }
}
