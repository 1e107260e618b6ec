//! What people and runs do to the model: operations, starts and ends of runs, timers, a start of the
//! service; and what is due or settled then.

use stagehook::domain::call::{Operation, Verdict, WaitKey};
use stagehook::domain::hook::Hook;
use stagehook::domain::ids::{DeploymentId, RunId};
use stagehook::domain::names::{Source, StageId};
use stagehook::domain::pipeline::OnFailure;
use stagehook::domain::record::{EndState, Outcome, Reason};

use super::{Around, Expect, MRun, Model, Phase, Walk};

impl Model {
    pub fn operate(&mut self, id: DeploymentId, operation: Operation) -> Expect {
        let Some(at) = self.index(id) else { return Expect::Unknown };
        let d = &mut self.deps[at];
        match (operation, d.phase) {
            (Operation::Rollback { .. }, Phase::Rolling(_) | Phase::Over(EndState::RolledBack, _)) => {}
            (Operation::Rollback { now: false }, Phase::Open) if self.source == Source::Flagger && !self.asked => {
                return Expect::Conflict;
            }
            (Operation::Rollback { now: false }, Phase::Open) => self.request(at, Reason::Requested),
            (Operation::Rollback { .. }, Phase::Open) => self.begin(at, Reason::Requested, true),
            (Operation::Rollback { .. }, _) => {
                let own = d.undone || self.left_open(at);
                self.begin(at, Reason::Requested, own);
            }
            (Operation::Cancel, Phase::Open) => self.begin(at, Reason::Cancelled, true),
            (Operation::Cancel, Phase::Promoted) => self.begin(at, Reason::Cancelled, false),
            (Operation::Close, Phase::Open | Phase::Promoted | Phase::Rolling(_)) => self.abandon(at, Reason::Closed),
            (Operation::Cancel | Operation::Close, _) => return Expect::Conflict,
            (Operation::Release, _) => {
                let goes: Vec<Hook> = Hook::ALL.into_iter().filter(|hook| d.goes(*hook)).collect();
                let pipeline = d.pipeline.clone();
                let held = |run: &MRun| {
                    let hook = pipeline.stage(&run.stage).unwrap().hook().unwrap();
                    let cut = matches!(run.outcome, Some(Outcome::Cancelled | Outcome::Interrupted));
                    cut && run.rollback.is_none() && !run.released && goes.contains(&hook)
                };
                if !d.undone && !d.runs.iter().any(held) {
                    return Expect::Conflict;
                }
                d.undone = false;
                for run in &mut d.runs {
                    run.released |= matches!(run.outcome, Some(Outcome::Cancelled | Outcome::Interrupted));
                }
                let let_go: Vec<StageId> =
                    d.runs.iter().filter(|r| r.released && r.rollback.is_none()).map(|r| r.stage.clone()).collect();
                let newest: Vec<StageId> =
                    let_go.into_iter().filter(|stage| d.newest(stage, false).is_some_and(|r| r.released)).collect();
                for walk in d.walks.values_mut() {
                    if let Walk::Over { heard, by: Some(by), .. } = walk {
                        *heard |= newest.contains(by);
                    }
                }
                // Nobody calls for it again.
                let post = Hook::PostRollout;
                let held = match d.walks.get(&post) {
                    Some(Walk::Over { verdict: Verdict::Pending, .. }) => true,
                    Some(Walk::Over { verdict: Verdict::Rejected, by: Some(by), .. }) => newest.contains(by),
                    _ => false,
                };
                if let (true, Ok(list)) = (held && d.promoted && d.goes(post), d.strike(&d.stages(post))) {
                    d.walks.insert(post, Walk::Going(list));
                }
            }
            (Operation::CancelRun(run), _) => match d.runs.iter().find(|r| r.id == run) {
                None => return Expect::Unknown,
                Some(run) if run.outcome.is_some() => return Expect::Conflict,
                Some(found) => {
                    if d.is_wait(&found.stage) {
                        self.finished(run, Outcome::Cancelled, &[]);
                    } else {
                        let found = d.runs.iter_mut().find(|r| r.id == run).unwrap();
                        found.stop = true;
                    }
                }
            },
        }
        Expect::Accepted
    }

    pub fn signal_timed_out(&mut self, id: DeploymentId) {
        if let Some(at) = self.index(id)
            && let (Some(reason), true, true) = (self.deps[at].requested, self.deps[at].signalled, self.deps[at].open())
        {
            self.begin(at, reason, true);
        }
    }

    /// A start of the service: post-rollout is never called again, so what was cut goes on.
    pub fn start(&mut self) {
        for d in &mut self.deps {
            let cut = match d.walks.get(&Hook::PostRollout) {
                Some(Walk::Over { verdict: Verdict::Pending, .. }) => d.goes(Hook::PostRollout),
                _ => false,
            };
            if let (true, Ok(list)) = (cut, d.strike(&d.stages(Hook::PostRollout))) {
                d.walks.insert(Hook::PostRollout, Walk::Going(list));
            }
        }
    }

