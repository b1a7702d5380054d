//! The types of the engine and those of the table: what a column is stored as, and how values get there unchanged.
//!
//! A column keeps the type it came with. Widths and encodings of one kind of value are brought to the table's one; of
//! different kinds only integers and floats go into each other, and only values that are the same there.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampNanosecondType;
use arrow_array::{Array, ArrayRef, ListArray, StructArray, TimestampMicrosecondArray, UInt32Array, new_null_array};
use arrow_buffer::OffsetBuffer;
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, TimeUnit};
use arrow_select::take::take;
use headwater_lake::schema::{Column, ColumnType, SchemaVersion, holdable_name};

/// Returns the type that values are stored as; `None` while they have none, because all of them are null.
///
/// # Errors
/// When the table has no such type.
pub(crate) fn stored_as(kind: &DataType, since: SchemaVersion) -> Result<Option<ColumnType>, String> {
    Ok(Some(match kind {
        DataType::Null => return Ok(None),
        DataType::Boolean => ColumnType::Boolean,
        kind if kind.is_integer() => ColumnType::Int64,
        kind if kind.is_floating() => ColumnType::Float64,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ColumnType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            ColumnType::Binary
        }
        DataType::Date32 | DataType::Date64 => ColumnType::Date,
        DataType::Timestamp(..) => ColumnType::Timestamp,
        DataType::Dictionary(_, values) => return stored_as(values, since),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            match stored_as(item.data_type(), since)? {
                Some(item) => ColumnType::List(Box::new(item)),
                None => return Ok(None),
            }
        }
        DataType::Struct(fields) => {
            let mut columns: Vec<Column> = Vec::new();
            for field in fields {
                let is_there = |name: &str| columns.iter().any(|column| column.name.to_lowercase() == name);
                if holdable_name(field.name(), is_there) != *field.name() {
                    return Err(format!("an object cannot have the field `{}` twice, or by that name", field.name()));
                }
                if let Some(kind) = stored_as(field.data_type(), since)? {
                    columns.push(Column::new(field.name(), kind, since));
                }
            }
            if columns.is_empty() {
                return Ok(None);
            }
            ColumnType::Struct(columns)
        }
        other => return Err(format!("a column cannot hold {other}; CAST it to another type")),
    }))
}

/// Brings a column's type up to what is found now: objects may get more fields when `may_grow`, nothing else changes.
///
/// # Errors
/// When values of one type do not go into the other.
pub(crate) fn merge(known: &mut ColumnType, found: &ColumnType, may_grow: bool) -> Result<(), String> {
    use ColumnType::{Float64, Int64};
    let is_same_kind = std::mem::discriminant(&*known) == std::mem::discriminant(found);
    match (known, found) {
        (ColumnType::Struct(fields), ColumnType::Struct(others)) => {
            for other in others {
                match fields.iter_mut().find(|field| field.name.eq_ignore_ascii_case(&other.name)) {
                    Some(field) if field.name == other.name => merge(&mut field.kind, &other.kind, may_grow)?,
                    Some(_) => {
                        return Err(format!("an object cannot have the field `{}` twice", other.name));
                    }
                    None if may_grow => fields.push(other.clone()),
                    None => {}
                }
            }
            Ok(())
        }
        (ColumnType::List(item), ColumnType::List(other)) => merge(item, other, may_grow),
        (Int64, Float64) | (Float64, Int64) => Ok(()),
        _ if is_same_kind => Ok(()),
        (known, found) => Err(format!("it is {} and would become {}", known.name(), found.name())),
    }
}

/// Returns values as their column stores them.
///
/// # Errors
/// When a value does not fit; which one is said by the caller, who asks again with fewer.
pub(crate) fn convert(values: &ArrayRef, column: &ColumnType) -> Result<ArrayRef, String> {
    let wanted = column.arrow_type();
    let found = values.data_type();
    if *found == wanted {
        return Ok(Arc::clone(values));
    }
    match (found, column) {
        (DataType::Null, _) => Ok(new_null_array(&wanted, values.len())),
        (DataType::Struct(_), ColumnType::Struct(columns)) => convert_objects(values, columns, &wanted),
        (DataType::List(_), ColumnType::List(item)) => {
            let list = values.as_list::<i32>();
            let DataType::List(field) = wanted else { unreachable!("a list's type is a list") };
            let (lengths, places) = elements_of(list);
            let elements = take(list.values(), &places, None).map_err(|error| error.to_string())?;
            let elements = convert(&elements, item)?;
            Ok(Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lengths), elements, list.nulls().cloned())))
        }
        (DataType::LargeList(item) | DataType::FixedSizeList(item, _), ColumnType::List(_)) => {
            convert(&cast(values, &DataType::List(Arc::clone(item)))?, column)
        }
        (DataType::Timestamp(TimeUnit::Nanosecond, _), ColumnType::Timestamp) => {
            // Down to the microsecond, also before 1970, where a cast would go up.
            let nanos = values.as_primitive::<TimestampNanosecondType>();
            let micros: TimestampMicrosecondArray = nanos.unary(|nanos| nanos.div_euclid(1_000));
            cast(&(Arc::new(micros.with_timezone("UTC")) as ArrayRef), &wanted)
        }
        (DataType::Date64, ColumnType::Date) => exactly(values, &wanted, column),
        (found, ColumnType::Int64) if found.is_floating() => exactly(values, &wanted, column),
        (found, ColumnType::Float64) if found.is_integer() => exactly(values, &wanted, column),
        _ => cast(values, &wanted),
    }
}

