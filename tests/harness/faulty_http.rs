//! A line to AWS's services that fails as a seed tells it: below the SDK, above the server.
//!
//! What is told to have failed has failed: a record that is reported as not stored does not reach the server. What is
//! not told is unknown, as in life: an answer that gets lost is the answer to a request that happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_http_client::Builder;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::{RuntimeComponents, RuntimeComponentsBuilder};
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use aws_smithy_types::config_bag::ConfigBag;
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It happens; the answer gets lost.
    AnswerLost,
    /// It happens; the answer breaks off in the middle.
    AnswerCut,
    /// It happens; the answer is an error of the server.
    ServerError,
    /// The connection breaks before it is sent.
    Reset,
    /// The server refuses it for now.
    Unavailable,
    /// It is throttled.
    Throttled,
    /// Some records of a PutRecords are not stored, the others are.
    SomeFailed,
    /// The iterator of a GetRecords has expired.
    Expired,
    /// It takes some milliseconds.
    Delayed,
}

use Fault::{AnswerCut, AnswerLost, Delayed, Expired, Reset, ServerError, SomeFailed, Throttled, Unavailable};

/// What may happen to any request that can be asked again.
const ANY: [Fault; 7] = [AnswerLost, AnswerCut, ServerError, Reset, Unavailable, Throttled, Delayed];

/// What may happen to PutRecords.
const PUT: [Fault; 8] = [AnswerLost, AnswerCut, ServerError, Reset, Unavailable, Throttled, Delayed, SomeFailed];

/// What may happen to GetRecords.
const GET: [Fault; 8] = [AnswerLost, AnswerCut, ServerError, Reset, Unavailable, Throttled, Delayed, Expired];

/// What may happen to SubscribeToShard, whose answer has no end.
const SUBSCRIBE: [Fault; 5] = [AnswerLost, Reset, Unavailable, Throttled, Delayed];

/// Returns the faults of an operation. One that makes or removes something has none: its second try says another thing.
fn faults_of(operation: &str) -> &'static [Fault] {
    match operation {
        "PutRecords" | "PutRecord" => &PUT,
        "GetRecords" => &GET,
        "SubscribeToShard" => &SUBSCRIBE,
        "ListShards"
        | "GetShardIterator"
        | "DescribeStreamSummary"
        | "DescribeLimits"
        | "DescribeStreamConsumer"
        | "DescribeTable"
        | "BatchGetItem"
        | "GetItem"
        | "PutItem"
        | "UpdateItem"
        | "DeleteItem"
        | "Query"
        | "Scan" => &ANY,
        _ => &[],
    }
}

/// A line with faults; clones are the same line.
#[derive(Clone)]
pub struct FaultyHttp {
    inner: SharedHttpClient,
    line: Arc<Line>,
}

struct Line {
    seed: u64,
    share: Mutex<f64>,
    random: Mutex<SmallRng>,
    happened: Mutex<BTreeMap<(String, Fault), u64>>,
}

impl FaultyHttp {
    /// Returns a line on which this share of the requests meets a fault. Says its seed.
    pub fn new(seed: u64, share: f64) -> Self {
        println!("faults on the line: seed {seed}, {share} of the requests");
        let line = Line {
            seed,
            share: Mutex::new(share),
            random: Mutex::new(SmallRng::seed_from_u64(seed)),
            happened: Mutex::default(),
        };
        Self { inner: Builder::new().build_http(), line: Arc::new(line) }
    }

    /// From now on this share meets a fault.
    pub fn change_share(&self, share: f64) {
        *self.line.share.lock().unwrap() = share;
    }

    /// Returns how often each fault happened, by operation.
    pub fn happened(&self) -> BTreeMap<(String, Fault), u64> {
        self.line.happened.lock().unwrap().clone()
    }

    /// Returns true when every fault happened which these operations can meet.
    pub fn has_done_all(&self, operations: &[&str]) -> bool {
        let happened = self.happened();
        let seen: BTreeSet<Fault> = happened.keys().map(|(_, fault)| *fault).collect();
        operations.iter().flat_map(|operation| faults_of(operation)).all(|fault| seen.contains(fault))
    }

    /// Asserts that every fault happened which these operations can meet: a test of faults that met none is none.
    pub fn assert_all_happened(&self, operations: &[&str]) {
        println!("seed {}: {:?}", self.line.seed, self.happened());
        assert!(self.has_done_all(operations), "seed {}: {:?}", self.line.seed, self.happened());
    }
}

impl Line {
    /// Draws what becomes of a request, and a number to do it with.
    fn draw(&self, operation: &str) -> Option<(Fault, u64)> {
        let share = *self.share.lock().unwrap();
        let mut random = self.random.lock().unwrap();
        if !random.random_bool(share) {
            return None;
        }
        let fault = *faults_of(operation).choose(&mut *random)?;
        *self.happened.lock().unwrap().entry((operation.to_owned(), fault)).or_default() += 1;
        Some((fault, random.random()))
    }
}

impl fmt::Debug for FaultyHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyHttp({})", self.line.seed)
    }
}

impl HttpClient for FaultyHttp {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let inner = self.inner.http_connector(settings, components);
        SharedHttpConnector::new(FaultyConnector { inner, line: Arc::clone(&self.line) })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.inner.validate_base_client_config(components, config)
    }

    fn validate_final_config(&self, components: &RuntimeComponents, config: &ConfigBag) -> Result<(), BoxError> {
        self.inner.validate_final_config(components, config)
    }
}

