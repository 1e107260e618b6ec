//! Calls that say more than a revision: by which id their caller knows the rollout, how this very call is called, what
//! the caller went back to, and where the outcome is to be told.
//!
//! Flagger says none of it: its rules are in `identity`.

use super::{Turn, note};
use crate::domain::answer;
use crate::domain::call::{Answer, Call, Reply, Says, Subject, Verdict, WaitKey};
use crate::domain::hook::Hook;
use crate::domain::ids::DeploymentId;
use crate::domain::names::{Revision, Source};
use crate::domain::pass::PassEnd;
use crate::domain::record::{CallKey, EndState, Event, Finding, Reason};
use crate::domain::report::Report;
use crate::domain::state::{Deployment, End, Standing};

impl Turn<'_> {
    /// Answers a call, from the ledger where it is a repetition, and notes what it wants remembered.
    pub(super) fn answered(&mut self, call: &Call) -> Reply {
        if let Some(reply) = self.repeated(call) {
            if let Some(id) = answered_for(&reply) {
                self.report_again(id, call, &reply);
            }
            return reply;
        }
        let reply = self.call(call);
        if let Some(id) = answered_for(&reply) {
            self.remember(id, call, &reply);
        }
        reply
    }

    fn remember(&mut self, id: DeploymentId, call: &Call, reply: &Reply) {
        // What serves is told of at every interval of Flux, for ever; told twice it is a note again.
        let is_note = matches!(reply, Reply::Answer(Answer { subject: Subject::Note, .. }));
        if is_note && matches!(call.says, Says::Forward { .. } | Says::Reconciled { .. }) {
            return;
        }
        let Some(deployment) = self.deployment(id) else { return };
        if let Some(key) = &call.key {
            // Cut by a restart, the same call began again: it is known, and so is where it reports to.
            if deployment.keys.iter().any(|(hook, known)| *hook == call.hook && known.id == key.id) {
                return;
            }
            self.emit(id, Event::KeySeen { hook: call.hook, key: key.clone() });
        }
        self.want_report(id, call, reply);
    }

    /// What could never be told, since a token was missing perhaps, is tried anew when the caller says the same again.
    fn report_again(&mut self, id: DeploymentId, call: &Call, reply: &Reply) {
        let Some(deployment) = self.deployment(id) else { return };
        let asked = |report: &&Report| report.hook == call.hook && Some(&report.to) == call.report.as_ref();
        let last = deployment.reports.iter().rev().find(asked);
        if last.is_some_and(|report| matches!(report.sent, Some(Some(_)))) {
            self.want_report(id, call, reply);
        }
    }

    fn want_report(&mut self, id: DeploymentId, call: &Call, reply: &Reply) {
        let Some(to) = call.report.clone() else { return };
        let (replay, known) = match reply {
            Reply::Wait(WaitKey::Replay(_)) => (true, None),
            Reply::Answer(Answer { subject: Subject::Note, .. }) => return,
            Reply::Answer(Answer { subject, verdict, message, .. }) => {
                (*subject == Subject::Replay, Some(Finding { verdict: *verdict, message: message.clone() }))
            }
            _ => (false, None),
        };
        let report = self.deployment(id).and_then(|d| d.reports.last()).map_or(1, |report| report.number + 1);
        self.emit(id, Event::ReportWanted { report, hook: call.hook, to, replay, known });
    }

    /// A call that was answered before, by its name: it gets that answer, and runs nothing.
    ///
    /// A caller that tries again because the answer was lost signs anew. So the very same call, signed at the same
    /// instant, is a replay once its answer was given.
    fn repeated(&mut self, call: &Call) -> Option<Reply> {
        let key = call.key.as_ref()?;
        let known = |d: &Deployment| {
            d.keys.iter().find(|(hook, known)| *hook == call.hook && known.id == key.id).map(|(_, known)| known.stamp)
        };
        let found = self.stream.deployments.iter().rev().find_map(|d| Some((d, known(d)?)));
        let Some((deployment, stamp)) = found else { return self.signed_for_another(call.hook, key) };
        if let Some(reply) = names_another(deployment, call) {
            return Some(reply);
        }
        let (id, replayed) = (deployment.id, stamp.is_some() && stamp == key.stamp);
        let refused = || Reply::Conflict {
            message: format!(
                "this call was answered before ({id}), and its signature is of the same instant: a replay"
            ),
        };
        match &call.says {
            Says::Opening { .. } | Says::Forward { .. } | Says::Succeeded { .. } | Says::Reconciled { .. } => {
                let succeeded = deployment.end().is_some_and(End::is_success);
                let Some(pass) = deployment.pass(call.hook) else {
                    let answer = match deployment.pipeline.on_hook(call.hook).next() {
                        None if deployment.goes_on(call.hook) || succeeded => {
                            answer::gate(deployment, call.hook, &PassEnd::Approved)
                        }
                        // It was rejected without a stage, and a person has let it go on since.
                        Some(_) if deployment.goes_on(call.hook) => return None,
                        _ if deployment.undone => return Some(self.undone(id, call.hook)),
                        _ => answer::over(deployment, call.hook),
                    };
                    return Some(if replayed { refused() } else { Reply::Answer(answer) });
                };
                match &pass.end {
                    None if deployment.goes_on(call.hook) || pass.running.is_some() => {
                        Some(self.join(id, call.hook, call.unattended))
                    }
                    None => Some(Reply::Answer(answer::over(deployment, call.hook))),
                    Some(PassEnd::Approved | PassEnd::Rejected { .. }) if pass.delivered && replayed => Some(refused()),
                    // What was approved then must not let a rollout go on that is being undone, or was.
                    Some(PassEnd::Approved) if deployment.undone => Some(self.undone(id, call.hook)),
                    Some(PassEnd::Approved) if !deployment.goes_on(call.hook) && !deployment.promoted && !succeeded => {
                        Some(Reply::Answer(answer::over(deployment, call.hook)))
                    }
                    Some(end @ (PassEnd::Approved | PassEnd::Rejected { .. })) => {
                        let (reply, kept) = (Reply::Answer(answer::gate(deployment, call.hook, end)), !pass.delivered);
                        if kept {
                            self.emit(id, Event::Delivered { hook: call.hook });
                        }
                        Some(reply)
                    }
                    Some(PassEnd::Interrupted { .. }) => None,
                }
            }
            Says::Failed { .. } | Says::Undo { .. } | Says::Reverted { .. } => match &deployment.standing {
                Standing::RollingBack { .. } => Some(Reply::Wait(WaitKey::Replay(id))),
                // It had nothing to undo, and what it was answered for goes on.
                Standing::Progressing if replayed => Some(refused()),
                Standing::Progressing => {
                    Some(note(call.hook, Some(id), format!("this call was answered before, and {id} goes on")))
                }
                Standing::Ended(end) => {
                    let unheard = deployment.replay.as_ref().is_some_and(|replay| !replay.delivered);
                    if replayed && !unheard {
                        return Some(refused());
                    }
                    let reply = Reply::Answer(answer::replayed(deployment, end.state));
                    if unheard {
                        self.emit(id, Event::Delivered { hook: Hook::Rollback });
                    }
                    Some(reply)
                }
            },
            Says::Question { .. } | Says::Event { .. } | Says::LoadGate { .. } | Says::Task(_) => None,
        }
    }

    /// A message that was signed for another hook: the signature covers no path, so whoever has caught one could send it
    /// to `rollback`.
    fn signed_for_another(&self, hook: Hook, key: &CallKey) -> Option<Reply> {
        let same = |(other, known): &&(Hook, CallKey)| *other != hook && known.stamp.is_some() && known == key;
        let used = |d: &Deployment| d.keys.iter().find(same).map(|(other, _)| (d.id, *other));
        let (id, other) = self.stream.deployments.iter().rev().find_map(used)?;
        let message = format!(
            "this message was told of {other} before ({id}), with the same signature: a replay; a call of {hook} is a \
             message of its own"
        );
        Some(Reply::Conflict { message })
    }

    /// A call whose rollout is known by its id: no other rule has to guess which deployment is meant. `None` where it
    /// is not known, or begins again.
    pub(super) fn of_rollout(&mut self, call: &Call) -> Option<Reply> {
        let rollout = call.rollout.as_ref()?;
        if let Some(id) = self.ended_unnamed(call) {
            self.emit(id, Event::RolloutNamed { rollout: rollout.clone() });
        }
        let known = self.stream.deployments.iter().rev().find(|d| d.rollout.as_ref() == Some(rollout))?;
        let id = known.id;
        // GitHub gives each attempt an id of its own. Argo CD's operation tries again under the same one, and what was
        // undone may then begin anew, if nothing has come since.
        let ends_once = self.stream.id.source == Source::Github;
        let is_current = self.current().is_some_and(|current| current.id == id);
        let over = |turn: &Self| turn.deployment(id).map(|d| Reply::Answer(answer::over(d, call.hook)));
        match &call.says {
            Says::Forward { revision } => {
                if known.is_open() {
                    self.learn(id, revision.as_ref());
                    return Some(self.gate(id, call.hook, call));
                }
                if known.undone {
                    return Some(self.undone(id, call.hook));
                }
                // Only a gate begins anew: what is only told may be told late.
                let once = ends_once || call.unattended;
                let succeeded = known.promoted && (known.end().is_none_or(End::is_success) && !known.is_rolling_back());
                // What it had approved was for that revision; a retry that took up another asks for the first time.
                let another = revision.is_some() && known.revision.is_some() && *revision != known.revision;
                if !once && is_current && succeeded && another {
                    return None;
                }
                if !once && is_current && succeeded {
                    return Some(Reply::Answer(passed_before(known, call.hook)));
                }
                if once || !is_current || known.end().is_none_or(End::is_success) { over(self) } else { None }
            }
            Says::Succeeded { revision } => {
                let (standing, promoted, undone) = (known.standing.clone(), known.promoted, known.undone);
                let quiet = known.alive().next().is_none();
                match standing {
                    Standing::Progressing => {
                        self.learn(id, revision.as_ref());
                        Some(if promoted { self.gate(id, call.hook, call) } else { self.promote(id, call) })
                    }
                    Standing::Ended(end) if end.is_success() => Some(self.gate(id, call.hook, call)),
                    Standing::RollingBack { .. } | Standing::Ended(_) if undone => {
                        self.emit(id, Event::CallerEndSeen);
                        Some(self.undone(id, call.hook))
                    }
                    Standing::RollingBack { .. } => over(self),
                    // Another rollout took its place before its end was told; now it is.
                    Standing::Ended(end) if end.is_unknown() && quiet => Some(self.promote(id, call)),
                    // Told to have succeeded before, it is that word once more, and begins nothing anew.
                    Standing::Ended(_) if ends_once || !is_current || promoted => over(self),
                    Standing::Ended(_) => None,
                }
            }
            Says::Failed { revision } => {
                if known.is_open() {
                    self.learn(id, revision.as_ref());
                    let reason = self.requested_or(id, Reason::Failed);
                    return Some(self.replay(id, reason, false, call));
                }
                if known.end().is_some_and(End::is_unknown) {
                    // How it ended was not known; now it is.
                    return Some(self.replay(id, Reason::Failed, false, call));
                }
                self.failed_again(id, revision.as_ref(), call)
            }
            Says::Opening { .. }
            | Says::Reconciled { .. }
            | Says::Reverted { .. }
            | Says::Undo { .. }
            | Says::Question { .. }
            | Says::Event { .. }
            | Says::LoadGate { .. }
            | Says::Task(_) => None,
        }
    }

    /// The newest deployment, where it ended as the call tells, and no call has named its rollout: who asked did not know
    /// the name that who tells knows. It is no rollout of its own, whose stages would run again.
    fn ended_unnamed(&self, call: &Call) -> Option<DeploymentId> {
        let current = self.current().filter(|d| call.unattended && d.rollout.is_none())?;
        let end = current.end();
        let (same, revision) = match &call.says {
            Says::Succeeded { revision } => {
                (end.map_or(current.promoted && !current.is_rolling_back(), End::is_success), revision)
            }
            Says::Failed { revision } => {
                let rejected = end.is_some_and(|end| end.reason == Some(Reason::PostRolloutFailed));
                (rejected || was_replayed(current), revision)
            }
            _ => return None,
        };
        let named = self.stream.deployments.iter().any(|d| d.rollout == call.rollout);
        let other = revision.is_some() && current.revision.is_some() && current.revision != *revision;
        (same && !named && !other && !current.undone).then_some(current.id)
    }

    fn learn(&mut self, id: DeploymentId, revision: Option<&Revision>) {
        if let (Some(revision), true) = (revision, self.deployment(id).is_some_and(|d| d.revision.is_none())) {
            self.emit(id, Event::RevisionAdopted { revision: revision.clone() });
        }
    }

    /// A gate of a rollout that was told to have succeeded, where a revision names one rollout, and not only what is
    /// rolled out: a poll that came late, or Flux, which has put in place again what somebody had changed. It is no
    /// rollout of its own.
    pub(super) fn still_there(&self, told: &Deployment, call: &Call, revision: Option<&Revision>) -> Option<Reply> {
        let source = self.stream.id.source;
        let same = revision.is_some() && told.revision.as_ref() == revision;
        if !told.promoted || !same || !matches!(source, Source::ArgoRollouts | Source::Flux) {
            return None;
        }
        if call.unattended {
            let message = format!("{} was told to have succeeded before, so this begins no other rollout", told.id);
            return Some(note(call.hook, Some(told.id), message));
        }
        Some(Reply::Answer(passed_before(told, call.hook)))
    }

    /// A success that is told at every interval: the first one ends the rollout, the others are only noted.
    pub(super) fn reconciled(&mut self, call: &Call, revision: Option<&Revision>) -> Reply {
        if let Some(current) = self.current()
            && let Some(end) = current.end().filter(|_| !current.undone)
            && revision.is_some()
            && current.revision.as_ref() == revision
        {
            let message = format!("{} is {}: found in place once more, nothing to do", current.id, end.state.as_str());
            return note(call.hook, Some(current.id), message);
        }
        self.succeeded(call, revision)
    }

    /// The caller went back to an earlier revision. What is newest is undone, unless that is what it went back to: a
    /// failure may have been lost, but a revision that serves must not be undone.
    pub(super) fn reverted(&mut self, call: &Call, to: Option<&Revision>) -> Reply {
        let Some(current) = self.current() else {
            if self.context.pipeline.is_none() {
                return self.unknown_application();
            }
            let application = &self.stream.id.application;
            return note(call.hook, None, format!("nothing to undo: no deployment of {application} was ever opened"));
        };
        let id = current.id;
        let serves = to.is_none() || current.revision.is_none() || current.revision.as_ref() == to;
        // Flux rolls out one chart's version twice, and goes back by itself. Others go back by a rollout, which asks its gates.
        let goes_back = self.stream.id.source != Source::Flux && to.is_some() && current.revision.as_ref() == to;
        match &current.standing {
            Standing::Progressing if !current.promoted && goes_back => {
                note(call.hook, Some(id), format!("{id} rolls out what was gone back to, so nothing of it is undone"))
            }
            Standing::Progressing if !current.promoted => {
                let reason = self.requested_or(id, Reason::Failed);
                self.replay(id, reason, false, call)
            }
            Standing::Ended(end) if end.state == EndState::Abandoned && end.reason == Some(Reason::Closed) => {
                note(call.hook, Some(id), format!("{id} was closed by a person, so nothing of it is undone"))
            }
            Standing::Progressing | Standing::Ended(_) if !current.undone && !was_replayed(current) => {
                if serves {
                    let message = format!("{id} is what was gone back to, so nothing of it is undone");
                    return note(call.hook, Some(id), message);
                }
                self.replay(id, Reason::Failed, false, call)
            }
            Standing::Progressing | Standing::RollingBack { .. } | Standing::Ended(_) => {
                self.failed_again(id, None, call).unwrap_or(Reply::Nothing)
            }
        }
    }

    /// An outcome was told, or never can be.
    pub(super) fn reported(&mut self, id: DeploymentId, report: u32, problem: Option<String>) -> Reply {
        let open = |d: &Deployment| d.reports.iter().any(|known| known.number == report && !known.is_over());
        if self.deployment(id).is_some_and(open) {
            self.emit(id, Event::ReportSent { report, problem });
        }
        Reply::Nothing
    }
}

