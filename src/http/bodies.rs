//! The bodies of calls: each within its limit and its time, and all of a source together within what memory is meant
//! for them.
//!
//! A signature is over the body, so whoever can reach a source that has one makes us hold it before we know who that
//! is. So what goes beyond a small body is taken from a store that the callers of one source share: they may hold up
//! each other's large bodies, and nobody's small ones, nor those of another source.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::problem::{Problem, Result};
use super::settings::{Settings, SourceSettings};
use crate::domain::names::Source;
use crate::domain::span::Span;

/// How many of the largest bodies of a source are in memory at a time.
const LARGEST: usize = 4;

/// What of every body is for free, in bytes: most are smaller.
const SMALL: usize = 16 * 1024;

/// The store of each source. A cheap handle.
#[derive(Clone, Debug)]
pub struct Bodies(Arc<BTreeMap<Source, Arc<Semaphore>>>);

/// A body that has come as a whole; dropping it gives its memory back.
#[derive(Debug)]
pub struct Whole {
    bytes: Bytes,
    _held: Option<OwnedSemaphorePermit>,
}

impl Deref for Whole {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Bodies {
    pub fn new(settings: &Settings) -> Self {
        let store = |settings: &SourceSettings| {
            let bytes = settings.max_body.saturating_mul(LARGEST);
            Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS)))
        };
        Self(Arc::new(settings.sources.iter().map(|(source, settings)| (*source, store(settings))).collect()))
    }

    /// How many bytes of its store a source has left.
    #[cfg(test)]
    pub fn left(&self, source: Source) -> usize {
        self.0.get(&source).map_or(0, |store| store.available_permits())
    }

    /// Reads a body, which has to be whole within `within`.
    pub async fn read(
        &self,
        source: Source,
        settings: &SourceSettings,
        headers: &HeaderMap,
        body: Body,
        within: Duration,
    ) -> Result<Whole> {
        let limit = settings.max_body;
        let too_large = || {
            let detail = format!(
                "the body is larger than {limit} bytes; send less, or raise the setting `sources.{source}.maxBody`"
            );
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        };
        let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let mut reading = Reading {
            body: Limited::new(body, limit),
            whole: Vec::new(),
            held: None,
            waited: Duration::ZERO,
            since: None,
        };
        let read = tokio::time::timeout(within, reading.read_whole(self.0.get(&source))).await;
        let was_held_up = reading.waited() > within / 2;
        let Reading { whole, held, .. } = reading;
        match read {
            Ok(Ok(())) => Ok(Whole { bytes: whole.into(), _held: held }),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(_)) => Err(Problem::bad("the body broke off before its end; send it again")),
            Err(_) if was_held_up => Err(Problem::unavailable(format!(
                "too many large bodies of {source} come at once; send it again, or less at a time"
            ))),
            Err(_) => {
                let within = Span(within);
                let detail = format!(
                    "the body did not come within {within}; send it faster, or raise the setting `server.bodyTimeout`"
                );
                Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail))
            }
        }
    }
}

struct Reading {
    body: Limited<Body>,
    whole: Vec<u8>,
    held: Option<OwnedSemaphorePermit>,
    /// For how long others of its source have kept it waiting,
    waited: Duration,
    /// and since when they do so now.
    since: Option<Instant>,
}

impl Reading {
    fn waited(&self) -> Duration {
        self.waited + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    async fn read_whole(
        &mut self,
        store: Option<&Arc<Semaphore>>,
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        while let Some(frame) = self.body.frame().await {
            // Trailers are of no use to anybody here.
            let Ok(data) = frame?.into_data() else { continue };
            let beyond = (self.whole.len() + data.len()).saturating_sub(self.whole.len().max(SMALL));
            if let (Some(store), Ok(beyond @ 1..)) = (store, u32::try_from(beyond)) {
                self.since = Some(Instant::now());
                // Never closed, so it is got some day.
                let more = Arc::clone(store).acquire_many_owned(beyond).await?;
                (self.waited, self.since) = (self.waited(), None);
                match &mut self.held {
                    Some(held) => held.merge(more),
                    None => self.held = Some(more),
                }
            }
            // Copied, since a piece may be a byte that keeps a whole buffer.
            self.whole.extend_from_slice(&data);
        }
        Ok(())
    }
}