struct FaultyConnector {
    inner: SharedHttpConnector,
    line: Arc<Line>,
}

impl fmt::Debug for FaultyConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyConnector({})", self.line.seed)
    }
}

impl HttpConnector for FaultyConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        match self.line.draw(&operation) {
            None => self.inner.call(request),
            Some((fault, number)) => {
                HttpConnectorFuture::new(befall(self.inner.clone(), request, operation, fault, number))
            }
        }
    }
}

/// Has a fault happen to a request.
async fn befall(
    inner: SharedHttpConnector,
    request: HttpRequest,
    operation: String,
    fault: Fault,
    number: u64,
) -> Result<HttpResponse, ConnectorError> {
    match fault {
        AnswerLost => {
            let answer = inner.call(request).await?;
            if operation != "SubscribeToShard" {
                // All of it comes, so that it surely happened.
                body_of(answer).await?;
            }
            Err(broken("the answer got lost"))
        }
        AnswerCut => {
            let mut answer = inner.call(request).await?;
            let body = body_of_mut(&mut answer).await?;
            set_body(&mut answer, body.slice(..body.len() / 2));
            Ok(answer)
        }
        ServerError => {
            body_of(inner.call(request).await?).await?;
            Ok(error(500, "InternalFailure"))
        }
        Reset => Err(broken("the connection was reset")),
        Unavailable => Ok(error(503, "ServiceUnavailable")),
        Throttled if matches!(operation.as_str(), "ListShards" | "DescribeStreamSummary" | "SubscribeToShard") => {
            Ok(error(400, "LimitExceededException"))
        }
        Throttled => Ok(error(400, "ProvisionedThroughputExceededException")),
        Expired => Ok(error(400, "ExpiredIteratorException")),
        Delayed => {
            tokio::time::sleep(Duration::from_millis(1 + number % 20)).await;
            inner.call(request).await
        }
        SomeFailed => store_some(inner, request, number).await,
    }
}

/// Forwards a PutRecords without some of its records, and reports those as failed.
async fn store_some(
    inner: SharedHttpConnector,
    mut request: HttpRequest,
    number: u64,
) -> Result<HttpResponse, ConnectorError> {
    let parsed = request.body().bytes().and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
    let Some(mut body) = parsed else { return inner.call(request).await };
    let Some(records) = body["Records"].as_array_mut() else { return inner.call(request).await };
    let mut random = SmallRng::seed_from_u64(number);
    let failed: Vec<bool> = records.iter().map(|_| random.random_bool(0.3)).collect();
    let mut index = 0..;
    records.retain(|_| !failed[index.next().unwrap_or_default()]);
    let mut answers = Vec::new();
    let mut answer = error(200, "");
    if !records.is_empty() {
        let bytes = body.to_string();
        request.headers_mut().insert("content-length", bytes.len().to_string());
        *request.body_mut() = SdkBody::from(bytes);
        answer = inner.call(request).await?;
        if !answer.status().is_success() {
            return Ok(answer);
        }
        let bytes = body_of_mut(&mut answer).await?;
        let said: Value = serde_json::from_slice(&bytes).map_err(|error| ConnectorError::other(error.into(), None))?;
        answers = said["Records"].as_array().cloned().unwrap_or_default();
    }
    let code = ["ProvisionedThroughputExceededException", "InternalFailure"][usize::from(number.is_multiple_of(5))];
    let mut stored = answers.into_iter();
    let records: Vec<Value> = failed
        .iter()
        .map(|failed| {
            let refused = json!({"ErrorCode": code, "ErrorMessage": "not stored, says the test"});
            if *failed { refused } else { stored.next().unwrap_or(refused) }
        })
        .collect();
    let count = records.iter().filter(|record| !record["ErrorCode"].is_null()).count();
    set_body(&mut answer, json!({"FailedRecordCount": count, "Records": records}).to_string().into());
    Ok(answer)
}

/// Reads all of an answer.
async fn body_of(mut answer: HttpResponse) -> Result<Bytes, ConnectorError> {
    body_of_mut(&mut answer).await
}

async fn body_of_mut(answer: &mut HttpResponse) -> Result<Bytes, ConnectorError> {
    let body = ByteStream::new(answer.take_body()).collect().await;
    body.map(|bytes| bytes.into_bytes()).map_err(|error| ConnectorError::io(error.into()))
}

fn set_body(answer: &mut HttpResponse, body: Bytes) {
    answer.headers_mut().insert("content-length", body.len().to_string());
    *answer.body_mut() = SdkBody::from(body);
}

/// Returns a service's answer that is an error of this code.
fn error(status: u16, code: &str) -> HttpResponse {
    let status = StatusCode::try_from(status).expect("a status of HTTP");
    let mut answer = HttpResponse::new(status, SdkBody::empty());
    answer.headers_mut().insert("content-type", "application/x-amz-json-1.1");
    set_body(&mut answer, json!({"__type": code, "message": "says the test"}).to_string().into());
    answer
}

fn broken(what: &'static str) -> ConnectorError {
    ConnectorError::io(std::io::Error::new(std::io::ErrorKind::ConnectionReset, what).into())
}
