//! A Kinesis of a test's own: ferrokinesis in this process, behind HTTP on loopback, on threads of its own.
//!
//! It serves async tests and those that start processes alike, and is gone with the value. What it gets wrong, as
//! against the service, is mended on the way in (`mended`); what it lacks (ChildShards in GetRecords, lag, throttled
//! reads, pages of ListShards) is tested with answers made by hand and in the simulation.

mod mended;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Config, Credentials, Region};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{Shard, ShardIteratorType, StreamStatus};
use aws_smithy_runtime_api::client::http::HttpClient;
use ferrokinesis::store::{Store, StoreOptions};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use self::mended::Mended;

/// The region of every server of the tests.
pub const REGION: &str = "us-east-1";

/// How long something may take to come about that a test waits for.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// A running server. Ends when dropped.
pub struct Server {
    address: SocketAddr,
    mended: Arc<Mended>,
    runtime: Handle,
    client: Client,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<Thread>,
}

type Started = (SocketAddr, Arc<Mended>, Handle);
type Thread = std::thread::JoinHandle<()>;

/// A server that does not answer yet.
struct Starting {
    started: oneshot::Receiver<Started>,
    stop: oneshot::Sender<()>,
    thread: Thread,
}

impl Starting {
    fn new(options: StoreOptions) -> Self {
        let (ready, started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || serve(options, ready, stopped));
        Self { started, stop, thread }
    }
}

/// A record as the server holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The shard's name.
    pub shard: String,
    /// The sequence number.
    pub sequence: String,
    /// The partition key.
    pub key: String,
    /// The bytes.
    pub payload: Vec<u8>,
}

/// Returns settings without delays and with room for many shards.
pub fn quick() -> StoreOptions {
    StoreOptions {
        create_stream_ms: 0,
        delete_stream_ms: 0,
        update_stream_ms: 0,
        shard_limit: 1_000,
        ..StoreOptions::default()
    }
}

/// Returns what makes a command use the server at `endpoint`, which `variable` names, and no settings of this machine.
pub fn environment_of(variable: &'static str, endpoint: String) -> Vec<(&'static str, String)> {
    let fixed = [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", REGION),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        // A profile of the person who runs the tests is none of theirs.
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ];
    let mut variables: Vec<_> = fixed.map(|(name, value)| (name, value.to_owned())).into();
    variables.push((variable, endpoint));
    variables
}

impl Server {
    /// Starts a server whose streams are there at once.
    pub async fn start() -> Self {
        Self::start_with(quick()).await
    }

    /// Starts a server with these settings.
    pub async fn start_with(options: StoreOptions) -> Self {
        let starting = Starting::new(options);
        let started = starting.started.await.expect("ferrokinesis starts");
        Self::of(started, starting.stop, starting.thread)
    }

    /// Starts a server from a test that is not async.
    pub fn start_now() -> Self {
        Self::start_now_with(quick())
    }

    /// Starts a server with these settings from a test that is not async.
    pub fn start_now_with(options: StoreOptions) -> Self {
        let starting = Starting::new(options);
        let started = starting.started.blocking_recv().expect("ferrokinesis starts");
        Self::of(started, starting.stop, starting.thread)
    }

    fn of((address, mended, runtime): Started, stop: oneshot::Sender<()>, thread: Thread) -> Self {
        let client = Client::from_conf(config(address).build());
        Self { address, mended, runtime, client, stop: Some(stop), thread: Some(thread) }
    }

    /// Waits for a future, in a test that is not async.
    pub fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Returns the server's URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns a client that tries once.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Returns a client that tries once, and whose every request goes through `http`.
    pub fn client_through(&self, http: impl HttpClient + 'static) -> Client {
        Client::from_conf(config(self.address).http_client(http).build())
    }

    /// Returns the settings of a client that tries once, to be changed.
    pub fn client_config(&self) -> aws_sdk_kinesis::config::Builder {
        config(self.address)
    }

