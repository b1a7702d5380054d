//! A transform planned for the columns there are, and evaluated over rows.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, Result as EngineResult, ScalarValue};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalTableSource, Projection};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::sql::planner::{ParserOptions, SqlToRel};

use super::functions::{Context, check_volatility};
use super::{Expressions, Refused, first_line};

/// A transform for rows of one schema.
#[derive(Debug)]
pub struct Planned {
    predicate: Option<PlannedColumn>,
    outputs: Vec<PlannedColumn>,
}

/// One expression of a transform.
#[derive(Debug)]
pub struct PlannedColumn {
    /// Its name; that of the field, or the one it was given.
    pub name: String,
    /// Its type; [`DataType::Null`] while it is null because a field is not known yet.
    pub kind: DataType,
    /// How it is written.
    text: String,
    expression: Arc<dyn PhysicalExpr>,
}

impl Planned {
    /// Returns the outputs in the order of the SELECT, without the columns that every row has anyway.
    pub fn outputs(&self) -> &[PlannedColumn] {
        &self.outputs
    }

    /// Returns which rows the WHERE keeps, those for which it is true; `None` when there is none and all are kept.
    ///
    /// # Errors
    /// When it fails on a row, which is not named: the message is about the row only when there is one.
    pub fn keeps(&self, rows: &RecordBatch) -> Result<Option<BooleanArray>, String> {
        let Some(predicate) = &self.predicate else {
            return Ok(None);
        };
        let values = predicate.evaluate(rows)?;
        match values.data_type() {
            DataType::Boolean => Ok(Some(values.as_boolean().clone())),
            // A predicate over fields that are not known yet.
            DataType::Null => Ok(Some(BooleanArray::from(vec![false; rows.num_rows()]))),
            other => Err(format!("`{}`: it is {other}, not true or false", predicate.text)),
        }
    }

    /// Returns the values of an output for all rows.
    ///
    /// # Errors
    /// As [`Planned::keeps`].
    pub fn column(&self, index: usize, rows: &RecordBatch) -> Result<ArrayRef, String> {
        self.outputs[index].evaluate(rows)
    }
}

impl PlannedColumn {
    fn evaluate(&self, rows: &RecordBatch) -> Result<ArrayRef, String> {
        let values = self.expression.evaluate(rows).and_then(|values| values.into_array(rows.num_rows()));
        values.map_err(|error| format!("`{}`: {}", self.text, first_line(&error)))
    }
}

/// Plans a transform for rows with the columns of `input`.
pub(super) fn plan(expressions: &Expressions, input: &SchemaRef) -> Result<Planned, Refused> {
    let unknown: HashSet<&str> =
        expressions.fields.iter().map(String::as_str).filter(|name| input.field_with_name(name).is_err()).collect();
    let logical = logical_plan(expressions, input, &unknown)?;
    let (projection, predicate) = projection_and_predicate(&logical)?;
    let schema = projection.input.schema();
    let compile = |name: &str, text: &str, expression: &Expr| {
        let expression = physical(expression, schema, &unknown)?;
        let kind = expression.data_type(schema.as_arrow())?;
        Ok::<_, Refused>(PlannedColumn { name: name.to_owned(), kind, text: text.to_owned(), expression })
    };
    let predicate_text = expressions.predicate.as_deref().unwrap_or("WHERE");
    let predicate = predicate.map(|predicate| compile("", predicate_text, predicate)).transpose()?;
    let mut outputs = Vec::with_capacity(projection.expr.len());
    for (expression, field) in projection.expr.iter().zip(projection.schema.fields()) {
        let name = field.name().as_str();
        if expressions.carried.iter().any(|carried| carried.eq_ignore_ascii_case(name)) {
            if matches!(expression, Expr::Column(column) if column.name == name) {
                continue;
            }
            return Err(Refused::new(format!(
                "`{name}` is a column that Headwater fills; a transform may not make it"
            )));
        }
        let text = expressions.texts.get(name).map_or(name, String::as_str);
        outputs.push(compile(name, text, expression)?);
    }
    Ok(Planned { predicate, outputs })
}

