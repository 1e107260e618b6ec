//! GitHub: the sender of signed deliveries, and its API on loopback, which remembers what it was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::http::{Client, Lost, Reply};
use super::poll::{DEADLINE, within};

/// The webhook's secret.
pub const SECRET: &str = "It's a Secret to Everybody";

/// `X-Hub-Signature-256` of a body.
pub fn signature(secret: &str, body: &[u8]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap().chain_update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

/// Sends a delivery as GitHub does.
pub async fn deliver(client: &Client, event: &str, id: &str, payload: &Value) -> Reply {
    let sent = try_deliver(client.clone(), event, id, payload.clone()).await;
    sent.unwrap_or_else(|lost| panic!("{event} {id}: {lost:?}"))
}

/// The same, which may be lost.
pub async fn try_deliver(client: Client, event: &str, id: &str, payload: Value) -> Result<Reply, Lost> {
    let body = payload.to_string();
    let client = delivery(&client, event, id, "application/json", &signature(SECRET, body.as_bytes()));
    client.try_send("POST", "/hooks/github", body.as_bytes(), DEADLINE).await
}

/// Sends bytes with a signature.
pub async fn signed(client: &Client, event: &str, id: &str, kind: &str, signature: &str, body: &[u8]) -> Reply {
    delivery(client, event, id, kind, signature).send("POST", "/hooks/github", body).await
}

fn delivery(client: &Client, event: &str, id: &str, kind: &str, signature: &str) -> Client {
    client
        .with("X-GitHub-Event", event)
        .with("X-GitHub-Delivery", id)
        .with("X-Hub-Signature-256", signature)
        .with("Content-Type", kind)
}

/// A delivery about deployment `id` of octo/app to production.
pub fn deployment(id: u64, sha: &str) -> Value {
    json!({
        "action": "created",
        "deployment": {
            "id": id, "sha": sha, "ref": "main", "task": "deploy", "environment": "production",
            "original_environment": "production", "description": null, "payload": {}, "creator": {"login": "ann"},
        },
        "repository": {"id": 11, "full_name": "octo/app", "html_url": "https://github.com/octo/app"},
        "sender": {"login": "ann"},
    })
}

/// The same with a status.
pub fn status(id: u64, sha: &str, state: &str) -> Value {
    let mut payload = deployment(id, sha);
    payload["deployment_status"] = json!({"id": 5, "state": state, "description": ""});
    payload
}

/// A protection rule that asks; it is answered at this API.
pub fn protection_rule(api: &str, id: u64, sha: &str) -> Value {
    let mut payload = deployment(id, sha);
    payload["action"] = json!("requested");
    payload["environment"] = json!("production");
    payload["deployment_callback_url"] =
        json!(format!("{api}/repos/octo/app/actions/runs/77/deployment_protection_rule"));
    payload["installation"] = json!({"id": 7});
    payload
}

/// What the API was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub authorization: String,
    pub body: Value,
}

/// How the API answers, where it is not as ever.
#[derive(Clone, Debug)]
pub enum Mood {
    /// With this.
    Status(u16, Value),
    /// It wants to be left alone for so many seconds.
    Busy(u64),
    /// It hangs up.
    HangUp,
    /// Not at all: the connection stays open.
    Silence,
}

/// The API.
pub struct Api {
    pub url: String,
    inner: Arc<Inner>,
    task: tokio::task::JoinHandle<()>,
}

struct Inner {
    asked: watch::Sender<Vec<Asked>>,
    /// Of each deployment, newest first.
    statuses: Mutex<Vec<(String, Value)>>,
    moods: Mutex<VecDeque<Mood>>,
}

impl Api {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::new(Inner {
            asked: watch::Sender::new(Vec::new()),
            statuses: Mutex::default(),
            moods: Mutex::default(),
        });
        let shared = Arc::clone(&inner);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { url, inner, task }
    }

    /// The next requests that write are answered so.
    pub fn moods(&self, moods: impl IntoIterator<Item = Mood>) {
        self.inner.moods.lock().unwrap().extend(moods);
    }

    /// A status that somebody else gives deployment 42.
    pub fn says(&self, id: u64, state: &str) {
        let status = json!({"state": state, "description": ""});
        self.inner.statuses.lock().unwrap().insert(0, (statuses_path(id), status));
    }

    /// Everything that it was asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.inner.asked.borrow().clone()
    }

    /// The requests that write, to a path that ends so.
    pub fn posted(&self, path: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.method == "POST" && asked.path.ends_with(path)).collect()
    }

    /// Waits until so many requests have written to a path that ends so.
    pub async fn posts(&self, path: &str, count: usize) -> Vec<Asked> {
        let mut asked = self.inner.asked.subscribe();
        let enough = |all: &Vec<Asked>| {
            all.iter().filter(|asked| asked.method == "POST" && asked.path.ends_with(path)).count() >= count
        };
        within(&format!("{count} posts to {path}"), asked.wait_for(enough)).await.unwrap();
        self.posted(path)
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn statuses_path(id: u64) -> String {
    format!("/repos/octo/app/deployments/{id}/statuses")
}

async fn serve(mut stream: TcpStream, inner: Arc<Inner>) {
    while let Some((asked, path)) = request(&mut stream).await {
        let mood = if asked.method == "POST" { inner.moods.lock().unwrap().pop_front() } else { None };
        inner.asked.send_modify(|all| all.push(asked.clone()));
        let mut more = String::new();
        let (status, body) = match mood {
            Some(Mood::Busy(seconds)) => {
                more = format!("retry-after: {seconds}\r\n");
                (429, Value::Null)
            }
            Some(Mood::HangUp) => return,
            Some(Mood::Silence) => return std::future::pending().await,
            Some(Mood::Status(status, body)) => (status, body),
            None if asked.method == "GET" => {
                let all = inner.statuses.lock().unwrap();
                (200, json!(all.iter().filter(|(of, _)| *of == path).map(|(_, status)| status).collect::<Vec<_>>()))
            }
            None if path.ends_with("/access_tokens") => {
                (201, json!({"token": "ghs_installation", "expires_at": "2999-01-01T00:00:00Z"}))
            }
            None if path.ends_with("/statuses") => {
                inner.statuses.lock().unwrap().insert(0, (path, asked.body.clone()));
                (201, json!({"id": 1}))
            }
            None => (204, Value::Null),
        };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{more}content-length: {length}\r\n\r\n");
        if stream.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn request(stream: &mut TcpStream) -> Option<(Asked, String)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = head {
            let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let header = |name: &str| {
                text.lines().find_map(|line| {
                    let (key, value) = line.split_once(':')?;
                    key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
                })
            };
            let length = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                let mut words = text.lines().next()?.split(' ');
                let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
                let path = target.split('?').next()?.to_owned();
                let body = serde_json::from_slice(&bytes[end + 4..end + 4 + length]).unwrap_or(Value::Null);
                let authorization = header("authorization").unwrap_or_default();
                return Some((Asked { method, path: path.clone(), authorization, body }, path));
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(length) => bytes.extend_from_slice(&buffer[..length]),
        }
    }
}
