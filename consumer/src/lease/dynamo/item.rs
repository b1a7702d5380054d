//! Rows as DynamoDB items, and the expressions that write them.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use headwater_common::timestamp::Timestamp;
use headwater_lake::layout::Epoch;

use crate::lease::claim::{Claim, WorkerId};
use crate::lease::row::{LeaseKey, Row, column};

/// An item: columns by name.
pub(super) type Item = HashMap<String, AttributeValue>;

/// The expressions of a conditional write. Columns go by placeholders, because some names are words of the language.
#[derive(Default)]
pub(super) struct Expression {
    /// The columns behind the placeholders.
    pub(super) names: HashMap<String, String>,
    /// The values behind the placeholders.
    pub(super) values: Item,
    sets: Vec<String>,
    removes: Vec<String>,
    conditions: Vec<String>,
}

impl Expression {
    /// Demands that exactly this claim is there, or no item.
    pub(super) fn expect(&mut self, claim: Option<&Claim>) {
        let Some(claim) = claim else {
            return self.demand(column::KEY, None);
        };
        self.demand(column::OWNER, claim.owner.as_ref().map(text));
        self.demand(column::COUNTER, Some(number(claim.counter)));
        self.demand(column::HAND_OVER_TO, claim.wish.as_ref().map(text));
    }

    /// Writes all columns that are ours.
    pub(super) fn write(&mut self, row: &Row) {
        self.set(column::OWNER, row.claim.owner.as_ref().map(text));
        self.set(column::COUNTER, Some(number(row.claim.counter)));
        self.set(column::HAND_OVER_TO, row.claim.wish.as_ref().map(text));
        self.set(column::CHECKPOINT, Some(text(row.checkpoint)));
        self.set(column::SUB_SEQUENCE, Some(number(0)));
        self.set(column::OWNER_SWITCHES, Some(number(row.owner_switches)));
        self.set(column::LAKE, Some(text(&row.lake)));
        self.set(column::RENEWED_AT, row.renewed_at.map(text));
    }

    /// Returns the update expression.
    pub(super) fn update(&self) -> String {
        let mut clauses = Vec::new();
        for (word, columns) in [("SET", &self.sets), ("REMOVE", &self.removes)] {
            if !columns.is_empty() {
                clauses.push(format!("{word} {}", columns.join(", ")));
            }
        }
        clauses.join(" ")
    }

    /// Returns the condition expression.
    pub(super) fn condition(&self) -> String {
        self.conditions.join(" AND ")
    }

    fn demand(&mut self, column: &str, value: Option<AttributeValue>) {
        let name = self.name(column);
        let condition = match value {
            None => format!("attribute_not_exists({name})"),
            Some(value) => {
                let placeholder = format!(":is_{column}");
                let condition = format!("{name} = {placeholder}");
                self.values.insert(placeholder, value);
                condition
            }
        };
        self.conditions.push(condition);
    }

    fn set(&mut self, column: &str, value: Option<AttributeValue>) {
        let name = self.name(column);
        match value {
            None => self.removes.push(name),
            Some(value) => {
                let placeholder = format!(":{column}");
                self.sets.push(format!("{name} = {placeholder}"));
                self.values.insert(placeholder, value);
            }
        }
    }

    fn name(&mut self, column: &str) -> String {
        let placeholder = format!("#{column}");
        self.names.insert(placeholder.clone(), column.to_owned());
        placeholder
    }
}

/// Returns the item that is a key alone.
pub(super) fn key(key: &LeaseKey) -> Item {
    HashMap::from([(column::KEY.to_owned(), text(key))])
}

