//! The command line against a server that answers what it is told to: what is asked, what is shown, and the exit code.
//!
//! The service itself is not here: whether both sides mean the same JSON is for the tests of the whole.

#![expect(clippy::unwrap_used, reason = "the helpers are as much test as the tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};

const DEPLOYMENT: &str = "dep_01JQ8ZS9X3T4V5W6Y7Z8A9B0C1";
const RUN: &str = "run_01JQ8ZS9X3T4V5W6Y7Z8A9B0C2";

/// A server for one request: it gives the answer, and what it was asked.
struct Server {
    url: String,
    asked: JoinHandle<String>,
}

fn answering(status: &str, kind: &str, body: &str) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let asked = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let asked = request(&stream);
        (&stream).write_all(answer.as_bytes()).unwrap();
        asked
    });
    Server { url, asked }
}

fn json(status: &str, body: &str) -> Server {
    answering(status, "application/json", body)
}

/// The head and the body of a request.
fn request(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        request.push_str(&line);
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    request + &String::from_utf8(body).unwrap()
}

fn stagehook(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stagehook"));
    command.args(line.split_whitespace()).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("STAGEHOOK_") {
            command.env_remove(name);
        }
    }
    command
}

fn at(server: &Server, line: &str) -> Output {
    stagehook(line).env("STAGEHOOK_SERVER", &server.url).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[test]
fn help_names_the_exit_codes_and_a_slip_is_exit_code_2() {
    let help = stagehook("--help").output().unwrap();
    assert_eq!(code(&help), 0);
    for part in ["rollback", "ledger", "Exit codes:", "STAGEHOOK_TOKEN"] {
        assert!(out(&help).contains(part), "{}", out(&help));
    }
    for line in [
        "",
        "rollout",
        "show",
        "logs dep_1",
        "send flagger rollout",
        "deployments --limit 0",
        "deployments --limit 501",
    ] {
        let slip = stagehook(line).output().unwrap();
        assert_eq!(code(&slip), 2, "{line}: {}", err(&slip));
        assert!(out(&slip).is_empty() && !err(&slip).is_empty(), "{line}");
    }
}

#[test]
fn what_can_be_typed_is_said_where_something_else_was() {
    for (line, hint) in [("show x", "dep_ (a deployment) or run_ (a run)"), ("send flagger x --app a/b", "also event")]
    {
        let slip = stagehook(line).output().unwrap();
        assert!(code(&slip) == 2 && err(&slip).contains(hint), "{line}: {}", err(&slip));
    }
}

#[test]
fn a_service_that_can_not_start_is_exit_code_2_and_says_why_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ledger = folder.path().join("stagehook.db");
    let serve = |listen: &str| {
        let url = format!("sqlite://{}", ledger.display());
        let mut serve = stagehook("serve");
        serve.env("STAGEHOOK_LEDGER__URL", url).env("STAGEHOOK_PIPELINES", folder.path());
        serve.env("STAGEHOOK_SERVER__LISTEN", listen).env("STAGEHOOK_LOG__LEVEL", "error").output().unwrap()
    };
    let in_use = serve(&address);
    assert_eq!(code(&in_use), 2);
    assert!(err(&in_use).contains(&address) && err(&in_use).contains("is in use"), "{}", err(&in_use));
    let locked = stagehook::ledger::Ledger::open(&ledger).unwrap();
    let second = serve("127.0.0.1:0");
    assert!(code(&second) == 2 && err(&second).contains("in use by another stagehook"), "{}", err(&second));
    drop(locked);
    std::fs::write(&ledger, "this is no database, and it is longer than a hundred bytes. ".repeat(4)).unwrap();
    let broken = serve("127.0.0.1:0");
    assert!(code(&broken) == 2 && err(&broken).contains("restore a backup"), "{}", err(&broken));
    for output in [in_use, second, broken] {
        assert_eq!(err(&output).lines().count(), 1, "{}", err(&output));
    }
}

