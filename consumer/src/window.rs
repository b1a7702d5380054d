//! Which rows of an epoch belong to which window, and their chunks in lane order.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use arrow_select::interleave::interleave_record_batch;
use headwater_common::timestamp::Timestamp;
use headwater_common::window::{Partitioning, Start};

use crate::decode::{BATCH_ROWS, Decoded, adapt};

/// A row of an epoch: the index of its batch, and its index in there.
type RowRef = (u32, u32);

/// The rows of an epoch's output by window.
#[derive(Debug, Default)]
pub struct WindowIndex {
    windows: BTreeMap<Start, Vec<Stretch>>,
}

/// Rows `[start, end)` of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    batch: u32,
    start: u32,
    end: u32,
}

impl WindowIndex {
    /// Adds the rows of batch number `batch`, which come after all that were added before.
    pub fn add(&mut self, partitioning: &Partitioning, batch: usize, times: &[Timestamp]) {
        let number = |index: usize| u32::try_from(index).expect("an epoch is bounded far below 2^32 rows");
        let batch = number(batch);
        // Neighbours are mostly in one window, whose bounds are then known.
        let mut bounds: Option<(Start, Timestamp)> = None;
        let mut start = 0;
        for (row, time) in times.iter().enumerate() {
            let inside = bounds.is_some_and(|(window, end)| (window.0..end).contains(time));
            if inside {
                continue;
            }
            if let Some((window, _)) = bounds {
                let stretch = Stretch { batch, start: number(start), end: number(row) };
                self.windows.entry(window).or_default().push(stretch);
            }
            let window = partitioning.window_of(*time);
            bounds = Some((window, partitioning.end_of(window)));
            start = row;
        }
        if let Some((window, _)) = bounds {
            let stretch = Stretch { batch, start: number(start), end: number(times.len()) };
            self.windows.entry(window).or_default().push(stretch);
        }
    }

    /// Returns the windows that have rows, and how many, in order.
    pub fn windows(&self) -> impl Iterator<Item = (Start, u64)> {
        self.windows.iter().map(|(window, stretches)| (*window, stretches.iter().map(Stretch::rows).sum()))
    }

    /// Returns a window's rows in lane order, in chunks of [`BATCH_ROWS`], with the columns of `schema`.
    pub fn chunks<'a>(
        &'a self,
        window: Start,
        batches: &'a [Decoded],
        schema: &'a SchemaRef,
    ) -> impl Iterator<Item = RecordBatch> + 'a {
        let stretches = self.windows.get(&window).map(Vec::as_slice).unwrap_or_default();
        Chunks { stretches: stretches.iter(), rest: None, batches, schema }
    }
}

impl Stretch {
    fn rows(&self) -> u64 {
        u64::from(self.end - self.start)
    }
}

struct Chunks<'a> {
    stretches: std::slice::Iter<'a, Stretch>,
    rest: Option<Stretch>,
    batches: &'a [Decoded],
    schema: &'a SchemaRef,
}

impl Iterator for Chunks<'_> {
    type Item = RecordBatch;

    fn next(&mut self) -> Option<RecordBatch> {
        let mut parts: Vec<Stretch> = Vec::new();
        let mut rows = 0;
        while rows < BATCH_ROWS {
            let Some(stretch) = self.rest.take().or_else(|| self.stretches.next().copied()) else {
                break;
            };
            let room = u32::try_from(BATCH_ROWS - rows).expect("a chunk has few rows");
            let end = stretch.end.min(stretch.start.saturating_add(room));
            if end < stretch.end {
                self.rest = Some(Stretch { start: end, ..stretch });
            }
            rows += (end - stretch.start) as usize;
            parts.push(Stretch { end, ..stretch });
        }
        match parts.as_slice() {
            [] => None,
            [whole] => {
                let rows = &self.batches[whole.batch as usize].rows;
                let slice = rows.slice(whole.start as usize, (whole.end - whole.start) as usize);
                Some(adapt(&slice, self.schema))
            }
            parts => Some(self.gather(parts)),
        }
    }
}

impl Chunks<'_> {
    fn gather(&self, parts: &[Stretch]) -> RecordBatch {
        let mut sources: Vec<RecordBatch> = Vec::new();
        let mut numbers: BTreeMap<u32, u32> = BTreeMap::new();
        let mut rows: Vec<RowRef> = Vec::with_capacity(BATCH_ROWS);
        for part in parts {
            let source = *numbers.entry(part.batch).or_insert_with(|| {
                sources.push(adapt(&self.batches[part.batch as usize].rows, self.schema));
                u32::try_from(sources.len() - 1).expect("a chunk has few sources")
            });
            rows.extend((part.start..part.end).map(|row| (source, row)));
        }
        let sources: Vec<&RecordBatch> = sources.iter().collect();
        let rows: Vec<(usize, usize)> = rows.into_iter().map(|(s, r)| (s as usize, r as usize)).collect();
        interleave_record_batch(&sources, &rows).expect("all sources have the schema, and the rows exist")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{ArrayRef, Int64Array};

    use super::*;

    #[test]
    fn fm23_every_row_goes_to_the_window_of_its_own_time() {
        let times = [5, 90_000, 6, 7, 90_001, 8].map(|seconds| Timestamp::from_micros(seconds * 1_000_000));
        let partitioning = Partitioning::default();
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..6));
        let rows = RecordBatch::try_from_iter([("n", values)]).unwrap();
        let schema = rows.schema();
        let batches = vec![
            Decoded { rows: rows.slice(0, 4), times: times[..4].to_vec(), bytes: 0 },
            Decoded { rows: rows.slice(4, 2), times: times[4..].to_vec(), bytes: 0 },
        ];
        let mut index = WindowIndex::default();
        for (number, batch) in batches.iter().enumerate() {
            index.add(&partitioning, number, &batch.times);
        }
        let found: Vec<Vec<i64>> = index
            .windows()
            .map(|(window, _)| {
                let chunks = index.chunks(window, &batches, &schema);
                chunks.flat_map(|chunk| chunk.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
            })
            .collect();
        assert_eq!(found, [vec![0, 2, 3, 5], vec![1, 4]]);
    }
}
