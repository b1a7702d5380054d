//! The hash-key space of Kinesis: 128 bits, which the MD5 of the partition key falls into.
//! <https://docs.aws.amazon.com/streams/latest/dev/key-concepts.html#partition-key>

use md5::{Digest, Md5};

/// Returns the hash key of a partition key, which chooses the shard of a record that names no other.
pub fn of_partition_key(key: &[u8]) -> u128 {
    let digest: [u8; 16] = Md5::digest(key).into();
    u128::from_be_bytes(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_read_with_its_first_byte_highest() {
        // MD5 of the empty text and of "abc", RFC 1321.
        assert_eq!(of_partition_key(b""), 0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e);
        assert_eq!(of_partition_key(b"abc"), 0x9001_5098_3cd2_4fb0_d696_3f7d_28e1_7f72);
    }
}
