//! Decisions: from a stream and a command to facts, actions and a reply.
//!
//! Every rule of Stagehook stands below this module, and nothing here touches the world. A
//! `Turn` is one decision in the making: it takes each fact in at once, so that a later rule of
//! the same decision sees what an earlier one has done.
//!
//! - `identity`: which deployment a call is about, and what becomes of an older one
//! - `failure`: which deployment a failure is told of, and what is undone
//! - `rollout`: calls that name their rollout or themselves, and callers that say what they went back to
//! - `loadtester`: the load tester's gates and commands
//! - `gate`: passes over the stages of a hook
//! - `rollback`: requests, replays, the end of a deployment
//! - `operate`: what people ask for

mod failure;
mod gate;
mod identity;
mod loadtester;
mod operate;
mod rollback;
mod rollout;

use std::sync::Arc;

use jiff::Timestamp;

use super::answer;
use super::call::{Action, Command, Reply, Verdict, WaitKey};
use super::hook::Hook;
use super::ids::{DeploymentId, Mint};
use super::names::{Revision, RolloutId, Source};
use super::pipeline::{Pipeline, PipelineHash, Stage};
use super::record::{About, Actor, Before, Event, Fact, Owner};
use super::span::Span;
use super::state::{Deployment, Stream};

/// What a decision is told of the world outside its stream.
#[derive(Debug)]
pub struct Context<'a> {
    /// The instant of the decision.
    pub now: Timestamp,
    /// Who caused it.
    pub by: Actor,
    /// Who will run what it starts.
    pub owner: Owner,
    /// Where its ids come from.
    pub mint: &'a mut Mint,
    /// Whether a slot for one script is in hand.
    pub slot: bool,
    /// Whether a forward script that needs a slot must be refused.
    pub queue_full: bool,
    /// Whether the service is shutting down: facts are still committed, nothing is started.
    pub draining: bool,
    /// The pipeline that a new deployment of this application pins.
    pub pipeline: Option<(PipelineHash, Arc<Pipeline>)>,
    /// A deployment of this application that another source tells of and that is rolling back.
    pub rolling_back_elsewhere: Option<DeploymentId>,
    /// The deployments of this application that other sources tell of: the newest of each.
    pub elsewhere: Vec<(Source, DeploymentId)>,
    /// How long after the first yes a signalled rollback waits for the caller's failure report.
    pub signal_timeout: Span,
}

/// The outcome of a decision.
#[derive(Debug)]
pub struct Decision {
    /// The stream with the facts taken in.
    pub stream: Stream,
    /// What is to be committed, in order; empty when nothing changed.
    pub facts: Vec<Fact>,
    /// What is to be done once it is committed.
    pub actions: Vec<Action>,
    /// What is said to whoever asked.
    pub reply: Reply,
}

/// Decides one command. Pure: the same arguments give the same decision.
pub fn decide(stream: &Stream, command: Command, context: Context<'_>) -> Decision {
    let mut turn = Turn { stream: stream.clone(), facts: Vec::new(), actions: Vec::new(), rollout: None, context };
    let reply = match command {
        Command::Call(call) => turn.answered(&call),
        Command::Operate { deployment, operation } => turn.operate(deployment, operation),
        Command::Granted { deployment, hook } => turn.granted(deployment, hook),
        Command::GrantedReplay { deployment } => turn.granted_replay(deployment),
        Command::Finished { run, ending, waited } => turn.finished(run, ending, &waited),
        Command::Unheard { key } => turn.unheard(key),
        Command::Reported { deployment, report, problem } => turn.reported(deployment, report, problem),
        Command::SignalTimedOut { deployment } => turn.signal_timed_out(deployment),
        Command::Resume { at_start } => turn.resume(at_start),
    };
    Decision { stream: turn.stream, facts: turn.facts, actions: turn.actions, reply }
}

