//! Who tells outcomes to GitHub: from the resolved settings to the reporter.

use std::sync::Arc;

use crate::config::github::GithubCredentials;
use crate::config::settings::{Secrets, Settings};
use crate::domain::names::Source;
use crate::engine::clock;
use crate::reporter::{self, App, Github};

/// Where GitHub is a source. Without credentials it says so for each outcome that would be told.
pub(super) fn reporter(settings: &Settings, secrets: &Secrets) -> Result<Option<Github>, String> {
    if !settings.sources.get(&Source::Github).is_some_and(|source| source.enabled) {
        return Ok(None);
    }
    let settings = reporter::Settings {
        url: settings.github_api.url.parse().map_err(|error| format!("sources.github.api.url: {error}"))?,
        credentials: secrets.github_api.as_ref().map(credentials).transpose()?,
        public_url: settings.server.public_url.clone(),
    };
    Github::new(settings, Arc::new(clock::now)).map(Some)
}

/// As whom GitHub's API is used.
pub(super) fn credentials(found: &GithubCredentials) -> Result<reporter::Credentials, String> {
    match found {
        GithubCredentials::Token(token) => {
            Ok(reporter::Credentials::Token(String::from_utf8_lossy(token.expose()).into_owned()))
        }
        GithubCredentials::App { id, installation, key } => App::new(id.clone(), *installation, key.expose())
            .map(reporter::Credentials::App)
            .map_err(|why| format!("the secret sources.github.api.app.key can't be used: {why}")),
    }
}
