use proptest::prelude::*;

use super::*;

/// What the Python package `aws_kinesis_agg` 1.2.3 makes of the four records of [`golden_records`].
const GOLDEN: &str = "f3899ac20a06757365722d310a06757365722d320a0a7363686cc3bc7373656c1201301227313730313431313833\
    3436303436393233313733313638373330333731353838343130353732381a0d080010001a077b226e223a317d1a\
    06080110001a001a0d080010011a077b226e223a337d1a0608021a0200ff02efe97ec3d0a1d62401f881744d6007";

type Record = (&'static str, Option<u128>, &'static [u8]);

fn golden_records() -> [Record; 4] {
    [
        ("user-1", Some(0), br#"{"n":1}"#),
        ("user-2", Some(0), b""),
        ("user-1", Some(1 << 127), br#"{"n":3}"#),
        ("schlüssel", None, b"\x00\xff"),
    ]
}

fn bytes_of(hexadecimal: &str) -> Bytes {
    let byte = |at: usize| u8::from_str_radix(&hexadecimal[at..at + 2], 16).expect("hexadecimal digits");
    (0..hexadecimal.len()).step_by(2).map(byte).collect()
}

fn aggregate(records: &[(String, Option<u128>, Vec<u8>)]) -> Aggregate {
    let mut aggregate = Aggregate::new();
    for (key, hash_key, payload) in records {
        let with = aggregate.encoded_len_with(key.as_bytes(), *hash_key, payload);
        let pushed = aggregate.push(key.clone().into(), *hash_key, payload.clone().into());
        assert_eq!((pushed, aggregate.encoded_len()), (Ok(()), with), "the size is known before");
    }
    aggregate
}

/// Puts a digest behind a message, and the magic before it.
fn framed(message: &[u8]) -> Bytes {
    [&MAGIC[..], message, &digest(message)[..]].concat().into()
}

#[test]
fn an_aggregate_of_another_implementation_is_read() {
    let found = split(&bytes_of(GOLDEN)).unwrap();
    let expected = golden_records().map(|(key, _, payload)| UserRecord {
        partition_key: Bytes::from_static(key.as_bytes()),
        payload: Bytes::from_static(payload),
    });
    assert_eq!(found, expected);
}

#[test]
fn the_same_records_make_the_bytes_of_another_implementation() {
    let records = golden_records().map(|(key, hash, payload)| (key.to_owned(), hash, payload.to_vec()));
    assert_eq!(aggregate(&records).finish(), bytes_of(GOLDEN));
}

#[test]
fn what_is_no_aggregate_is_told_apart() {
    for plain in [&b""[..], b"{}", &MAGIC, &[&MAGIC[..], &[0; DIGEST_BYTES]].concat(), &[b'x'; 64]] {
        let plain = Bytes::copy_from_slice(plain);
        assert!(!is_aggregate(&plain), "{plain:?}");
        assert_eq!(split(&plain), Err(Malformed::NoMagic));
    }
}

#[test]
fn a_damaged_aggregate_is_refused_whole() {
    let whole = bytes_of(GOLDEN);
    for at in MAGIC.len()..whole.len() {
        let mut damaged = whole.to_vec();
        damaged[at] ^= 1;
        assert_eq!(split(&damaged.into()), Err(Malformed::Digest), "byte {at}");
    }
    assert_eq!(split(&whole.slice(..whole.len() - 1)), Err(Malformed::Digest));
}

#[test]
fn a_right_digest_does_not_make_a_message() {
    assert!(matches!(split(&framed(b"\xff\xff\xff")), Err(Malformed::Message(_))));
    // Only a table, or only a field that nobody knows.
    assert_eq!(split(&framed(b"\x0a\x01k")), Err(Malformed::Empty));
    assert_eq!(split(&framed(b"\x78\x01")), Err(Malformed::Empty));
    let lacks = |what| Err(Malformed::Incomplete { index: 0, what });
    assert_eq!(split(&framed(b"\x1a\x03\x1a\x01x")), lacks("partition key"));
    assert_eq!(split(&framed(b"\x0a\x01k\x1a\x05\x08\x01\x1a\x01x")), lacks("partition key"));
    assert_eq!(split(&framed(b"\x0a\x01k\x1a\x02\x08\x00")), lacks("payload"));
}

#[test]
fn tags_and_unknown_fields_are_passed_over() {
    // A tag with key and value, and field 9.
    let message = b"\x0a\x01k\x1a\x0d\x08\x00\x1a\x01x\x22\x06\x0a\x01a\x12\x01b\x48\x05";
    let found = split(&framed(message)).unwrap();
    assert_eq!(found, [UserRecord { partition_key: "k".into(), payload: "x".into() }]);
}

#[test]
fn a_key_that_is_no_text_is_refused_and_leaves_the_aggregate_as_it_was() {
    let mut aggregate = Aggregate::new();
    aggregate.push("k".into(), None, "x".into()).unwrap();
    let before = aggregate.encoded_len();
    assert_eq!(aggregate.push(Bytes::from_static(b"\xff"), None, "y".into()), Err(NotText));
    assert_eq!((aggregate.len(), aggregate.encoded_len()), (1, before));
    assert_eq!(split(&aggregate.finish()).unwrap().len(), 1);
}

fn records() -> impl Strategy<Value = Vec<(String, Option<u128>, Vec<u8>)>> {
    // Few keys, so that some come again; lengths on both sides of where a length takes another byte.
    let key = prop_oneof!["[a-c]", "\\PC{1,40}", Just("k".repeat(200))];
    let hash = prop_oneof![Just(None), any::<u128>().prop_map(Some), Just(Some(0)), Just(Some(u128::MAX))];
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        prop::sample::select(vec![112_usize, 123, 127, 128, 16_384]).prop_map(|length| vec![7; length])
    ];
    prop::collection::vec((key, hash, payload), 1..200)
}

proptest! {
    #[test]
    fn what_was_put_in_comes_out_in_order(records in records()) {
        let aggregate = aggregate(&records);
        let size = aggregate.encoded_len();
        let record = aggregate.finish();
        prop_assert!(is_aggregate(&record));
        prop_assert_eq!(record.len(), size);
        let found = split(&record).unwrap();
        let put = records.into_iter().map(|(key, _, payload)| UserRecord {
            partition_key: key.into(),
            payload: payload.into(),
        });
        prop_assert_eq!(found, put.collect::<Vec<_>>());
    }

    #[test]
    fn any_message_behind_the_magic_is_read_or_refused(message in prop::collection::vec(any::<u8>(), 1..80)) {
        if let Ok(records) = split(&framed(&message)) {
            prop_assert!(!records.is_empty());
        }
    }
}
