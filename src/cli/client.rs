//! One HTTP client for all commands: where the server is, who asks, and what its refusals mean.
//!
//! It follows no redirect (a token must not travel on), and asks no proxy for the loopback interface.

use std::error::Error;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde_json::Value;

use super::failure::Failure;
use super::text;
use super::trust::Trust;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take that nothing is waited for.
const ANSWER: Duration = Duration::from_secs(30);

/// A server, and the means to ask it.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    authorization: Option<HeaderValue>,
}

impl Client {
    /// A client of the server at `url`; `authorization` goes with each request, to a server that is trusted.
    pub fn new(url: &str, authorization: Option<HeaderValue>, trust: &Trust) -> Result<Self, Failure> {
        let base = Url::parse(url).map_err(|error| unusable(url, &error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(unusable(url, "it is written http://host:port or https://host"));
        }
        // Another provider can only be there if the program itself installed it: then that one is meant.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("stagehook/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        if base.scheme() == "http" {
            // Without this, an image that has no CA certificates could not even be asked for its health.
            builder = builder.tls_certs_only([]);
        } else if let Some(tls) = trust.config()? {
            builder = builder.tls_backend_preconfigured(tls);
        }
        let http = builder.build().map_err(|error| Failure::Usage(format!("no HTTP client: {}", causes(&error))))?;
        Ok(Self { http, base, authorization })
    }

    /// A request to a path of the server, given by its segments.
    pub fn request(&self, method: Method, path: &[&str], query: &[(&str, String)]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url.set_query(None);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query.iter().map(|(key, value)| (*key, value.as_str())));
        }
        let request = self.http.request(method, url);
        // A name in the URL is sent as Basic authentication, and was meant for this server alone.
        match &self.authorization {
            Some(authorization) if self.base.username().is_empty() => authorized(request, authorization.clone()),
            _ => request,
        }
    }

    /// Sends a request, and gives its answer whatever its status.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        request.send().await.map_err(|error| self.unreachable(error))
    }

    /// A JSON document of the API.
    pub async fn get(&self, path: &[&str], query: &[(&str, String)]) -> Result<Value, Failure> {
        let response = self.send(self.request(Method::GET, path, query).timeout(ANSWER)).await?;
        self.document(accepted(response, self).await?).await
    }

    /// A change that the API takes on.
    pub async fn post(&self, path: &[&str], query: &[(&str, String)]) -> Result<Value, Failure> {
        let response = self.send(self.request(Method::POST, path, query).timeout(ANSWER)).await?;
        self.document(accepted(response, self).await?).await
    }

    /// The whole text of an answer.
    pub async fn text(&self, response: Response) -> Result<String, Failure> {
        let bytes = response.bytes().await.map_err(|error| self.unreachable(error))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The next piece of an answer; none at its end.
    pub async fn chunk(&self, response: &mut Response) -> Result<Option<Vec<u8>>, Failure> {
        Ok(response.chunk().await.map_err(|error| self.unreachable(error))?.map(Vec::from))
    }

    async fn document(&self, response: Response) -> Result<Value, Failure> {
        let text = self.text(response).await?;
        serde_json::from_str(&text)
            .map_err(|_| Failure::No(format!("{} is no Stagehook: it answered no JSON", self.name())))
    }

    /// The server as it is named in messages: never with a password.
    fn name(&self) -> String {
        let mut shown = self.base.clone();
        // Neither can fail for a URL that has a host.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        shown.to_string().trim_end_matches('/').to_owned()
    }

    fn unreachable(&self, error: reqwest::Error) -> Failure {
        let error = error.without_url();
        let why = if error.is_timeout() { "no answer in time".to_owned() } else { causes(&error) };
        Failure::Unreachable(format!(
            "the server {} can't be reached: {why}; start it with `stagehook serve`, or name another with --server",
            self.name()
        ))
    }
}

