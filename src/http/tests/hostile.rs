//! Callers that mean harm, over a real socket: slow ones, endless ones, many at once, and requests that two readers
//! would understand differently.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Site;
use super::wire::{BODY, FOREVER, Served, exchange, post, served_with};
use crate::domain::names::Source;
use crate::http::{Settings, SourceSettings};

const SHORT: Duration = Duration::from_millis(80);

/// Short, and far more than a byte of [`trickled`] takes on a busy machine: where every byte had it, it would not end.
const FOR_ALL: Duration = Duration::from_millis(500);

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Sends a byte every few milliseconds for as long as the server takes any, and gives what it said by then.
async fn trickled(address: SocketAddr, begin: &str, byte: u8) -> String {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    write.write_all(begin.as_bytes()).await.unwrap();
    let trickle = async {
        let mut tick = interval(Duration::from_millis(2));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if write.write_all(&[byte]).await.is_err() {
                return std::future::pending().await;
            }
        }
    };
    let mut said = Vec::new();
    let told = async {
        // A reset after the answer is an end as well: this caller goes on sending.
        let _ = read.read_to_end(&mut said).await;
    };
    tokio::select! {
        () = trickle => {}
        ended = timeout(FOREVER, told) => ended.expect("the server gives a caller up that sends a byte at a time"),
    }
    String::from_utf8(said).unwrap()
}

/// Reads until the server closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let _ = timeout(FOREVER, stream.read_to_end(&mut said)).await.expect("the server closes");
    String::from_utf8_lossy(&said).into_owned()
}

async fn connected(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// The status of an answer that is still to come, on a connection that goes on.
async fn status(stream: &mut TcpStream) -> String {
    let mut head = [0; 12];
    timeout(FOREVER, stream.read_exact(&mut head)).await.expect("an answer").unwrap();
    String::from_utf8_lossy(&head[9..]).into_owned()
}

fn statuses(answers: &str) -> Vec<&str> {
    answers
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|answer| &answer[..3])
        .filter(|status| status.parse::<u16>().is_ok())
        .collect()
}

#[tokio::test]
async fn headers_have_a_time_as_a_whole() {
    let served = served_with(Settings { header_timeout: FOR_ALL, ..Settings::default() }).await;
    for begin in ["GET /healthz HTTP/1.1\r\nX-Slow: ", "G", "\r\n"] {
        let said = trickled(served.address, begin, b'x').await;
        assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("`server.headerTimeout`"), "{begin:?}: {said}");
    }
    // Those after the first have it, too.
    let said = trickled(served.address, &format!("{HEALTH}GET / HTTP/1.1\r\nX-Slow: "), b'x').await;
    assert_eq!(statuses(&said), ["200", "408"], "{said}");
    // Who has sent nothing has asked for nothing.
    assert_eq!(rest(&mut connected(served.address, b"").await).await, "");
}

#[tokio::test]
async fn a_body_has_a_time_as_a_whole() {
    let served = served_with(Settings { body_timeout: FOR_ALL, ..Settings::default() }).await;
    for length in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
        let begin = format!("POST /hooks/flagger/rollout HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n");
        // In chunks it is an endless line that says how long the first one is.
        let said = trickled(served.address, &begin, b'0').await;
        assert!(said.starts_with("HTTP/1.1 4") && statuses(&said).len() == 1, "{said}");
        if length.starts_with("Content") {
            assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("`server.bodyTimeout`"), "{said}");
        }
    }
    assert_eq!(served.site.head().await, 4, "nothing was recorded");
}

