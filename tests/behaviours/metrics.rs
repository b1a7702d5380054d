//! Asks a running command for its metrics.

use std::io::{Read, Write};
use std::net::TcpStream;

use harness::process::Running;
use serde_json::Value;

/// Waits until a command that logs JSON says where its metrics are.
pub(crate) fn address(running: &Running) -> String {
    loop {
        let line = running.line().expect("it says where the metrics are");
        let line: Value = serde_json::from_str(&line).expect("log lines are JSON");
        if let Some(address) = line["address"].as_str() {
            return address.to_owned();
        }
    }
}

/// Gets a page, with its header.
pub(crate) fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
