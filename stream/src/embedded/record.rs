//! How a record is stored. Described in `docs/formats/log.md`; version 1 is frozen.
//!
//! ```text
//! key    shard u32 BE | sequence u64 BE
//! value  version u8 = 1 | 0 u8 | key length u16 LE | checksum u32 LE | arrived u64 LE | partition key | payload
//! ```

use headwater_common::timestamp::Timestamp;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The version that is written.
const VERSION: u8 = 1;

/// Bytes before the partition key.
pub(super) const HEADER_BYTES: usize = 16;

/// The first byte after the checksum, which covers all from here on.
const CHECKED_FROM: usize = 8;

/// A stored value, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stored<'a> {
    pub(super) arrived_at: Timestamp,
    pub(super) partition_key: &'a [u8],
    pub(super) payload: &'a [u8],
}

pub(super) fn key(shard: u32, sequence: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&shard.to_be_bytes());
    key[4..].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// Returns the sequence number of a stored key.
pub(super) fn sequence_of(key: &[u8]) -> Result<u64, String> {
    let bytes = key.get(4..).and_then(|tail| <[u8; 8]>::try_from(tail).ok());
    bytes.map(u64::from_be_bytes).ok_or_else(|| format!("a key has {} bytes instead of 12", key.len()))
}

/// Returns the bytes that a record takes as a value.
pub(super) fn stored_bytes(partition_key: &[u8], payload: &[u8]) -> usize {
    HEADER_BYTES + partition_key.len() + payload.len()
}

/// Writes a record into the space for it, which has [`stored_bytes`].
pub(super) fn write(arrived_at: Timestamp, partition_key: &[u8], payload: &[u8], value: &mut [u8]) {
    let key_bytes = u16::try_from(partition_key.len()).expect("keys are checked against PARTITION_KEY_BYTES_MAX");
    let (header, rest) = value.split_at_mut(HEADER_BYTES);
    header[..2].copy_from_slice(&[VERSION, 0]);
    header[2..4].copy_from_slice(&key_bytes.to_le_bytes());
    header[CHECKED_FROM..].copy_from_slice(&arrived_at.micros().to_le_bytes());
    rest[..partition_key.len()].copy_from_slice(partition_key);
    rest[partition_key.len()..].copy_from_slice(payload);
    let checksum = checksum(key_bytes, &value[CHECKED_FROM..]);
    value[4..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
}

/// Takes a stored value apart and checks it.
pub(super) fn parse(value: &[u8]) -> Result<Stored<'_>, String> {
    let (header, rest) = value.split_at_checked(HEADER_BYTES).ok_or("a record is shorter than its header")?;
    if header[0] != VERSION {
        return Err(format!("a record has version {}", header[0]));
    }
    let key_bytes = u16::from_le_bytes([header[2], header[3]]);
    let (partition_key, payload) =
        rest.split_at_checked(usize::from(key_bytes)).ok_or("a record is shorter than its partition key")?;
    let stored = u32::from_le_bytes(header[4..8].try_into().expect("four bytes"));
    let arrived_at = Timestamp::from_micros(i64::from_le_bytes(header[8..].try_into().expect("eight bytes")));
    if stored != checksum(key_bytes, &value[CHECKED_FROM..]) {
        return Err("a record's checksum differs".to_owned());
    }
    Ok(Stored { arrived_at, partition_key, payload })
}

/// Returns the checksum of what follows it in a value; the length before it is the seed.
fn checksum(key_bytes: u16, rest: &[u8]) -> u32 {
    let hash = xxh3_64_with_seed(rest, u64::from(key_bytes));
    // The low half; the rest adds nothing at this length.
    u32::try_from(hash & u64::from(u32::MAX)).expect("masked to 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(arrived_at: i64, partition_key: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut value = vec![0; stored_bytes(partition_key, payload)];
        write(Timestamp::from_micros(arrived_at), partition_key, payload, &mut value);
        value
    }

    #[test]
    fn golden_bytes_of_version_1() {
        let value = stored(1_357_034_400_000_000, b"k1", b"{}");
        let text: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "010002000cd262bb00285c3137d204006b317b7d");
        let stored = parse(&value).unwrap();
        assert_eq!((stored.partition_key, stored.payload), (&b"k1"[..], &b"{}"[..]));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let value = stored(7, b"key", b"payload");
        for bit in 0..value.len() * 8 {
            if bit / 8 == 1 {
                continue; // the reserved byte
            }
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..value.len() {
            assert!(parse(&value[..length]).is_err(), "{length} bytes");
        }
    }
}
