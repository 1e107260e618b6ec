//! GitHub's API: one request at a time, and what its answer means.
//!
//! A credential goes to the configured API and nowhere else: not to another host that a payload names, and not along a
//! redirect.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use reqwest::{Method, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Credentials;
use super::app::Installations;
use crate::domain::names::Shown;
use crate::engine::report::Unsent;

/// What time it is.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How long a connection may take to be made, and a request to be answered.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);

/// The version of the API that is spoken.
const VERSION: &str = "2022-11-28";

/// The longest answer that is read.
const LONGEST_ANSWER: usize = 1 << 20;

/// The API, as somebody who may use it.
pub(super) struct Api {
    http: reqwest::Client,
    base: Url,
    who: Who,
}

enum Who {
    Token(HeaderValue),
    App(Installations),
}

impl Api {
    pub fn new(base: Url, credentials: Credentials, clock: Clock) -> Result<Self, String> {
        // Another provider can only be there if the program itself installed it: then that one is meant.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("stagehook/", env!("CARGO_PKG_VERSION")));
        if base.scheme() == "http" {
            // On loopback only, as the settings have it.
            builder = builder.no_proxy().tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| format!("there is no client for GitHub's API: {error}"))?;
        let who = match credentials {
            Credentials::Token(token) => Who::Token(bearer(&token).ok_or_else(|| {
                "the secret sources.github.api.token has characters that no token of GitHub has".to_owned()
            })?),
            Credentials::App(app) => Who::App(Installations::new(app, clock)),
        };
        Ok(Self { http, base, who })
    }

    /// `deployment_callback_url` of a payload, where it leads to this API and to that repository.
    pub fn callback(&self, told: &str, repository: &str) -> Result<Url, Unsent> {
        let never = |why: &str| {
            Unsent::Never(format!("the deployment_callback_url {} {why}, so no token is sent there", Shown(told)))
        };
        let url = Url::parse(told).map_err(|_| never("is no URL"))?;
        let same = url.scheme() == self.base.scheme()
            && url.host() == self.base.host()
            && url.port_or_known_default() == self.base.port_or_known_default();
        if !same {
            return Err(never(&format!("is not at sources.github.api.url, {}", self.base)));
        }
        let wanted = self.path(&["repos"], repository, &["actions", "runs", ""])?.path().to_ascii_lowercase();
        let path = url.path().to_ascii_lowercase();
        // The whole of it: there are other things that can be done to a run.
        let run = path.strip_prefix(&wanted).and_then(|rest| rest.strip_suffix("/deployment_protection_rule"));
        let inside = run.is_some_and(|run| !run.is_empty() && run.bytes().all(|byte| byte.is_ascii_digit()));
        if !inside || url.query().is_some() || !url.username().is_empty() || url.password().is_some() {
            return Err(never(&format!("is no protection rule of {repository}")));
        }
        Ok(url)
    }

    /// The statuses of a deployment.
    pub fn statuses(&self, repository: &str, deployment: u64) -> Result<Url, Unsent> {
        self.path(&["repos"], repository, &["deployments", &deployment.to_string(), "statuses"])
    }

    /// Sends a request as ourselves, and gives the body of its answer.
    pub async fn send(
        &self,
        method: Method,
        url: Url,
        repository: &str,
        installation: Option<u64>,
        body: Option<&Value>,
    ) -> Result<Vec<u8>, Unsent> {
        let (authorization, installation) = match &self.who {
            Who::Token(token) => (token.clone(), None),
            Who::App(app) => {
                let installation = app.installation(self, repository, installation).await?;
                (app.token(self, installation).await?, Some(installation))
            }
        };
        let answer = self.ask(method, url, authorization, body).await;
        if let (Err(Refused { status: Some(StatusCode::UNAUTHORIZED), .. }), Who::App(app), Some(installation)) =
            (&answer, &self.who, installation)
        {
            // Taken back before its time: the next attempt gets another.
            app.forget(installation);
        }
        answer.map_err(|refused| refused.unsent)
    }

