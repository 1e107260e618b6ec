//! HTTPS: the real binary with certificates that `openssl` made.

use std::process::{Command, Output};
use std::sync::Arc;

use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::World;
use crate::support::certificates::Authority;
use crate::support::http::flagger;
use crate::support::pipelines::{pipeline, stage};
use crate::support::poll::within;

/// A world that listens with `tls.crt`, and who signed that.
async fn world(more: &Value) -> (World, Authority) {
    let world = World::new();
    let authority = Authority::new(world.path());
    authority.sign("tls");
    let mut tls = json!({"certificate": "tls.crt", "key": "tls.key"});
    tls.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let world = world.set("/server/tls", tls);
    let world = world.pipeline("podinfo.yaml", &pipeline(&[stage("migrate", "pre-rollout")])).started().await;
    (world, authority)
}

/// A connection of a client that trusts the authority, and shows a certificate of it if it is given a name.
async fn connect(world: &World, authority: &Authority, shown: Option<&str>) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.path("ca.crt")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    let config = match shown {
        None => config.with_no_client_auth(),
        Some(name) => {
            let chain = CertificateDer::from_pem_file(authority.path(&format!("{name}.crt"))).unwrap();
            let key = PrivateKeyDer::from_pem_file(authority.path(&format!("{name}.key"))).unwrap();
            config.with_client_auth_cert(vec![chain], key).unwrap()
        }
    };
    let stream = TcpStream::connect(&world.server().address).await?;
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
}

