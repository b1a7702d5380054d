//! A Kinesis whose every answer is made by hand: for what no server at hand does.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Config, Credentials, Region};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use serde_json::{Value, json};

/// What comes of a request.
pub(crate) enum Answer {
    /// This.
    Said(Value),
    /// An error with this code.
    Refused(&'static str),
    /// The connection breaks.
    Reset,
}

type Answerer = Box<dyn FnMut(&str, &Value) -> Option<Answer> + Send>;

/// The service.
#[derive(Clone)]
pub(crate) struct Service(Arc<Mutex<State>>);

struct State {
    answerer: Answerer,
    calls: Vec<(String, Value)>,
}

impl Service {
    /// Returns a service with one stream `s` of one shard `0`, whose retention is a day. `answerer` is told the
    /// operation and what was asked, and answers what it likes; to the rest the stream is new and empty.
    pub(crate) fn new(answerer: impl FnMut(&str, &Value) -> Option<Answer> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(State { answerer: Box::new(answerer), calls: Vec::new() })))
    }

    /// Returns a client that tries once.
    pub(crate) fn client(&self) -> Client {
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
            .retry_config(RetryConfig::disabled())
            .http_client(self.clone());
        Client::from_conf(config.build())
    }

    /// Returns what was asked of an operation so far.
    pub(crate) fn asked(&self, operation: &str) -> Vec<Value> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.calls.iter().filter(|(called, _)| called == operation).map(|(_, asked)| asked.clone()).collect()
    }

    fn answer(&self, request: &HttpRequest) -> Answer {
        let target = request.headers().get("x-amz-target").expect("it names an operation");
        let operation = target.rsplit('.').next().expect("a name behind a dot").to_owned();
        let asked: Value = serde_json::from_slice(request.body().bytes().expect("a body")).expect("JSON");
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.calls.push((operation.clone(), asked.clone()));
        (state.answerer)(&operation, &asked).unwrap_or_else(|| usual(&operation))
    }
}

/// Returns a shard as ListShards says it.
pub(crate) fn shard(id: &str, parents: &[&str]) -> Value {
    let mut shard = json!({
        "ShardId": id,
        "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": "9"},
        "SequenceNumberRange": {"StartingSequenceNumber": "1"},
    });
    for (field, parent) in ["ParentShardId", "AdjacentParentShardId"].into_iter().zip(parents) {
        shard[field] = json!(parent);
    }
    shard
}

fn usual(operation: &str) -> Answer {
    Answer::Said(match operation {
        "DescribeStreamSummary" => json!({"StreamDescriptionSummary": {
            "StreamName": "s",
            "StreamARN": "arn:aws:kinesis:us-east-1:123456789012:stream/s",
            "StreamStatus": "ACTIVE",
            "RetentionPeriodHours": 24,
            "StreamCreationTimestamp": 1_700_000_000.5,
            "EnhancedMonitoring": [],
            "OpenShardCount": 1,
        }}),
        "ListShards" => json!({"Shards": [shard("0", &[])]}),
        "GetShardIterator" => json!({"ShardIterator": "begin"}),
        "GetRecords" => json!({"Records": [], "MillisBehindLatest": 0, "NextShardIterator": "on"}),
        other => panic!("{other} has no answer"),
    })
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Service")
    }
}

impl HttpConnector for Service {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (status, said) = match self.answer(&request) {
            Answer::Said(said) => (200_u16, said),
            Answer::Refused(code) => (400, json!({"__type": code, "message": "said by the test"})),
            Answer::Reset => {
                return HttpConnectorFuture::ready(Err(ConnectorError::io("reset by the test".into())));
            }
        };
        let status = StatusCode::try_from(status).expect("a status");
        let mut response = HttpResponse::new(status, SdkBody::from(said.to_string()));
        response.headers_mut().insert("content-type", "application/x-amz-json-1.1");
        HttpConnectorFuture::ready(Ok(response))
    }
}

impl HttpClient for Service {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}
