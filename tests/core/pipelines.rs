//! Pipelines for the tests of the core, written in one line a stage.

use std::collections::BTreeMap;

use stagehook::domain::hook::Hook;
use stagehook::domain::names::StageId;
use stagehook::domain::pipeline::{
    OnFailure, OnInterrupt, OnSupersede, Pipeline, Repeat, RollbackPolicy, Script, Stage, Work,
};
use stagehook::domain::span::Span;

pub fn pipeline(stages: Vec<Stage>) -> Pipeline {
    Pipeline {
        name: "podinfo".to_owned(),
        file: "podinfo.yaml".to_owned(),
        directory: "/pipelines".to_owned(),
        labels: BTreeMap::new(),
        rollback: RollbackPolicy::default(),
        on_supersede: OnSupersede::default(),
        on_failure: OnFailure::default(),
        stages,
    }
}

/// A script with an `onRollback`.
pub fn script(id: &str, hook: Hook) -> Stage {
    let script = Script {
        shell: vec!["/bin/sh".to_owned(), "-c".to_owned()],
        run: vec!["true".to_owned()],
        on_rollback: vec!["undo".to_owned()],
        env: BTreeMap::new(),
        timeout: Span::from_secs(60),
        retries: 0,
        repeat: Repeat::RetryFailed,
        on_interrupt: OnInterrupt::Rerun,
    };
    Stage { id: StageId::new(id).unwrap(), work: Work::Script { hook, script } }
}

pub fn with(mut stage: Stage, change: impl FnOnce(&mut Script)) -> Stage {
    if let Work::Script { script, .. } = &mut stage.work {
        change(script);
    }
    stage
}

pub fn repeating(repeat: Repeat, stage: Stage) -> Stage {
    with(stage, |script| script.repeat = repeat)
}

pub fn without_undo(stage: Stage) -> Stage {
    with(stage, |script| script.on_rollback.clear())
}

pub fn held(stage: Stage) -> Stage {
    with(stage, |script| script.on_interrupt = OnInterrupt::Hold)
}

pub fn wait(id: &str, hook: Hook) -> Stage {
    let work = Work::Wait { hook, duration: Span::from_secs(30), repeat: Repeat::RetryFailed };
    Stage { id: StageId::new(id).unwrap(), work }
}

pub fn external(id: &str, name: &str) -> Stage {
    Stage { id: StageId::new(id).unwrap(), work: Work::External { name: name.to_owned() } }
}
