//! Calls as callers make them: one connection each, which is closed when the call is dropped.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::poll::{DEADLINE, poll_until, within};

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub text: String,
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The deployment that `Location` names.
    pub fn deployment(&self) -> String {
        let location = self.header("location").unwrap_or_else(|| panic!("no Location: {self:?}"));
        location.rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// Panics unless the answer has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

/// What went wrong before there was an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The server could not be reached, or the connection broke.
    Broken,
    /// The caller's own patience was over; it has hung up.
    TimedOut,
}

/// A caller.
#[derive(Clone, Debug)]
pub struct Client {
    address: String,
    headers: Vec<(String, String)>,
}

impl Client {
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned(), headers: Vec::new() }
    }

    /// The same caller, sending this header too.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.push((name.to_owned(), value.to_owned()));
        client
    }

    /// Sends bytes as they are and reads until the server closes.
    pub async fn raw(&self, bytes: &[u8]) -> Result<Reply, Lost> {
        let mut stream = TcpStream::connect(&self.address).await.map_err(|_| Lost::Broken)?;
        // The server may refuse, and close, before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut received = Vec::new();
        let mut buffer = [0; 16 * 1024];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => break,
                Ok(length) => received.extend_from_slice(&buffer[..length]),
                Err(_) if received.is_empty() => return Err(Lost::Broken),
                Err(_) => break,
            }
        }
        parse(&received).ok_or(Lost::Broken)
    }

    fn request(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        for (name, value) in &self.headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        [request.as_bytes(), body].concat()
    }

    /// One request; it may be lost.
    pub async fn try_send(&self, method: &str, path: &str, body: &[u8], patience: Duration) -> Result<Reply, Lost> {
        let request = self.request(method, path, body);
        tokio::time::timeout(patience, self.raw(&request)).await.unwrap_or(Err(Lost::TimedOut))
    }

    /// One request that must be answered.
    pub async fn send(&self, method: &str, path: &str, body: &[u8]) -> Reply {
        match self.try_send(method, path, body, DEADLINE).await {
            Ok(reply) => reply,
            Err(lost) => panic!("{method} {path}: {lost:?}"),
        }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, b"").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, body.to_string().as_bytes()).await
    }

    /// Begins a call that will be held; dropping or aborting it hangs up.
    pub fn hold(&self, path: &str, body: &Value) -> Held {
        let (client, path, body) = (self.clone(), path.to_owned(), body.to_string());
        Held(tokio::spawn(async move { client.try_send("POST", &path, body.as_bytes(), DEADLINE).await }))
    }

    /// A call of Flagger's about `test/podinfo`.
    pub async fn flagger(&self, hook: &str, phase: &str, checksum: &str) -> Reply {
        self.post(&format!("/hooks/flagger/{hook}"), &flagger(phase, checksum)).await
    }

    /// The same, held.
    pub fn hold_flagger(&self, hook: &str, phase: &str, checksum: &str) -> Held {
        self.hold(&format!("/hooks/flagger/{hook}"), &flagger(phase, checksum))
    }

    /// A generic call about `test/podinfo`.
    pub async fn generic(&self, hook: &str, revision: &str) -> Reply {
        self.post(&format!("/hooks/generic/{hook}"), &generic(revision)).await
    }

    /// A document of the API.
    pub async fn api(&self, path: &str) -> Value {
        self.get(&format!("/api/v1/{path}")).await.expect(200).json()
    }

    /// One deployment.
    pub async fn deployment(&self, id: &str) -> Value {
        self.api(&format!("deployments/{id}")).await
    }

    /// Every deployment, oldest first.
    pub async fn deployments(&self) -> Vec<Value> {
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.api(&format!("deployments?limit=50{cursor}")).await;
            found.extend(page["deployments"].as_array().unwrap().iter().cloned());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        found.reverse();
        found
    }

    /// Waits until so many calls are held by the server.
    pub async fn held_calls(&self, count: usize) {
        let line = format!("stagehook_held_calls {count}");
        poll_until(&line, || async {
            self.get("/metrics").await.text.lines().any(|found| found == line).then_some(())
        })
        .await;
    }

    /// The records of a deployment, as `{seq, at, by, event: {type, …}}`.
    pub async fn records(&self, id: &str) -> Vec<Value> {
        self.api(&format!("deployments/{id}/records")).await["records"].as_array().unwrap().clone()
    }
}

/// A call that waits for its verdict.
pub struct Held(tokio::task::JoinHandle<Result<Reply, Lost>>);

impl Held {
    /// The answer.
    pub async fn answer(self) -> Reply {
        within("a held call is answered", self.result()).await.unwrap()
    }

    /// The answer, or how it was lost.
    pub async fn result(mut self) -> Result<Reply, Lost> {
        (&mut self.0).await.unwrap()
    }

    /// Whether there is no answer yet.
    pub fn is_held(&self) -> bool {
        !self.0.is_finished()
    }

    /// Hangs up, and waits until the connection is closed.
    pub async fn hang_up(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Flagger's payload about `test/podinfo`.
pub fn flagger(phase: &str, checksum: &str) -> Value {
    json!({"name": "podinfo", "namespace": "test", "phase": phase, "checksum": checksum})
}

/// A generic payload about `test/podinfo`; without a revision where that is empty.
pub fn generic(revision: &str) -> Value {
    let mut body = json!({"name": "podinfo", "namespace": "test"});
    if !revision.is_empty() {
        body["revision"] = json!(revision);
    }
    body
}

fn parse(bytes: &[u8]) -> Option<Reply> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect();
    let is = |name: &str, value: &str| {
        headers.iter().any(|(key, told)| key.eq_ignore_ascii_case(name) && told.eq_ignore_ascii_case(value))
    };
    let body = &bytes[end + 4..];
    let body = if is("transfer-encoding", "chunked") { dechunk(body)? } else { body.to_vec() };
    let length = headers.iter().find(|(key, _)| key.eq_ignore_ascii_case("content-length"));
    if length.is_some_and(|(_, length)| length.parse() != Ok(body.len())) {
        return None;
    }
    Some(Reply { status, headers, text: String::from_utf8_lossy(&body).into_owned() })
}

fn dechunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).ok()?.trim(), 16).ok()?;
        bytes = bytes.get(end + 2..)?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(..length)?);
        bytes = bytes.get(length + 2..)?;
    }
}
