//! What stands for the service and the application in what is printed: the base URL, the names, and what is made of
//! them.

use std::str::FromStr;

use reqwest::Url;

use crate::config::one_file::Described;
use crate::domain::names::Application;

/// The base URL of the service, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base(Url);

impl FromStr for Base {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut url = Url::parse(text).map_err(|error| {
            format!("{error}; it is written like https://stagehook.example.com or http://host:8080")
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("the scheme {:?} is neither http nor https", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("leave the credentials out: what is printed says where they belong".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("leave out what comes after the path (?… and #…)".to_owned());
        }
        let path = url.path().trim_end_matches('/').to_owned();
        if path.split('/').any(|part| part == "hooks") {
            return Err("name the service alone, without /hooks/…".to_owned());
        }
        url.set_path(&path);
        Ok(Self(url))
    }
}

impl Base {
    /// The URL of a path, with a query of what is there.
    pub fn with(&self, path: &str, query: &[(&str, Option<&str>)]) -> String {
        let mut url = self.0.clone();
        url.set_path(&format!("{}{path}", self.0.path().trim_end_matches('/')));
        for (key, value) in query {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(key, value);
            }
        }
        url.into()
    }
}

/// The application, as far as it is known. What is not is a placeholder that no cluster takes for a name.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub cluster: Option<String>,
    pub namespace: String,
    pub name: String,
}

pub(super) const NAMESPACE: &str = "<namespace>";
pub(super) const NAME: &str = "<name>";
pub(super) const REPOSITORY: &str = "<owner>/<repository>";
/// Each of them, to find out whether one is left.
pub(super) const PLACEHOLDERS: [&str; 3] = [NAMESPACE, NAME, REPOSITORY];

impl Place {
    pub fn of(described: &Described, application: Option<&Application>) -> Self {
        if let Some(application) = application {
            return Self {
                cluster: application.cluster.as_ref().map(|cluster| cluster.as_str().to_owned()),
                namespace: application.namespace.as_str().to_owned(),
                name: application.name.as_str().to_owned(),
            };
        }
        Self {
            cluster: described.cluster().map(str::to_owned),
            namespace: described.namespace().unwrap_or(NAMESPACE).to_owned(),
            name: described.name().unwrap_or(NAME).to_owned(),
        }
    }

    pub fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// A name for an object of Kubernetes, in at most so many characters: `stagehook-podinfo-rollout`.
    pub fn object(&self, suffix: &str, most: usize) -> String {
        let room = most.saturating_sub("stagehook-".len() + suffix.len() + 1);
        let clean = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let slug: String = if self.name == NAME { String::new() } else { self.name.chars().map(clean).collect() };
        let slug: String = slug.trim_matches('-').chars().take(room).collect();
        let parts = ["stagehook", slug.trim_matches('-'), suffix];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
    }
}

/// A text as one word of a shell.
pub(super) fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_taken_with_and_without_a_slash_and_a_path() {
        for text in ["http://stagehook.stagehook", "http://stagehook.stagehook/"] {
            let base: Base = text.parse().unwrap();
            assert_eq!(base.with("", &[]).trim_end_matches('/'), "http://stagehook.stagehook");
            assert_eq!(base.with("/hooks/github", &[]), "http://stagehook.stagehook/hooks/github");
        }
        let base: Base = "https://example.com:8443/tools/stagehook//".parse().unwrap();
        assert_eq!(base.with("", &[]).trim_end_matches('/'), "https://example.com:8443/tools/stagehook");
        assert_eq!(
            base.with("/hooks/flux", &[("cluster", Some("eu west&1")), ("wait", None)]),
            "https://example.com:8443/tools/stagehook/hooks/flux?cluster=eu+west%261"
        );
    }

    #[test]
    fn what_is_no_base_url_is_told_in_words() {
        for (text, part) in [
            ("stagehook.stagehook", "it is written like"),
            ("ftp://host", "neither http nor https"),
            ("http://flagger:hunter2@host", "leave the credentials out"),
            ("http://host/?cluster=eu", "after the path"),
            ("http://host/hooks/flagger", "without /hooks/"),
        ] {
            let error = text.parse::<Base>().unwrap_err();
            assert!(error.contains(part) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn the_name_of_an_object_is_one_that_kubernetes_takes() {
        let place = |name: &str| Place { cluster: None, namespace: "a".into(), name: name.into() };
        assert_eq!(place("podinfo").object("rollout", 63), "stagehook-podinfo-rollout");
        assert_eq!(place("octo/App_1").object("", 63), "stagehook-octo-app-1");
        assert_eq!(place(NAME).object("rollout", 63), "stagehook-rollout");
        let long = place(&"x".repeat(253)).object("rollout", 35);
        assert_eq!(long.len(), 35, "{long}");
    }
}
