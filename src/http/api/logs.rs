//! What a run printed: as text, or as server-sent events while it prints.
//!
//! The data of all `output` events, put together, is the output; line ends are all written `\n`, since the format of
//! events knows no other. The last event is `end`, with the run as JSON, and comes only when its end is in the ledger.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::Uri;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use tokio::sync::OwnedSemaphorePermit;

use super::access::Reader;
use super::read::load_run;
use super::{Part, id, unreadable, views};
use crate::domain::ids::RunId;
use crate::executor::{OutputView, cut_line};
use crate::http::State;
use crate::http::problem::{Problem, Result};
use crate::http::query::Params;

/// How often a silent stream says that it is alive: a client that is gone shows only when it is written to.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long the start of a run may take after its record, until it is looked for again.
const START: Duration = Duration::from_millis(20);

/// `GET /api/v1/runs/{id}/logs`.
pub async fn logs(_: Reader, Shared(state): Shared<State>, part: Part, uri: Uri) -> Result {
    let run: RunId = id(part)?;
    let follow = Params::of(&uri)?.switch("follow")?;
    // Says 404 before anything is streamed.
    load_run(&state, run).await?;
    if follow {
        let place = Arc::clone(&state.held).try_acquire_owned().map_err(|_| {
            Problem::unavailable("too many connections wait for something; come again, or ask without `follow`")
        })?;
        return Ok(stream_of(Follow::new(state, run, place)));
    }
    let output = match state.engine.live_output(run) {
        Some(view) => view.snapshot(),
        None => state.engine.ledger().output(run).await.map_err(unreadable)?.unwrap_or_default(),
    };
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], output).into_response())
}

fn stream_of(follow: Follow) -> Response {
    let events = stream::unfold(follow, |mut follow| async move {
        let bytes = follow.next().await?;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(bytes)), follow))
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(events)).into_response()
}

/// One client that follows one run.
struct Follow {
    state: State,
    run: RunId,
    phase: Phase,
    framer: Framer,
    /// Whether output was read while the run was alive; then the stored output holds nothing new.
    seen: bool,
    /// One of the connections that may be held.
    _place: OwnedSemaphorePermit,
}

enum Phase {
    /// It has not been seen to print, or prints no more: the ledger knows.
    Asking,
    /// It prints; up to this byte it was read.
    Printing(OutputView, u64),
    /// The last event.
    End(Box<views::Run>),
    Done,
}

impl Follow {
    fn new(state: State, run: RunId, place: OwnedSemaphorePermit) -> Self {
        Self { state, run, phase: Phase::Asking, framer: Framer::default(), seen: false, _place: place }
    }

    /// The next bytes; none when all is said.
    async fn next(&mut self) -> Option<String> {
        let stopping = self.state.stopping.clone();
        tokio::select! {
            next = self.event() => next,
            // The end of the run will never be known here; the client sees that no `end` came.
            () = stopping.cancelled() => None,
            () = tokio::time::sleep(KEEP_ALIVE) => Some(": alive\n\n".to_owned()),
        }
    }

    /// Safe to drop at each await: what was read is either kept in `self` or not yet taken.
    async fn event(&mut self) -> Option<String> {
        loop {
            let (event, phase) = match &mut self.phase {
                Phase::Asking => self.ask().await?,
                Phase::Printing(view, at) => {
                    // Asked before reading: what was printed in between is read in the next round.
                    let ended = view.ended();
                    let piece = view.since(*at);
                    if piece.next > *at {
                        *at = piece.next;
                        let before = self.framer.last.as_slice();
                        let cut = if piece.skipped > 0 { cut_line(before, piece.skipped) } else { String::new() };
                        (self.framer.push(&[cut.as_bytes(), &piece.bytes].concat()), None)
                    } else if ended {
                        (self.framer.finish(), Some(Phase::Asking))
                    } else {
                        view.changed().await;
                        continue;
                    }
                }
                Phase::End(run) => {
                    // A struct of strings and numbers has no way to fail.
                    let json = serde_json::to_string(run).unwrap_or_default();
                    (Some(format!("event: end\ndata: {json}\n\n")), Some(Phase::Done))
                }
                Phase::Done => return None,
            };
            if let Some(phase) = phase {
                self.phase = phase;
            }
            if event.is_some() {
                return event;
            }
        }
    }

