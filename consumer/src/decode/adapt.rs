//! Brings rows of an earlier schema of the same epoch to its final one: adds columns of nulls, widens integers.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Float64Array, ListArray, RecordBatch, StructArray, new_null_array};
use arrow_schema::{DataType, SchemaRef};

/// Returns the rows with the columns of `schema`, which has grown from theirs.
pub fn adapt(rows: &RecordBatch, schema: &SchemaRef) -> RecordBatch {
    if rows.schema_ref() == schema {
        return rows.clone();
    }
    let column = |field: &Arc<arrow_schema::Field>| {
        let found = rows.column_by_name(field.name());
        adapt_array(found, field.data_type(), rows.num_rows())
    };
    let columns = schema.fields().iter().map(column).collect();
    RecordBatch::try_new(Arc::clone(schema), columns).expect("columns are made by the schema, all of one length")
}

fn adapt_array(array: Option<&ArrayRef>, wanted: &DataType, rows: usize) -> ArrayRef {
    let Some(array) = array else {
        return new_null_array(wanted, rows);
    };
    if array.data_type() == wanted {
        return Arc::clone(array);
    }
    match (array.data_type(), wanted) {
        (DataType::Int64, DataType::Float64) => {
            let integers = array.as_primitive::<Int64Type>();
            #[expect(clippy::cast_precision_loss, reason = "widening is refused while a value would change")]
            let floats: Float64Array = integers.unary(|integer| integer as f64);
            Arc::new(floats)
        }
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let object = array.as_struct();
            let field = |field: &Arc<arrow_schema::Field>| {
                adapt_array(object.column_by_name(field.name()), field.data_type(), rows)
            };
            let columns = fields.iter().map(field).collect();
            Arc::new(StructArray::new(fields.clone(), columns, object.nulls().cloned()))
        }
        (DataType::List(_), DataType::List(item)) => {
            let list = array.as_list::<i32>();
            let values = adapt_array(Some(list.values()), item.data_type(), list.values().len());
            Arc::new(ListArray::new(Arc::clone(item), list.offsets().clone(), values, list.nulls().cloned()))
        }
        (found, wanted) => unreachable!("a column of {found} never becomes one of {wanted}"),
    }
}
