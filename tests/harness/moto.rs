//! moto's server as a process of the tests' own: DynamoDB, and a second Kinesis.
//!
//! It listens on a port that the system chose, and ends with the value or with the test's process, however that ends:
//! it reads its standard input, whose other end is here.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_smithy_runtime_api::client::http::HttpClient;

use crate::kinesis::{REGION, environment_of};
use crate::python;

/// Serves until standard input ends, and tells at `/_calls` how often each operation was called.
const SCRIPT: &str = r#"
import collections, json, logging, os, sys, threading
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)
moto = DomainDispatcherApplication(create_backend_app)
calls, lock = collections.Counter(), threading.Lock()

def answer(environ, start_response):
    if environ["PATH_INFO"] == "/_calls":
        with lock:
            body = json.dumps(calls).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    with lock:
        calls[target.rpartition(".")[2]] += 1
    return moto(environ, start_response)

server = make_server("127.0.0.1", 0, answer, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.buffer.read()
os._exit(0)
"#;

/// A running server.
pub struct Moto {
    child: Child,
    port: u16,
}

/// Returns the server that the tests of this process share; what they make there has names of its own.
pub fn shared(folder: &str) -> &'static Moto {
    static SHARED: OnceLock<Moto> = OnceLock::new();
    SHARED.get_or_init(|| Moto::start(folder))
}

impl Moto {
    /// Starts a server; its Python environment is below `folder`, as [`python::with_packages`] says.
    pub fn start(folder: &str) -> Self {
        let python = python::with_packages(folder, "servers", &python::SERVERS);
        let mut child = Command::new(python)
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start moto's server");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("read its port");
        let port = line.trim().parse().unwrap_or_else(|_| panic!("moto's server has not started: {line:?}"));
        Self { child, port }
    }

    /// Returns the server's URL.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns what makes a command use this server for DynamoDB.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        environment_of("AWS_ENDPOINT_URL_DYNAMODB", self.endpoint())
    }

    /// Returns what makes a command use this server for Kinesis.
    pub fn kinesis_environment(&self) -> Vec<(&'static str, String)> {
        environment_of("AWS_ENDPOINT_URL_KINESIS", self.endpoint())
    }

    /// Returns a client of DynamoDB that tries once.
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::from_conf(self.dynamodb_config().build())
    }

    /// Returns a client of DynamoDB that tries once, and whose every request goes through `http`.
    pub fn dynamodb_through(&self, http: impl HttpClient + 'static) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::from_conf(self.dynamodb_config().http_client(http).build())
    }

    /// Returns a client of Kinesis that tries once.
    pub fn kinesis(&self) -> aws_sdk_kinesis::Client {
        let config = aws_sdk_kinesis::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(self.endpoint())
            .region(Region::new(REGION))
            .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
            .retry_config(RetryConfig::disabled());
        aws_sdk_kinesis::Client::from_conf(config.build())
    }

    fn dynamodb_config(&self) -> aws_sdk_dynamodb::config::Builder {
        aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(self.endpoint())
            .region(Region::new(REGION))
            .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
            .retry_config(RetryConfig::disabled())
    }

    /// Returns how often each operation of each service was called, by anybody.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connect to moto's server");
        write!(stream, "GET /_calls HTTP/1.0\r\n\r\n").expect("ask moto's server");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("moto's answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("an answer has a body");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {answer}"))
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
