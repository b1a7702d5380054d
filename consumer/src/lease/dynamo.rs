//! Leases in a DynamoDB table, one item a lane.
//!
//! Guarantees: what is written is conditional on the whole claim; every column that is not ours stays as it is; an
//! answer that stayed away is looked up with a consistent read before anything is said. Reads are consistent. Relies on
//! the partition key `leaseKey` (text), which a table of the Kinesis Client Library has as well.
//!
//! Costs, as measured by calls: a renewal is one UpdateItem; a look is one BatchGetItem a hundred lanes; a worker's start
//! is one Scan more. Tries and time-outs are short, because a lease that is renewed late is lost.

mod item;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::Builder;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, KeysAndAttributes,
    ReturnValuesOnConditionCheckFailure, ScalarAttributeType, TableDescription, TableStatus,
};
use headwater_common::outcome::{Again, Effect};
use headwater_common::retry::Policy;
use headwater_stream::aws::{self, CallCounter, Failure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use self::item::{Expression, Item};
use super::claim::Claim;
use super::error::Error;
use super::row::{LeaseKey, Row, column};
use super::store::{LeaseStore, Outcome};

/// The most keys of a BatchGetItem
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html>).
const BATCH_KEYS_MAX: usize = 100;

/// How long an answer may take: a twelfth of a lease, within these.
const ATTEMPT_MIN: Duration = Duration::from_secs(1);
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
const ATTEMPTS_A_LEASE: u32 = 12;

/// What failed is tried again soon and not often: the keeper comes back to it.
const RETRY: Policy =
    Policy { tries_max: 3, pause_first: Duration::from_millis(50), pause_max: Duration::from_millis(500) };

/// How long a table that was just made may take to become active, and how long apart that is looked at.
const CREATION_MAX: Duration = Duration::from_secs(120);
const CREATION_POLL: Duration = Duration::from_millis(500);

/// A table of leases in DynamoDB.
pub struct DynamoLeases {
    client: Client,
    table: String,
    random: Mutex<SmallRng>,
}

/// How a lease table is opened.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Its name, or its ARN.
    pub table: String,
    /// Whether it is made where there is none: paid by the request, without a stand-by capacity.
    pub create: bool,
    /// The duration of the leases in it.
    pub duration: Duration,
    /// Seeds the jitter of the pauses.
    pub seed: u64,
}

impl std::fmt::Debug for DynamoLeases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DynamoLeases").field("table", &self.table).finish_non_exhaustive()
    }
}

/// Why a conditional write did not go through.
trait Refusal: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static {
    /// Returns the item that is there instead, when the condition was what failed and the service told it.
    fn found(&self) -> Option<Option<&Item>>;
}

impl Refusal for UpdateItemError {
    fn found(&self) -> Option<Option<&Item>> {
        match self {
            Self::ConditionalCheckFailedException(failed) => Some(failed.item()),
            _ => None,
        }
    }
}

impl Refusal for DeleteItemError {
    fn found(&self) -> Option<Option<&Item>> {
        match self {
            Self::ConditionalCheckFailedException(failed) => Some(failed.item()),
            _ => None,
        }
    }
}

impl DynamoLeases {
    /// Opens a lease table, with settings as the AWS command line finds them.
    ///
    /// # Errors
    /// When there is none and none is to be made, or when it cannot hold leases.
    pub async fn open(opening: Opening) -> Result<Self, Error> {
        let attempt = (opening.duration / ATTEMPTS_A_LEASE).clamp(ATTEMPT_MIN, ATTEMPT_MAX);
        let timeouts = TimeoutConfig::builder().connect_timeout(attempt).operation_attempt_timeout(attempt).build();
        let settings = aws::load().await;
        let settings = Builder::from(&settings).timeout_config(timeouts).interceptor(CallCounter::default()).build();
        Self::open_with(Client::from_conf(settings), opening).await
    }

    /// Opens a lease table through a client, which should try once: what is tried again is decided here.
    ///
    /// # Errors
    /// As [`DynamoLeases::open`].
    pub async fn open_with(client: Client, opening: Opening) -> Result<Self, Error> {
        let random = Mutex::new(SmallRng::seed_from_u64(opening.seed));
        let leases = Self { client, table: opening.table, random };
        leases.prepare(opening.create).await?;
        Ok(leases)
    }

    /// Waits for a table that is active and has the key of one for leases.
    async fn prepare(&self, create: bool) -> Result<(), Error> {
        let mut waited = Duration::ZERO;
        loop {
            match self.describe().await? {
                Some(found) if found.table_status() == Some(&TableStatus::Active) => return self.check(&found),
                Some(found) if waited >= CREATION_MAX => {
                    let status = found.table_status().map_or("unknown", TableStatus::as_str);
                    return Err(self.unfit(format!("its status is {status}")));
                }
                Some(_) => {}
                None if create && waited.is_zero() => self.create_table().await?,
                // What was just made may not be listed yet.
                None if create && waited < CREATION_MAX => {}
                None => return Err(self.unfit("there is none of that name".into())),
            }
            tokio::time::sleep(CREATION_POLL).await;
            waited += CREATION_POLL;
        }
    }