/// The answer to calls that wait on a key, once there is one.
pub fn settled(stream: &Stream, key: WaitKey) -> Option<super::call::Answer> {
    match key {
        WaitKey::Hook(id, hook) => {
            let deployment = stream.get(id)?;
            let pass = deployment.pass(hook);
            match pass.and_then(|pass| pass.end.as_ref()) {
                Some(end) => Some(answer::gate(deployment, hook, end)),
                None if deployment.goes_on(hook) || pass.is_some_and(|pass| pass.running.is_some()) => None,
                None => Some(answer::over(deployment, hook)),
            }
        }
        WaitKey::Replay(id) => {
            let deployment = stream.get(id)?;
            // Closed in the middle of its replay it has an end, and a step that is being stopped.
            let end = deployment.end().filter(|_| !deployment.alive().any(|run| run.is_rollback()))?;
            Some(answer::replayed(deployment, end.state))
        }
    }
}

/// One decision in the making.
struct Turn<'a> {
    stream: Stream,
    facts: Vec<Fact>,
    actions: Vec<Action>,
    /// The id by which the call that is decided names its rollout.
    rollout: Option<RolloutId>,
    context: Context<'a>,
}

impl Turn<'_> {
    fn emit(&mut self, deployment: DeploymentId, event: Event) {
        self.emit_for(Some(deployment), event);
    }

    fn emit_for(&mut self, deployment: Option<DeploymentId>, event: Event) {
        let fact = Fact { at: self.context.now, by: self.context.by.clone(), deployment, event };
        self.stream.advance(self.stream.head + 1, &fact);
        self.facts.push(fact);
    }

    /// Opens a deployment; `None` when no pipeline selects the application.
    fn open(
        &mut self,
        hook: Hook,
        revision: Option<Revision>,
        under: Option<(Option<Revision>, Before)>,
        about: &About,
    ) -> Option<DeploymentId> {
        let (hash, pipeline) = self.context.pipeline.clone()?;
        // The caller has moved on: what was undone here is no longer held against it.
        let undone: Vec<_> = self.stream.deployments.iter().filter(|d| d.undone).map(|d| d.id).collect();
        for id in undone {
            self.emit(id, Event::CallerEndSeen);
        }
        let id = self.context.mint.deployment();
        let (under, opening) = under.map_or((None, None), |(under, before)| (under, Some(before)));
        let fact = Fact {
            at: self.context.now,
            by: self.context.by.clone(),
            deployment: Some(id),
            event: Event::Opened {
                hook,
                revision,
                rollout: self.rollout.clone(),
                under,
                opening,
                pipeline: hash,
                about: about.clone(),
                question_asked: self.stream.question_asked,
                gates: self.stream.gates,
            },
        };
        self.stream.open(self.stream.head + 1, id, &fact, pipeline);
        self.facts.push(fact);
        Some(id)
    }

    /// The deployment, which a rule has just looked at: deployments do not vanish within a turn.
    fn deployment(&self, id: DeploymentId) -> Option<&Deployment> {
        self.stream.get(id)
    }

    /// Nothing is opened without a pipeline.
    fn unknown_application(&self) -> Reply {
        let open = match self.stream.current().filter(|current| current.is_open()) {
            None => "it has no open deployment".to_owned(),
            Some(current) => {
                let revision = current.revision.as_ref().map_or("another revision", |revision| revision.as_str());
                format!("its open deployment {} is of {revision}, rolled out before", current.id)
            }
        };
        Reply::Unknown {
            message: format!(
                "no pipeline selects {application} for {source}, and {open}; add a pipeline whose selector matches it \
                 (`stagehook plan {application} --source {source}` shows what is selected)",
                application = self.stream.id.application,
                source = self.stream.id.source,
            ),
        }
    }
}

fn pending(deployment: &Deployment, hook: Hook, message: &str) -> Reply {
    Reply::Answer(answer::pending(deployment, hook, message))
}

/// There is no room for what was asked for.
fn busy(what: &str) -> Reply {
    Reply::Busy {
        message: format!(
            "too many scripts wait for a slot, so {what} was not started; call again, or raise execution.maxConcurrent \
             or execution.queue"
        ),
    }
}

fn note(hook: Hook, deployment: Option<DeploymentId>, message: String) -> Reply {
    Reply::Answer(super::call::Answer {
        verdict: Verdict::Approved,
        subject: super::call::Subject::Note,
        hook,
        deployment,
        message,
        stages: Vec::new(),
    })
}

fn is_wait(stage: &Stage) -> bool {
    stage.script().is_none()
}
