//! What a credential may tell of: all applications, or those of some clusters and namespaces.
//!
//! It is asked after the payload was read, since only that names the application, and before anything is decided.

use crate::domain::glob::Glob;
use crate::domain::names::{Application, Cluster};

/// The limits of one credential. By default there are none.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    setting: String,
    cluster: Option<Cluster>,
    clusters: Vec<Glob>,
    namespaces: Vec<Glob>,
}

/// Why a credential is not for an application, in one line that names the limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Forbidden(pub String);

impl Grant {
    /// The limits that stand at `setting` (`sources.generic.auth.tokens[0]`): the one cluster that all its applications
    /// are in, and the clusters and namespaces that may be named. Without globs, any may be.
    pub fn new(setting: impl Into<String>, cluster: Option<Cluster>, clusters: &[Glob], namespaces: &[Glob]) -> Self {
        Self { setting: setting.into(), cluster, clusters: clusters.to_vec(), namespaces: namespaces.to_vec() }
    }

    /// The application that a call with this credential is about: in the credential's cluster, if that names one.
    pub fn admit(&self, mut application: Application) -> Result<Application, Forbidden> {
        let setting = &self.setting;
        if let Some(own) = &self.cluster {
            if let Some(told) = application.cluster.as_ref().filter(|told| *told != own) {
                return Err(Forbidden(format!(
                    "the call names the cluster {told}, and its credential is for {own} alone (`{setting}.cluster`)"
                )));
            }
            application.cluster = Some(own.clone());
        }
        if !self.clusters.is_empty() {
            let Some(cluster) = &application.cluster else {
                return Err(Forbidden(format!(
                    "the call names no cluster, and its credential is limited to some (`{setting}.clusters`)"
                )));
            };
            if !self.clusters.iter().any(|glob| glob.matches(cluster.as_str())) {
                return Err(Forbidden(format!(
                    "the cluster {cluster} lies outside of what the call's credential is for (`{setting}.clusters`)"
                )));
            }
        }
        let namespace = &application.namespace;
        if !self.namespaces.is_empty() && !self.namespaces.iter().any(|glob| glob.matches(namespace.as_str())) {
            return Err(Forbidden(format!(
                "the namespace {namespace} lies outside of what the call's credential is for (`{setting}.namespaces`)"
            )));
        }
        Ok(application)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(texts: &[&str]) -> Vec<Glob> {
        texts.iter().map(|text| Glob::new(text).unwrap()).collect()
    }

    fn ask(grant: &Grant, application: &str) -> Result<String, String> {
        grant.admit(application.parse().unwrap()).map(|admitted| admitted.to_string()).map_err(|why| why.0)
    }

    #[test]
    fn without_limits_every_application_is_admitted_as_it_is() {
        for application in ["test/podinfo", "eu:test/octo/app"] {
            assert_eq!(ask(&Grant::default(), application), Ok(application.to_owned()));
        }
    }

    #[test]
    fn a_cluster_is_set_and_no_other_can_be_named() {
        let grant = Grant::new("a[0]", Some("eu".parse().unwrap()), &[], &[]);
        assert_eq!(ask(&grant, "test/podinfo"), Ok("eu:test/podinfo".to_owned()));
        assert_eq!(ask(&grant, "eu:test/podinfo"), Ok("eu:test/podinfo".to_owned()));
        let why = "the call names the cluster us, and its credential is for eu alone (`a[0].cluster`)";
        assert_eq!(ask(&grant, "us:test/podinfo"), Err(why.to_owned()));
        assert!(ask(&grant, "EU:test/podinfo").is_err(), "names are compared as they are");
    }

    #[test]
    fn clusters_and_namespaces_are_globs_of_the_whole_name() {
        let grant = Grant::new("a[0]", None, &globs(&["eu-*", "lab"]), &globs(&["team-?", "shared"]));
        for inside in ["eu-1:team-a/x", "lab:shared/octo/app"] {
            assert_eq!(ask(&grant, inside), Ok(inside.to_owned()));
        }
        for (outside, limit) in [
            ("team-a/x", "`a[0].clusters`"),
            ("us:team-a/x", "`a[0].clusters`"),
            ("lab2:team-a/x", "`a[0].clusters`"),
            ("lab:team-ab/x", "`a[0].namespaces`"),
            ("lab:xshared/x", "`a[0].namespaces`"),
        ] {
            let why = ask(&grant, outside).unwrap_err();
            assert!(why.contains(limit) && !why.contains('\n'), "{outside}: {why}");
        }
    }
}
