//! The load tester's gates and commands.
//!
//! A gate is a fact about the stream. A command opens a deployment of its own and ends it with its script. The same
//! command of the same canary never runs twice at once: a call joins the one that runs. Different ones know nothing of
//! each other: none supersedes another, or waits for it.

use jiff::SignedDuration;

use super::{Turn, busy, note};
use crate::domain::answer;
use crate::domain::call::{Answer, Call, Reply, Subject, Verdict, WaitKey};
use crate::domain::ids::DeploymentId;
use crate::domain::loadtester::{Gate, HOOK, Task};
use crate::domain::names::Source;
use crate::domain::pass::{Pass, PassEnd};
use crate::domain::record::{EndState, Event, Outcome, Reason};
use crate::domain::state::Deployment;

/// For how long a result that nobody waited for is kept for the next call. The same content may be rolled out again
/// later, under the same checksum, and is to be tested again then.
const KEPT: SignedDuration = SignedDuration::from_mins(10);

impl Turn<'_> {
    /// Asks about one of the canary's gates, or sets it. Setting what is set changes nothing, so it is not recorded.
    pub(super) fn load_gate(&mut self, call: &Call, gate: Gate, set: Option<bool>) -> Reply {
        let gates = self.stream.gates;
        if let Some(open) = set
            && open != gates.is_open(gate)
        {
            self.emit_for(None, Event::GateSet { gate, open, gates: gates.with(gate, open) });
        }
        let open = self.stream.gates.is_open(gate);
        let is = if open { "open" } else { "closed" };
        let message = format!("the {} gate of {} is {is}", gate.as_str(), self.stream.id.application);
        match set {
            Some(_) => note(call.hook, None, message),
            None => Reply::Answer(answer::question(open, call.hook, None, message)),
        }
    }

    /// Joins the same command where it runs, takes its result where nobody has, or runs it.
    pub(super) fn task(&mut self, call: &Call, task: &Task) -> Reply {
        let newest = self.stream.deployments.iter().rev().find(|d| d.revision.as_ref() == Some(&task.revision));
        if let Some((found, pass)) = newest.and_then(|found| Some((found, found.pass(HOOK)?))) {
            let id = found.id;
            let same_rollout = call.rollout.is_none() || found.rollout.is_none() || found.rollout == call.rollout;
            if pass.end.is_none() && found.goes_on(HOOK) {
                if task.held && !same_rollout {
                    // Its verdict would be about another revision of the canary.
                    let why = format!("the same command still runs for another revision ({id}); call again");
                    return Reply::Answer(answer::pending(found, HOOK, &why));
                }
                self.go_on(id, HOOK);
                return self.begun(id, task);
            }
            if found.alive().next().is_some() {
                let why = format!("the same command is being stopped ({id}); call again");
                return Reply::Answer(answer::pending(found, HOOK, &why));
            }
            if task.held
                && same_rollout
                && let Some(end) = self.kept(found, pass)
            {
                let reply = Reply::Answer(answer::gate(found, HOOK, end));
                self.emit(id, Event::Delivered { hook: HOOK });
                return reply;
            }
        }
        if !self.context.slot && self.context.queue_full {
            return busy("the command");
        }
        if self.context.draining {
            return Reply::Answer(Answer {
                verdict: Verdict::Pending,
                subject: Subject::Gate,
                hook: HOOK,
                deployment: None,
                message: "pending: Stagehook is shutting down; call again".to_owned(),
                stages: Vec::new(),
            });
        }
        self.context.pipeline = Some((task.hash.clone(), task.pipeline.clone()));
        let Some(id) = self.open(HOOK, Some(task.revision.clone()), None, &call.about) else { return Reply::Nothing };
        let (payload, about) = (call.payload.clone(), call.about.clone());
        self.emit(id, Event::Called { hook: HOOK, pass: 1, payload, about, unattended: !task.held });
        self.go_on(id, HOOK);
        self.begun(id, task)
    }

    fn begun(&self, id: DeploymentId, task: &Task) -> Reply {
        if task.held { Reply::Wait(WaitKey::Hook(id, HOOK)) } else { note(HOOK, Some(id), format!("{id} is begun")) }
    }

    /// The result of a command that is over, where it is known, new, and nobody has heard it.
    fn kept<'a>(&self, found: &Deployment, pass: &'a Pass) -> Option<&'a PassEnd> {
        let end = pass.end.as_ref().filter(|_| !pass.delivered)?;
        let ended = found.end()?;
        let new = self.context.now.duration_since(ended.at) <= KEPT;
        let known = match end {
            PassEnd::Approved => true,
            // One that a person stopped has no result.
            PassEnd::Rejected { stage } => {
                let outcome = found.last_forward(stage).and_then(|run| run.outcome());
                matches!(outcome, Some(Outcome::Failed | Outcome::TimedOut))
            }
            PassEnd::Interrupted { .. } => false,
        };
        (new && known).then_some(end)
    }

    /// Whether deployments of this stream are commands.
    pub(super) fn has_tasks(&self) -> bool {
        self.stream.id.source == Source::Loadtester
    }

    /// A command's script is over, and so is its deployment. There is nothing to undo.
    pub(super) fn task_over(&mut self, id: DeploymentId, outcome: Outcome) {
        if self.deployment(id).is_none_or(|d| d.end().is_some()) {
            return;
        }
        match outcome {
            Outcome::Succeeded => self.end(id, EndState::Succeeded, None),
            Outcome::Failed | Outcome::TimedOut => self.begin_rollback(id, Reason::StageFailed, false, None),
            Outcome::Cancelled => self.begin_rollback(id, Reason::Cancelled, false, None),
            // What it did is not known. It is not run again by itself: its caller calls again.
            Outcome::Interrupted => self.end(id, EndState::Abandoned, Some(Reason::Interrupted)),
        }
    }
}