/// The same request with this authorization and no other: `RequestBuilder::header` would add a second one.
pub(super) fn authorized(request: RequestBuilder, authorization: HeaderValue) -> RequestBuilder {
    request.headers(HeaderMap::from_iter([(AUTHORIZATION, authorization)]))
}

/// An answer that is no refusal.
pub(super) async fn accepted(response: Response, client: &Client) -> Result<Response, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = client.text(response).await?;
    Err(Failure::No(refusal(status, &body)))
}

/// What a refusal says: a problem document's detail, or the text itself.
pub(super) fn refusal(status: reqwest::StatusCode, body: &str) -> String {
    let problem: Option<Value> = serde_json::from_str(body).ok();
    let field = |name| problem.as_ref().and_then(|problem| problem.get(name)).and_then(Value::as_str);
    let title = field("title").or(status.canonical_reason()).unwrap_or("refused");
    let detail = field("detail").unwrap_or_else(|| if problem.is_none() { body.trim() } else { "" });
    let detail: String = text::escape(detail).chars().take(2_000).collect();
    let mut message = format!("{} {}", status.as_u16(), text::escape(title));
    if !detail.is_empty() {
        message = format!("{message}: {detail}");
    }
    if status.as_u16() == 401 {
        message.push_str(" (STAGEHOOK_TOKEN is sent as bearer token)");
    }
    message
}

fn unusable(url: &str, why: &str) -> Failure {
    // A URL that can't be parsed may still hold a password.
    let shown = if url.contains('@') { "of the server" } else { url };
    Failure::Usage(format!("the URL {shown} can't be used: {why}"))
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The innermost cause, which is the one that says something: `Connection refused (os error 111)`.
fn causes(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    text::escape(&cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(client: &Client, path: &[&str], query: &[(&str, String)]) -> String {
        client.request(Method::GET, path, query).build().unwrap().url().to_string()
    }

    #[test]
    fn paths_and_queries_are_encoded_and_a_prefix_stays() {
        let client = Client::new("http://127.0.0.1:8080/hooks-of/team/?x=1", None, &Trust::default()).unwrap();
        assert_eq!(
            url(&client, &["api", "v1", "a/b"], &[("application", "c:n/o p".into())]),
            "http://127.0.0.1:8080/hooks-of/team/api/v1/a%2Fb?application=c%3An%2Fo+p"
        );
        let client = Client::new("http://[::1]:80", None, &Trust::default()).unwrap();
        assert_eq!(url(&client, &["readyz"], &[]), "http://[::1]/readyz");
    }

    #[test]
    fn what_is_no_server_is_refused_without_its_password() {
        for bad in ["localhost:8080", "ftp://a", "", "http://"] {
            assert!(matches!(Client::new(bad, None, &Trust::default()), Err(Failure::Usage(_))), "{bad}");
        }
        let Err(failure) = Client::new("http//me:secret@host", None, &Trust::default()) else { panic!("accepted") };
        assert!(!failure.reason().unwrap().contains("secret"));
        assert_eq!(Client::new("https://me:secret@host/x/", None, &Trust::default()).unwrap().name(), "https://host/x");
    }

    #[test]
    fn loopback_is_known_by_name_and_by_number() {
        for (text, expected) in [
            ("http://localhost:1", true),
            ("http://127.9.9.9", true),
            ("http://[::1]:8080", true),
            ("http://10.0.0.1", false),
            ("http://localhost.example", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_one_line() {
        let problem = r#"{"type":"about:blank","title":"Not Found","status":404,"detail":"no deployment\ndep_1"}"#;
        assert_eq!(refusal(reqwest::StatusCode::NOT_FOUND, problem), "404 Not Found: no deployment\\ndep_1");
        assert_eq!(refusal(reqwest::StatusCode::BAD_GATEWAY, "<html>\n"), "502 Bad Gateway: <html>");
        assert_eq!(refusal(reqwest::StatusCode::CONFLICT, "{}"), "409 Conflict");
    }
}