/// The deployment that a call was answered for. One that is told to call again was not answered yet.
fn answered_for(reply: &Reply) -> Option<DeploymentId> {
    match reply {
        Reply::Wait(WaitKey::Hook(id, _) | WaitKey::Replay(id)) => Some(*id),
        Reply::Answer(answer) if answer.verdict != Verdict::Pending => answer.deployment,
        _ => None,
    }
}

/// A gate of a rollout that was told to have succeeded: what it was answered then. An operation of Argo CD tries again
/// after that, from its first hook on, where something else of its last one has failed.
fn passed_before(told: &Deployment, hook: Hook) -> Answer {
    match told.pass(hook).and_then(|pass| pass.end.as_ref()) {
        Some(end @ (PassEnd::Approved | PassEnd::Rejected { .. })) => answer::gate(told, hook, end),
        // It will not run again, so nobody is to come again for it.
        Some(PassEnd::Interrupted { .. }) => answer::over(told, hook),
        None if told.pipeline.on_hook(hook).next().is_none() => answer::gate(told, hook, &PassEnd::Approved),
        None => answer::over(told, hook),
    }
}

/// A name that was used for a rollout of another revision: were that answered from the ledger, this one would be
/// approved without a stage. Where the rollout has a name, that says which is meant.
fn names_another(deployment: &Deployment, call: &Call) -> Option<Reply> {
    let told = match &call.says {
        Says::Forward { revision }
        | Says::Succeeded { revision }
        | Says::Reconciled { revision }
        | Says::Failed { revision }
        | Says::Undo { revision, .. } => revision.as_ref().filter(|_| call.rollout.is_none())?,
        Says::Opening { .. }
        | Says::Reverted { .. }
        | Says::Question { .. }
        | Says::Event { .. }
        | Says::LoadGate { .. }
        | Says::Task(_) => return None,
    };
    let own = deployment.revision.as_ref().filter(|own| *own != told)?;
    let message = format!(
        "this call's name was used before, for {} of revision {own}, and it is of {told}; name each call differently",
        deployment.id
    );
    Some(Reply::Conflict { message })
}

fn was_replayed(deployment: &Deployment) -> bool {
    deployment.end().is_some_and(|end| matches!(end.state, EndState::RolledBack | EndState::RollbackFailed))
}