/// Reads a row; when it is damaged, its key and what is wrong.
pub(super) fn row(item: &Item) -> Result<Row, (String, String)> {
    let key = item.get(column::KEY).and_then(|key| key.as_s().ok()).cloned().unwrap_or_default();
    let bad = |column: &str| (key.clone(), format!("its column {column} cannot be read"));
    let text = |column: &str| match item.get(column) {
        None | Some(AttributeValue::Null(_)) => Ok(None),
        Some(AttributeValue::S(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(bad(column)),
    };
    let number = |column: &str| match item.get(column) {
        None => Ok(None),
        Some(AttributeValue::N(digits)) => digits.parse::<u64>().map(Some).map_err(|_| bad(column)),
        Some(_) => Err(bad(column)),
    };
    let worker = |column: &str| match text(column)? {
        None => Ok(None),
        Some(name) => name.parse::<WorkerId>().map(Some).map_err(|_| bad(column)),
    };
    let counter = number(column::COUNTER)?.ok_or_else(|| bad(column::COUNTER))?;
    let claim = Claim { owner: worker(column::OWNER)?, counter, wish: worker(column::HAND_OVER_TO)? };
    // Hints: whatever stands there, nothing is decided by it.
    let checkpoint = text(column::CHECKPOINT)?.and_then(|epoch| epoch.parse().ok()).unwrap_or_default();
    Ok(Row {
        key: key.parse().map_err(|_| bad(column::KEY))?,
        claim,
        checkpoint: Epoch(checkpoint),
        owner_switches: number(column::OWNER_SWITCHES)?.unwrap_or_default(),
        lake: text(column::LAKE)?.unwrap_or_default().to_owned(),
        renewed_at: text(column::RENEWED_AT)?.and_then(|time| time.parse::<Timestamp>().ok()),
    })
}

fn text(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Row {
        let claim = Claim { owner: Some("one".parse().unwrap()), counter: 7, wish: Some("two".parse().unwrap()) };
        Row {
            key: "v1/orders/g00001/0of4".parse().unwrap(),
            claim,
            checkpoint: Epoch(42),
            owner_switches: 1,
            lake: "file:///lake/".into(),
            renewed_at: Some("2026-11-21T00:00:00Z".parse().unwrap()),
        }
    }

    /// What the table holds after the row was written over `before`.
    fn written(row: &Row, before: &Item) -> Item {
        let mut expression = Expression::default();
        expression.write(row);
        let mut item = before.clone();
        item.extend(key(&row.key));
        for set in &expression.sets {
            let (name, value) = set.split_once(" = ").unwrap();
            item.insert(expression.names[name].clone(), expression.values[value].clone());
        }
        for name in &expression.removes {
            item.remove(&expression.names[name]);
        }
        item
    }

    #[test]
    fn a_row_is_an_item_with_the_columns_of_the_client_library() {
        let row = example();
        let item = written(&row, &Item::new());
        let names = ["leaseKey", "leaseOwner", "leaseCounter", "checkpoint", "checkpointSubSequenceNumber"];
        for name in names.iter().chain(&["ownerSwitchesSinceCheckpoint", "handOverTo", "lake", "renewedAt"]) {
            assert!(item.contains_key(*name), "{name}");
        }
        assert_eq!(item["checkpoint"], AttributeValue::S("42".into()), "a text, as the library has it");
        assert_eq!(super::row(&item), Ok(row));
    }

    #[test]
    fn what_is_not_there_any_more_is_removed_and_what_is_not_ours_stays() {
        let mut row = example();
        let mut before = written(&row, &Item::new());
        before.insert("throughputKBps".into(), AttributeValue::N("1".into()));
        row.claim = row.claim.handed_over().handed_over();
        let item = written(&row, &before);
        assert!(!item.contains_key("leaseOwner") && !item.contains_key("handOverTo"));
        assert!(item.contains_key("throughputKBps"));
        assert_eq!(super::row(&item), Ok(row));
    }

    #[test]
    fn a_write_demands_the_whole_claim() {
        let mut expression = Expression::default();
        expression.expect(Some(&example().claim.withdrawn()));
        let condition = "#leaseOwner = :is_leaseOwner AND #leaseCounter = :is_leaseCounter AND \
            attribute_not_exists(#handOverTo)";
        assert_eq!(expression.condition(), condition);
        let mut expression = Expression::default();
        expression.expect(None);
        assert_eq!(expression.condition(), "attribute_not_exists(#leaseKey)");
        assert!(expression.values.is_empty() && expression.names.len() == 1);
    }

    #[test]
    fn a_row_that_cannot_be_read_is_named() {
        for (name, value) in [
            ("leaseCounter", AttributeValue::S("7".into())),
            ("leaseCounter", AttributeValue::N("-7".into())),
            ("leaseOwner", AttributeValue::N("7".into())),
            ("leaseOwner", AttributeValue::S("two words".into())),
            ("leaseKey", AttributeValue::S("v1/orders/0of4".into())),
        ] {
            let mut item = written(&example(), &Item::new());
            item.insert(name.into(), value);
            let (_, what) = super::row(&item).unwrap_err();
            assert!(what.contains(name), "{what}");
        }
    }
}
