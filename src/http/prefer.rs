//! `Prefer` (RFC 7240): whether the caller would rather not wait for the verdict, and how long it would.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Response};

use crate::domain::names::Source;

/// The header of a request.
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// What of it was followed.
const APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// What a caller prefers. What is not understood is no error: preferences are wishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefer {
    /// `respond-async`: taken on is answer enough.
    pub respond_async: bool,
    /// `wait=N`, in seconds.
    pub wait: Option<u64>,
}

impl Prefer {
    /// The preferences of a request. Only callers of generic are known to have any. Of one that is there twice, the
    /// first counts.
    pub fn of(source: Source, headers: &HeaderMap) -> Self {
        if source != Source::Generic {
            return Self::default();
        }
        let lines = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        let mut wait = None;
        let mut respond_async = false;
        for wish in lines.flat_map(split) {
            // Parameters after a semicolon belong to no preference that is known here.
            let wish = wish.split(';').next().unwrap_or_default();
            let (name, value) = wish.split_once('=').map_or((wish, None), |(name, value)| (name, Some(value.trim())));
            match name.trim().to_ascii_lowercase().as_str() {
                "respond-async" => respond_async = true,
                "wait" if wait.is_none() => wait = Some(value.and_then(seconds)),
                _ => {}
            }
        }
        Self { respond_async, wait: wait.flatten() }
    }

    /// How long the caller would wait, with what the query says of it: that is nearer to the call.
    pub fn over(self, query: Option<Duration>) -> Option<Duration> {
        query.or(self.wait.map(Duration::from_secs))
    }

    /// Says in an answer which preferences were followed; `waited` is how long the caller was to be held.
    pub fn note<T>(self, response: &mut Response<T>, waited: Option<Duration>) {
        let wait = self.wait.filter(|wait| waited == Some(Duration::from_secs(*wait)));
        let wait = wait.map(|seconds| format!("wait={seconds}"));
        let respond = self.respond_async.then(|| "respond-async".to_owned());
        let applied: Vec<String> = respond.into_iter().chain(wait).collect();
        if applied.is_empty() {
            return;
        }
        // Words and digits are always a header's value.
        if let Ok(value) = HeaderValue::try_from(applied.join(", ")) {
            response.headers_mut().insert(APPLIED, value);
        }
    }
}

/// The preferences of one line: commas separate them, except within quotes. A quote within them is written `\"`.
fn split(line: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    line.split(move |c| {
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        c == ',' && !quoted
    })
}

fn seconds(text: &str) -> Option<u64> {
    let digits = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    // `parse` would take a sign.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&'static str]) -> (bool, Option<u64>) {
        let headers = lines.iter().map(|line| (PREFER, HeaderValue::from_static(line))).collect();
        let prefer = Prefer::of(Source::Generic, &headers);
        (prefer.respond_async, prefer.wait)
    }

    #[test]
    fn wishes_are_read_as_the_rfc_writes_them() {
        for (lines, expected) in [
            (&[][..], (false, None)),
            (&["respond-async"], (true, None)),
            (&["Respond-Async, wait=10"], (true, Some(10))),
            (&["respond-async, wait=100, handling=lenient"], (true, Some(100))),
            (&["wait = \"5\""], (false, Some(5))),
            (&["handling=lenient, wait=100, respond-async"], (true, Some(100))),
            (&["foo; bar=\"a, respond-async\", wait=3; x"], (false, Some(3))),
            (&["wait=7", "respond-async"], (true, Some(7))),
            (&[r#"foo="\"", respond-async"#], (true, None)),
            (&[r#"foo="\\", respond-async"#], (true, None)),
            (&[r#"foo="\", respond-async, ", wait=3"#], (false, Some(3))),
            (&["wait=1, wait=2"], (false, Some(1))),
            (&["respond-async=\"\""], (true, None)),
            (&["wait, wait=x"], (false, None)),
            (&["wait=-1"], (false, None)),
            (&["wait=+1"], (false, None)),
            (&["wait=99999999999999999999999"], (false, None)),
            (&["return=minimal"], (false, None)),
            (&[",,;,="], (false, None)),
        ] {
            assert_eq!(read(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn only_what_was_followed_is_told() {
        let told = |respond_async, wait, query: Option<u64>| {
            let prefer = Prefer { respond_async, wait };
            let mut response = Response::new(());
            prefer.note(&mut response, prefer.over(query.map(Duration::from_secs)));
            response.headers().get(APPLIED).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(told(true, Some(5), None).as_deref(), Some("respond-async, wait=5"));
        assert_eq!(told(true, Some(5), Some(7)).as_deref(), Some("respond-async"), "the query wins");
        assert_eq!(told(false, Some(0), None).as_deref(), Some("wait=0"));
        assert_eq!(told(false, Some(0), Some(1)), None);
        assert_eq!(told(false, None, Some(1)), None);
    }

    #[test]
    fn other_sources_have_a_dialect_of_their_own() {
        let headers = [(PREFER, HeaderValue::from_static("respond-async"))].into_iter().collect();
        assert_eq!(Prefer::of(Source::Flagger, &headers), Prefer::default());
    }
}
