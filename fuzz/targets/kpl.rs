//! A record that begins like an aggregate: it is refused whole, or what is in it can be written, and is then the same.
#![no_main]

use bytes::Bytes;
use headwater_stream::kinesis::kpl::{Aggregate, is_aggregate, split};
use libfuzzer_sys::fuzz_target;
use md5::{Digest, Md5};

fuzz_target!(|data: &[u8]| {
    let plain = Bytes::copy_from_slice(data);
    assert!(is_aggregate(&plain) || split(&plain).is_err());
    // Nobody guesses a digest: it is put behind whatever comes.
    let framed = Bytes::from([&b"\xf3\x89\x9a\xc2"[..], data, &Md5::digest(data)[..]].concat());
    let Ok(records) = split(&framed) else { return };
    assert!(!records.is_empty());
    let mut again = Aggregate::new();
    for record in &records {
        let with = again.encoded_len_with(&record.partition_key, None, &record.payload);
        // Keys that are no text can be read, so that no event is lost, and are never written.
        if again.push(record.partition_key.clone(), None, record.payload.clone()).is_err() {
            return;
        }
        assert_eq!(again.encoded_len(), with);
    }
    let (size, written) = (again.encoded_len(), again.finish());
    assert_eq!(written.len(), size);
    assert_eq!(split(&written).expect("what is written can be read"), records);
});
