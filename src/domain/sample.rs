//! A plain pipeline for the unit tests of the floors above.

use std::collections::BTreeMap;

use super::hook::Hook;
use super::pipeline::{OnFailure, OnInterrupt, OnSupersede, Pipeline, Repeat, RollbackPolicy, Script, Stage, Work};
use super::span::Span;

/// A pipeline with nothing but these stages.
pub(crate) fn pipeline(stages: Vec<Stage>) -> Pipeline {
    Pipeline {
        name: "podinfo".into(),
        file: "podinfo.yaml".into(),
        directory: "/".into(),
        labels: BTreeMap::new(),
        rollback: RollbackPolicy::default(),
        on_supersede: OnSupersede::Rollback,
        on_failure: OnFailure::Wait,
        stages,
    }
}

/// A SCRIPT_RUN that fails, with nothing to undo it.
pub(crate) fn failing_script(id: &str, hook: Hook) -> Stage {
    let script = Script {
        shell: vec!["/bin/sh".into(), "-c".into()],
        run: vec!["exit 3".into()],
        on_rollback: Vec::new(),
        env: BTreeMap::new(),
        timeout: Span::from_secs(60),
        retries: 0,
        repeat: Repeat::RetryFailed,
        on_interrupt: OnInterrupt::Rerun,
    };
    Stage { id: id.parse().unwrap(), work: Work::Script { hook, script } }
}
