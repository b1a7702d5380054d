//! Text from a command line, a file or a key: it is refused, or what it means is written so that it means the same.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use headwater_common::position::{Position, Sequence};
use headwater_common::quantity::{Bytes, Rate, parse_duration};
use headwater_common::{event_time::Format, timestamp::Timestamp, window::Partitioning};
use headwater_lake::digest::RowDigest;
use headwater_lake::layout::{Lane, TableName};
use headwater_stream::url::StreamUrl;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    comes_back::<Sequence>(text);
    comes_back::<Position>(text);
    comes_back::<Timestamp>(text);
    comes_back::<Partitioning>(text);
    comes_back::<RowDigest>(text);
    comes_back::<TableName>(text);
    comes_back::<Lane>(text);
    comes_back::<StreamUrl>(text);
    // A size that is no whole number of its unit is shown with one decimal, for people only.
    if text.parse::<Bytes>().is_ok_and(|size| !size.to_string().contains('.')) {
        comes_back::<Bytes>(text);
    }
    if text.parse::<Rate>().is_ok_and(|rate| !rate.to_string().contains('.')) {
        comes_back::<Rate>(text);
    }
    let _ = parse_duration(text);
    for format in [Format::Text, Format::EpochS, Format::EpochMs, Format::EpochUs] {
        let Some(time) = format.parse(text) else { continue };
        assert!(time.is_representable());
        assert_eq!(Format::Text.parse(&time.to_string()), Some(time));
        assert_eq!(Format::EpochUs.parse(&time.micros().to_string()), Some(time));
    }
});

fn comes_back<T: FromStr + Display + Debug + PartialEq>(text: &str) {
    let Ok(value) = text.parse::<T>() else { return };
    let written = value.to_string();
    assert_eq!(written.parse::<T>().ok(), Some(value), "{text:?} was written as {written:?}");
}
