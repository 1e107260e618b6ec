//! `sources.github.api`: where outcomes are told, and as whom.

use super::credentials::url_fault;
use super::diagnostic::Diagnostic;
use super::fields::{Fields, loose_text};
use super::read::missing;
use super::secret::{Environment, Secret, SecretError, SecretValue};
use super::yaml::Node;

/// The section.
const SETTING: &str = "sources.github.api";

/// `sources.github.api`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GithubApi {
    /// `url`: https, or http on loopback.
    pub url: String,
    /// `token` or `app`; without one nothing is told.
    pub credentials: Option<GithubIdentity>,
}

/// As whom GitHub's API is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GithubIdentity {
    /// `token`.
    Token(Secret),
    /// `app`.
    App {
        /// Its id, or its client id.
        id: String,
        /// The installation, where it is always the same; else that of the delivery.
        installation: Option<u64>,
        /// Its private key in PEM.
        key: Secret,
    },
}

/// The same, with the values.
#[derive(Clone, Debug)]
pub enum GithubCredentials {
    /// A token.
    Token(SecretValue),
    /// An app.
    App {
        /// Its id, or its client id.
        id: String,
        /// The installation, where it is always the same.
        installation: Option<u64>,
        /// Its private key in PEM.
        key: SecretValue,
    },
}

impl GithubIdentity {
    /// The secret in it.
    pub const fn secret(&self) -> &Secret {
        match self {
            Self::Token(secret) | Self::App { key: secret, .. } => secret,
        }
    }

    /// Reads the values.
    pub fn resolve(&self, env: &Environment) -> Result<GithubCredentials, SecretError> {
        Ok(match self {
            Self::Token(token) => GithubCredentials::Token(token.resolve(env)?),
            Self::App { id, installation, key } => {
                GithubCredentials::App { id: id.clone(), installation: *installation, key: key.resolve(env)? }
            }
        })
    }
}

/// Reads the section.
pub(super) fn api(source: &mut Fields<'_>, faults: &mut Vec<Diagnostic>) -> Option<GithubApi> {
    let mut fields = source.map("api", faults)?;
    let url = match fields.get("url") {
        Some(node) => fields.text("url", faults).and_then(|text| match base(text) {
            Ok(()) => Some(text.to_owned()),
            Err(why) => {
                let fault = url_fault(&node.at, &format!("{SETTING}.url {why}"), text);
                faults.push(fault.hint("https://api.github.com, or https://HOST/api/v3 of GitHub Enterprise Server"));
                None
            }
        }),
        None => missing(&fields, "url", faults),
    };
    let token = fields.get("token");
    let app = fields.get("app");
    if let (Some(_), Some(app)) = (token, app) {
        faults.push(Diagnostic::error(&app.at, format!("{SETTING} has a token and an app, and one is enough")));
    }
    let credentials = identity(token, app, faults);
    fields.finish(SETTING, faults);
    Some(GithubApi { url: url?, credentials: credentials? })
}

/// As whom: `token`, `app`, or nobody. None: they have faults.
fn identity(token: Option<&Node>, app: Option<&Node>, faults: &mut Vec<Diagnostic>) -> Option<Option<GithubIdentity>> {
    if let Some(token) = token {
        return Secret::of(token, format!("{SETTING}.token"), faults).map(GithubIdentity::Token).map(Some);
    }
    let Some(node) = app else { return Some(None) };
    let setting = format!("{SETTING}.app");
    let mut fields = Fields::of(node, &setting, faults)?;
    let mut absent = |fields: &Fields<'_>, name: &str, hint: &str| {
        faults.push(Diagnostic::error(&fields.at, format!("{setting}.{name} is missing")).hint(hint));
    };
    let id_node = fields.get("id");
    let key_node = fields.get("key");
    if id_node.is_none() {
        absent(&fields, "id", "the app's settings page shows it: id: 12345");
    }
    if key_node.is_none() {
        absent(&fields, "key", "key: {fromFile: /run/secrets/github-app.pem}");
    }
    let id = id_node.and_then(|node| loose_text(node, "id", faults));
    let key = key_node.and_then(|node| Secret::of(node, format!("{setting}.key"), faults));
    let installation = fields.number("installation", 1..=u64::MAX, faults);
    fields.finish(&setting, faults);
    Some(Some(GithubIdentity::App { id: id?, installation, key: key? }))
}

