//! Callers that mean harm, against the real binary: very many of them, and a service that may open only a few files.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::World;
use crate::support::http::generic;
use crate::support::pipelines::{pipeline_for, stage};
use crate::support::poll::{poll_until, within};

/// How many connections the crowd has.
const CROWD: usize = 10_000;

/// There is one crowd at a time: two would take more files together than this one process may open.
static ONE_CROWD: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What a service may grow by for each connection that it keeps.
const EACH: u64 = 32 * 1024;

/// Makes room for so many connections of this process. False where the machine does not allow it, said loudly, and only
/// outside CI.
fn may_open(files: u64) -> bool {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= files) {
        return true;
    }
    if maximum.is_some_and(|maximum| maximum < files) {
        let why = format!("the hard limit of open files is {maximum:?}, and this test needs {files}: ulimit -Hn");
        assert!(std::env::var_os("CI").is_none(), "{why}");
        eprintln!("\n!!! NOT TESTED: {why}\n");
        return false;
    }
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    true
}

/// The descriptors and the resident memory of a process, in bytes.
fn size(pid: Pid) -> (usize, u64) {
    let folder = format!("/proc/{}", pid.as_raw_nonzero());
    let files = std::fs::read_dir(format!("{folder}/fd")).unwrap().count();
    let status = std::fs::read_to_string(format!("{folder}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    (files, resident.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024)
}

/// A connection that asks for nothing more: without a word, with half of one, or after an answer.
async fn idle(address: &str, kind: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // So many would leave as many ports unusable for a minute.
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    match kind % 3 {
        0 => {}
        1 => stream.write_all(b"POST /hooks/generic/pre-rollout HTTP/1.1\r\nX-Slow: ").await.unwrap(),
        _ => {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            let mut head = [0; 12];
            // Who asks is answered, however many sit there.
            within("an answer", stream.read_exact(&mut head)).await.unwrap();
            assert_eq!(&head, b"HTTP/1.1 200");
        }
    }
    stream
}

async fn crowd(address: &str, count: usize) -> Vec<TcpStream> {
    let mut crowd = Vec::with_capacity(count);
    for kind in 0..count {
        crowd.push(idle(address, kind).await);
    }
    crowd
}

/// A world with one pipeline, whose script says how many files it may open.
fn world(limit: &'static [&'static str]) -> World {
    let mut stage = stage("migrate", "pre-rollout");
    stage["with"]["run"] = json!("ulimit -Sn > $E2E_DIR/files");
    World::new().launched_by(limit).pipeline("all.yaml", &pipeline_for("*", "*", &[stage]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections() {
    if !may_open(CROWD as u64 + 1000) {
        return;
    }
    let _alone = ONE_CROWD.lock().await;
    // As a service is usually started. What it needs it takes by itself.
    let world = world(&["prlimit", "--nofile=1024:"]).started().await;
    let (address, pid) = (world.server().address.clone(), world.server().pid());
    let (_, before) = size(pid);
    let sitting = crowd(&address, CROWD).await;
    world.client().post("/hooks/generic/pre-rollout", &generic("a1")).await.expect(200);
    world.client().get("/readyz").await.expect(200);
    let (files, after) = size(pid);
    // The default of `server.maxConnections`.
    assert!(files < 4096 + 200, "{files} descriptors");
    assert!(after < before + 4096 * EACH, "from {before} to {after} bytes");
    assert_eq!(world.read("files"), "1024\n", "scripts have the limit that the service was started with");
    assert_eq!(world.server().log_with("all connections are taken").len(), 1);
    println!("{CROWD} came: {files} descriptors, from {before} to {after} bytes");
    drop(sitting);
    world.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_that_are_all_kept() {
    if !may_open(CROWD as u64 + 1000) {
        return;
    }
    let _alone = ONE_CROWD.lock().await;
    let world = world(&[]).set("/server/maxConnections", json!(CROWD + 100)).set("/server/headerTimeout", json!("10m"));
    let world = world.started().await;
    let (address, pid) = (world.server().address.clone(), world.server().pid());
    let (_, before) = size(pid);
    let sitting = crowd(&address, CROWD).await;
    poll_until("all are accepted", || async { (size(pid).0 > CROWD).then_some(()) }).await;
    world.client().post("/hooks/generic/pre-rollout", &generic("a1")).await.expect(200);
    let (files, after) = size(pid);
    println!(
        "{CROWD} kept: {files} descriptors, from {before} to {after} bytes: {} each",
        (after - before) / CROWD as u64
    );
    assert!(after < before + CROWD as u64 * EACH, "from {before} to {after} bytes");
    drop(sitting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_may_open_few_files_keeps_them_for_scripts_and_the_ledger() {
    let world = world(&["prlimit", "--nofile=300:300"]).started().await;
    let line = world.server().log_with("server.maxConnections is lowered").concat();
    assert!(line.contains("\"allowed\":44") && line.contains("LimitNOFILE"), "{line}");
    let address = world.server().address.clone();
    for round in 0..10 {
        let sitting = crowd(&address, 100).await;
        world.client().post("/hooks/generic/pre-rollout", &generic(&format!("a{round}"))).await.expect(200);
        world.client().get("/readyz").await.expect(200);
        assert_eq!(world.read("files"), "300\n");
        assert!(size(world.server().pid()).0 < 200);
        drop(sitting);
    }
    assert_eq!(world.server().log_with("can't be accepted"), [""; 0]);
    world.verify();
}

#[tokio::test]
async fn who_follows_a_run_and_never_reads_does_not_hold_up_the_end() {
    let mut script = stage("migrate", "pre-rollout");
    script["with"]["run"] = json!("yes | head -c 5000000; echo up > $E2E_DIR/up; sleep 1000");
    let mut world = World::new()
        .set("/server/shutdownGrace", json!("10ms"))
        .pipeline("all.yaml", &pipeline_for("*", "*", &[script]))
        .started()
        .await;
    world.client().post("/hooks/generic/pre-rollout?wait=0s", &generic("a1")).await.expect(503);
    let deployments = world.client().deployments().await;
    let run = poll_until("it runs", || async {
        let shown = world.client().deployment(deployments[0]["id"].as_str().unwrap()).await;
        shown["runs"][0]["id"].as_str().map(str::to_owned)
    })
    .await;
    let mut deaf = Vec::new();
    for _ in 0..10 {
        let mut stream = TcpStream::connect(&world.server().address).await.unwrap();
        let request = format!("GET /api/v1/runs/{run}/logs?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        deaf.push(stream);
    }
    poll_until("all is printed", || async { (!world.read("up").is_empty()).then_some(()) }).await;
    world.stop().await;
    drop(deaf);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_about_one_application_holds_up_no_other() {
    let world = World::new()
        .set("/execution/maxConcurrent", json!(2))
        .set("/execution/queue", json!(4))
        .pipeline("flooded.yaml", &pipeline_for("test", "podinfo", &[stage("flooded", "pre-rollout")]))
        .pipeline("other.yaml", &pipeline_for("test", "other", &[stage("other", "pre-rollout")]))
        .started()
        .await;
    let client = world.client();
    let other = json!({"namespace": "test", "name": "other", "revision": "b1"});
    // As many calls of one hook as there may be: all join one script.
    let mut gate = world.gate("flooded");
    let flood: Vec<_> = (0..500).map(|_| client.hold("/hooks/generic/pre-rollout", &generic("a1"))).collect();
    gate.entered().await;
    client.held_calls(500).await;
    client.post("/hooks/generic/pre-rollout", &other).await.expect(200);
    client.get("/readyz").await.expect(200);
    assert!(flood.iter().all(crate::support::http::Held::is_held));
    gate.open().await;
    for call in flood {
        call.answer().await.expect(200);
    }
    assert_eq!(world.starts(), ["flooded", "other"]);
    // Each of another revision: each supersedes the one before it, whose script is killed, and which is undone.
    let mut revisions = Vec::new();
    for number in 0..200 {
        revisions.push(client.hold("/hooks/generic/pre-rollout?wait=0s", &generic(&format!("r{number}"))));
    }
    let other = json!({"namespace": "test", "name": "other", "revision": "b2"});
    client.post("/hooks/generic/pre-rollout", &other).await.expect(200);
    client.get("/healthz").await.expect(200);
    client.get("/metrics").await.expect(200);
    for call in revisions {
        assert!(matches!(call.answer().await.status, 200 | 501 | 503));
    }
    drop(gate);
    world.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_about_applications_that_are_not_there_leaves_nothing() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let client = world.client();
    let made_up = |number: usize| {
        let body = json!({"namespace": "test", "name": format!("made-up-{number}"), "revision": "a1"});
        client.hold("/hooks/generic/pre-rollout", &body)
    };
    // The first warm up what is kept for all.
    for call in (0..500).map(made_up).collect::<Vec<_>>() {
        call.answer().await.expect(404);
    }
    let (_, before) = size(world.server().pid());
    for round in 0..8 {
        for call in (0..500).map(|number| made_up(1000 * round + number)).collect::<Vec<_>>() {
            call.answer().await.expect(404);
        }
    }
    let (_, after) = size(world.server().pid());
    // A kilobyte for each would be 4 MB; what one round needs at once is there already.
    assert!(after < before + (16 << 20), "from {before} to {after} bytes");
    assert!(client.deployments().await.is_empty());
    let head = world.command(&["ledger", "head", "--output", "json"]);
    assert!(!String::from_utf8_lossy(&head.stdout).contains("made-up"), "{head:?}");
    client.generic("pre-rollout", "a1").await.expect(200);
}
