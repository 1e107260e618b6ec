//! Where an outcome is told at GitHub, and as what.
//!
//! A protection rule is answered once: approved or rejected. A deployment's statuses are the deployer's to set, so a
//! state of its own that ended the deployment is never turned into another: what there is to say then stands in the
//! description. Sending it is not done here.

use serde::{Deserialize, Serialize};

use crate::domain::call::{ReportTo, Verdict};
use crate::domain::hook::Hook;

/// How the description of each of our statuses begins: GitHub sends them back to us as events.
pub const MARKER: &str = "Stagehook: ";

/// The longest description that GitHub takes, in characters.
const LONGEST_DESCRIPTION: usize = 140;
/// The longest comment that is sent, in characters.
const LONGEST_COMMENT: usize = 1000;

/// Where an outcome is told. It is kept in the ledger until it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum To {
    /// To the job that waits at a protection rule.
    ProtectionRule {
        /// `deployment_callback_url`: the payload's word, to be checked before anything is sent there.
        url: String,
        /// The environment, as GitHub calls it.
        environment: String,
        /// `owner/name`.
        repository: String,
        /// The installation of the app that the delivery came from.
        installation: Option<u64>,
    },
    /// As a status of the deployment.
    DeploymentStatus {
        /// `owner/name`.
        repository: String,
        /// The deployment's id.
        deployment: u64,
        /// The installation of the app that the delivery came from.
        installation: Option<u64>,
    },
}

impl To {
    /// As the core carries it.
    pub fn into_report(self) -> ReportTo {
        // Text and numbers: there is nothing in it that JSON could not say.
        ReportTo(serde_json::to_value(self).unwrap_or_default())
    }

    /// As it was recorded; none where it is not GitHub's.
    pub fn of(report: &ReportTo) -> Option<Self> {
        Self::deserialize(&report.0).ok()
    }
}

/// The answer to a protection rule: its state and its comment.
pub fn review(verdict: Verdict, message: &str) -> (&'static str, String) {
    let state = if verdict == Verdict::Approved { "approved" } else { "rejected" };
    (state, cut(&format!("{MARKER}{message}"), LONGEST_COMMENT))
}

/// The state and the description of a status, where there is something to say. `said` is the newest state that others
/// than Stagehook gave the deployment.
pub fn status(hook: Hook, verdict: Verdict, message: &str, said: Option<&str>) -> Option<(&'static str, String)> {
    let ended = ["success", "failure", "error", "inactive"].into_iter().find(|state| said == Some(state));
    let state = match (hook, verdict) {
        (_, Verdict::Pending) => return None,
        (Hook::Rollback, Verdict::Rejected) => "error",
        (Hook::Rollback, Verdict::Approved) => match ended {
            // Inactive: a newer deployment took its place, or somebody took it down.
            Some(ended) if ended != "success" => ended,
            _ => "failure",
        },
        // The deployer's own success says it already.
        (Hook::PostRollout, Verdict::Approved) => return None,
        (_, Verdict::Approved) if ended.is_some() => return None,
        (_, Verdict::Approved) => "in_progress",
        (_, Verdict::Rejected) => match ended {
            Some("inactive") => return None,
            Some(ended) => ended,
            None if hook == Hook::PostRollout => "success",
            None => "failure",
        },
    };
    let about = if hook == Hook::Rollback { String::new() } else { format!("{hook} ") };
    Some((state, cut(&format!("{MARKER}{about}{message}"), LONGEST_DESCRIPTION)))
}

/// One line of at most so many characters.
fn cut(text: &str, longest: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() <= longest {
        return text;
    }
    let kept: String = text.chars().take(longest - 1).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(hook: Hook, verdict: Verdict) -> [Option<&'static str>; 6] {
        [None, Some("in_progress"), Some("success"), Some("failure"), Some("error"), Some("inactive")]
            .map(|said| status(hook, verdict, "…", said).map(|(state, _)| state))
    }

    #[test]
    fn a_gate_goes_on_until_the_deployer_has_ended_it() {
        for hook in [Hook::PreRollout, Hook::Rollout] {
            let going = Some("in_progress");
            assert_eq!(states(hook, Verdict::Approved), [going, going, None, None, None, None]);
            assert_eq!(
                states(hook, Verdict::Rejected),
                [Some("failure"), Some("failure"), Some("success"), Some("failure"), Some("error"), None]
            );
        }
    }

    #[test]
    fn a_success_stays_one_whatever_comes_after_it() {
        assert_eq!(states(Hook::PostRollout, Verdict::Approved), [None; 6]);
        assert_eq!(
            states(Hook::PostRollout, Verdict::Rejected),
            [Some("success"), Some("success"), Some("success"), Some("failure"), Some("error"), None]
        );
    }

    #[test]
    fn what_was_undone_failed() {
        assert_eq!(
            states(Hook::Rollback, Verdict::Approved),
            [Some("failure"), Some("failure"), Some("failure"), Some("failure"), Some("error"), Some("inactive")]
        );
        assert_eq!(states(Hook::Rollback, Verdict::Rejected), [Some("error"); 6]);
    }

    #[test]
    fn what_is_pending_is_not_told() {
        for hook in Hook::ALL {
            assert_eq!(states(hook, Verdict::Pending), [None; 6]);
        }
    }

    #[test]
    fn a_description_is_one_marked_line_that_github_takes() {
        let long = format!("one\ntwo {}", "ü".repeat(300));
        let (_, description) = status(Hook::Rollout, Verdict::Rejected, &long, None).unwrap();
        assert_eq!(description.chars().count(), 140);
        assert!(description.starts_with("Stagehook: rollout one two ü") && description.ends_with('…'), "{description}");
        let (state, comment) = review(Verdict::Rejected, &long);
        assert_eq!(state, "rejected");
        assert!(comment.starts_with("Stagehook: one two"), "{comment}");
    }

    #[test]
    fn where_to_survives_the_ledger() {
        let to = To::ProtectionRule {
            url: "https://api.github.com/x".into(),
            environment: "eu/west 1".into(),
            repository: "octo/app".into(),
            installation: Some(7),
        };
        assert_eq!(To::of(&to.clone().into_report()), Some(to));
        assert_eq!(To::of(&ReportTo(serde_json::json!({"kind": "other"}))), None);
    }
}
