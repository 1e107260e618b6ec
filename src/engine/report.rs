//! Telling outcomes where callers want them told, such as GitHub's API: again and again until it was done, and recorded
//! then. What is due is the core's word, so nothing is lost with the process; how it is told is the [`Reporter`]'s.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Engine;
use crate::domain::call::{Command, ReportTo, Verdict};
use crate::domain::hook::Hook;
use crate::domain::ids::DeploymentId;
use crate::domain::names::StreamId;
use crate::domain::report::Due;
use crate::domain::state::Stream;
use crate::failpoint::{self, Point};

/// Between two attempts at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// The same where the other side wants more.
const LONGEST_WANTED: Duration = Duration::from_secs(60 * 60);

/// One outcome to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Where to; the source's adapter wrote it.
    pub to: ReportTo,
    /// The deployment.
    pub deployment: DeploymentId,
    /// The hook of the call.
    pub hook: Hook,
    /// The outcome.
    pub verdict: Verdict,
    /// In one line.
    pub message: String,
}

/// Why a report did not arrive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsent {
    /// It may later.
    #[error("{0}")]
    Later(String),
    /// It may when so much time has passed, and must not be tried before.
    #[error("{0}")]
    NotBefore(String, Duration),
    /// It never will.
    #[error("{0}")]
    Never(String),
}

/// Who tells outcomes.
pub trait Reporter: Send + Sync {
    /// Tells one. May be asked to tell the same one again.
    fn report(&self, report: Report) -> BoxFuture<'static, Result<(), Unsent>>;
}

impl Engine {
    /// Sets about telling what is due and not being told already.
    pub(super) fn tell_due(&self, id: &StreamId, stream: &Stream) {
        for due in stream.due_reports() {
            if self.0.telling().insert((due.deployment, due.number)) {
                tokio::spawn(self.clone().tell_until_told(id.clone(), due));
            }
        }
    }

    async fn tell_until_told(self, id: StreamId, due: Due) {
        let (deployment, number) = (due.deployment, due.number);
        let report = Report {
            to: due.to,
            deployment,
            hook: due.answer.hook,
            verdict: due.answer.verdict,
            message: due.answer.message,
        };
        let source = id.source;
        let mut pause = Duration::from_secs(1);
        let problem = loop {
            failpoint::hit(Point::TellBefore);
            let told = match &self.0.settings.reporter {
                Some(reporter) => reporter.report(report.clone()).await,
                None => Err(Unsent::Never(format!("nothing is set up to tell {source} of outcomes"))),
            };
            failpoint::hit(Point::TellAfter);
            let (why, wait) = match told {
                Ok(()) => break None,
                Err(Unsent::Never(why)) => {
                    tracing::warn!(%deployment, %source, why, "an outcome can't be told");
                    break Some(why);
                }
                Err(Unsent::Later(why)) => (why, pause),
                Err(Unsent::NotBefore(why, wanted)) => (why, wanted.clamp(pause, LONGEST_WANTED)),
            };
            tracing::warn!(%deployment, %source, why, again_in = ?wait, "an outcome was not told yet");
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        self.insist(id, Command::Reported { deployment, report: number, problem }, None, Vec::new()).await;
        failpoint::hit(Point::TellRecorded);
        self.0.telling().remove(&(deployment, number));
    }
}