#[test]
fn a_server_that_is_not_there_is_exit_code_3_with_its_address() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for line in ["deployments", "health", "send generic rollout --app a/b"] {
        let output = stagehook(line).args(["--server", &format!("http://me:secret@{free}")]).output().unwrap();
        assert_eq!(code(&output), 3, "{line}");
        let why = err(&output);
        assert!(why.contains(&free.to_string()) && why.contains("refused") && !why.contains("secret"), "{why}");
        assert_eq!(why.lines().count(), 1, "{why}");
    }
}

#[test]
fn a_proxy_is_not_asked_for_the_loopback_interface() {
    let server = answering("200 OK", "text/plain", "ok");
    let output = stagehook("health")
        .env("STAGEHOOK_SERVER", &server.url)
        .env("http_proxy", "http://127.0.0.1:1")
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .output()
        .unwrap();
    assert_eq!((code(&output), out(&output).as_str()), (0, "ready\n"), "{}", err(&output));
    assert!(server.asked.join().unwrap().starts_with("GET /readyz HTTP/1.1"));
}

#[test]
fn what_is_not_ready_is_not_healthy() {
    let problem = r#"{"title":"Service Unavailable","status":503,"detail":"shutting down"}"#;
    let server = answering("503 Service Unavailable", "application/problem+json", problem);
    let output = at(&server, "health");
    assert_eq!(code(&output), 1);
    assert_eq!(err(&output), "stagehook: 503 Service Unavailable: shutting down\n");
}

#[test]
fn the_list_is_a_table_that_no_name_can_break() {
    let server = json(
        "200 OK",
        &format!(
            r#"{{"deployments":[{{"id":"{DEPLOYMENT}","application":"test/podinfo","source":"flagger","revision":null,
            "state":"RollingBack","reason":"Failed\u001b[2J\n","openedAt":"2026-05-01T10:00:00Z"}}],"next":"abc"}}"#
        ),
    );
    let output = stagehook("deployments --app test/podinfo --state rollingback --limit 5")
        .env("STAGEHOOK_SERVER", &server.url)
        .env("STAGEHOOK_TOKEN", "t0k")
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", err(&output));
    let shown = out(&output);
    let lines: Vec<_> = shown.lines().collect();
    assert!(lines[0].starts_with("ID   ") && lines[0].ends_with("OPENED"), "{shown}");
    assert!(lines[1].contains(r"Failed\u{1b}[2J\n") && lines[1].contains("2026-05-01T10:00:00Z ("), "{shown}");
    assert_eq!(lines[2..], ["more: --cursor abc"]);
    let asked = server.asked.join().unwrap();
    let path = "GET /api/v1/deployments?limit=5&application=test%2Fpodinfo&state=RollingBack HTTP/1.1";
    assert!(asked.starts_with(path), "{asked}");
    assert!(asked.to_lowercase().contains("authorization: bearer t0k"), "{asked}");
}

#[test]
fn json_is_passed_through_with_what_this_version_does_not_know() {
    let server = json("200 OK", r#"{"deployments":[],"next":null,"later":[1]}"#);
    let output = at(&server, "deployments --output json");
    let shown: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(shown, serde_json::json!({"deployments": [], "next": null, "later": [1]}));
}

#[test]
fn a_deployment_is_shown_with_its_stages_and_runs() {
    let body = format!(
        r#"{{"id":"{DEPLOYMENT}","application":"test/podinfo","source":"flagger","revision":"57d","state":"RolledBack",
        "reason":"Failed","openedAt":"2026-05-01T10:00:00Z","pipeline":{{"name":"podinfo","file":"p.yaml","hash":"abc"}},
        "stages":[{{"id":"migrate","name":"SCRIPT_RUN","hook":"pre-rollout","state":"Failed","reason":null,"run":"{RUN}"}}],
        "runs":[{{"id":"{RUN}","stage":"migrate","name":"SCRIPT_RUN","state":"Failed","durationMs":1500,
                 "message":"exit code 3","lastLine":"no such table"}}]}}"#
    );
    let output = at(&json("200 OK", &body), &format!("show {DEPLOYMENT}"));
    assert_eq!(code(&output), 0, "{}", err(&output));
    for part in ["RolledBack (Failed)", "podinfo (p.yaml)", "pre-rollout", "1.5s", "exit code 3: no such table"] {
        assert!(out(&output).contains(part), "{part} is not in\n{}", out(&output));
    }
}

