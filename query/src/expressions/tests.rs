use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};

use super::*;

const CARRIED: [&str; 2] = ["_shard", "_arrived_at"];

fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    let carried = CARRIED.map(|name| Field::new(name, DataType::Utf8, true));
    let own = columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true));
    Arc::new(Schema::new(carried.into_iter().chain(own).collect::<Vec<_>>()))
}

fn parse(sql: &str) -> Result<Expressions, Refused> {
    Expressions::parse(sql, &CARRIED, &schema(&[]))
}

#[test]
fn what_is_no_function_of_one_row_is_refused_with_the_reason() {
    let check = |sql: &str, reason: &str| match parse(sql) {
        Ok(_) => panic!("{sql} was accepted"),
        Err(refused) => {
            let said = refused.to_string();
            assert!(said.contains(reason) && !said.contains('\n'), "{sql}: {said}");
        }
    };
    // Functions. `now` and `current_date` are Stable, not Volatile.
    check("SELECT now() AS t FROM events", "`now` is not immutable");
    check("SELECT current_date AS t FROM events", "`current_date` is not immutable");
    check("SELECT current_timestamp AS t FROM events", "not immutable");
    check("SELECT a FROM events WHERE t < now()", "`now` is not immutable");
    check("SELECT CASE WHEN false THEN now() END AS t FROM events", "`now` is not immutable");
    check("SELECT random() AS r FROM events", "`random` is not immutable");
    check("SELECT uuid() AS r FROM events", "`uuid` is not immutable");
    check("SELECT count(*) AS n FROM events", "`count` is an aggregate");
    check("SELECT sum(a) AS n FROM events", "`sum` is an aggregate");
    check("SELECT row_number() OVER (ORDER BY a) AS n FROM events", "window function");
    check("SELECT sum(a) OVER () AS n FROM events", "window function");
    check("SELECT nonsense(a) AS n FROM events", "there is no function `nonsense`");
    check("SELECT unnest(a) AS n FROM events", "several rows");
    // Clauses.
    check("SELECT a FROM events GROUP BY a", "GROUP BY is not allowed");
    check("SELECT a FROM events GROUP BY ALL", "GROUP BY is not allowed");
    check("SELECT a FROM events HAVING a > 1", "HAVING is not allowed");
    check("SELECT DISTINCT a FROM events", "DISTINCT is not allowed");
    check("SELECT a FROM events ORDER BY a", "ORDER BY is not allowed");
    check("SELECT a FROM events LIMIT 5", "LIMIT is not allowed");
    check("SELECT a FROM events OFFSET 5", "LIMIT is not allowed");
    check("SELECT a FROM events FETCH FIRST 5 ROWS ONLY", "LIMIT is not allowed");
    check("WITH x AS (SELECT 1) SELECT a FROM events", "WITH is not allowed");
    check("SELECT a FROM events FOR UPDATE", "a clause that is not allowed");
    // What the engine passes over, what cannot be read back, and what an event could make too large.
    check("SELECT a FROM events TABLESAMPLE BERNOULLI (10)", "TABLESAMPLE");
    check("SELECT upper(a) FILTER (WHERE a > 'b') AS u FROM events", "is not allowed");
    check("SELECT upper(DISTINCT a) AS u FROM events", "is not allowed");
    check("SELECT upper(a) IGNORE NULLS AS u FROM events", "is not allowed");
    check("SELECT a, - -a AS x FROM events", "cannot be stored");
    check("SELECT events.a AS a FROM events AS e", "the table is called `e` here");
    check("SELECT lpad(a, n) AS x FROM events", "which must be a number up to 1000000");
    check("SELECT repeat(a, 10000000) AS x FROM events", "which must be a number up to 1000000");
    check("SELECT range(0, n) AS x FROM events", "which must be a number up to 1000000");
    check("SELECT version() AS v FROM events", "`version`");
    // Tables.
    check("SELECT a FROM events JOIN events AS e ON true", "a join is not allowed");
    check("SELECT a FROM events, events AS e", "a join is not allowed");
    check("SELECT a FROM (SELECT a FROM events)", "a subquery is not allowed");
    check("SELECT (SELECT 1) AS a FROM events", "a subquery is not allowed");
    check("SELECT a FROM events WHERE a IN (SELECT 1)", "a subquery is not allowed");
    check("SELECT a FROM events WHERE EXISTS (SELECT 1)", "a subquery is not allowed");
    check("SELECT a FROM events UNION SELECT a FROM events", "UNION is not allowed");
    check("VALUES (1)", "VALUES is not allowed");
    check("SELECT * FROM generate_series(1, 5)", "a table function is not allowed");
    check("SELECT a FROM elsewhere", "there is no table `elsewhere`");
    check("SELECT a FROM lake.events", "there is no table `lake.events`");
    check("SELECT 1 AS a", "without FROM events");
    // Statements.
    check("SELECT a FROM events; SELECT a FROM events", "several statements");
    check("DROP TABLE events", "DROP is no SELECT");
    check("CREATE TABLE t AS SELECT a FROM events", "CREATE is no SELECT");
    check("COPY events TO 'x.csv'", "COPY is no SELECT");
    check("SET x = 1", "SET is no SELECT");
    check("EXPLAIN SELECT a FROM events", "EXPLAIN is no SELECT");
    check("", "there is no statement");
    check("SELECT a FRM events", "");
    // Names.
    check("SELECT a + 1 FROM events", "`a + 1` needs a name");
    check("SELECT a AS _shard FROM events", "`_shard` is a column that Headwater fills");
    check("SELECT a AS \"_SHARD\" FROM events", "is a column that Headwater fills");
    check("SELECT a, a FROM events", "unique");
    // Constants that fail for every row.
    check("SELECT CAST('x' AS BIGINT) AS a FROM events", "");
}

