//! The hash-key space: partition keys hash to 128 bits, shards and lanes are slices of it.

use xxhash_rust::xxh3::xxh3_128;

/// Returns the place of a partition key in the hash-key space of the embedded log (XXH3, 128 bits, seed 0).
pub fn of_partition_key(key: &[u8]) -> u128 {
    xxh3_128(key)
}

/// Returns which of `count` equal slices of the hash-key space holds `hash`. `count` is at least 1.
pub fn slice_of(hash: u128, count: u32) -> u32 {
    debug_assert!(count > 0, "the hash-key space has at least one slice");
    // The upper 64 bits decide: (hash / 2^128) * count, without a division.
    let upper = u64::try_from(hash >> 64).expect("a 128-bit number has 64 upper bits");
    u32::try_from((u128::from(upper) * u128::from(count)) >> 64).expect("below count, which is a u32")
}

/// Returns the first hash key of slice `index` of `count`.
pub fn first_of_slice(index: u32, count: u32) -> u128 {
    debug_assert!(index < count, "slices are numbered from 0");
    // The smallest upper half whose product with `count` reaches `index << 64`.
    ((u128::from(index) << 64).div_ceil(u128::from(count))) << 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_begin_where_they_say_and_cover_everything() {
        for count in [1_u32, 2, 3, 7, 16, 1000] {
            assert_eq!(slice_of(0, count), 0);
            assert_eq!(slice_of(u128::MAX, count), count - 1);
            for index in 0..count {
                let first = first_of_slice(index, count);
                assert_eq!(slice_of(first, count), index, "{index} of {count}");
                if index > 0 {
                    assert_eq!(slice_of(first - 1, count), index - 1, "{index} of {count}");
                }
            }
        }
    }
}
