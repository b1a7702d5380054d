//! The columns that every row has besides the event's own: who it is, and where it stands.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow_buffer::Buffer;
use headwater_common::event::Event;
use headwater_common::timestamp::Timestamp;
use headwater_lake::schema::{Column, ColumnType, SchemaVersion};

use super::builder::{finish_offsets, take_all};

/// The columns that every row has besides the event's own.
pub const META_COLUMNS: [(&str, ColumnType); 5] = [
    ("_event_id", ColumnType::Utf8),
    ("_shard", ColumnType::Utf8),
    ("_sequence", ColumnType::Utf8),
    ("_sub_sequence", ColumnType::Int64),
    ("_arrived_at", ColumnType::Timestamp),
];

/// Returns the columns of [`META_COLUMNS`], as every table begins with them.
pub fn meta_columns() -> impl Iterator<Item = Column> {
    META_COLUMNS.iter().map(|(name, kind)| Column::new(name, kind.clone(), SchemaVersion::FIRST))
}

/// The columns of [`META_COLUMNS`].
#[derive(Debug, Default)]
pub(crate) struct MetaBuilder {
    ids: TextColumn,
    shards: TextColumn,
    sequences: TextColumn,
    sub_sequences: Vec<i64>,
    arrived: Vec<i64>,
    times: Vec<Timestamp>,
    /// Space for a padded number.
    number: String,
}

#[derive(Debug)]
struct TextColumn {
    offsets: Vec<i32>,
    text: Vec<u8>,
}

impl Default for TextColumn {
    fn default() -> Self {
        Self { offsets: vec![0], text: Vec::new() }
    }
}

impl TextColumn {
    fn append(&mut self, text: &str) {
        self.text.extend_from_slice(text.as_bytes());
        self.offsets.push(i32::try_from(self.text.len()).expect("a batch is bounded far below 2 GiB"));
    }

    fn finish(&mut self) -> ArrayRef {
        let offsets = finish_offsets(&mut self.offsets);
        Arc::new(StringArray::new(offsets, Buffer::from_vec(take_all(&mut self.text)), None))
    }
}

impl MetaBuilder {
    /// Returns how many rows there are.
    pub(crate) fn rows(&self) -> usize {
        self.times.len()
    }

    /// Appends an event's columns; its id is made of its place when it brings none.
    pub(crate) fn append(
        &mut self,
        id: Option<&str>,
        shard: &str,
        event: &Event,
        time: Timestamp,
        sequence_digits: usize,
    ) {
        use std::fmt::Write;
        self.number.clear();
        event.position.sequence.write_padded(sequence_digits, &mut self.number);
        self.sequences.append(&self.number);
        match id {
            Some(id) => self.ids.append(id),
            None => {
                self.number.clear();
                write!(self.number, "{shard}:{}", event.position).expect("writing to a string does not fail");
                self.ids.append(&self.number);
            }
        }
        self.shards.append(shard);
        self.sub_sequences.push(i64::from(event.position.sub_sequence));
        self.arrived.push(event.arrived_at.micros());
        self.times.push(time);
    }

    /// Returns the columns and the event times, and begins anew.
    pub(crate) fn finish(&mut self) -> (Vec<ArrayRef>, Vec<Timestamp>) {
        let arrived = TimestampMicrosecondArray::from(take_all(&mut self.arrived)).with_timezone("UTC");
        let arrays: Vec<ArrayRef> = vec![
            self.ids.finish(),
            self.shards.finish(),
            self.sequences.finish(),
            Arc::new(Int64Array::from(take_all(&mut self.sub_sequences))),
            Arc::new(arrived),
        ];
        (arrays, take_all(&mut self.times))
    }
}