#[test]
fn what_is_a_function_of_one_row_is_accepted() {
    for sql in [
        "SELECT * FROM events",
        "SELECT e.* FROM events AS e WHERE e.a > 1",
        "SELECT a, events.b, upper(c) AS c FROM events WHERE d IS NOT NULL AND a BETWEEN 1 AND 5",
        "SELECT * EXCEPT (a), coalesce(a, 0) AS b FROM events",
        "SELECT date_trunc('day', t) AS day, extract(year FROM t) AS y, a.b AS b, a['c'] AS c FROM events",
        "SELECT CASE WHEN a > 0 THEN 'x' ELSE 'y' END AS sign, a IN (1, 2, 3, 4, 5) AS few FROM events",
        "SELECT substr(a, 1, 2) AS s, nullif(a, 'NA') AS n, try_cast(b AS DOUBLE) AS d FROM events",
        "SELECT _arrived_at AS arrived, _shard || '/' || a AS place FROM events",
    ] {
        if let Err(refused) = parse(sql) {
            panic!("{sql}: {refused}");
        }
    }
}

#[test]
fn comments_and_white_space_are_no_part_of_the_canonical_form() {
    let canonical = |sql: &str| parse(sql).unwrap().canonical().to_owned();
    let plain = canonical("SELECT a, b + 1 AS c FROM events WHERE a > 1");
    assert_eq!(plain, "SELECT a, b + 1 AS c FROM events WHERE a > 1");
    assert_eq!(canonical("select a,  -- the first\n b+1 as c /* the sum */ from events\twhere a>1;"), plain);
    assert_eq!(canonical("SELECT /*+ a hint */ a, b + 1 AS c FROM events WHERE a > 1"), plain);
    assert_ne!(canonical("SELECT a, b + 2 AS c FROM events WHERE a > 1"), plain);
}

fn rows() -> RecordBatch {
    let schema = schema(&[("a", DataType::Int64), ("b", DataType::Float64)]);
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x", "y", "z"]));
    let a: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(0)]));
    let b: ArrayRef = Arc::new(Float64Array::from(vec![0.5, 1.5, 2.5]));
    RecordBatch::try_new(schema, vec![Arc::clone(&text), text, a, b]).unwrap()
}

fn planned(sql: &str, rows: &RecordBatch) -> Planned {
    parse(sql).unwrap().plan(&rows.schema()).unwrap()
}

#[test]
fn rows_are_kept_where_the_predicate_is_true() {
    let rows = rows();
    let kept = planned("SELECT a FROM events WHERE a > 0", &rows).keeps(&rows).unwrap().unwrap();
    let kept: Vec<bool> = kept.iter().map(|is_kept| is_kept == Some(true)).collect();
    assert_eq!(kept, [true, false, false]);
    assert!(planned("SELECT a FROM events", &rows).keeps(&rows).unwrap().is_none());
}

#[test]
fn outputs_have_their_names_and_types() {
    let rows = rows();
    let check = |sql: &str, expected: &[(&str, DataType)]| {
        let planned = planned(sql, &rows);
        let found: Vec<_> =
            planned.outputs().iter().map(|output| (output.name.as_str(), output.kind.clone())).collect();
        assert_eq!(found, expected, "{sql}");
    };
    let (a, b) = (("a", DataType::Int64), ("b", DataType::Float64));
    check("SELECT * FROM events", &[a.clone(), b.clone()]);
    check("SELECT b, a, _shard FROM events", &[b.clone(), a.clone()]);
    check("SELECT a + b AS sum FROM events", &[("sum", DataType::Float64)]);
    check("SELECT * EXCEPT (a) FROM events", &[b]);
    // A field that no event has had is null: without a type of its own, or with the one the expression gives.
    check("SELECT a, later FROM events", &[a, ("later", DataType::Null)]);
    check("SELECT coalesce(later, 'none') AS x FROM events", &[("x", DataType::Utf8)]);
}

#[test]
fn outputs_are_computed() {
    let rows = rows();
    let plan = planned("SELECT a * 2 AS twice, coalesce(later, b) AS b FROM events", &rows);
    let twice = plan.column(0, &rows).unwrap();
    assert_eq!(twice.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(2), None, Some(0)]);
    let b = plan.column(1, &rows).unwrap();
    assert_eq!(b.as_primitive::<Float64Type>().values().to_vec(), [0.5, 1.5, 2.5]);
}

#[test]
fn an_expression_that_fails_says_which_it_is() {
    let rows = rows();
    let plan = planned("SELECT 10 / a AS share FROM events", &rows);
    let error = plan.column(0, &rows).unwrap_err();
    assert!(error.starts_with("`10 / a`: ") && error.contains("ivide by zero"), "{error}");
    // A row alone fails, or does not.
    assert!(plan.column(0, &rows.slice(2, 1)).is_err());
    assert_eq!(plan.column(0, &rows.slice(0, 2)).unwrap().len(), 2);
}

#[test]
fn types_that_do_not_go_together_are_refused() {
    let expressions = parse("SELECT a AND true AS x FROM events").unwrap();
    let refused = expressions.plan(&schema(&[("a", DataType::Int64)])).unwrap_err();
    assert!(!refused.to_string().contains('\n'), "{refused}");
}
