//! Who is let in: from the resolved secrets of the settings to what `source` and `http` compare with.

use crate::config::secret::SecretValue;
use crate::config::settings::{self, Credential, Secrets};
use crate::http::{Access, ApiToken, Scope};
use crate::source::auth::{Credentials, Grant, Key};

/// Everybody that the settings let in.
pub(super) fn of(secrets: &Secrets) -> Access {
    let sources = secrets.sources.iter().map(|(source, found)| (*source, credentials(found)));
    let api_tokens = secrets.api_tokens.iter().map(|token| ApiToken {
        name: token.name.clone(),
        secret: token.token.expose().into(),
        scope: match token.scope {
            settings::Scope::Read => Scope::Read,
            settings::Scope::Operate => Scope::Operate,
        },
    });
    Access { sources: sources.collect(), api_tokens: api_tokens.collect() }
}

fn credentials(found: &settings::Credentials) -> Credentials {
    match found {
        settings::Credentials::None => Credentials::None,
        settings::Credentials::Basic { username, passwords } => {
            Credentials::Basic { username: username.clone(), passwords: keys(passwords) }
        }
        settings::Credentials::Bearer { tokens } => Credentials::Bearer { tokens: keys(tokens) },
        settings::Credentials::HmacSha256 { secrets } => Credentials::HmacSha256 { secrets: keys(secrets) },
        settings::Credentials::StandardWebhooks { secrets } => Credentials::StandardWebhooks { secrets: keys(secrets) },
    }
}

fn keys(credentials: &[Credential<SecretValue>]) -> Vec<Key> {
    let key = |credential: &Credential<SecretValue>| {
        let limits = &credential.limits;
        let grant = Grant::new(&credential.setting, limits.cluster.clone(), &limits.clusters, &limits.namespaces);
        Key::new(credential.secret.expose(), credential.name.clone(), grant)
    };
    credentials.iter().map(key).collect()
}