    async fn describe(&self) -> Result<Option<TableDescription>, Error> {
        let asked = self.again(|| self.client.describe_table().table_name(&self.table).send()).await;
        match asked {
            Ok(answer) => Ok(answer.table),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
                Ok(None)
            }
            Err(error) => Err(self.failed("DescribeTable", error)),
        }
    }

    async fn create_table(&self) -> Result<(), Error> {
        let key = AttributeDefinition::builder().attribute_name(column::KEY).attribute_type(ScalarAttributeType::S);
        let key = key.build().expect("name and type are set");
        let schema = KeySchemaElement::builder().attribute_name(column::KEY).key_type(KeyType::Hash);
        let schema = schema.build().expect("name and type are set");
        tracing::info!(table = %self.table, "making the lease table");
        let create = || {
            let request = self.client.create_table().table_name(&self.table).billing_mode(BillingMode::PayPerRequest);
            request.attribute_definitions(key.clone()).key_schema(schema.clone()).send()
        };
        match self.again(create).await {
            Ok(_) => Ok(()),
            // Another worker was faster.
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_in_use_exception()) => Ok(()),
            Err(error) => Err(self.failed("CreateTable", error)),
        }
    }

    fn check(&self, table: &TableDescription) -> Result<(), Error> {
        let is_key = |element: &KeySchemaElement| {
            element.attribute_name() == column::KEY && *element.key_type() == KeyType::Hash
        };
        let is_text = |definition: &AttributeDefinition| {
            definition.attribute_name() == column::KEY && *definition.attribute_type() == ScalarAttributeType::S
        };
        let has_key = matches!(table.key_schema(), [element] if is_key(element));
        if has_key && table.attribute_definitions().iter().any(is_text) {
            return Ok(());
        }
        Err(self.unfit(format!("its key is not `{}`, a text, alone", column::KEY)))
    }

    /// Asks until there is an answer, or the tries are used up; the last failure comes back.
    async fn again<T, E, F>(&self, ask: impl Fn() -> F) -> Result<T, SdkError<E>>
    where
        E: ProvideErrorMetadata,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let mut next = 2;
        loop {
            let failed = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let pause = match aws::classify(&failed).again {
                Again::MayHelp => self.pause_before(next),
                Again::WillNotHelp => None,
            };
            let Some(pause) = pause else {
                return Err(failed);
            };
            tokio::time::sleep(pause).await;
            next += 1;
        }
    }

    /// Does a conditional write, whose success leaves `next` as the claim. Finds out what became of it when an answer
    /// stays away.
    async fn settle<T, E, F>(
        &self,
        operation: &'static str,
        key: &LeaseKey,
        next: Option<&Claim>,
        ask: impl Fn() -> F,
    ) -> Result<Outcome, Error>
    where
        E: Refusal,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let (mut is_unclear, mut tried) = (false, 1);
        loop {
            let failed = match ask().await {
                Ok(_) => return Ok(Outcome::Done),
                Err(failed) => failed,
            };
            let refused = failed.as_service_error().and_then(Refusal::found).map(|item| item.cloned());
            if let Some(found) = refused {
                let found = match found {
                    Some(item) => Some(self.row(&item)?),
                    // There is none, or the service does not tell.
                    None => self.read_one(key).await?,
                };
                // An earlier try went through whose answer was lost.
                let is_ours = is_unclear && found.as_ref().map(|row| &row.claim) == next;
                return Ok(if is_ours { Outcome::Done } else { Outcome::Lost(found) });
            }
            let Failure { effect, again, .. } = aws::classify(&failed);
            is_unclear |= effect != Effect::DidNotHappen;
            tried += 1;
            match self.pause_before(tried).filter(|_| again == Again::MayHelp) {
                Some(pause) => tokio::time::sleep(pause).await,
                None if !is_unclear => return Err(self.failed(operation, failed)),
                None => {
                    let read = self.read_one(key).await;
                    let is_there = read.is_ok_and(|found| found.as_ref().map(|row| &row.claim) == next);
                    return if is_there { Ok(Outcome::Done) } else { Err(self.unclear(operation, failed)) };
                }
            }
        }
    }

    async fn read_one(&self, key: &LeaseKey) -> Result<Option<Row>, Error> {
        Ok(self.read(std::slice::from_ref(key)).await?.into_iter().next())
    }

    fn pause_before(&self, next: u32) -> Option<Duration> {
        let random = self.random.lock().unwrap_or_else(PoisonError::into_inner).random();
        RETRY.pause_before(next, random)
    }

    fn row(&self, item: &Item) -> Result<Row, Error> {
        item::row(item).map_err(|(key, what)| Error::Damaged { place: self.place(), key, what })
    }

    fn failed<E>(&self, operation: &'static str, error: SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let Failure { code, effect, again } = aws::classify(&error);
        let hint = match code.as_str() {
            "ResourceNotFoundException" => Some("the table is gone; --create-lease-table makes one"),
            "AccessDeniedException" => Some("docs/aws/permissions.md names what a worker calls"),
            _ => None,
        };
        Error::Store { place: self.place(), operation, hint, effect, again, source: Box::new(error) }
    }

    /// The last try may have failed for certain; an earlier one may still come true.
    fn unclear<E>(&self, operation: &'static str, error: SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let again = aws::classify(&error).again;
        let (place, source) = (self.place(), Box::new(error));
        Error::Store { place, operation, hint: None, effect: Effect::Unknown, again, source }
    }

    fn unfit(&self, what: String) -> Error {
        Error::NotALeaseTable { place: self.place(), what }
    }

    /// Writes a row, on condition of what is there.
    async fn put(&self, row: &Row, expected: Option<&Claim>) -> Result<Outcome, Error> {
        let mut expression = Expression::default();
        expression.expect(expected);
        expression.write(row);
        let (update, condition) = (expression.update(), expression.condition());
        let ask = || {
            self.client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(item::key(&row.key)))
                .update_expression(&update)
                .condition_expression(&condition)
                .set_expression_attribute_names(Some(expression.names.clone()))
                .set_expression_attribute_values(Some(expression.values.clone()))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
                .send()
        };
        self.settle("UpdateItem", &row.key, Some(&row.claim), ask).await
    }
}