    /// A run has started: whether it may.
    pub fn started(&mut self, id: DeploymentId, run: RunId, stage: &StageId, replay: Option<u32>, around: Around) {
        let at = self.index(id).unwrap();
        let blocked = self.blocked(at, around);
        let later = self.undone_later(at);
        let d = &mut self.deps[at];
        assert!(d.runs.iter().all(|r| r.stage != *stage || r.outcome.is_some()), "two runs of {stage} are alive");
        assert!(!around.draining, "{stage} starts while draining");
        match replay {
            Some(number) => {
                assert!(d.rolling() && !d.alive(), "{stage} is replayed beside a living script or out of turn");
                assert!(!later, "{stage} is replayed beside another deployment's undoing, or before a newer one's");
                assert_eq!(number, d.replay);
                assert_eq!(d.next_step().as_ref(), Ok(stage), "another step was next");
            }
            None => {
                assert!(!blocked, "{stage} starts while a rollback goes on, or beside an older script");
                let hook = d.pipeline.stage(stage).unwrap().hook().unwrap();
                assert!(d.goes(hook), "{stage} starts and its deployment is {:?}", d.phase);
                let list = match d.walks.get(&hook) {
                    Some(Walk::Going(list)) => list.clone(),
                    other => panic!("{stage} starts and its walk is {other:?}"),
                };
                let rest = d.strike(&list).unwrap_or_else(|verdict| panic!("{stage} starts, {verdict:?} was due"));
                assert_eq!(&rest[0], stage);
                d.walks.insert(hook, Walk::Going(rest[1..].to_vec()));
            }
        }
        d.runs.push(MRun {
            id: run,
            stage: stage.clone(),
            rollback: replay,
            outcome: None,
            released: false,
            stop: false,
        });
    }

    /// A run has ended.
    pub fn finished(&mut self, run: RunId, outcome: Outcome, waited: &[WaitKey]) {
        let Some(at) = self.deps.iter().position(|d| d.runs.iter().any(|r| r.id == run)) else { return };
        let d = &mut self.deps[at];
        let r = d.runs.iter_mut().find(|r| r.id == run).unwrap();
        if r.outcome.is_some() {
            return;
        }
        // The word that it is stopped was given.
        let outcome = if r.stop && outcome == Outcome::Interrupted { Outcome::Cancelled } else { outcome };
        r.outcome = Some(outcome);
        let stage = r.stage.clone();
        if r.rollback.is_some() {
            d.replay_heard = waited.contains(&WaitKey::Replay(d.id));
        } else {
            self.walked(at, stage, outcome, waited);
        }
        self.roll_on(at);
    }

    pub fn walked(&mut self, at: usize, stage: StageId, outcome: Outcome, waited: &[WaitKey]) {
        let d = &mut self.deps[at];
        let hook = d.pipeline.stage(&stage).unwrap().hook().unwrap();
        let Some(Walk::Going(rest)) = d.walks.get(&hook) else { panic!("{stage} ended outside of a walk") };
        let verdict = match outcome {
            Outcome::Succeeded => d.strike(rest).err(),
            Outcome::Interrupted => Some(Verdict::Pending),
            _ => Some(Verdict::Rejected),
        };
        let Some(verdict) = verdict else { return };
        let heard = waited.contains(&WaitKey::Hook(d.id, hook));
        d.walks.insert(hook, Walk::Over { verdict, heard, by: Some(stage) });
        let failed = matches!(outcome, Outcome::Failed | Outcome::TimedOut);
        if d.phase == Phase::Promoted && verdict == Verdict::Pending && d.strike(&d.stages(hook)).is_ok() {
            // Cut, and to run again: not through.
        } else if hook == Hook::PostRollout && d.goes(hook) && d.promoted {
            let reason = (verdict != Verdict::Approved).then_some(Reason::PostRolloutFailed);
            self.end(at, EndState::Succeeded, reason);
        } else if failed && d.open() && d.pipeline.on_failure == OnFailure::Rollback {
            // Flagger has not begun, and asks again: its next question opens the next deployment.
            if hook == Hook::ConfirmRollout && d.opening.is_some() {
                self.begin(at, Reason::StageFailed, false);
            } else {
                self.request(at, Reason::StageFailed);
            }
        }
    }

    /// The answer to a call that waits on a key, once there is one.
    pub fn settled(&self, key: WaitKey) -> Option<Verdict> {
        match key {
            WaitKey::Hook(id, hook) => {
                let d = &self.deps[self.index(id)?];
                match d.walks.get(&hook) {
                    Some(Walk::Over { verdict, .. }) => Some(*verdict),
                    _ if d.goes(hook) || d.running_on(hook) => None,
                    _ => Some(Verdict::Rejected),
                }
            }
            WaitKey::Replay(id) => match self.deps[self.index(id)?].phase {
                Phase::Over(..) if self.deps[self.index(id)?].undoing() => None,
                Phase::Over(EndState::RolledBack | EndState::Succeeded, _) => Some(Verdict::Approved),
                Phase::Over(..) => Some(Verdict::Rejected),
                _ => None,
            },
        }
    }

    /// What nothing holds back but a slot.
    pub fn due(&self, around: Around) -> Vec<WaitKey> {
        let mut due = Vec::new();
        for (at, d) in self.deps.iter().enumerate() {
            if d.rolling() && !d.alive() && !self.undone_later(at) {
                due.push(WaitKey::Replay(d.id));
            }
            for (hook, walk) in &d.walks {
                if matches!(walk, Walk::Going(_)) && !d.running_on(*hook) && d.goes(*hook) && !self.blocked(at, around)
                {
                    due.push(WaitKey::Hook(d.id, *hook));
                }
            }
        }
        due
    }
}