    /// Returns what makes a command use this server.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        environment_of("AWS_ENDPOINT_URL_KINESIS", self.endpoint())
    }

    /// Returns how often each operation was called, by anybody.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.mended.calls()
    }

    /// Forgets the calls so far.
    pub fn forget_calls(&self) {
        self.mended.forget_calls();
    }

    /// Returns how many records all streams hold together.
    pub fn records(&self) -> u64 {
        self.mended.records()
    }

    /// Waits until all streams hold so many records together.
    pub async fn until_records(&self, count: u64) {
        let waiting = self.mended.until(|mended| mended.records() >= count);
        let in_time = tokio::time::timeout(WAIT_MAX, waiting).await;
        in_time.unwrap_or_else(|_| panic!("{} records of {count}, and no more come", self.records()));
    }

    /// Waits until an operation was called so often.
    pub async fn until_called(&self, operation: &str, count: u64) {
        let is_so = |mended: &Mended| mended.calls().get(operation).is_some_and(|calls| *calls >= count);
        let in_time = tokio::time::timeout(WAIT_MAX, self.mended.until(is_so)).await;
        in_time.unwrap_or_else(|_| panic!("{operation} was not called {count} times: {:?}", self.calls()));
    }

    /// Returns what the server keeps, to look into it past its interface.
    pub fn store(&self) -> &Store {
        self.mended.store()
    }

    /// Makes a stream and waits until it is there.
    pub async fn create_stream(&self, name: &str, shards: i32) {
        self.client.create_stream().stream_name(name).shard_count(shards).send().await.unwrap();
        self.until_active(name).await;
    }

    /// Waits until a stream is `ACTIVE`.
    pub async fn until_active(&self, name: &str) {
        loop {
            let answer = self.client.describe_stream_summary().stream_name(name).send().await.unwrap();
            let summary = answer.stream_description_summary().expect("the stream's summary");
            if *summary.stream_status() == StreamStatus::Active {
                return;
            }
            tokio::time::sleep(mended::LOOK_AGAIN).await;
        }
    }

    /// Returns all shards, closed ones too, in the order they were made.
    pub async fn shards(&self, name: &str) -> Vec<Shard> {
        self.client.list_shards().stream_name(name).send().await.unwrap().shards().to_vec()
    }

    /// Returns the shards that take records, in the order of their hash keys.
    pub async fn open_shards(&self, name: &str) -> Vec<Shard> {
        let mut shards = self.shards(name).await;
        shards
            .retain(|shard| shard.sequence_number_range().is_none_or(|range| range.ending_sequence_number().is_none()));
        shards.sort_by_key(|shard| hash_keys(shard).0);
        shards
    }

    /// Splits a shard in the middle and waits until its children are there.
    pub async fn split(&self, name: &str, shard: &str) {
        let shards = self.open_shards(name).await;
        let split = shards.iter().find(|open| open.shard_id() == shard).expect("an open shard");
        let (first, last) = hash_keys(split);
        let middle = first + (last - first) / 2 + 1;
        let request = self.client.split_shard().stream_name(name).shard_to_split(shard);
        request.new_starting_hash_key(middle.to_string()).send().await.unwrap();
        self.until_active(name).await;
    }

    /// Merges two neighbours, the lower one first, and waits until their child is there.
    pub async fn merge(&self, name: &str, lower: &str, upper: &str) {
        let request = self.client.merge_shards().stream_name(name).shard_to_merge(lower);
        request.adjacent_shard_to_merge(upper).send().await.unwrap();
        self.until_active(name).await;
    }

    /// Splits and merges until so many shards are open: all are split while there are at most half as many, and the
    /// last two are merged while there are more.
    pub async fn reshard(&self, name: &str, shards: usize) {
        loop {
            let open = self.open_shards(name).await;
            match open.len() {
                count if count == shards => return,
                count if count > shards => {
                    self.merge(name, open[count - 2].shard_id(), open[count - 1].shard_id()).await;
                }
                count => {
                    for shard in &open[..count.min(shards - count)] {
                        self.split(name, shard.shard_id()).await;
                    }
                }
            }
        }
    }

    /// Changes the number of shards as UpdateShardCount does, and waits. This server gives the new shards no parents,
    /// so nothing keeps the order of a key across it: see [`Server::reshard`] for what does.
    pub async fn update_shard_count(&self, name: &str, shards: i32) {
        let request = self.client.update_shard_count().stream_name(name).target_shard_count(shards);
        request.scaling_type(aws_sdk_kinesis::types::ScalingType::UniformScaling).send().await.unwrap();
        self.until_active(name).await;
    }

    /// Puts a record as it is and returns its shard and sequence number.
    pub async fn put(&self, name: &str, key: &str, payload: impl Into<Vec<u8>>) -> (String, String) {
        let request = self.client.put_record().stream_name(name).partition_key(key).data(Blob::new(payload));
        let answer = request.send().await.unwrap();
        (answer.shard_id().to_owned(), answer.sequence_number().to_owned())
    }

    /// Reads every record of every shard, closed ones first, each shard in order.
    pub async fn read_all(&self, name: &str) -> Vec<Stored> {
        let mut found = Vec::new();
        for shard in self.shards(name).await {
            let request = self.client.get_shard_iterator().stream_name(name).shard_id(shard.shard_id());
            let answer = request.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap();
            let mut iterator = answer.shard_iterator().map(str::to_owned);
            while let Some(from) = iterator {
                let answer = self.client.get_records().shard_iterator(from).send().await.unwrap();
                if answer.records().is_empty() {
                    break;
                }
                found.extend(answer.records().iter().map(|record| Stored {
                    shard: shard.shard_id().to_owned(),
                    sequence: record.sequence_number().to_owned(),
                    key: record.partition_key().unwrap_or_default().to_owned(),
                    payload: record.data().as_ref().to_vec(),
                }));
                iterator = answer.next_shard_iterator().map(str::to_owned);
            }
        }
        found
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server panicked");
        }
    }
}

/// Returns the first and the last hash key of a shard.
fn hash_keys(shard: &Shard) -> (u128, u128) {
    let range = shard.hash_key_range().expect("a shard has hash keys");
    let number = |text: &str| -> u128 { text.parse().expect("hash keys are numbers") };
    (number(range.starting_hash_key()), number(range.ending_hash_key()))
}

fn config(address: SocketAddr) -> aws_sdk_kinesis::config::Builder {
    Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(format!("http://{address}"))
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
        .retry_config(RetryConfig::disabled())
}

/// Serves until `stopped`, on a runtime of its own.
fn serve(options: StoreOptions, ready: oneshot::Sender<Started>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime for the server");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (router, store) = ferrokinesis::create_app(options);
        let mended = Arc::new(Mended::new(store));
        let router = Mended::around(&mended, router);
        if ready.send((address, mended, Handle::current())).is_err() {
            return;
        }
        tokio::select! {
            served = axum::serve(listener, router).into_future() => served.expect("serve Kinesis"),
            _ = stopped => {}
        }
    });
    // Subscriptions may still be open.
    runtime.shutdown_background();
}