/// One request on a connection of its own; the answer, as far as it comes.
async fn ask(stream: std::io::Result<TlsStream<TcpStream>>, request: &str) -> std::io::Result<String> {
    let mut stream = stream?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn gate_call() -> String {
    let body = flagger("Progressing", "a1").to_string();
    let length = body.len();
    format!(
        "POST /hooks/flagger/pre-rollout HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// The certificate that a new connection is shown.
async fn shown(world: &World, authority: &Authority) -> Vec<u8> {
    let stream = connect(world, authority, None).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn stored(authority: &Authority, name: &str) -> Vec<u8> {
    CertificateDer::from_pem_file(authority.path(&format!("{name}.crt"))).unwrap().to_vec()
}

/// The program with this settings file, and no variable of ours.
fn command(world: &World, config: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stagehook"));
    command.args(arguments).current_dir(world.path()).env_clear().env("STAGEHOOK_CONFIG", world.path().join(config));
    command.output().unwrap()
}

#[tokio::test]
async fn a_call_is_answered_and_plain_http_is_told_where_to_go() {
    let (world, authority) = world(&json!({})).await;
    assert!(world.server().log_with("listening")[0].contains(r#""scheme":"https""#));
    let answer = ask(connect(&world, &authority, None).await, &gate_call()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let plain = world.client().get("/healthz").await.expect(400);
    assert_eq!(plain.text, "this port speaks HTTPS: ask https://\n");
}

#[tokio::test]
async fn who_does_not_wait_is_told_of_a_document_over_https() {
    let (world, authority) = world(&json!({})).await;
    let body = json!({"namespace": "test", "name": "podinfo"}).to_string();
    let call = format!(
        "POST /hooks/generic/pre-rollout HTTP/1.1\r\nHost: localhost\r\nPrefer: respond-async\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = ask(connect(&world, &authority, None).await, &call).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    assert!(answer.contains("location: https://localhost/hooks/generic/deployments/dep_"), "{answer}");
}

#[tokio::test]
async fn who_does_not_shake_hands_keeps_nobody_waiting() {
    let (world, authority) = world(&json!({})).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(&world.server().address).await.unwrap());
    }
    let answer = within("an answer", async { ask(connect(&world, &authority, None).await, HEALTH).await }).await;
    assert!(answer.unwrap().starts_with("HTTP/1.1 200 "));
    // Nor do they keep it from ending.
    world.server().signal(Signal::TERM);
    assert_eq!(world.server().exited().await.code(), Some(0));
}

#[tokio::test]
async fn a_caller_that_hangs_up_does_not_take_the_result_along() {
    let (world, authority) = world(&json!({})).await;
    let mut gate = world.gate("migrate");
    world.fail("migrate");
    for (number, beyond) in [(1, ""), (2, "\r\n"), (3, HEALTH)] {
        let mut stream = connect(&world, &authority, None).await.unwrap();
        stream.write_all(format!("{}{beyond}", gate_call()).as_bytes()).await.unwrap();
        if number == 1 {
            gate.entered().await;
            // Says that it closes, as the others don't.
            stream.shutdown().await.unwrap();
        } else {
            // It joins the script; there is no other sign of that.
            let held = "\nstagehook_held_calls 1\n";
            let metrics = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            let look = async || ask(connect(&world, &authority, None).await, metrics).await.unwrap();
            within("a held call", async { while !look().await.contains(held) {} }).await;
        }
        drop(stream);
        world.server().logged_times("hung up", number).await;
    }
    gate.open().await;
    world.server().logged("stage finished").await;
    let answer = ask(connect(&world, &authority, None).await, &gate_call()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 501 "), "the result waited for somebody: {answer}");
    assert_eq!(world.starts(), ["migrate"]);
}

#[tokio::test]
async fn a_changed_certificate_is_shown_to_the_next_and_drops_nobody() {
    let (world, authority) = world(&json!({})).await;
    let mut gate = world.gate("migrate");
    let held = tokio::spawn({
        let stream = connect(&world, &authority, None).await;
        async move { ask(stream, &gate_call()).await }
    });
    gate.entered().await;
    let first = stored(&authority, "tls");
    assert_eq!(shown(&world, &authority).await, first);

    authority.sign("next");
    authority.put("next", "tls");
    world.server().logged("the certificate is loaded").await;
    let second = stored(&authority, "next");
    assert!(first != second && shown(&world, &authority).await == second);

    // A key of another certificate.
    authority.sign("other");
    std::fs::copy(authority.path("other.key"), authority.path("tls.key")).unwrap();
    let why = world.server().logged("does not belong to the certificate").await;
    assert!(why.contains("server.tls.key") && why.contains("tls.key") && why.contains("stays as it was"), "{why}");
    assert_eq!(shown(&world, &authority).await, second);
    let loaded = world.server().log_with("the certificate is loaded").len();
    authority.put("next", "tls");
    world.server().signal(Signal::HUP);
    world.server().logged_times("the certificate is loaded", loaded + 1).await;

    gate.open().await;
    assert!(held.await.unwrap().unwrap().starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn clients_show_a_certificate_where_it_is_asked_for() {
    for (client_auth, without) in [("required", false), ("optional", true)] {
        let (world, authority) = world(&json!({"clientCa": "ca.crt", "clientAuth": client_auth})).await;
        authority.sign("caller");
        let other = tempfile::tempdir().unwrap();
        let stranger = Authority::new(other.path());
        stranger.sign("caller");
        for kind in ["crt", "key"] {
            std::fs::copy(stranger.path(&format!("caller.{kind}")), authority.path(&format!("stranger.{kind}")))
                .unwrap();
        }
        let let_in = async |shown| {
            ask(connect(&world, &authority, shown).await, HEALTH).await.is_ok_and(|a| a.contains("200 OK"))
        };
        assert_eq!((let_in(Some("caller")).await, let_in(None).await), (true, without), "{client_auth}");
        assert!(!let_in(Some("stranger")).await, "{client_auth}");
    }
}

#[tokio::test]
async fn the_command_line_trusts_the_configured_certificate_or_the_one_it_is_given() {
    let (world, authority) = world(&json!({"clientCa": "ca.crt"})).await;
    authority.sign("caller");
    let pair = [world.read("caller.crt"), world.read("caller.key")].concat();
    world.write("caller.pem", &pair);
    // A settings file that names the port, as an operator's does.
    let mut settings: Value = serde_json::from_str(&world.read("stagehook.yaml")).unwrap();
    settings["server"]["listen"] = json!(world.server().address);
    world.write("named.yaml", &settings.to_string());
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let ready = command(&world, "named.yaml", &["health", "--client-certificate", "caller.pem"]);
    assert!(ready.status.success(), "{}", said(&ready));
    let without = command(&world, "named.yaml", &["health"]);
    assert_eq!(without.status.code(), Some(3), "no client certificate: {}", said(&without));

    let port = world.server().address.rsplit(':').next().unwrap().to_owned();
    let url = format!("https://localhost:{port}");
    let given = ["health", "--client-certificate", "caller.pem", "--server", &url, "--ca"];
    for (ca, code) in [("ca.crt", 0), ("tls.crt", 0), ("caller.crt", 3), ("tls.key", 2), ("none.crt", 2)] {
        let asked = command(&world, "named.yaml", &[given.as_slice(), &[ca]].concat());
        assert_eq!(asked.status.code(), Some(code), "{ca}: {}", said(&asked));
    }
}

#[test]
fn what_is_wrong_is_said_with_its_file() {
    let world = World::new();
    let authority = Authority::new(world.path());
    authority.sign("tls");
    authority.sign("other");
    world.write("empty.pem", "nothing\n");
    world.write("broken.pem", "-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n");
    world.write("locked.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    for (tls, message) in [
        (
            json!({"certificate": "tls.crt", "key": "other.key"}),
            "server.tls.key DIR/other.key: this key does not belong to the certificate DIR/tls.crt",
        ),
        (
            json!({"certificate": "gone.crt", "key": "tls.key"}),
            "server.tls.certificate DIR/gone.crt: it can't be read: No such file",
        ),
        (
            json!({"certificate": "empty.pem", "key": "tls.key"}),
            "server.tls.certificate DIR/empty.pem: there is no PEM certificate in it",
        ),
        (
            json!({"certificate": "tls.key", "key": "tls.crt"}),
            "server.tls.certificate DIR/tls.key: there is no PEM certificate in it, but a private key",
        ),
        (
            json!({"certificate": "tls.crt", "key": "tls.crt"}),
            "server.tls.key DIR/tls.crt: there is no PEM private key in it, but a certificate",
        ),
        (
            json!({"certificate": "tls.crt", "key": "locked.pem"}),
            "server.tls.key DIR/locked.pem: there is no PEM private key in it, but an encrypted one",
        ),
        (
            json!({"certificate": "broken.pem", "key": "tls.key"}),
            "server.tls.certificate DIR/broken.pem: its PEM has a line that is not base64",
        ),
        (
            json!({"certificate": "tls.crt", "key": "tls.key", "clientCa": "empty.pem"}),
            "server.tls.clientCa DIR/empty.pem: there is no PEM certificate",
        ),
    ] {
        let settings = json!({"server": {"tls": tls, "listen": "127.0.0.1:0"}, "pipelines": "pipelines"});
        world.write("faulty.yaml", &settings.to_string());
        let message = message.replace("DIR", &world.path().display().to_string());
        for verb in ["check", "serve"] {
            let done = command(&world, "faulty.yaml", &[verb]);
            let said = [done.stdout, done.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(said.contains(&message), "{verb}: {message}\n{said}");
            assert_eq!(done.status.code(), Some(2), "{verb}: {said}");
        }
    }
}
