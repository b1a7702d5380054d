//! Looks at the text of a transform, before any column is known: its shape, and the functions it calls.
//!
//! What is allowed is said once, by printing it: a statement that prints as more than its SELECT list, its FROM and its
//! WHERE has something else in it. What users are likely to write is looked for first, to name it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::ops::ControlFlow;

use datafusion::sql::parser::{DFParser, Statement as ParsedStatement};
use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, Function, FunctionArg, FunctionArguments, GroupByExpr, Ident, ObjectName, ObjectNamePart,
    Query, RenameSelectItem, Select, SelectItem, SetExpr, Statement, TableFactor, Visit, Visitor,
    WildcardAdditionalOptions,
};

use super::functions::{Functions, TABLE};
use super::{Refused, first_line};

/// Why so much of SQL is refused.
pub(super) const WHY: &str = "a transform makes each row of one event alone: SELECT … FROM events WHERE …";

/// A statement of the allowed kind.
pub(super) struct Checked {
    pub(super) statement: Statement,
    pub(super) canonical: String,
    pub(super) fields: BTreeSet<String>,
    pub(super) texts: BTreeMap<String, String>,
    pub(super) predicate: Option<String>,
}

/// Parses and checks a text.
pub(super) fn check(sql: &str, carried: &[String], functions: &Functions) -> Result<Checked, Refused> {
    let mut query = parse(sql)?;
    // A hint is a comment to this engine; it must not count as a part of the pipeline.
    if let SetExpr::Select(select) = query.body.as_mut() {
        select.optimizer_hints.clear();
    }
    let select = select_of(&query)?;
    let table = table_of(select)?;
    let canonical = plain_form(select);
    if query.to_string() != canonical {
        return Err(Refused::new(format!("the statement has a clause that is not allowed; {WHY}")));
    }
    // What is stored is read again one day; not everything that can be printed can be read.
    let is_readable = parse(&canonical).is_ok_and(|again| again.to_string() == canonical && again == query);
    if !is_readable {
        return Err(Refused::new(format!("the statement cannot be stored: written down it is `{canonical}`")));
    }
    let mut names = Names { functions, table: &table, fields: BTreeSet::new() };
    names.visit(&select.projection)?;
    names.visit(&select.selection)?;
    let mut texts = BTreeMap::new();
    for item in &select.projection {
        names.check_item(item, carried, &mut texts)?;
    }
    let fields = names.fields;
    let predicate = select.selection.as_ref().map(|predicate| format!("WHERE {predicate}"));
    Ok(Checked { statement: Statement::Query(query), canonical, fields, texts, predicate })
}

fn parse(sql: &str) -> Result<Box<Query>, Refused> {
    let mut statements = DFParser::parse_sql(sql).map_err(|error| Refused::new(first_line(&error)))?;
    let Some(first) = statements.pop_front() else {
        return Err(Refused::new(format!("there is no statement; {WHY}")));
    };
    if !statements.is_empty() {
        return Err(Refused::new("there are several statements; a transform is one SELECT"));
    }
    let shown = first.to_string();
    if let ParsedStatement::Statement(statement) = first
        && let Statement::Query(query) = *statement
    {
        return Ok(query);
    }
    let word = shown.split_whitespace().next().unwrap_or_default().to_owned();
    Err(Refused::new(format!("{word} is no SELECT; {WHY}")))
}

fn not_allowed(what: &str) -> Refused {
    Refused::new(format!("{what} is not allowed; {WHY}"))
}