#[tokio::test]
async fn a_connection_is_kept_so_long_without_a_request() {
    let served = served_with(Settings { idle_timeout: SHORT, ..Settings::default() }).await;
    let mut idle = connected(served.address, HEALTH.as_bytes()).await;
    let said = rest(&mut idle).await;
    assert_eq!(statuses(&said), ["200"], "{said}");
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_given_up() {
    let served = served_with(Settings { write_timeout: SHORT, ..Settings::default() }).await;
    let mut deaf = connected(served.address, b"").await;
    // Until what lies between is full, and nothing is taken any more: then it is closed, and nothing before.
    let flood = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000);
    let flooded = async { while deaf.write_all(flood.as_bytes()).await.is_ok() {} };
    timeout(FOREVER, flooded).await.expect("the server gives a caller up that takes nothing");
    assert!(
        exchange(served.address, b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .contains("stagehook_connections_cut_total{why=\"write\"} 1")
    );
}

#[tokio::test]
async fn headers_have_a_size() {
    let served = served_with(Settings { max_header: 8192, ..Settings::default() }).await;
    let long = "x".repeat(9000);
    for head in [
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Endless: {long}{long}{long}"),
        format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "a: b\r\n".repeat(101)),
        format!("GET /?{long} HTTP/1.1\r\n\r\n"),
    ] {
        let said = exchange(served.address, head.as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 431 ") && said.contains("`server.maxHeader`"), "{said}");
        assert!(said.len() < 1000, "{said}");
    }
    let fits = format!("GET /healthz HTTP/1.1\r\nX-Long: {}\r\nConnection: close\r\n\r\n", "x".repeat(8000));
    assert_eq!(statuses(&exchange(served.address, fits.as_bytes()).await), ["200"]);
    let metrics = exchange(served.address, b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert!(metrics.contains(r#"stagehook_requests_refused_total{source="-",status="431"} 5"#), "{metrics}");
}

/// A request behind whatever is wrong with the first: it must never be answered.
const SMUGGLED: &str = "POST /gate/open HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn what_two_readers_would_understand_differently_is_the_last_of_its_connection() {
    let served = served_with(Settings::default()).await;
    let hook = "POST /hooks/flagger/confirm-promotion HTTP/1.1\r\nHost: localhost\r\n";
    let length = SMUGGLED.len();
    let requests = [
        // Two lengths, or none that is one.
        ("400", format!("{hook}Content-Length: 0\r\nContent-Length: {length}\r\n\r\n")),
        ("400", format!("{hook}Content-Length: 0, {length}\r\n\r\n")),
        ("400", format!("{hook}Content-Length: +0\r\n\r\n")),
        ("400", format!("{hook}Content-Length: -1\r\n\r\n")),
        ("400", format!("{hook}Content-Length: 0x10\r\n\r\n")),
        ("400", format!("{hook}Content-Length: 99999999999999999999999\r\n\r\n")),
        ("413", format!("{hook}Content-Length: 18446744073709551000\r\n\r\n")),
        // A length and chunks: the chunks count, and nothing behind them.
        ("400", format!("{hook}Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
        ("400", format!("{hook}Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n0\r\n\r\n")),
        // Chunks that are none.
        ("400", format!("{hook}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n")),
        ("400", format!("{hook}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n")),
        ("400", format!("{hook}Transfer-Encoding: identity\r\n\r\n0\r\n\r\n")),
        ("400", format!("{hook}Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n")),
        ("400", format!("{hook}Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n")),
        ("400", format!("{}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", hook.replace("1.1", "1.0"))),
        ("400", format!("{hook}Transfer-Encoding: chunked\r\n\r\nxyz\r\n")),
        ("400", format!("{hook}Transfer-Encoding: chunked\r\n\r\n-1\r\n")),
        ("400", format!("{hook}Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n")),
        ("400", format!("{hook}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n")),
        ("400", format!("{hook}Transfer-Encoding: chunked\r\n\r\n1;{}\r\na\r\n0\r\n\r\n", "x".repeat(20_000))),
        ("400", format!("{hook}Transfer-Encoding: chunked\r\n\r\n0\r\n{}\r\n", "a: b\r\n".repeat(10_000))),
        // Names and lines that are read in more than one way.
        ("400", format!("{hook}Content-Length : {length}\r\n\r\n")),
        ("400", format!("{hook}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n")),
        ("400", format!("{hook}X-Folded: a\r\n Content-Length: {length}\r\n\r\n")),
        ("400", format!("{hook}X-Nul: a\0b\r\n\r\n")),
        ("400", format!("{hook}X\0Nul: a\r\n\r\n")),
        ("400", format!("{hook}X-Return: a\rb\r\n\r\n")),
        ("400", format!("{hook}: nameless\r\n\r\n")),
        ("400", format!("{hook}no colon\r\n\r\n")),
        ("400", "POST  /hooks/flagger/rollout HTTP/1.1\r\n\r\n".to_owned()),
        ("400", "POST /hooks/flagger/rollout HTTP/2.0\r\n\r\n".to_owned()),
        ("400", "POST /hooks/flagger/rollout HTTP/1.1 \r\n\r\n".to_owned()),
        ("400", "GET /healthz\r\n\r\n".to_owned()),
        ("400", "GET\r\n\r\n".to_owned()),
        ("400", "GET /a b HTTP/1.1\r\n\r\n".to_owned()),
        ("400", "GET /\0 HTTP/1.1\r\n\r\n".to_owned()),
        ("505", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_owned()),
        // A body that is refused before it has come.
        ("413", format!("{hook}Content-Length: 99999999\r\n\r\n")),
        ("413", format!("{hook}Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n")),
    ];
    for (expected, request) in requests {
        let said = exchange(served.address, format!("{request}{SMUGGLED}").as_bytes()).await;
        assert_eq!(statuses(&said), [expected], "{request:?}: {said}");
        assert!(said.split_once("\r\n\r\n").unwrap().1.len() > 20, "{request:?} is told why: {said}");
    }
    assert_eq!(served.site.head().await, 4, "nothing was recorded");
}

#[tokio::test]
async fn what_is_read_in_one_way_alone_is_answered() {
    let served = served_with(Settings::default()).await;
    let body = String::from_utf8_lossy(BODY);
    let hook = "POST /hooks/flagger/confirm-promotion HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let length = body.len();
    for (expected, request) in [
        (["200"].as_slice(), format!("{hook}Content-Length: {length}\r\nContent-Length: {length}\r\n\r\n{body}")),
        (&["200"], format!("{hook}Transfer-Encoding: ChUnKeD\r\n\r\n{length:x};a=b\r\n{body}\r\n0\r\na: b\r\n\r\n")),
        (
            &["200"],
            format!("{}Content-Length: {length}\r\n\r\n{body}", hook.replace("/hooks", "http://elsewhere/hooks")),
        ),
        (&["200"], format!("{}Content-Length: {length}\r\n\r\n{body}", hook.replace('\r', ""))),
        (&["100", "200"], format!("{hook}Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n{body}")),
        (&["200"], format!("{hook}Upgrade: websocket\r\nContent-Length: {length}\r\n\r\n{body}")),
        (&["404"], "CONNECT elsewhere:443 HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned()),
        (&["405"], "TRACE /healthz HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned()),
        (&["404"], "OPTIONS * HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned()),
    ] {
        let said = exchange(served.address, request.as_bytes()).await;
        assert_eq!(statuses(&said), expected, "{request:?}: {said}");
    }
    let old = exchange(served.address, b"GET /healthz HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 "), "{old}");
}

#[tokio::test]
async fn a_caller_that_goes_on_sending_hears_why_it_is_refused() {
    let served = served_with(Settings::default()).await;
    let mut caller = connected(
        served.address,
        b"POST /hooks/flagger/rollout HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8000000\r\n\r\n",
    )
    .await;
    // All of it, as many clients do before they read. Closed at once, the connection would lose the answer.
    caller.write_all(&vec![b'x'; 8_000_000]).await.unwrap();
    let said = rest(&mut caller).await;
    assert!(said.starts_with("HTTP/1.1 413 ") && said.contains("`sources.flagger.maxBody`"), "{said}");
}

#[tokio::test]
async fn requests_in_a_row_are_answered_in_their_order_and_read_ahead_in_bounds() {
    let served = served_with(Settings::default()).await;
    let call = String::from_utf8(post("rollout", BODY)).unwrap().replace("Connection: close\r\n", "");
    let caller = connected(served.address, call.as_bytes()).await;
    served.held_calls(1).await;
    // More than lies between: what is not read ahead stays with its sender.
    let (mut read, mut write) = caller.into_split();
    let flood = tokio::spawn(async move {
        let requests = HEALTH.repeat(200);
        let mut sent = 0_usize;
        while sent < 64 << 20 && timeout(Duration::from_millis(500), write.write_all(requests.as_bytes())).await.is_ok()
        {
            sent += requests.len();
        }
        (sent, write)
    });
    let (sent, write) = flood.await.unwrap();
    assert!(sent < 32 << 20, "{sent} bytes were taken while one call waits");
    assert_eq!(served.site.state.engine.gauges().held_calls, 1, "it waits on");
    // A fresh connection has nothing to do with it.
    let fresh = exchange(served.address, b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert_eq!(statuses(&fresh), ["200"]);
    let run = serde_json::from_str::<serde_json::Value>(
        &served.site.get(&format!("/api/v1/deployments/{}", super::DEPLOYMENT)).await.body,
    )
    .unwrap()["runs"][1]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    served.site.post(&format!("/api/v1/runs/{run}/cancel"), "").await;
    let mut first = [0; 12];
    read.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 501", "the call comes first");
    let mut more = vec![0; 4096];
    let mut said = String::new();
    while !said.contains("HTTP/1.1 200 OK") {
        let length = read.read(&mut more).await.unwrap();
        said.push_str(std::str::from_utf8(&more[..length]).unwrap());
    }
    drop(write);
}

#[tokio::test]
async fn the_idle_make_room_for_who_asks() {
    let served = served_with(Settings { max_connections: 16, ..Settings::default() }).await;
    // Three kinds of sitting there: without a word, with half of one, and after an answer.
    let mut sitting = Vec::new();
    for round in 0..100 {
        let begun = [&b""[..], b"POST /hooks/flagger/rollout HTTP/1.1\r\nX: ", HEALTH.as_bytes()][round % 3];
        let mut stream = connected(served.address, begun).await;
        if round % 3 == 2 {
            assert_eq!(status(&mut stream).await, "200", "whoever asks is answered");
        }
        sitting.push(stream);
        assert!(served.site.state.seats.taken() <= crate::http::descriptors(16));
    }
    let approved = exchange(served.address, &post("confirm-promotion", BODY)).await;
    assert_eq!(statuses(&approved), ["200"]);
    // The oldest have gone, and were told nothing.
    assert_eq!(rest(&mut sitting[0]).await, "");
    let newest = sitting.last_mut().unwrap();
    newest.write_all(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap_or_default();
    served.stopped().await;
}

#[tokio::test]
async fn slow_bodies_make_room_as_well() {
    let served = served_with(Settings { max_connections: 16, ..Settings::default() }).await;
    let begun = b"POST /hooks/flagger/confirm-promotion HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{";
    let mut slow = Vec::new();
    for _ in 0..40 {
        slow.push(connected(served.address, begun).await);
    }
    let approved = exchange(served.address, &post("confirm-promotion", BODY)).await;
    assert_eq!(statuses(&approved), ["200"]);
}

#[tokio::test]
async fn who_never_reads_makes_room_as_well() {
    let served = served_with(Settings { max_connections: 1, write_timeout: 10 * FOREVER, ..Settings::default() }).await;
    let mut deaf = connected(served.address, b"").await;
    let requests = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000);
    // Until what lies between is full, and it has the one place although it asks for nothing more.
    while let Ok(Ok(())) = timeout(Duration::from_millis(500), deaf.write_all(requests.as_bytes())).await {}
    let in_its_place =
        async { while statuses(&exchange(served.address, &post("confirm-promotion", BODY)).await) != ["200"] {} };
    timeout(FOREVER, in_its_place).await.expect("whoever takes nothing gives the place to who asks");
}

#[tokio::test]
async fn who_looks_waits_for_other_readers_and_who_calls_does_not() {
    let served = served_with(Settings::default()).await;
    let readers = std::sync::Arc::clone(&served.site.state.readers);
    let reading = readers.acquire_many(2).await.unwrap();
    assert_eq!(readers.available_permits(), 0, "two at a time");
    let list = b"GET /api/v1/deployments HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut looks = connected(served.address, list).await;
    for request in [post("confirm-promotion", BODY), HEALTH.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").into()]
    {
        assert_eq!(statuses(&exchange(served.address, &request).await), ["200"]);
    }
    // It came before them, and has no answer yet.
    let early = timeout(Duration::from_millis(300), looks.read(&mut [0])).await;
    assert!(early.is_err(), "{early:?}");
    drop(reading);
    assert_eq!(statuses(&rest(&mut looks).await), ["200"]);
}

#[tokio::test]
async fn calls_that_wait_never_take_every_connection() {
    let served = served_with(Settings { max_connections: 16, ..Settings::default() }).await;
    let mut held = Vec::new();
    for count in 1..=14 {
        held.push(connected(served.address, &post("rollout", BODY)).await);
        served.held_calls(count).await;
    }
    // One more is taken on, and not held: it is told that it is pending.
    let pending = exchange(served.address, &post("rollout", BODY)).await;
    assert!(pending.starts_with("HTTP/1.1 503 ") && pending.contains("pending: "), "{pending}");
    // So a failure is never refused, however many wait.
    let told =
        exchange(served.address, &post("rollback", &[&BODY[..BODY.len() - 1], b", \"phase\": \"Failed\"}"].concat()))
            .await;
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
    for mut answered in held {
        assert_eq!(status(&mut answered).await, "501", "with their stage cancelled, all have their answer");
    }
}

#[tokio::test]
async fn with_every_connection_in_use_there_is_one_for_the_probes() {
    let served = served_with(Settings { max_connections: 1, ..Settings::default() }).await;
    let _held = connected(served.address, &post("rollout", BODY)).await;
    served.held_calls(1).await;
    for _ in 0..100 {
        let refused = exchange(served.address, &post("confirm-promotion", BODY)).await;
        assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("`server.maxConnections`"), "{refused}");
        assert!(refused.contains("retry-after: "), "{refused}");
    }
    for probe in ["/healthz", "/readyz", "/metrics"] {
        let request = format!("GET {probe} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(statuses(&exchange(served.address, request.as_bytes()).await), ["200"], "{probe}");
    }
}

/// A service with these limits for GitHub's bodies, which come before anybody is known.
async fn with_bodies(max_body: usize, body_timeout: Duration) -> Served {
    let mut settings = Settings { body_timeout, ..Settings::default() };
    for source in [Source::Flagger, Source::Generic] {
        settings.sources.insert(source, SourceSettings { max_body, ..SourceSettings::default() });
    }
    served_with(settings).await
}

/// All but the last byte of a body: four of them fill the store of their source, and some more wait.
async fn eight_large_bodies(served: &Served) -> Vec<TcpStream> {
    let head = "POST /hooks/flagger/confirm-promotion HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n";
    let mut slow = Vec::new();
    for _ in 0..8 {
        slow.push(connected(served.address, &[head.as_bytes(), &[b' '; 199_999]].concat()).await);
    }
    slow
}

#[tokio::test]
async fn large_bodies_of_one_source_are_in_nobody_else_s_way() {
    let served = with_bodies(200_000, 10 * FOREVER).await;
    let slow = eight_large_bodies(&served).await;
    let full = async {
        while served.site.state.bodies.left(Source::Flagger) > 1000 {
            tokio::task::yield_now().await;
        }
    };
    timeout(FOREVER, full).await.expect("they take what is meant for them");
    assert_eq!(served.site.state.bodies.left(Source::Generic), 800_000);
    // A small one of the same source, and a large one of another.
    let small = exchange(served.address, &post("confirm-promotion", BODY)).await;
    assert_eq!(statuses(&small), ["200"]);
    let padded = [BODY, &vec![b' '; 100_000]].concat();
    let other = String::from_utf8(post("confirm-promotion", &padded)).unwrap().replace("flagger", "generic");
    let other = exchange(served.address, other.as_bytes()).await;
    assert!(other.starts_with("HTTP/1.1 404 "), "it was read: {other}");
    assert!(served.site.state.bodies.left(Source::Flagger) <= 1000, "and did not wait for the others");
    drop(slow);
}

#[tokio::test]
async fn large_bodies_of_one_source_wait_for_each_other_and_are_told_so() {
    let served = with_bodies(200_000, Duration::from_secs(2)).await;
    let slow = eight_large_bodies(&served).await;
    let mut answers = Vec::new();
    for mut stream in slow {
        answers.push(rest(&mut stream).await);
    }
    let waited =
        answers.iter().filter(|said| said.starts_with("HTTP/1.1 503 ") && said.contains("too many large bodies"));
    let late = answers.iter().filter(|said| said.starts_with("HTTP/1.1 408 "));
    assert!(waited.count() >= 3 && late.count() >= 1, "{answers:#?}");
    assert_eq!(served.site.state.bodies.left(Source::Flagger), 800_000, "all is given back");
}

#[tokio::test]
async fn a_body_without_an_end_is_cut_at_its_limit() {
    let served = with_bodies(50_000, FOREVER).await;
    let mut endless = connected(
        served.address,
        b"POST /hooks/flagger/rollout HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    .await;
    // A byte a chunk is the most that can be made of one.
    while endless.write_all(&b"1\r\n \r\n".repeat(1000)).await.is_ok() {
        let mut byte = [0; 12];
        if let Ok(12) = endless.try_read(&mut byte) {
            assert_eq!(&byte, b"HTTP/1.1 413");
            return;
        }
    }
    panic!("it was closed without a word");
}

#[tokio::test]
async fn no_answer_repeats_what_it_was_sent_at_length() {
    let site = Site::new().await;
    let long = "x".repeat(40_000);
    let bodies = [
        format!(r#"{{"namespace": "{long}", "name": "a"}}"#),
        format!(r#"{{"namespace": "a", "name": "a", "checksum": "{long}"}}"#),
        format!(r#"{{"namespace": "a", "name": "a", "metadata": {{"{long}": []}}}}"#),
        format!(r#"{{"namespace": "a", "name": "a", "{long}": "\u0000"}}"#),
        format!(r#"{{"namespace": "a", "name": "a", "phase": "{long}"}}"#),
        long.clone(),
    ];
    for path in ["/hooks/flagger/rollout", "/hooks/generic/rollout", "/hooks/generic/rollback"] {
        for body in &bodies {
            let answer = site.post(path, body.clone()).await;
            assert!(
                answer.status >= 400 && answer.body.len() < 1500,
                "{path}: {}: {}",
                answer.status,
                answer.body.len()
            );
        }
    }
    for path in [
        format!("/{long}"),
        format!("/hooks/{long}/rollout"),
        format!("/hooks/flagger/{long}"),
        format!("/hooks/flagger/rollout?wait={long}"),
        format!("/hooks/flagger/rollout?{long}=1&cluster={}", &long[..20_000]),
        format!("/hooks/generic/deployments/{}/{}", &long[..20_000], &long[..20_000]),
        format!("/api/v1/deployments/{long}"),
        format!("/api/v1/runs/{long}"),
        format!("/api/v1/runs/{}/logs?follow={long}", super::RUN),
        format!("/api/v1/deployments?application={long}"),
        format!("/api/v1/deployments?state={long}"),
        format!("/api/v1/deployments?limit={long}"),
        format!("/api/v1/deployments?cursor={long}"),
    ] {
        let body = String::from_utf8_lossy(BODY).into_owned();
        let answer = if path.starts_with("/hooks") && !path.contains("deployments") {
            site.post(&path, body).await
        } else {
            site.get(&path).await
        };
        assert!(
            answer.status >= 400 && answer.body.len() < 1500,
            "{path:.60}: {}: {}",
            answer.status,
            answer.body.len()
        );
    }
}

#[tokio::test]
async fn paths_and_queries_that_are_garbage() {
    let served = served_with(Settings::default()).await;
    let ask = async |method: &str, target: &[u8]| {
        let request = [
            method.as_bytes(),
            b" ",
            target,
            b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        ]
        .concat();
        exchange(served.address, &request).await
    };
    for (method, target, expected) in [
        ("GET", &b"/api/v1/../../healthz"[..], "404"),
        ("GET", b"/api/v1/%2e%2e/healthz", "404"),
        ("GET", b"//healthz", "404"),
        ("GET", b"/healthz/", "404"),
        ("GET", b"/./healthz", "404"),
        ("GET", b"/healthz%00", "404"),
        ("GET", b"/%", "404"),
        ("GET", b"/%zz", "404"),
        ("GET", b"/\xff\xfe", "400"),
        ("GET", b"/api/v1/deployments/%ff", "404"),
        ("GET", b"/api/v1/deployments/..%2f..%2fetc%2fpasswd", "404"),
        ("GET", b"/api/v1/runs/%00", "404"),
        ("GET", b"/api/v1/deployments?limit=1&limit=2", "400"),
        ("GET", b"/api/v1/deployments?application=%ff", "400"),
        ("GET", b"/api/v1/deployments?application=a%00b", "400"),
        ("POST", b"/hooks//rollout", "404"),
        ("POST", b"/hooks/flagger/", "404"),
        ("POST", b"/hooks/flagger/../generic/rollout", "404"),
        ("POST", b"/hooks/%66lagger%00/rollout", "404"),
        ("POST", b"/hooks/flagger/rollout?cluster=%ff", "400"),
        ("POST", b"/hooks/flagger/rollout?wait=%", "400"),
    ] {
        let said = ask(method, target).await;
        assert_eq!(statuses(&said), [expected], "{:?}: {said}", String::from_utf8_lossy(target));
    }
    let many = format!("/api/v1/deployments?{}", "a=b&".repeat(15_000));
    assert_eq!(statuses(&ask("GET", many.as_bytes()).await), ["200"]);
}
