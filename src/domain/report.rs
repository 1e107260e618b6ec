//! Reports: outcomes that a caller wants told elsewhere than in the answer to its call, such as GitHub's
//! deployment protection rules and deployment statuses.
//!
//! Which are due is read from the state, again after each start: so none is lost with the process, and one may be
//! told twice. How one is told is not known here.

use super::answer;
use super::call::{Answer, Subject, Verdict, WaitKey};
use super::decide::settled;
use super::hook::Hook;
use super::ids::DeploymentId;
use super::pass::PassEnd;
use super::record::{Event, Finding, ReportTo};
use super::state::{Deployment, Stream};

/// An outcome that is to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// 1, 2, … in its deployment.
    pub number: u32,
    /// The hook of the call.
    pub hook: Hook,
    /// Where to.
    pub to: ReportTo,
    /// Whether it is about the replay, and not about the stages of the hook.
    pub replay: bool,
    /// What is told, where that was known at once.
    pub known: Option<Finding>,
    /// Whether it was told or given up; why it was given up.
    pub sent: Option<Option<String>>,
}

impl Report {
    /// Whether nothing is left to do.
    pub const fn is_over(&self) -> bool {
        self.sent.is_some()
    }
}

/// A report that can be told now.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Which of its reports.
    pub number: u32,
    /// Where to.
    pub to: ReportTo,
    /// What is told.
    pub answer: Answer,
}

impl Stream {
    /// What is to be told now.
    pub fn due_reports(&self) -> Vec<Due> {
        let due = |deployment: &Deployment, report: &Report| {
            let key = match report.replay {
                true => WaitKey::Replay(deployment.id),
                false => WaitKey::Hook(deployment.id, report.hook),
            };
            let answer = match &report.known {
                Some(Finding { verdict, message }) => Answer {
                    verdict: *verdict,
                    subject: if report.replay { Subject::Replay } else { Subject::Gate },
                    hook: report.hook,
                    deployment: Some(deployment.id),
                    message: message.clone(),
                    stages: answer::reports(deployment, Subject::Gate, report.hook),
                },
                // Cut by a restart, with nothing left that would let it run again.
                None if is_cut(deployment, report) && !deployment.goes_on(report.hook) => {
                    answer::over(deployment, report.hook)
                }
                // Else that is no outcome yet: the stages run again.
                None => settled(self, key).filter(|answer| answer.verdict != Verdict::Pending)?,
            };
            Some(Due { deployment: deployment.id, number: report.number, to: report.to.clone(), answer })
        };
        // One after the other to the same place: one that is tried again would else tell there what is past.
        let open = |deployment: &Deployment| {
            let reports = deployment.reports.iter().filter(|report| !report.is_over());
            reports.filter_map(|report| due(deployment, report)).fold(Vec::new(), |mut first: Vec<Due>, due| {
                if !first.iter().any(|earlier| earlier.to == due.to) {
                    first.push(due);
                }
                first
            })
        };
        self.deployments.iter().flat_map(open).collect()
    }
}

fn is_cut(deployment: &Deployment, report: &Report) -> bool {
    let end = deployment.pass(report.hook).and_then(|pass| pass.end.as_ref());
    !report.replay && matches!(end, Some(PassEnd::Interrupted { .. }))
}

impl Deployment {
    pub(super) fn take_report(&mut self, event: &Event) {
        match event {
            Event::ReportWanted { report, hook, to, replay, known } => self.reports.push(Report {
                number: *report,
                hook: *hook,
                to: to.clone(),
                replay: *replay,
                known: known.clone(),
                sent: None,
            }),
            Event::ReportSent { report, problem } => {
                if let Some(report) = self.reports.iter_mut().find(|known| known.number == *report) {
                    report.sent = Some(problem.clone());
                }
            }
            _ => {}
        }
    }
}