#[async_trait]
impl LeaseStore for DynamoLeases {
    fn place(&self) -> String {
        format!("DynamoDB table {}", self.table)
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let (mut keys, mut from) = (Vec::new(), None);
        loop {
            let ask = || {
                let scan = self.client.scan().table_name(&self.table).consistent_read(true);
                scan.projection_expression(column::KEY).set_exclusive_start_key(from.clone()).send()
            };
            let page = self.again(ask).await.map_err(|error| self.failed("Scan", error))?;
            let text = |item: &Item| item.get(column::KEY).and_then(|key| key.as_s().ok()).cloned();
            keys.extend(page.items().iter().filter_map(text).filter(|key| key.starts_with(prefix)));
            from = page.last_evaluated_key.filter(|key| !key.is_empty());
            if from.is_none() {
                return Ok(keys);
            }
        }
    }

    async fn read(&self, keys: &[LeaseKey]) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        for some in keys.chunks(BATCH_KEYS_MAX) {
            let mut wanted: Vec<Item> = some.iter().map(item::key).collect();
            let mut tried = 1;
            while !wanted.is_empty() {
                let request = KeysAndAttributes::builder().set_keys(Some(wanted)).consistent_read(true);
                let request = request.build().expect("the keys are set");
                let ask = || self.client.batch_get_item().request_items(&self.table, request.clone()).send();
                let answer = self.again(ask).await.map_err(|error| self.failed("BatchGetItem", error))?;
                let items = answer.responses.into_iter().flat_map(HashMap::into_values).flatten();
                for item in items {
                    rows.push(self.row(&item)?);
                }
                // What the service had no capacity for comes with the next call.
                let left = answer.unprocessed_keys.into_iter().flat_map(HashMap::into_values);
                wanted = left.flat_map(|left: KeysAndAttributes| left.keys).collect();
                tried += 1;
                match self.pause_before(tried) {
                    Some(pause) if !wanted.is_empty() => tokio::time::sleep(pause).await,
                    None if !wanted.is_empty() => return Err(self.overloaded()),
                    _ => {}
                }
            }
        }
        Ok(rows)
    }

    async fn create(&self, row: &Row) -> Result<Outcome, Error> {
        self.put(row, None).await
    }

    async fn update(&self, expected: &Claim, row: &Row) -> Result<Outcome, Error> {
        self.put(row, Some(expected)).await
    }

    async fn delete(&self, key: &LeaseKey, expected: &Claim) -> Result<Outcome, Error> {
        let mut expression = Expression::default();
        expression.expect(Some(expected));
        let condition = expression.condition();
        let ask = || {
            self.client
                .delete_item()
                .table_name(&self.table)
                .set_key(Some(item::key(key)))
                .condition_expression(&condition)
                .set_expression_attribute_names(Some(expression.names.clone()))
                .set_expression_attribute_values(Some(expression.values.clone()))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
                .send()
        };
        self.settle("DeleteItem", key, None, ask).await
    }
}

impl DynamoLeases {
    fn overloaded(&self) -> Error {
        let source = "the service left keys out, again and again".into();
        let (effect, again) = (Effect::DidNotHappen, Again::MayHelp);
        Error::Store { place: self.place(), operation: "BatchGetItem", hint: None, effect, again, source }
    }
}
