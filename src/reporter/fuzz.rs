//! What must hold of everything that GitHub's API may answer, or whoever speaks in its place, and of the key of an app.
//!
//! Each function is the body of a fuzz target; see `crate::fuzz`.

use http::StatusCode;

use super::api::answered;
use super::app::{installation_in, token_in};
use super::{App, still_to_tell};
use crate::domain::call::Verdict;
use crate::domain::hook::Hook;
use crate::engine::report::Unsent;
use crate::source::fuzz::{line_is_sound, message};

const WHAT: &str = "GET /repos/octo/app/deployments/7/statuses";

/// `replies`: a status on a line of its own, headers, an empty line, the body.
pub fn replies(data: &[u8]) {
    let line = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (status, rest) = (&data[..line], data.get(line + 1..).unwrap_or_default());
    let status = StatusCode::from_bytes(status).unwrap_or(StatusCode::OK);
    let (headers, body) = message(rest);
    match answered(WHAT, status, &headers, body.to_vec()) {
        Ok(answer) => assert!(status.is_success() && answer == body),
        Err(refused) => {
            assert!(!status.is_success() && refused.status == Some(status));
            is_told_in_a_line(&refused.unsent);
            let never = matches!(refused.unsent, Unsent::Never(_));
            // Trouble that passes must not lose what a job waits for.
            assert!(!never || !(status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS), "{status}");
        }
    }
    installation_in(body).err().iter().for_each(is_told_in_a_line);
    match token_in(body) {
        Ok((token, _)) => assert!(token.is_sensitive()),
        Err(unsent) => {
            is_told_in_a_line(&unsent);
            assert!(unsent.to_string().starts_with("GitHub's installation token is no"), "none of its own: {unsent}");
        }
    }
    for hook in [Hook::PreRollout, Hook::PostRollout, Hook::Rollback] {
        for verdict in [Verdict::Approved, Verdict::Rejected, Verdict::Pending] {
            match still_to_tell(body, hook, verdict, "stage migrate failed") {
                Ok(None) => {}
                Ok(Some((state, description))) => {
                    assert!(["in_progress", "success", "failure", "error", "inactive"].contains(&state), "{state}");
                    line_is_sound(&description);
                    assert!(verdict != Verdict::Pending && description.chars().count() <= 140, "{description}");
                }
                Err(unsent) => is_told_in_a_line(&unsent),
            }
        }
    }
}

fn is_told_in_a_line(unsent: &Unsent) {
    let why = unsent.to_string();
    line_is_sound(&why);
    assert!(why.chars().count() < 400, "{why}");
}

/// `pem`: the private key of an app.
pub fn key(data: &[u8]) {
    if let Err(why) = App::new("1".to_owned(), None, data) {
        crate::config::fuzz::is_no_quotation(&why);
    }
}