    /// Sends a request with a credential of one's own.
    pub async fn ask(
        &self,
        method: Method,
        url: Url,
        authorization: HeaderValue,
        body: Option<&Value>,
    ) -> Result<Vec<u8>, Refused> {
        let what = format!("{method} {}", url.path());
        let reads = method == Method::GET;
        let mut request = self
            .http
            .request(method, url)
            .header(AUTHORIZATION, authorization)
            .header(ACCEPT, "application/vnd.github+json")
            .header("X-GitHub-Api-Version", VERSION);
        if let Some(body) = body {
            request = request.json(body);
        }
        let lost = |error: reqwest::Error| {
            let why = format!("{what}: GitHub's API can't be reached: {}", causes(&error.without_url()));
            Refused { status: None, unsent: Unsent::Later(why) }
        };
        let mut response = request.send().await.map_err(lost)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            answer.extend_from_slice(&chunk);
            if answer.len() > LONGEST_ANSWER {
                // What was written is written, and what was refused is refused, whatever is said about it.
                if !(reads && status.is_success()) {
                    break;
                }
                let why = format!("{what}: the answer is longer than {LONGEST_ANSWER} bytes");
                return Err(Refused { status: Some(status), unsent: Unsent::Never(why) });
            }
        }
        answered(&what, status, &headers, answer)
    }

    /// A path of the API, with a repository in the middle.
    pub fn path(&self, before: &[&str], repository: &str, after: &[&str]) -> Result<Url, Unsent> {
        let mut url = self.base.clone();
        let parts: Vec<_> = repository.split('/').collect();
        // `.` and `..` would lead elsewhere.
        if parts.len() != 2 || parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
            return Err(Unsent::Never(format!("{repository:?} is no repository")));
        }
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(before).extend(parts).extend(after);
        }
        Ok(url)
    }

    /// A path of the API.
    pub fn plain(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }
}

/// What an answer means that has come as a whole.
pub(super) fn answered(
    what: &str,
    status: StatusCode,
    headers: &HeaderMap,
    answer: Vec<u8>,
) -> Result<Vec<u8>, Refused> {
    if status.is_success() {
        return Ok(answer);
    }
    let why = format!("{what}: GitHub answered {status}{}", said(&answer));
    let unsent = match (passes(status, headers, &answer), retry_after(headers)) {
        (false, _) => Unsent::Never(why),
        (true, None) => Unsent::Later(why),
        (true, Some(wanted)) => Unsent::NotBefore(why, wanted),
    };
    Err(Refused { status: Some(status), unsent })
}

/// Reads an answer. It may be another one soon, as when a proxy has spoken.
pub(super) fn understood<T: DeserializeOwned>(answer: &[u8], what: &str) -> Result<T, Unsent> {
    // The parser repeats what it stumbled over, however long that is.
    serde_json::from_slice(answer)
        .map_err(|error| Unsent::Later(format!("GitHub's {what} is not understood: {}", one_line(&error.to_string()))))
}

/// Why a request got nothing.
pub(super) struct Refused {
    /// The status, where there was an answer.
    pub status: Option<StatusCode>,
    /// What that means.
    pub unsent: Unsent,
}

impl From<Refused> for Unsent {
    fn from(refused: Refused) -> Self {
        refused.unsent
    }
}

/// `Bearer TOKEN`, marked so that it is not shown.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether it may be otherwise later: GitHub is in trouble, or we have asked too often.
fn passes(status: StatusCode, headers: &HeaderMap, answer: &[u8]) -> bool {
    let is_zero = |name: &str| headers.get(name).is_some_and(|value| value == "0");
    let limited = || {
        headers.contains_key(RETRY_AFTER)
            || is_zero("x-ratelimit-remaining")
            || String::from_utf8_lossy(answer).to_ascii_lowercase().contains("rate limit")
    };
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => true,
        // An expired token is exchanged, a clock set right: what a job waits for must not be lost over that.
        StatusCode::UNAUTHORIZED => true,
        StatusCode::FORBIDDEN => limited(),
        _ => status.is_server_error(),
    }
}

/// How long GitHub wants to be left alone: who asks before may be shut out.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// What GitHub's answer says, in one line.
fn said(answer: &[u8]) -> String {
    let document: Option<Value> = serde_json::from_slice(answer).ok();
    let message = document.as_ref().and_then(|document| document.get("message")?.as_str());
    message.map_or_else(String::new, |message| format!(": {}", one_line(message)))
}

