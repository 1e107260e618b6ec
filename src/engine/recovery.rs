//! The start: what an earlier life of the service left behind.

use std::collections::BTreeSet;

use super::Engine;
use super::application::Streams;
use super::load::fold;
use crate::domain::call::Command;
use crate::domain::names::StreamId;
use crate::domain::record::{Actor, Ending, Outcome};
use crate::domain::state::{Deployment, Run, Stream};
use crate::failpoint::{self, Point};

impl Engine {
    /// Takes up every live deployment, before any call is taken.
    ///
    /// A script that was running is proven dead first, then recorded as Interrupted: nobody can
    /// say what it did. A wait goes on where it was. Replays go on.
    pub(super) async fn recover(&self) -> Result<(), String> {
        failpoint::hit(Point::RecoverBefore);
        let live = self.0.ledger.live().await.map_err(|error| error.to_string())?;
        let streams: BTreeSet<StreamId> = live.into_iter().map(|(stream, _)| stream).collect();
        let mut scripts = Vec::new();
        for id in &streams {
            let loaded = self.0.ledger.load(id, 0).await.map_err(|error| error.to_string())?;
            let mut stream = Stream::new(id.clone());
            fold(&mut stream, &loaded)?;
            let alive = stream.deployments.iter().flat_map(Deployment::alive);
            scripts.extend(alive.filter(|run| run.until.is_none()).map(|run| (id.clone(), run.id)));
        }
        let runs: Vec<_> = scripts.iter().map(|(_, run)| *run).collect();
        if !runs.is_empty() {
            failpoint::hit(Point::ProveDeadBefore);
            let found = self.0.executor.prove_dead(&runs).await;
            failpoint::hit(Point::ProveDeadAfter);
            for leftover in found {
                let (run, processes) = (leftover.run, leftover.processes);
                tracing::warn!(%run, processes, "killed what was left of a script of the service's last life");
            }
        }
        // After the last script of the last life is dead, and before the first of this one is started.
        if let Err(error) = self.0.executor.clean_work_dir().await {
            tracing::warn!(%error, "what earlier runs left in execution.workDir can't be removed");
        }
        failpoint::hit(Point::CleanAfter);
        for (id, run) in scripts {
            failpoint::hit(Point::InterruptedBefore);
            let ending = Ending::plain(Outcome::Interrupted, "Stagehook died while it ran; what it did is unknown");
            self.take_up(id, Command::Finished { run, ending, waited: Vec::new() }).await?;
            failpoint::hit(Point::InterruptedAfter);
        }
        for id in streams {
            failpoint::hit(Point::ResumeBefore);
            self.take_up(id, Command::Resume { at_start: true }).await?;
            failpoint::hit(Point::ResumeAfter);
        }
        Ok(())
    }

    /// After a failed commit: looks again, as often as it takes, since perhaps nobody calls any more.
    pub(super) fn clear_up(&self, id: &StreamId) {
        tokio::spawn(self.insist(id.clone(), Command::Resume { at_start: false }, None, Vec::new()));
    }

    /// After a commit of which nobody knows whether it happened: what it would have started was
    /// not started, and what it would have set going is asked for again.
    pub(super) fn make_good(&self, streams: &Streams) {
        failpoint::hit(Point::DoubtBefore);
        let commands = |stream: &Stream| {
            let mut commands = Vec::new();
            for run in stream.deployments.iter().flat_map(Deployment::alive).filter(|run| self.is_lost(run)) {
                let why = "it was never started: the ledger failed as its start was recorded";
                let ending = Ending::plain(Outcome::Interrupted, why);
                commands.push(Command::Finished { run: run.id, ending, waited: Vec::new() });
            }
            commands.extend([Command::Resume { at_start: true }, Command::Resume { at_start: false }]);
            commands
        };
        for stream in streams.by_source.values() {
            let (engine, id, commands) = (self.clone(), stream.id.clone(), commands(stream));
            // In order: what an interruption leaves to be taken up is there only once it is recorded.
            tokio::spawn(async move {
                for command in commands {
                    engine.insist(id.clone(), command, None, Vec::new()).await;
                }
            });
        }
        failpoint::hit(Point::DoubtAfter);
    }

    /// Whether a run is recorded as started by this very process, which does not have it.
    fn is_lost(&self, run: &Run) -> bool {
        run.until.is_none() && run.owner == self.0.settings.owner && !self.0.live().contains_key(&run.id)
    }

    async fn take_up(&self, id: StreamId, command: Command) -> Result<(), String> {
        self.turn(id, command, Actor::stagehook(), &mut None, Vec::new(), None).await.map(drop)
    }
}
