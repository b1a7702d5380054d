//! Keeps what was used last, up to a weight.

use std::collections::VecDeque;
use std::sync::Arc;

/// Entries of a cache at most; a look goes through all of them.
const ENTRIES_MAX: usize = 256;

/// What was used last; the entry that was not used for longest goes first.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    entries: VecDeque<Entry<K, V>>,
    weight: usize,
    weight_max: usize,
}

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: Arc<V>,
    weight: usize,
}

impl<K: PartialEq, V> Cache<K, V> {
    /// Returns an empty cache.
    pub(super) fn new(weight_max: usize) -> Self {
        Self { entries: VecDeque::new(), weight: 0, weight_max }
    }

    /// Returns what is kept under a key.
    pub(super) fn get(&mut self, key: &K) -> Option<Arc<V>> {
        let index = self.entries.iter().position(|entry| entry.key == *key)?;
        let entry = self.entries.remove(index)?;
        let value = Arc::clone(&entry.value);
        self.entries.push_back(entry);
        Some(value)
    }

    /// Keeps a value, also one that is heavier than all that may be kept: then it is the only one.
    pub(super) fn put(&mut self, key: K, value: Arc<V>, weight: usize) {
        if self.get(&key).is_some() {
            return;
        }
        self.entries.push_back(Entry { key, value, weight });
        self.weight += weight;
        while (self.weight > self.weight_max || self.entries.len() > ENTRIES_MAX) && self.entries.len() > 1 {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.weight -= oldest.weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_the_last_one_stays() {
        let mut cache = Cache::new(10);
        for key in ["a", "b"] {
            cache.put(key, Arc::new(key), 4);
        }
        assert!(cache.get(&"a").is_some());
        cache.put("c", Arc::new("c"), 4);
        let kept = |cache: &mut Cache<&str, &str>| ["a", "b", "c", "d"].map(|key| cache.get(&key).is_some());
        assert_eq!(kept(&mut cache), [true, false, true, false]);
        cache.put("d", Arc::new("d"), 99);
        assert_eq!(kept(&mut cache), [false, false, false, true]);
    }
}