/// Plans the statement as it is written: no rule of the optimizer has seen it, so that nothing is folded away before
/// it was looked at.
fn logical_plan(expressions: &Expressions, input: &SchemaRef, unknown: &HashSet<&str>) -> Result<LogicalPlan, Refused> {
    let mut fields: Vec<FieldRef> = input.fields().iter().cloned().collect();
    // In order, so that the plan is the same each time.
    let named = expressions.fields.iter().filter(|name| unknown.contains(name.as_str()));
    fields.extend(named.map(|name| Arc::new(Field::new(name, DataType::Null, true))));
    let events = Arc::new(LogicalTableSource::new(Arc::new(Schema::new(fields))));
    let context = Context { functions: &expressions.functions, events };
    let options = ParserOptions { map_string_types_to_utf8view: false, ..ParserOptions::new() };
    let planner = SqlToRel::new_with_options(&context, options);
    Ok(planner.sql_statement_to_plan(expressions.statement.clone())?)
}

/// Returns what the plan consists of, when it is a projection, perhaps of a filter, of the events.
fn projection_and_predicate(plan: &LogicalPlan) -> Result<(&Projection, Option<&Expr>), Refused> {
    let refused = |node: &LogicalPlan| Refused::new(format!("{}; {}", node.display(), super::check::WHY));
    let LogicalPlan::Projection(projection) = plan else {
        return Err(refused(plan));
    };
    let (predicate, events) = match projection.input.as_ref() {
        LogicalPlan::Filter(filter) => (Some(&filter.predicate), filter.input.as_ref()),
        other => (None, other),
    };
    let events = match events {
        LogicalPlan::SubqueryAlias(alias) => alias.input.as_ref(),
        other => other,
    };
    if !matches!(events, LogicalPlan::TableScan(_)) {
        return Err(refused(events));
    }
    for expression in projection.expr.iter().chain(predicate) {
        check_expression(expression)?;
    }
    Ok((projection, predicate))
}

/// Refuses an expression in which anything is that is not a function of one row.
fn check_expression(expression: &Expr) -> Result<(), Refused> {
    let mut outcome = Ok(());
    expression.apply(|part| {
        let found = match part {
            Expr::Alias(_)
            | Expr::Column(_)
            | Expr::Literal(..)
            | Expr::BinaryExpr(_)
            | Expr::Like(_)
            | Expr::SimilarTo(_)
            | Expr::Not(_)
            | Expr::IsNotNull(_)
            | Expr::IsNull(_)
            | Expr::IsTrue(_)
            | Expr::IsFalse(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNotFalse(_)
            | Expr::IsNotUnknown(_)
            | Expr::Negative(_)
            | Expr::Between(_)
            | Expr::Case(_)
            | Expr::Cast(_)
            | Expr::TryCast(_)
            | Expr::InList(_) => Ok(()),
            Expr::ScalarFunction(call) => check_volatility(&call.func),
            other => Err(Refused::new(format!("`{other}` is not allowed; {}", super::check::WHY))),
        };
        Ok(match found {
            Ok(()) => TreeNodeRecursion::Continue,
            Err(refused) => {
                outcome = Err(refused);
                TreeNodeRecursion::Stop
            }
        })
    })?;
    outcome
}

/// Compiles an expression over the events' columns. A field that is not known yet becomes a null, so that rows need no
/// column for it. Some functions exist only as what the simplifier makes of them.
fn physical(expression: &Expr, schema: &DFSchemaRef, unknown: &HashSet<&str>) -> EngineResult<Arc<dyn PhysicalExpr>> {
    let expression = expression.clone().transform(|part| {
        let is_unknown = matches!(&part, Expr::Column(column) if unknown.contains(column.name.as_str()));
        Ok(if is_unknown { Transformed::yes(Expr::Literal(ScalarValue::Null, None)) } else { Transformed::no(part) })
    })?;
    let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::clone(schema)).build());
    let expression = simplifier.simplify(simplifier.coerce(expression.data, schema)?)?;
    create_physical_expr(&expression, schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())
}
