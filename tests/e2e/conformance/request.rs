//! One request as a caller sends it, and the ways in which callers prove who they are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::Client;
use crate::support::http::{Held, Reply};

/// A request that is not signed yet.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn new(path: impl Into<String>, body: &Value) -> Self {
        Self { path: path.into(), headers: Vec::new(), body: body.to_string() }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn client(&self, client: &Client) -> Client {
        let client = client.with("Content-Type", "application/json").with("Accept", "application/json");
        self.headers.iter().fold(client, |client, (name, value)| client.with(name, value))
    }

    pub async fn send(&self, client: &Client) -> Reply {
        self.client(client).send("POST", &self.path, self.body.as_bytes()).await
    }

    /// Sent, and held by the server.
    pub fn hold(&self, client: &Client) -> Held {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        self.client(client).hold(&self.path, &body)
    }
}

/// How a caller proves who it is.
#[derive(Clone, Copy, Debug)]
pub enum Proof {
    Basic,
    Bearer,
    Hmac { header: &'static str },
    StandardWebhooks,
}

impl Proof {
    /// `auth` of the source, with secrets from files beside the settings.
    pub fn settings(self, files: &[&str]) -> Value {
        let from: Vec<_> = files.iter().map(|file| json!({"fromFile": file})).collect();
        match self {
            Self::Basic => json!({"type": "basic", "username": "caller", "passwords": from}),
            Self::Bearer => json!({"type": "bearer", "tokens": from}),
            Self::Hmac { .. } => json!({"type": "hmac-sha256", "secrets": from}),
            Self::StandardWebhooks => json!({"type": "standard-webhooks", "secrets": from}),
        }
    }

    /// What stands in the file of a secret.
    pub fn file(self, secret: &str) -> String {
        match self {
            Self::StandardWebhooks => format!("whsec_{}", STANDARD.encode(secret)),
            Self::Basic | Self::Bearer | Self::Hmac { .. } => secret.to_owned(),
        }
    }

    /// The request with its proof.
    pub fn sign(self, request: Request, secret: &str) -> Request {
        let digest = |bytes: &[u8]| {
            let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap().chain_update(bytes);
            mac.finalize().into_bytes()
        };
        match self {
            Self::Basic => {
                let basic = format!("Basic {}", STANDARD.encode(format!("caller:{secret}")));
                request.with("Authorization", &basic)
            }
            Self::Bearer => request.with("Authorization", &format!("Bearer {secret}")),
            Self::Hmac { header } => {
                let signature = format!("sha256={}", hex::encode(digest(request.body.as_bytes())));
                request.with(header, &signature)
            }
            Self::StandardWebhooks => {
                let id = format!(
                    "msg_{}",
                    &hex::encode(digest(format!("{}{}", request.path, request.body).as_bytes()))[..16]
                );
                let now = stagehook::engine::clock::now().as_second();
                let signed = format!("{id}.{now}.{}", request.body);
                let signature = format!("v1,{}", STANDARD.encode(digest(signed.as_bytes())));
                request
                    .with("webhook-id", &id)
                    .with("webhook-timestamp", &now.to_string())
                    .with("webhook-signature", &signature)
            }
        }
    }
}