    /// Waits until the run prints or its end is in the ledger; `None` when the ledger can't be read.
    async fn ask(&mut self) -> Option<(Option<String>, Option<Phase>)> {
        loop {
            if !self.seen
                && let Some(view) = self.state.engine.live_output(self.run)
            {
                self.seen = true;
                return Some((None, Some(Phase::Printing(view, 0))));
            }
            let run = load_run(&self.state, self.run).await.ok()?;
            if run.is_over() {
                let mut event = None;
                if !self.seen {
                    let output = self.state.engine.ledger().output(self.run).await.ok()?.unwrap_or_default();
                    self.framer.held = output;
                    event = self.framer.finish();
                }
                return Some((event, Some(Phase::End(Box::new(run)))));
            }
            // Not alive here and not over: its start was committed, and it is being started.
            if !self.state.engine.ended(self.run).await {
                tokio::time::sleep(START).await;
            }
        }
    }
}

/// Cuts bytes into `output` events, never inside a character or a line end.
#[derive(Default)]
struct Framer {
    held: Vec<u8>,
    /// The last byte that came in.
    last: Option<u8>,
}

impl Framer {
    /// Takes bytes; gives the event of what is complete.
    fn push(&mut self, bytes: &[u8]) -> Option<String> {
        self.held.extend_from_slice(bytes);
        self.last = bytes.last().copied().or(self.last);
        let mut complete = self.held.len() - unfinished(&self.held);
        if self.held[..complete].ends_with(b"\r") {
            complete -= 1;
        }
        let rest = self.held.split_off(complete);
        let event = self.finish();
        self.held = rest;
        event
    }

    /// The event of what is left, when nothing follows.
    fn finish(&mut self) -> Option<String> {
        let bytes = std::mem::take(&mut self.held);
        if bytes.is_empty() {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n").replace('\r', "\n");
        let mut event = "event: output\n".to_owned();
        for line in text.split('\n') {
            event.push_str("data: ");
            event.push_str(line);
            event.push('\n');
        }
        event.push('\n');
        Some(event)
    }
}

/// How many bytes at the end are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let long = match bytes[bytes.len() - back] {
            0x80..=0xBF => continue,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF7 => 4,
            _ => 1,
        };
        return if long > back { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a client puts together.
    fn read(events: &str) -> String {
        let mut whole = String::new();
        for event in events.split_terminator("\n\n") {
            let mut lines = event.split('\n');
            assert_eq!(lines.next(), Some("event: output"));
            let data: Vec<_> = lines.map(|line| line.strip_prefix("data: ").unwrap()).collect();
            whole.push_str(&data.join("\n"));
        }
        whole
    }

    fn framed(chunks: &[Vec<u8>]) -> String {
        let mut framer = Framer::default();
        let mut events: String = chunks.iter().filter_map(|chunk| framer.push(chunk)).collect();
        events.extend(framer.finish());
        read(&events)
    }

    #[test]
    fn lines_and_characters_survive_any_cut() {
        let text = "one\r\ntwo\rthree\n\n  ä€🦀\n";
        let expected = "one\ntwo\nthree\n\n  ä€🦀\n";
        for size in 1..text.len() {
            let chunks: Vec<_> = text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect();
            assert_eq!(framed(&chunks), expected, "in pieces of {size}");
        }
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(chunks in prop::collection::vec(prop::collection::vec(
            prop::sample::select(&b"a\r\n\xc3\xa4\xe2\x82\xac"[..]), 0..6), 0..8))
        {
            let whole = String::from_utf8_lossy(&chunks.concat()).replace("\r\n", "\n").replace('\r', "\n");
            // A broken character may be shown as one or several marks, by where it was cut.
            let plain = |text: &str| text.replace('\u{fffd}', "");
            prop_assert_eq!(plain(&framed(&chunks)), plain(&whole));
        }
    }
}
