//! What people ask for: by API, command line or dashboard.

use super::Turn;
use crate::domain::call::{Action, Operation, Reply};
use crate::domain::ids::{DeploymentId, RunId};
use crate::domain::names::Source;
use crate::domain::record::{EndState, Ending, Event, Outcome, Purpose, Reason};
use crate::domain::state::{Deployment, Standing};

impl Turn<'_> {
    pub(super) fn operate(&mut self, id: DeploymentId, operation: Operation) -> Reply {
        if self.deployment(id).is_none() {
            return Reply::Unknown { message: format!("there is no deployment {id}") };
        }
        match operation {
            Operation::Rollback { now } => self.roll_back(id, now),
            Operation::Cancel => self.cancel(id),
            Operation::Close => self.close(id),
            Operation::Release => self.release(id),
            Operation::CancelRun(run) => self.cancel_run(id, run),
        }
    }

    fn roll_back(&mut self, id: DeploymentId, now: bool) -> Reply {
        let Some(deployment) = self.deployment(id) else { return Reply::Nothing };
        match &deployment.standing {
            Standing::RollingBack { .. } => accepted(format!("{id} is already rolling back")),
            Standing::Ended(end) if end.state == EndState::RolledBack => {
                accepted(format!("{id} is already rolled back"))
            }
            Standing::Progressing if !deployment.promoted && self.stream.id.source == Source::Flagger && !now => {
                if !self.stream.question_asked {
                    return Reply::Conflict {
                        message: format!(
                            "Flagger has never asked its rollback question about {}, so it can't be told to roll back: wire a \
                             webhook of type `rollback` to /hooks/flagger/rollback, or ask again with now=true (--now) to \
                             replay at once",
                            self.stream.id.application
                        ),
                    };
                }
                self.request_rollback(id, Reason::Requested);
                accepted(format!(
                    "{id} will be rolled back: Flagger is told yes when it next asks, then onRollback is replayed"
                ))
            }
            Standing::Progressing => {
                let own = !deployment.promoted;
                self.begin_rollback(id, Reason::Requested, own, None);
                accepted(format!("{id} is rolling back"))
            }
            Standing::Ended(_) => {
                // What is held against the rollout stays held through a further replay.
                let own = deployment.undone || self.is_left_open(deployment);
                self.begin_rollback(id, Reason::Requested, own, None);
                accepted(format!("{id} is rolling back"))
            }
        }
    }

    fn cancel(&mut self, id: DeploymentId) -> Reply {
        let Some(deployment) = self.deployment(id) else { return Reply::Nothing };
        match deployment.standing {
            Standing::Progressing => {
                let own = !deployment.promoted;
                self.begin_rollback(id, Reason::Cancelled, own, None);
                accepted(format!("{id} is cancelled: its scripts are stopped, then it is rolled back"))
            }
            Standing::RollingBack { .. } => conflict(id, deployment, "it can be closed, which stops the replay"),
            Standing::Ended(_) => conflict(id, deployment, "it can still be rolled back"),
        }
    }

    fn close(&mut self, id: DeploymentId) -> Reply {
        let Some(deployment) = self.deployment(id) else { return Reply::Nothing };
        match deployment.standing {
            Standing::Progressing | Standing::RollingBack { .. } => {
                self.abandon(id, Reason::Closed);
                accepted(format!("{id} is closed; nothing is replayed"))
            }
            Standing::Ended(_) => conflict(id, deployment, "there is nothing to close"),
        }
    }

    fn release(&mut self, id: DeploymentId) -> Reply {
        let Some(deployment) = self.deployment(id) else { return Reply::Nothing };
        let held = deployment.runs.iter().any(|run| match run.purpose {
            Purpose::Forward { hook, .. } => {
                let cut = matches!(run.outcome(), Some(Outcome::Interrupted | Outcome::Cancelled));
                cut && !run.released && deployment.goes_on(hook)
            }
            Purpose::Rollback { .. } => false,
        });
        if !deployment.undone && !held {
            return conflict(id, deployment, "nothing of it is held");
        }
        self.emit(id, Event::Released);
        // Of a call that comes once at most: whoever lets its stage run again waits for no other.
        for hook in self.begin_again_all(id) {
            self.go_on(id, hook);
        }
        accepted(format!("{id} is released"))
    }

    fn cancel_run(&mut self, id: DeploymentId, run: RunId) -> Reply {
        let Some(found) = self.deployment(id).and_then(|d| d.run(run)) else {
            return Reply::Unknown { message: format!("there is no run {run}") };
        };
        if let Some(outcome) = found.outcome() {
            return Reply::Conflict { message: format!("{run} is over: {}", outcome.as_str()) };
        }
        let why = format!("asked by {}", self.context.by.0);
        if found.until.is_none() {
            self.emit(id, Event::StopRequested { run, why: why.clone() });
        } else {
            // A wait has no process: it ends here and now, durable before the request is accepted.
            self.finished(run, Ending::plain(Outcome::Cancelled, why.clone()), &[]);
        }
        self.actions.push(Action::Stop { run, why });
        accepted(format!("{run} is being stopped"))
    }
}

fn accepted(message: String) -> Reply {
    Reply::Accepted { message }
}

fn conflict(id: DeploymentId, deployment: &Deployment, hint: &str) -> Reply {
    Reply::Conflict { message: format!("{id} is {}: {hint}", deployment.state().as_str()) }
}