/// Whether tokens may be sent there.
fn base(text: &str) -> Result<(), &'static str> {
    let url = text.parse::<http::Uri>().map_err(|_| "is no URL")?;
    let authority = url.authority().ok_or("has no host")?;
    if authority.as_str().contains('@') || url.query().is_some() {
        return Err("is an address alone, without a user and without a query");
    }
    let host = authority.host().trim_matches(['[', ']']);
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match url.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if loopback => Ok(()),
        _ => Err("must begin with https://, since tokens are sent there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Settings;

    #[test]
    fn tokens_are_sent_over_tls_or_loopback() {
        for good in [
            "https://api.github.com",
            "https://ghe.test:8443/api/v3",
            "http://127.0.0.1:1",
            "http://[::1]:1/x",
            "http://localhost:1",
        ] {
            assert_eq!(base(good), Ok(()), "{good}");
        }
        for bad in
            ["http://api.github.com", "api.github.com", "/x", "https://me@x.test", "https://x.test/?a", "ftp://x", ""]
        {
            assert!(base(bad).is_err(), "{bad}");
        }
    }

    fn load(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let name = |key: &str| format!("STAGEHOOK_SOURCES__GITHUB__{key}");
        let env = variables.iter().map(|(key, value)| (name(key), (*value).to_owned())).collect();
        Settings::load(None, &env)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn nobody_is_the_default_and_a_token_or_an_app_may_be_set() {
        let api = load(&[]).unwrap().github_api;
        assert_eq!((api.url.as_str(), api.credentials), ("https://api.github.com", None));
        let token = load(&[("API__TOKEN__FROMENV", "TOKEN")]).unwrap().github_api;
        assert!(matches!(token.credentials, Some(GithubIdentity::Token(_))));
        let app = [("API__APP__ID", "12"), ("API__APP__KEY__FROMENV", "KEY"), ("API__APP__INSTALLATION", "7")];
        let Some(GithubIdentity::App { id, installation, .. }) = load(&app).unwrap().github_api.credentials else {
            panic!("no app")
        };
        assert_eq!((id.as_str(), installation), ("12", Some(7)));
    }

    #[test]
    fn half_of_an_app_and_two_identities_are_refused() {
        let refused = |variables: &[(&str, &str)]| load(variables).unwrap_err();
        assert!(refused(&[("API__APP__ID", "12")]).contains("sources.github.api.app.key is missing"));
        assert!(refused(&[("API__APP__KEY__FROMENV", "K")]).contains("sources.github.api.app.id is missing"));
        let both = [("API__TOKEN__FROMENV", "T"), ("API__APP__ID", "12"), ("API__APP__KEY__FROMENV", "K")];
        assert!(refused(&both).contains("has a token and an app"));
        assert!(refused(&[("API__URL", "http://api.github.com")]).contains("must begin with https://"));
    }

    #[test]
    fn a_secret_is_read_where_the_source_is_enabled() {
        let missing = [("API__TOKEN__FROMENV", "NOT_SET")];
        assert!(load(&missing).unwrap().resolve(&Environment::new()).unwrap().github_api.is_none());
        let auth = [("AUTH__TYPE", "hmac-sha256"), ("AUTH__SECRETS", "[{fromEnv: S}]")];
        let enabled = load(&[missing[0], ("ENABLED", "true"), auth[0], auth[1]]).unwrap();
        let errors = enabled.resolve(&Environment::from([("S".to_owned(), "s".to_owned())])).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].to_string().contains("sources.github.api.token"), "{errors:?}");
    }
}