/// Returns the SELECT that the query is, when it is nothing more.
fn select_of(query: &Query) -> Result<&Select, Refused> {
    let clauses = [
        (query.with.is_some(), "WITH"),
        (query.order_by.is_some(), "ORDER BY"),
        (query.limit_clause.is_some() || query.fetch.is_some(), "LIMIT"),
    ];
    if let Some((_, what)) = clauses.into_iter().find(|(is_there, _)| *is_there) {
        return Err(not_allowed(what));
    }
    let select = match query.body.as_ref() {
        SetExpr::Select(select) => select,
        SetExpr::Query(_) => return Err(not_allowed("a subquery")),
        SetExpr::SetOperation { op, .. } => return Err(not_allowed(&op.to_string())),
        SetExpr::Values(_) => return Err(not_allowed("VALUES")),
        _ => return Err(not_allowed("anything but a SELECT")),
    };
    let is_grouped = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(expressions, modifiers) => !expressions.is_empty() || !modifiers.is_empty(),
    };
    let clauses = [
        (select.distinct.is_some(), "DISTINCT"),
        (select.top.is_some(), "TOP"),
        (select.into.is_some(), "INTO"),
        (is_grouped, "GROUP BY"),
        (select.having.is_some(), "HAVING"),
        (!select.named_window.is_empty(), "WINDOW"),
        (select.qualify.is_some(), "QUALIFY"),
        (select.from.len() > 1 || select.from.iter().any(|from| !from.joins.is_empty()), "a join"),
        (select.from.is_empty(), "a SELECT without FROM events"),
        (select.projection.is_empty(), "a SELECT of nothing"),
    ];
    match clauses.into_iter().find(|(is_there, _)| *is_there) {
        Some((_, what)) => Err(not_allowed(what)),
        None => Ok(select),
    }
}

/// Returns the name under which the SELECT knows the table of events.
fn table_of(select: &Select) -> Result<String, Refused> {
    let relation = &select.from.first().expect("it was found to have one").relation;
    let (name, alias) = match relation {
        TableFactor::Table { args: Some(_), .. } | TableFactor::TableFunction { .. } | TableFactor::Function { .. } => {
            return Err(not_allowed("a table function"));
        }
        TableFactor::Table { name, alias, .. } => (name, alias),
        TableFactor::Derived { .. } => return Err(not_allowed("a subquery")),
        TableFactor::NestedJoin { .. } => return Err(not_allowed("a join")),
        _ => return Err(not_allowed(&format!("FROM {relation}"))),
    };
    if last_name(name).as_deref() != Some(TABLE) || name.0.len() != 1 {
        return Err(Refused::new(format!("there is no table `{name}`; a transform reads `{TABLE}`")));
    }
    let forms = match alias {
        Some(alias) => vec![format!("{name} {alias}"), format!("{name} AS {alias}")],
        None => vec![name.to_string()],
    };
    if !forms.contains(&relation.to_string()) {
        return Err(not_allowed(&format!("FROM {relation}")));
    }
    match alias {
        Some(alias) if !alias.columns.is_empty() => Err(not_allowed("other names for the table's columns")),
        Some(alias) => Ok(normalized(&alias.name)),
        None => Ok(TABLE.to_owned()),
    }
}

/// Returns the text of a statement that has nothing in it but what is allowed.
fn plain_form(select: &Select) -> String {
    let items: Vec<_> = select.projection.iter().map(ToString::to_string).collect();
    let from: Vec<_> = select.from.iter().map(ToString::to_string).collect();
    let mut text = format!("SELECT {} FROM {}", items.join(", "), from.join(", "));
    if let Some(predicate) = &select.selection {
        write!(text, " WHERE {predicate}").expect("writing to a string does not fail");
    }
    text
}

/// Returns a name as the engine looks it up: lower case unless quoted.
fn normalized(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_ascii_lowercase() }
}

fn last_name(name: &ObjectName) -> Option<String> {
    name.0.last().and_then(ObjectNamePart::as_ident).map(normalized)
}

/// Collects the fields that are named, and refuses what may not be called.
struct Names<'a> {
    functions: &'a Functions,
    /// The table's name in the statement.
    table: &'a str,
    fields: BTreeSet<String>,
}

