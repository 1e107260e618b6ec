//! Over a real socket: what only a connection can show.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Logged, Site};
use crate::config::tls::{ClientAuth, Tls};
use crate::http::{Settings, serve};

pub(super) const BODY: &[u8] = br#"{"name": "podinfo", "namespace": "test", "checksum": "7d7b"}"#;

/// Far more than anything here takes: who waits so long has found a bug.
pub(super) const FOREVER: Duration = Duration::from_secs(60);

pub(super) struct Served {
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
    pub site: Site,
}

async fn served() -> Served {
    // Shorter than the calls below are held: none of them must count for those.
    let short = Duration::from_millis(50);
    served_with(Settings {
        header_timeout: short,
        body_timeout: short,
        idle_timeout: short,
        write_timeout: short,
        ..Settings::default()
    })
    .await
}

pub(super) async fn served_with(settings: Settings) -> Served {
    let site = Site::with(settings, true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, site.state.clone(), async move {
        let _ = stopped.await;
    }));
    Served { address, stop, server, site }
}

impl Served {
    /// Waits until so many calls are held.
    pub async fn held_calls(&self, count: usize) {
        let held = async {
            while self.site.state.engine.gauges().held_calls != count {
                tokio::task::yield_now().await;
            }
        };
        timeout(FOREVER, held).await.unwrap_or_else(|_| panic!("{count} calls are held"));
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stopped(self) {
        self.stop.send(()).unwrap();
        self.server.await.unwrap();
    }
}

/// Writes raw bytes and reads until the server closes.
pub(super) async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = timeout(FOREVER, stream.read_to_end(&mut answer)).await;
    read.unwrap_or_else(|_| panic!("the server closes after {:?}", String::from_utf8_lossy(bytes))).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

pub(super) fn post(hook: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST /hooks/flagger/{hook} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn raw_requests_are_answered() {
    let served = served().await;
    let approved = exchange(served.address, &post("confirm-promotion", BODY)).await;
    assert!(approved.starts_with("HTTP/1.1 200 OK\r\n"), "{approved}");
    let refused = exchange(served.address, &post("confirm-promotion", b"\x00\xff{")).await;
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    let garbage = exchange(served.address, b"\x16\x03\x01 not HTTP at all\r\n\r\n").await;
    assert!(garbage.is_empty() || garbage.starts_with("HTTP/1.1 400 "), "{garbage}");
    // An announced length over the limit is refused before a byte of it is sent.
    let huge =
        b"POST /hooks/generic/rollout HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 99999999\r\n\r\n";
    assert!(exchange(served.address, huge).await.starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn a_request_for_two_hosts_is_for_neither() {
    let served = served().await;
    for (start, status) in [
        ("GET /readyz HTTP/1.1\r\nHost: localhost\r\n", 200),
        ("GET /readyz HTTP/1.1\r\n", 200),
        ("GET /readyz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n", 400),
        ("GET /readyz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n", 400),
        // RFC 9112, 3.2.2: the header does not count then.
        ("GET http://elsewhere/readyz HTTP/1.1\r\nHost: localhost\r\n", 200),
        ("GET http://elsewhere/api/v1/deployments HTTP/1.1\r\nHost: localhost\r\n", 403),
        ("GET http://localhost/api/v1/deployments HTTP/1.1\r\nHost: localhost\r\n", 200),
    ] {
        let answer = exchange(served.address, format!("{start}Connection: close\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{start}{answer}");
        assert_eq!(answer.contains("more than one host"), status == 400, "{answer}");
    }
}

#[tokio::test]
async fn it_stops_when_it_is_told_although_a_connection_is_idle() {
    let served = served().await;
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 15];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    served.stop.send(()).unwrap();
    served.server.await.unwrap();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}

#[tokio::test]
async fn a_call_is_pending_after_its_wait_and_its_run_can_be_followed_to_its_end() {
    let served = served().await;
    let pending = exchange(served.address, &post("rollout?wait=200ms", BODY)).await;
    assert!(pending.starts_with("HTTP/1.1 503 "), "{pending}");
    assert!(
        pending.contains("retry-after: 5\r\n") && pending.contains("pending: stage settle is running"),
        "{pending}"
    );

    let run = pending.split_once('(').unwrap().1.split_once(')').unwrap().0;
    let follow =
        format!("GET /api/v1/runs/{run}/logs?follow=true HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut events = TcpStream::connect(served.address).await.unwrap();
    events.write_all(follow.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    events.read_exact(&mut head).await.unwrap();
    let cancelled = served.site.post(&format!("/api/v1/runs/{run}/cancel"), "").await;
    assert_eq!(cancelled.status, 202, "{cancelled:?}");
    let mut rest = String::new();
    events.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("event: end\ndata: {") && rest.contains(r#""state":"Cancelled""#), "{rest}");
}

#[tokio::test]
async fn a_caller_that_hangs_up_is_told_of_in_the_log() {
    let served = served().await;
    let (logged, _guard) = Logged::here();
    let mut caller = TcpStream::connect(served.address).await.unwrap();
    caller.write_all(&post("rollout", BODY)).await.unwrap();
    while served.site.state.engine.gauges().held_calls == 0 {
        tokio::task::yield_now().await;
    }
    drop(caller);
    let line = logged.line("hung up").await;
    assert_eq!((&line["source"], &line["hook"]), (&"flagger".into(), &"rollout".into()));
    assert!(line["remedy"].as_str().unwrap().contains("set `timeout`"), "{line}");
}

#[tokio::test]
async fn a_handshake_has_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.path().join("crt"), pair.cert.pem()).unwrap();
    std::fs::write(folder.path().join("key"), pair.signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (folder.path().join("crt"), folder.path().join("key"));
    let tls = Tls { certificate, key, client_ca: None, client_auth: ClientAuth::Required }.load().unwrap();
    let settings = Settings {
        tls: Some(tokio::sync::watch::channel(tls).1),
        header_timeout: Duration::from_millis(50),
        ..Settings::default()
    };
    let site = Site::with(settings, true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, site.state.clone(), std::future::pending()));
    for begun in [b"".as_slice(), b"\x16\x03\x01"] {
        let mut silent = TcpStream::connect(address).await.unwrap();
        silent.write_all(begun).await.unwrap();
        let mut answer = Vec::new();
        let let_go = timeout(FOREVER, silent.read_to_end(&mut answer)).await;
        assert!(let_go.is_ok() && answer.is_empty(), "it was let go: {answer:?}");
    }
    server.abort();
}

#[tokio::test]
async fn what_comes_while_a_call_waits_is_answered_after_it() {
    let served = served().await;
    let mut caller = TcpStream::connect(served.address).await.unwrap();
    let call = String::from_utf8(post("rollout?wait=300ms", BODY)).unwrap().replace("Connection: close\r\n", "");
    let get = |end: &str| format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{end}\r\n");
    caller.write_all(format!("{call}{}", get("")).as_bytes()).await.unwrap();
    while served.site.state.engine.gauges().held_calls == 0 {
        tokio::task::yield_now().await;
    }
    caller.write_all(get("Connection: close\r\n").as_bytes()).await.unwrap();
    let mut answers = String::new();
    caller.read_to_string(&mut answers).await.unwrap();
    let statuses: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["503", "200", "200"], "{answers}");
}

#[tokio::test]
async fn a_held_call_does_not_hold_up_the_stop() {
    let settings = Settings { close_grace: Duration::ZERO, ..Settings::default() };
    let site = Site::with(settings, true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, site.state.clone(), async move {
        let _ = stopped.await;
    }));
    let mut caller = TcpStream::connect(address).await.unwrap();
    caller.write_all(&post("rollout", BODY)).await.unwrap();
    while site.state.engine.gauges().held_calls == 0 {
        tokio::task::yield_now().await;
    }
    stop.send(()).unwrap();
    server.await.unwrap();
    let mut answer = Vec::new();
    let _ = caller.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "its connection is cut");
}