#[test]
fn a_change_says_what_was_taken_on_and_a_conflict_is_exit_code_1() {
    let server = json("202 Accepted", r#"{"message":"the rollback starts"}"#);
    let output = at(&server, &format!("rollback {DEPLOYMENT} --now"));
    assert_eq!((code(&output), out(&output).as_str()), (0, "the rollback starts\n"), "{}", err(&output));
    let asked = server.asked.join().unwrap();
    assert!(asked.starts_with(&format!("POST /api/v1/deployments/{DEPLOYMENT}/rollback?now=true HTTP/1.1")), "{asked}");

    let server = json("409 Conflict", r#"{"title":"Conflict","status":409,"detail":"wire the rollback webhook"}"#);
    let output = at(&server, &format!("rollback {DEPLOYMENT}"));
    assert_eq!((code(&output), err(&output).as_str()), (1, "stagehook: 409 Conflict: wire the rollback webhook\n"));

    let server = json("202 Accepted", r#"{"message":"stopping"}"#);
    assert_eq!(code(&at(&server, &format!("cancel {RUN}"))), 0);
    assert!(server.asked.join().unwrap().starts_with(&format!("POST /api/v1/runs/{RUN}/cancel HTTP/1.1")));
}

#[test]
fn a_call_shows_the_verdict_and_only_approved_is_exit_code_0() {
    for (status, verdict, expected) in
        [("200 OK", "approved", 0), ("501 Not Implemented", "rejected", 1), ("503 Service Unavailable", "pending", 1)]
    {
        let server = json(
            status,
            &format!(r#"{{"verdict":"{verdict}","deployment":"{DEPLOYMENT}","message":"{verdict}: why","stages":[]}}"#),
        );
        let output =
            at(&server, "send flagger rollout --app eu:test/podinfo --revision 57d --metadata FAIL=yes --wait 4m");
        assert_eq!(code(&output), expected, "{verdict}: {}", err(&output));
        let status = &status[..3];
        assert_eq!(out(&output), format!("{status} {verdict}: why\ndeployment {DEPLOYMENT}\n"));
        let asked = server.asked.join().unwrap();
        assert!(asked.starts_with("POST /hooks/flagger/rollout?wait=4m&cluster=eu HTTP/1.1"), "{asked}");
        let body: serde_json::Value = serde_json::from_str(asked.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(
            body,
            serde_json::json!({"name": "podinfo", "namespace": "test", "phase": "Progressing", "checksum": "57d",
                               "metadata": {"FAIL": "yes"}})
        );
    }
    let problem = r#"{"title":"Not Found","status":404,"detail":"no pipeline"}"#;
    let output = at(&json("404 Not Found", problem), "send generic rollout --app a/b");
    assert_eq!((code(&output), err(&output).as_str()), (1, "stagehook: 404 Not Found: no pipeline\n"));
}

#[test]
fn a_run_s_output_is_printed_as_it_is_and_followed_to_its_end() {
    let server = answering("200 OK", "text/plain", "one\n\u{1b}[1mtwo\n");
    assert_eq!(out(&at(&server, &format!("logs {RUN}"))), "one\n\u{1b}[1mtwo\n");

    let events = "event: output\ndata: one\ndata: \n\nevent: output\ndata: two\ndata: \n\nevent: end\ndata: Failed\n\n";
    let server = answering("200 OK", "text/event-stream", events);
    let output = at(&server, &format!("logs -f {RUN}"));
    assert_eq!((code(&output), out(&output).as_str()), (0, "one\ntwo\n"), "{}", err(&output));
    assert!(server.asked.join().unwrap().starts_with(&format!("GET /api/v1/runs/{RUN}/logs?follow=true HTTP/1.1")));

    let server = answering("200 OK", "text/event-stream", "event: output\ndata: one\n\n");
    assert_eq!(code(&at(&server, &format!("logs -f {RUN}"))), 3);
}

#[test]
fn a_reader_that_goes_away_changes_nothing_about_the_exit_code() {
    let server = answering("200 OK", "text/plain", &"a line of output\n".repeat(100_000));
    let mut child = stagehook(&format!("logs {RUN}"))
        .env("STAGEHOOK_SERVER", &server.url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), err(&output).as_str()), (0, ""));
}

#[test]
fn the_shipped_pipelines_and_the_examples_are_sound() {
    let shipped = stagehook("check").current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert_eq!((code(&shipped), out(&shipped).as_str()), (0, "3 pipelines, 0 errors, 0 warnings\n"));

    let folder = tempfile::tempdir().unwrap();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/flagger/pipeline.yaml");
    std::fs::copy(example, folder.path().join("pipeline.yaml")).unwrap();
    let plan = stagehook("plan test/podinfo").env("STAGEHOOK_PIPELINES", folder.path()).output().unwrap();
    assert_eq!(code(&plan), 0, "{}", err(&plan));
    assert!(out(&plan).contains("\nsmoke                   migrate\n"), "{}", out(&plan));
    for (source, planned) in [("argocd", "migrate"), ("argo-rollouts", "migrate"), ("flux", "warm-cache")] {
        let folder = tempfile::tempdir().unwrap();
        let example = format!("{}/examples/{source}/pipeline.yaml", env!("CARGO_MANIFEST_DIR"));
        std::fs::copy(example, folder.path().join("pipeline.yaml")).unwrap();
        let plan = stagehook("check").env("STAGEHOOK_PIPELINES", folder.path()).output().unwrap();
        assert_eq!((code(&plan), out(&plan).as_str()), (0, "1 pipeline, 0 errors, 0 warnings\n"), "{source}");
        let plan = stagehook(&format!("plan test/podinfo --source {source}"));
        let plan = { plan }.env("STAGEHOOK_PIPELINES", folder.path()).output().unwrap();
        assert!(code(&plan) == 0 && out(&plan).contains(planned), "{source}: {}{}", out(&plan), err(&plan));
    }
    let other = stagehook("plan test/other").env("STAGEHOOK_PIPELINES", folder.path()).output().unwrap();
    assert_eq!((code(&other), err(&other).contains("no pipeline selects test/other")), (1, true));
}

#[test]
fn a_fault_in_the_settings_or_a_pipeline_is_exit_code_2_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = "apiVersion: stagehook.dev/v1\nkind: Pipeline\nmetadata: {name: a}\nspec: {stagse: []}\n";
    std::fs::write(folder.path().join("a.yaml"), pipeline).unwrap();
    for line in ["check", "plan a/b"] {
        let output = stagehook(line).env("STAGEHOOK_PIPELINES", folder.path()).output().unwrap();
        let said = out(&output) + &err(&output);
        assert_eq!(code(&output), 2, "{line}: {said}");
        assert!(said.contains("a.yaml:4:8: error:") && said.contains("stages"), "{line}: {said}");
    }
    let settings = folder.path().join("settings.yaml");
    std::fs::write(&settings, "server: {listn: 1}\n").unwrap();
    let output = stagehook("deployments --config").arg(&settings).output().unwrap();
    assert!(code(&output) == 2 && err(&output).contains("settings.yaml:1:10: error:"), "{}", err(&output));
}

#[test]
fn what_check_finds_can_be_read_by_a_program() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let checked = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = stagehook("check --output json").env("STAGEHOOK_PIPELINES", folder.path()).output().unwrap();
        (code(&output), serde_json::from_str::<serde_json::Value>(&out(&output)).unwrap())
    };
    let head = "apiVersion: stagehook.dev/v1\nkind: Pipeline\nmetadata: {name: a}\n";
    let (exit, found) = checked(&format!("{head}spec: {{selector: {{}}, stages: []}}\n"));
    let nothing = serde_json::json!({"diagnostics": [], "pipelines": 1, "errors": 0, "warnings": 0});
    assert_eq!((exit, found), (0, nothing));

    let (exit, found) = checked(&format!("{head}spec: {{selector: {{}}, stages: [], stagse: []}}\n"));
    let fault = serde_json::json!({
        "severity": "error",
        "file": file,
        "line": 4,
        "column": 34,
        "message": "unknown key \"stagse\" in spec",
        "hint": "did you mean \"stages\"?",
    });
    let expected = serde_json::json!({"diagnostics": [fault], "pipelines": 0, "errors": 1, "warnings": 0});
    assert_eq!((exit, found), (2, expected));

    let settings = folder.path().join("settings.conf");
    std::fs::write(&settings, "api: {tokens: [{name: a, scope: read, secret: {fromEnv: NOT_THERE}}]}\n").unwrap();
    let output = stagehook("check --output json --config").arg(&settings).output().unwrap();
    let found: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(
        (code(&output), &found["errors"], &found["diagnostics"][0]["line"]),
        (2, &1.into(), &().into()),
        "{found}"
    );
    assert!(found["diagnostics"][0]["message"].as_str().unwrap().contains("NOT_THERE"), "{found}");
}