impl Visitor for Names<'_> {
    type Break = Refused;

    fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<Refused> {
        ControlFlow::Break(not_allowed("a subquery"))
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<Refused> {
        match expression {
            Expr::Identifier(name) => {
                self.fields.insert(normalized(name));
            }
            Expr::CompoundIdentifier(names) => {
                let names: Vec<String> = names.iter().map(normalized).collect();
                if names.first().is_some_and(|name| name == TABLE) && self.table != TABLE {
                    let table = self.table;
                    return ControlFlow::Break(Refused::new(format!("the table is called `{table}` here")));
                }
                let field =
                    if names.first().is_some_and(|name| name == self.table) { names.get(1) } else { names.first() };
                self.fields.extend(field.cloned());
            }
            Expr::Function(call) if call.over.is_some() => {
                return ControlFlow::Break(not_allowed(&format!("the window function `{}`", call.name)));
            }
            Expr::Function(call) => {
                let name = last_name(&call.name).unwrap_or_default();
                let checked = self.functions.check(&name).and_then(|()| check_call(&name, call));
                if let Err(refused) = checked {
                    return ControlFlow::Break(refused);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// The largest size that a function may be asked for.
const SIZE_MAX: u64 = 1_000_000;

/// Refuses clauses that the engine would pass over, and a size that an event could choose: it would be the memory's.
fn check_call(name: &str, call: &Function) -> Result<(), Refused> {
    let arguments: &[FunctionArg] = match &call.args {
        FunctionArguments::None => &[],
        FunctionArguments::List(list) if list.duplicate_treatment.is_none() && list.clauses.is_empty() => &list.args,
        _ => return Err(not_allowed(&format!("`{call}`"))),
    };
    let is_plain = call.filter.is_none() && call.null_treatment.is_none() && call.within_group.is_empty();
    if !is_plain || !matches!(call.parameters, FunctionArguments::None) {
        return Err(not_allowed(&format!("`{call}`")));
    }
    let sizes = match name {
        "lpad" | "rpad" | "repeat" | "array_repeat" | "list_repeat" | "array_resize" | "list_resize" => {
            arguments.get(1..2).unwrap_or_default()
        }
        "range" | "generate_series" => arguments,
        _ => &[],
    };
    let is_small = |argument: &FunctionArg| {
        let literal = argument.to_string();
        literal.trim_start_matches('-').parse::<u64>().is_ok_and(|size| size <= SIZE_MAX)
    };
    match sizes.iter().find(|size| !is_small(size)) {
        Some(size) => Err(Refused::new(format!(
            "`{name}` asks for `{size}`, which must be a number up to {SIZE_MAX}: an event could ask for more memory \
             than there is"
        ))),
        None => Ok(()),
    }
}

impl Names<'_> {
    fn visit(&mut self, part: &impl Visit) -> Result<(), Refused> {
        match part.visit(self) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(refused) => Err(refused),
        }
    }

    /// Sees to it that every output has a name that was chosen, and is not one of the carried columns.
    fn check_item(
        &mut self,
        item: &SelectItem,
        carried: &[String],
        texts: &mut BTreeMap<String, String>,
    ) -> Result<(), Refused> {
        match item {
            SelectItem::UnnamedExpr(Expr::Identifier(_)) => Ok(()),
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(names))
                if names.len() == 2 && normalized(&names[0]) == self.table =>
            {
                Ok(())
            }
            SelectItem::UnnamedExpr(expression) => {
                Err(Refused::new(format!("`{expression}` needs a name: write `{expression} AS name`")))
            }
            SelectItem::ExprWithAlias { expr, alias } => {
                let name = normalized(alias);
                if carried.iter().any(|carried| carried.eq_ignore_ascii_case(&name)) {
                    return Err(Refused::new(format!(
                        "`{name}` is a column that Headwater fills; a transform may read it, not make it"
                    )));
                }
                texts.insert(name, expr.to_string());
                Ok(())
            }
            SelectItem::ExprWithAliases { .. } => Err(not_allowed("several names for one expression")),
            SelectItem::QualifiedWildcard(_, options) | SelectItem::Wildcard(options) => {
                self.fields.extend(named_in(options));
                Ok(())
            }
        }
    }
}

/// Returns the fields that the words behind a `*` name.
fn named_in(options: &WildcardAdditionalOptions) -> Vec<String> {
    let mut names = Vec::new();
    match &options.opt_exclude {
        Some(ExcludeSelectItem::Single(name)) => names.extend(last_name(name)),
        Some(ExcludeSelectItem::Multiple(list)) => names.extend(list.iter().filter_map(last_name)),
        None => {}
    }
    if let Some(except) = &options.opt_except {
        names.push(normalized(&except.first_element));
        names.extend(except.additional_elements.iter().map(normalized));
    }
    if let Some(replace) = &options.opt_replace {
        names.extend(replace.items.iter().map(|item| normalized(&item.column_name)));
    }
    match &options.opt_rename {
        Some(RenameSelectItem::Single(rename)) => names.push(normalized(&rename.ident)),
        Some(RenameSelectItem::Multiple(list)) => names.extend(list.iter().map(|rename| normalized(&rename.ident))),
        None => {}
    }
    names
}
