//! What ferrokinesis does otherwise than the service, put right before a request reaches it.
//!
//! - It numbers records and stores them in two steps, and a reader, or the end of a shard, may come in between: a
//!   record would appear behind a reader. Here a put is alone, and so is a split or a merge until it is done.
//! - The shards of a split or a merge, and what is put into them, are dated a second ahead; here a put waits for it.
//! - `AT_TIMESTAMP` behind the last record begins at the first one; here it begins behind the last.
//! - Arrival times are whole seconds, so that a time within a second misses the records of that second; here the
//!   second counts from its begin.
//! - A PutRecords takes 5 MiB; here it takes what the service takes now, in several steps.
//! - `SubscribeToShard` forgets where to begin: all but the kind of place is taken out of the request as unknown. Here it
//!   is given to what serves it.
//! - `StreamARN` is not understood by `ListShards`, `GetShardIterator` and others; here it is the stream's name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use ferrokinesis::actions::subscribe_to_shard::execute_streaming;
use ferrokinesis::store::Store;
use ferrokinesis::types::StreamStatus;
use serde_json::{Value, json};
use tokio::sync::{Notify, RwLock, RwLockWriteGuard};
use tokio::time::Instant;

/// The largest body: 10 MiB of records as base64, and their keys.
const BODY_BYTES_MAX: usize = 16 << 20;

/// The most payload of one PutRecords that the server takes in bytes; base64 is counted, to be on the safe side.
const PUT_BYTES_MAX: usize = 5 << 20;

/// How far ahead the server dates new shards.
const AHEAD: Duration = Duration::from_secs(1);

/// How often a change of the server's is looked for.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Stands before the server.
pub(crate) struct Mended {
    store: Store,
    /// Held alone by what adds records or shards, and together by what reads them.
    records: RwLock<()>,
    calls: Mutex<BTreeMap<String, u64>>,
    /// When the newest shards are of the present.
    dated: Mutex<Instant>,
    /// Tells that a request was answered.
    answered: Notify,
}

impl Mended {
    pub(crate) fn new(store: Store) -> Self {
        let dated = Mutex::new(Instant::now());
        Self { store, dated, records: RwLock::default(), calls: Mutex::default(), answered: Notify::new() }
    }

    /// Puts it around the server's routes.
    pub(crate) fn around(mended: &Arc<Self>, router: Router) -> Router {
        router.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).layer(from_fn_with_state(Arc::clone(mended), answer))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn calls(&self) -> BTreeMap<String, u64> {
        self.calls.lock().unwrap().clone()
    }

    pub(crate) fn forget_calls(&self) {
        self.calls.lock().unwrap().clear();
    }

    /// Returns how many records the server holds.
    pub(crate) fn records(&self) -> u64 {
        self.store.metrics().retained_records()
    }

