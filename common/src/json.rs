//! The one question about JSON text that both who writes it and who reads it ask for every value.

/// Returns how many bytes there are before the first quote, backslash or control character: so many are a JSON
/// string's content as they are.
///
/// Looks at eight bytes at once. The tests for one byte's value may also hit bytes after a true hit, never before the
/// first, and only the first counts.
#[inline]
pub fn plain_length(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let equal_bytes = |word: u64, byte: u8| zero_bytes(word ^ (ONES * u64::from(byte)));
    let control_bytes = |word: u64| word.wrapping_sub(ONES * 0x20) & !word & HIGH;
    let hits = |word: [u8; 8]| {
        let word = u64::from_le_bytes(word);
        equal_bytes(word, b'"') | equal_bytes(word, b'\\') | control_bytes(word)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let hits = hits(*word);
        if hits != 0 {
            return index * 8 + hits.trailing_zeros() as usize / 8;
        }
    }
    if let (false, Some(last)) = (rest.is_empty(), bytes.last_chunk::<8>()) {
        // Those of these eight that were looked at already are plain.
        let hits = hits(*last);
        return if hits == 0 { bytes.len() } else { bytes.len() - 8 + hits.trailing_zeros() as usize / 8 };
    }
    let plain = |byte: &u8| *byte >= 0x20 && !matches!(byte, b'"' | b'\\');
    words.len() * 8 + rest.iter().take_while(|byte| plain(byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_ends_at_the_first_byte_that_means_something() {
        for length in 0..40 {
            for special in [b'"', b'\\', 0, 0x1f] {
                let mut bytes = vec![b'a'; length];
                bytes.push(special);
                bytes.extend_from_slice(b"!\"\\\x01 ~\xff\x80");
                assert_eq!(plain_length(&bytes), length, "{special}");
            }
            assert_eq!(plain_length(&vec![0x80; length]), length);
        }
    }
}