/// Returns how many elements each list has, and where they are: neither those before a slice, nor what stands under a
/// null, is any row's.
fn elements_of(list: &ListArray) -> (Vec<usize>, UInt32Array) {
    let mut lengths = Vec::with_capacity(list.len());
    let mut places = Vec::new();
    for (at, bounds) in list.value_offsets().windows(2).enumerate() {
        let bound = |offset: i32| u32::try_from(offset).expect("offsets are not negative");
        let own = if list.is_valid(at) { bound(bounds[0])..bound(bounds[1]) } else { 0..0 };
        lengths.push(own.len());
        places.extend(own);
    }
    (lengths, UInt32Array::from(places))
}

fn convert_objects(values: &ArrayRef, columns: &[Column], wanted: &DataType) -> Result<ArrayRef, String> {
    let objects = values.as_struct();
    let DataType::Struct(fields) = wanted else { unreachable!("an object's type is a struct") };
    let mut arrays = Vec::with_capacity(columns.len());
    for column in columns {
        arrays.push(match objects.column_by_name(&column.name) {
            Some(found) => convert(found, &column.kind)?,
            None => new_null_array(&column.kind.arrow_type(), objects.len()),
        });
    }
    Ok(Arc::new(StructArray::new(fields.clone(), arrays, objects.nulls().cloned())))
}

/// Converts numbers that stay what they are: there and back gives the same.
fn exactly(values: &ArrayRef, wanted: &DataType, column: &ColumnType) -> Result<ArrayRef, String> {
    let refused = |_| format!("a value does not fit {}", column.name());
    let there = cast(values, wanted).map_err(refused)?;
    let back = cast(&there, values.data_type()).map_err(refused)?;
    if *back == **values { Ok(there) } else { Err(refused(String::new())) }
}

fn cast(values: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, String> {
    // A value that does not fit is an error, not null.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(values, wanted, &options).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use arrow_array::types::Int64Type;
    use arrow_array::{Float64Array, Int32Array, Int64Array, StringArray, UInt64Array};

    use super::*;

    #[test]
    fn values_are_never_changed_silently() {
        let convert = |values: ArrayRef, column: &ColumnType| convert(&values, column);
        let int64 = |values: ArrayRef| {
            let array = convert(values, &ColumnType::Int64)?;
            Ok::<_, String>(array.as_primitive::<Int64Type>().iter().collect::<Vec<_>>())
        };
        assert_eq!(int64(Arc::new(Int32Array::from(vec![Some(1), None]))), Ok(vec![Some(1), None]));
        assert_eq!(int64(Arc::new(Float64Array::from(vec![2.0]))), Ok(vec![Some(2)]));
        assert!(int64(Arc::new(Float64Array::from(vec![2.5]))).is_err());
        assert!(int64(Arc::new(Float64Array::from(vec![1e300]))).is_err());
        assert!(int64(Arc::new(UInt64Array::from(vec![u64::MAX]))).is_err());
        let large: ArrayRef = Arc::new(Int64Array::from(vec![9_007_199_254_740_993]));
        assert!(convert(large, &ColumnType::Float64).is_err());
    }

    #[test]
    fn a_column_keeps_its_type_and_objects_may_grow() {
        let check = |mut known: ColumnType, found: &ColumnType, expected: Result<&str, &str>| {
            let merged = merge(&mut known, found, true);
            let name = known.name();
            assert_eq!(merged.as_ref().map(|()| name.as_str()).map_err(String::as_str), expected);
        };
        let object = |names: &[&str]| {
            let field = |name: &&str| Column::new(name, ColumnType::Int64, SchemaVersion(1));
            ColumnType::Struct(names.iter().map(field).collect())
        };
        check(ColumnType::Int64, &ColumnType::Float64, Ok("BIGINT"));
        check(ColumnType::Int64, &ColumnType::Utf8, Err("it is BIGINT and would become VARCHAR"));
        check(object(&["a"]), &object(&["b", "a"]), Ok("STRUCT(a BIGINT, b BIGINT)"));
    }

    #[test]
    fn objects_are_brought_into_the_order_of_their_column() {
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let number: ArrayRef = Arc::new(Int32Array::from(vec![7]));
        let field = |name: &str, values: &ArrayRef| {
            (Arc::new(arrow_schema::Field::new(name, values.data_type().clone(), true)), Arc::clone(values))
        };
        let found: ArrayRef = Arc::new(StructArray::from(vec![field("b", &number), field("a", &text)]));
        let columns = ["a", "b", "c"].into_iter().zip([ColumnType::Utf8, ColumnType::Int64, ColumnType::Boolean]);
        let columns = columns.map(|(name, kind)| Column::new(name, kind, SchemaVersion(1))).collect();
        let converted = convert(&found, &ColumnType::Struct(columns)).unwrap();
        let converted = converted.as_struct();
        assert_eq!(converted.column_names(), ["a", "b", "c"]);
        assert_eq!(converted.column(1).as_primitive::<Int64Type>().value(0), 7);
        assert!(converted.column(2).is_null(0));
    }
}
