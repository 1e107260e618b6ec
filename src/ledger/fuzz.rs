//! What must hold of every record that a file may have, as a damaged or a doctored file is outside bytes, too.
//!
//! Each function is the body of a fuzz target; see `crate::fuzz`.

use std::sync::Arc;

use super::head::Head;
use super::rows;
use crate::domain::hook::Hook;
use crate::domain::names::{Source, StreamId};
use crate::domain::pipeline::Pipeline;
use crate::domain::progress;
use crate::domain::record::Record;
use crate::domain::state::Stream;

/// `records`: the JSON of a pinned pipeline, or of a head; then, a line each, the bodies of a stream's records.
pub fn records(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let first = lines.next().unwrap_or_default();
    if let Ok(head) = serde_json::from_str::<Head>(first) {
        let again = serde_json::to_string(&head).ok().and_then(|json| serde_json::from_str::<Head>(&json).ok());
        assert_eq!(again.map(|again| again.is_whole()), Some(head.is_whole()));
    }
    let pipeline = serde_json::from_str::<Pipeline>(first).ok().map(Arc::new);
    if let Some(pipeline) = &pipeline {
        let (hash, json) = pipeline.pinned();
        let again: Pipeline = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
        assert_eq!(again.pinned(), (hash, json));
    }
    let Ok(application) = "test/podinfo".parse() else { panic!("it is an application") };
    let mut stream = Stream::new(StreamId { source: Source::Flagger, application });
    for (seq, line) in (1..).zip(lines) {
        let Ok(record) = rows::record(seq, line) else { continue };
        is_stable(&record, line);
        // One that names a pipeline that is not there is an error, and the fold ends there.
        if stream.apply(&record, &|_| pipeline.clone()).is_err() {
            assert!(pipeline.is_none());
            break;
        }
    }
    for deployment in &stream.deployments {
        let _ = (stream.summary(deployment), deployment.rollback_steps(), format!("{:?}", deployment.next_step()));
        for hook in Hook::ALL {
            let _ = progress::results(deployment, hook);
            if let Some((_, answer)) = progress::of(deployment, Source::Flagger, hook) {
                assert!(!answer.message.is_empty());
            }
        }
    }
}

/// A record is read as it is written. A float may lose its last digit on the way through its text.
fn is_stable(record: &Record, line: &str) {
    let json = serde_json::to_string(&record.fact).unwrap_or_else(|error| panic!("{error}: {line}"));
    let again = rows::record(i64::try_from(record.seq).unwrap_or(i64::MAX), &json);
    let again = again.unwrap_or_else(|error| panic!("{error}: {json}"));
    let is_float = |text: &str| text.contains(['.', 'e', 'E']);
    assert!(again == *record || is_float(line), "{json}");
}