#[test]
fn a_head_that_was_changed_proves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/stagehook.db", folder.path().display());
    drop(stagehook::ledger::Ledger::open(&folder.path().join("stagehook.db")).unwrap());
    let ledger = |line: &str| stagehook(line).env("STAGEHOOK_LEDGER__URL", &url).output().unwrap();

    let sound = ledger("ledger verify");
    assert_eq!(code(&sound), 0, "{}{}", out(&sound), err(&sound));
    assert!(out(&sound).starts_with("sound: 0 records in 0 streams, 0 pipelines, 0 outputs ("), "{}", out(&sound));

    let head = folder.path().join("head.json");
    std::fs::write(&head, ledger("ledger head").stdout).unwrap();
    let line = format!("ledger verify --against {}", head.display());
    assert_eq!(code(&ledger(&line)), 0);
    let stream = r#""streams": [{"stream": "generic:a/b", "seq": 1, "hash": "00"}]"#;
    std::fs::write(&head, std::fs::read_to_string(&head).unwrap().replace("\"streams\": []", stream)).unwrap();
    let changed = ledger(&line);
    assert!(code(&changed) == 2 && err(&changed).contains("changed or cut"), "{}", err(&changed));

    let missing = stagehook("ledger verify").env("STAGEHOOK_LEDGER__URL", "sqlite:///no/such.db").output().unwrap();
    assert_eq!(code(&missing), 2);
}

#[test]
fn one_authorization_is_sent_and_the_more_particular_wins() {
    let sent = |user: &str, userinfo: &str| {
        let server = json("200 OK", r#"{"verdict":"approved","message":"approved: x"}"#);
        let url = server.url.replace("http://", &format!("http://{userinfo}"));
        let line = format!("send generic rollout --app a/b {user}");
        let output = stagehook(&line).env("STAGEHOOK_SERVER", url).env("STAGEHOOK_TOKEN", "t0k").output().unwrap();
        assert_eq!(code(&output), 0, "{}", err(&output));
        let asked = server.asked.join().unwrap();
        let lines = asked.lines().filter(|line| line.to_ascii_lowercase().starts_with("authorization:"));
        lines.map(|line| line.split_once(": ").unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(sent("", ""), ["Bearer t0k"]);
    assert_eq!(sent("--user me:pw", ""), ["Basic bWU6cHc="]);
    assert_eq!(sent("", "me:pw@"), ["Basic bWU6cHc="]);
    assert_eq!(sent("--user me:other", "me:pw@"), ["Basic bWU6b3RoZXI="]);
}