fn one_line(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(url: &str) -> Api {
        let clock: Clock = Arc::new(|| Timestamp::UNIX_EPOCH);
        Api::new(Url::parse(url).unwrap(), Credentials::Token("t".into()), clock).unwrap()
    }

    #[test]
    fn a_token_goes_to_the_configured_api_only() {
        let callback = "/repos/octo/app/actions/runs/7/deployment_protection_rule";
        for (base, told) in [
            ("https://api.github.com", format!("https://api.github.com{callback}")),
            ("https://api.github.com/", format!("https://api.github.com:443{callback}")),
            ("https://ghe.test/api/v3", format!("https://ghe.test/api/v3{callback}")),
            ("https://ghe.test:8443/api/v3/", format!("https://GHE.test:8443/api/v3{callback}")),
            ("http://127.0.0.1:99", format!("http://127.0.0.1:99{}", callback.replace("octo", "Octo"))),
        ] {
            assert!(api(base).callback(&told, "octo/app").is_ok(), "{base} {told}");
        }
        let api = api("https://api.github.com");
        for told in [
            format!("http://api.github.com{callback}"),
            format!("https://api.github.com:8443{callback}"),
            format!("https://api.github.com.evil.test{callback}"),
            format!("https://evil.test{callback}"),
            format!("https://api.github.com@evil.test{callback}"),
            format!("https://user:word@api.github.com{callback}"),
            format!("https://api.github.com{}", callback.replace("octo", "other")),
            format!("https://api.github.com{callback}?to=elsewhere"),
            "https://api.github.com/repos/octo/app/actions/runs/../../../other/x".to_owned(),
            "https://api.github.com/repos/octo/app/actions/runs/7/cancel".to_owned(),
            "https://api.github.com/repos/octo/app/actions/runs/7/../8/rerun".to_owned(),
            "https://api.github.com/repos/octo/app/actions/runs/..%2F..%2Fx/deployment_protection_rule".to_owned(),
            "https://api.github.com/repos/octo/app/actions/runs//deployment_protection_rule".to_owned(),
            "https://api.github.com/user".to_owned(),
            "not a url".to_owned(),
            String::new(),
        ] {
            let refused = api.callback(&told, "octo/app");
            assert!(matches!(refused, Err(Unsent::Never(_))), "{told}: {refused:?}");
        }
    }

    #[test]
    fn a_repository_is_two_names() {
        let api = api("https://ghe.test/api/v3");
        let url = api.statuses("octo/app", 7).unwrap();
        assert_eq!(url.as_str(), "https://ghe.test/api/v3/repos/octo/app/deployments/7/statuses");
        for wrong in ["octo", "octo/", "octo/..", "a/b/c", ""] {
            assert!(api.statuses(wrong, 7).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_passes_is_tried_again() {
        let with = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_static(value))])
        };
        let none = HeaderMap::new();
        for status in [401, 408, 429, 500, 502, 503, 504] {
            assert!(passes(StatusCode::from_u16(status).unwrap(), &none, b""), "{status}");
        }
        for status in [301, 307, 400, 403, 404, 410, 422] {
            assert!(!passes(StatusCode::from_u16(status).unwrap(), &none, b""), "{status}");
        }
        assert!(passes(StatusCode::FORBIDDEN, &with("x-ratelimit-remaining", "0"), b""));
        assert!(!passes(StatusCode::FORBIDDEN, &with("x-ratelimit-remaining", "12"), b""));
        assert!(passes(StatusCode::FORBIDDEN, &with("retry-after", "60"), b""));
        assert!(passes(StatusCode::FORBIDDEN, &none, b"You have exceeded a secondary rate limit."));
    }

    #[test]
    fn github_says_how_long_to_wait() {
        let of = |text: &'static str| HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
        assert_eq!(retry_after(&of("60")), Some(Duration::from_secs(60)));
        for none in [of("soon"), of("-1"), HeaderMap::new()] {
            assert_eq!(retry_after(&none), None);
        }
    }

    #[test]
    fn a_credential_never_prints() {
        assert_eq!(format!("{:?}", bearer("hunter2").unwrap()), "Sensitive");
        assert_eq!(format!("{:?}", Credentials::Token("hunter2".into())), "Token(***)");
        assert!(bearer("a\nb").is_none());
    }
}
