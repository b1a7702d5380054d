use std::sync::Arc;

use arrow_array::builder::{Int64Builder, ListBuilder};
use arrow_array::{BooleanArray, Int64Array, StringArray, StructArray};
use arrow_schema::{Field, Schema};

use super::*;

fn example() -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4), None]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some(""), None, Some("long"), Some("x")]));
    let flags: ArrayRef = Arc::new(BooleanArray::from(vec![None, Some(true), Some(false), None, Some(true)]));
    let mut lists = ListBuilder::new(Int64Builder::new()).with_field(Field::new("element", DataType::Int64, true));
    lists.append_value([Some(1), None]);
    lists.append_null();
    lists.append_value([]);
    lists.append_value([Some(7)]);
    lists.append_value([None]);
    let nested: ArrayRef =
        Arc::new(StructArray::from(vec![(Arc::new(Field::new("t", DataType::Utf8, true)), Arc::clone(&texts))]));
    RecordBatch::try_from_iter_with_nullable([
        ("n", numbers, true),
        ("t", texts, true),
        ("f", flags, true),
        ("l", Arc::new(lists.finish()) as ArrayRef, true),
        ("s", nested, true),
    ])
    .unwrap()
}

fn digest(batches: &[RecordBatch]) -> RowDigest {
    let mut hasher = RowHasher::new(&batches[0].schema());
    batches.iter().for_each(|batch| hasher.update(batch));
    hasher.finish()
}

#[test]
fn golden_digest_of_version_1() {
    assert_eq!(digest(&[example()]).to_string(), include_str!("../../golden/row-digest-v1.txt").trim());
}

#[test]
fn batching_does_not_matter() {
    let whole = example();
    for split in 0..=whole.num_rows() {
        let parts = [whole.slice(0, split), whole.slice(split, whole.num_rows() - split)];
        assert_eq!(digest(&parts), digest(std::slice::from_ref(&whole)), "split at {split}");
    }
}

#[test]
fn order_values_and_nulls_matter() {
    let whole = example();
    let swapped = [whole.slice(1, 1), whole.slice(0, 1), whole.slice(2, 3)];
    assert_ne!(digest(&swapped), digest(std::slice::from_ref(&whole)));
    assert_ne!(digest(&[whole.slice(0, 4)]), digest(&[whole]));
    let texts = |values: Vec<Option<&str>>| {
        let array: ArrayRef = Arc::new(StringArray::from(values));
        digest(&[RecordBatch::try_from_iter_with_nullable([("t", array, true)]).unwrap()])
    };
    assert_ne!(texts(vec![Some("ab"), Some("c")]), texts(vec![Some("a"), Some("bc")]));
    assert_ne!(texts(vec![Some(""), Some("a")]), texts(vec![None, Some("a")]));
}

#[test]
fn a_column_of_nulls_is_as_good_as_none() {
    let whole = example();
    let mut fields = whole.schema().fields().to_vec();
    fields.push(Arc::new(Field::new("later", DataType::Utf8, true)));
    let mut columns = whole.columns().to_vec();
    columns.push(arrow_array::new_null_array(&DataType::Utf8, whole.num_rows()));
    let grown = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    assert_eq!(digest(&[grown]), digest(&[whole]));
}