    /// Waits until something is true, which only a request can make so.
    pub(crate) async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        loop {
            let answered = self.answered.notified();
            if is_so(self) {
                return;
            }
            answered.await;
        }
    }

    /// Waits until a put is dated now, and alone.
    async fn alone_to_put(&self) -> RwLockWriteGuard<'_, ()> {
        loop {
            let dated = *self.dated.lock().unwrap();
            tokio::time::sleep_until(dated).await;
            let alone = self.records.write().await;
            if *self.dated.lock().unwrap() <= dated {
                return alone;
            }
        }
    }

    /// Waits until no stream is being split or merged.
    async fn until_settled(&self) {
        loop {
            let mut changing = false;
            for name in self.store.list_stream_names().await {
                let stream = self.store.get_stream(&name).await;
                changing |= stream.is_ok_and(|stream| stream.stream_status == StreamStatus::Updating);
            }
            if !changing {
                *self.dated.lock().unwrap() = Instant::now() + AHEAD;
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Mends the body of a request for a place in a shard.
    async fn mend(&self, operation: &str, body: &mut Value) {
        if matches!(operation, "ListShards" | "GetShardIterator" | "DescribeStreamSummary" | "DescribeStream")
            && let Some(name) = body["StreamARN"].as_str().and_then(name_of).map(str::to_owned)
            && let Some(fields) = body.as_object_mut()
        {
            fields.remove("StreamARN");
            fields.insert("StreamName".to_owned(), name.into());
        }
        let shard = body["ShardId"].as_str().map(str::to_owned);
        let stream = body["StreamName"].as_str().or_else(|| body["ConsumerARN"].as_str().and_then(name_of));
        let (Some(shard), Some(stream)) = (shard, stream.map(str::to_owned)) else { return };
        let (place, kind) = match operation {
            "GetShardIterator" => (Some(body), "ShardIteratorType"),
            "SubscribeToShard" => (body.get_mut("StartingPosition"), "Type"),
            _ => return,
        };
        let Some(place) = place.and_then(Value::as_object_mut) else { return };
        let is_at_time = place.get(kind).is_some_and(|kind| kind == "AT_TIMESTAMP");
        let Some(time) = place.get("Timestamp").and_then(Value::as_f64).filter(|_| is_at_time) else { return };
        if self.has_records_at(&stream, &shard, time.floor()).await {
            place.insert("Timestamp".to_owned(), time.floor().into());
        } else {
            place.remove("Timestamp");
            place.insert(kind.to_owned(), "LATEST".into());
        }
    }

    /// Returns true when a shard has records of this second or later.
    async fn has_records_at(&self, stream: &str, shard: &str, second: f64) -> bool {
        let Some(index) = shard.rsplit('-').next().and_then(|index| index.parse::<u32>().ok()) else { return true };
        let (from, to) = (format!("{index:08x}/"), format!("{:08x}", index + 1));
        self.store.find_first_record_at_timestamp(stream, &from, &to, second).await.is_some()
    }
}

/// Returns the stream's name in the ARN of a stream or of a consumer of it.
fn name_of(arn: &str) -> Option<&str> {
    arn.split_once(":stream/").map(|(_, rest)| rest.split('/').next().unwrap_or(rest))
}

async fn answer(State(mended): State<Arc<Mended>>, request: Request, next: Next) -> Response {
    let response = mended_answer(&mended, request, next).await;
    mended.answered.notify_waiters();
    response
}

async fn mended_answer(mended: &Mended, request: Request, next: Next) -> Response {
    let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
    let operation = target.and_then(|target| target.rsplit('.').next()).unwrap_or_default().to_owned();
    *mended.calls.lock().unwrap().entry(operation.clone()).or_default() += 1;
    let (mut parts, body) = request.into_parts();
    // All of it before anybody waits for this request: its sender may be gone.
    let Ok(mut bytes) = to_bytes(body, BODY_BYTES_MAX).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let is_put = matches!(operation.as_str(), "PutRecord" | "PutRecords");
    if !is_put && let Ok(mut body) = serde_json::from_slice::<Value>(&bytes) {
        mended.mend(&operation, &mut body).await;
        bytes = body.to_string().into();
        parts.headers.remove(CONTENT_LENGTH);
    }
    if is_put && bytes.len() > PUT_BYTES_MAX {
        let _alone = mended.alone_to_put().await;
        return put_in_steps(parts, &bytes, next).await;
    }
    if operation == "SubscribeToShard" {
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        if let Ok(events) = execute_streaming(&mended.store, body, "application/x-amz-json-1.1").await {
            return ([(CONTENT_TYPE, "application/vnd.amazon.eventstream")], events).into_response();
        }
    }
    let request = Request::from_parts(parts, Body::from(bytes));
    match operation.as_str() {
        "PutRecord" | "PutRecords" => {
            let _alone = mended.alone_to_put().await;
            next.run(request).await
        }
        "SplitShard" | "MergeShards" | "UpdateShardCount" => {
            let _alone = mended.records.write().await;
            let response = next.run(request).await;
            mended.until_settled().await;
            response
        }
        "GetRecords" | "GetShardIterator" => {
            let _together = mended.records.read().await;
            next.run(request).await
        }
        _ => next.run(request).await,
    }
}

/// Puts a large batch in steps that the server takes, and answers as if it were one.
async fn put_in_steps(mut parts: Parts, bytes: &[u8], next: Next) -> Response {
    parts.headers.remove(CONTENT_LENGTH);
    let Ok(mut body) = serde_json::from_slice::<Value>(bytes) else { return StatusCode::BAD_REQUEST.into_response() };
    let records = body["Records"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let mut answers = Vec::new();
    let mut step: Vec<Value> = Vec::new();
    let mut step_bytes = 0;
    let mut left = records.into_iter().peekable();
    while let Some(record) = left.next() {
        step_bytes += size(&record);
        step.push(record);
        if left.peek().is_some_and(|next| step_bytes + size(next) <= PUT_BYTES_MAX) {
            continue;
        }
        body["Records"] = std::mem::take(&mut step).into();
        step_bytes = 0;
        let request = Request::from_parts(parts.clone(), Body::from(body.to_string()));
        let response = next.clone().run(request).await;
        // Only a batch that is wrong as a whole is refused as a whole, and then none of its steps is taken.
        if !response.status().is_success() {
            return response;
        }
        let said = to_bytes(response.into_body(), BODY_BYTES_MAX).await.unwrap_or_default();
        let said: Value = serde_json::from_slice(&said).unwrap_or_default();
        answers.extend(said["Records"].as_array().cloned().unwrap_or_default());
    }
    let failed = answers.iter().filter(|answer| !answer["ErrorCode"].is_null()).count();
    let said = json!({"FailedRecordCount": failed, "Records": answers}).to_string();
    ([(CONTENT_TYPE, "application/x-amz-json-1.1")], said).into_response()
}

/// Returns the bytes of a record's payload, as base64, and of its key.
fn size(record: &Value) -> usize {
    let length = |field: &str| record[field].as_str().map_or(0, str::len);
    length("Data") + length("PartitionKey")
}
