//! The state of a stream: a fold over its records, and nothing else.
//!
//! Here stands what *is*; what shall be is `decide`'s business. The stream is here, each of its deployments in
//! `deployment`.

mod deployment;

use std::sync::Arc;

use super::ids::{DeploymentId, RunId};
use super::loadtester::Gates;
use super::names::{Source, StreamId};
use super::pipeline::{Pipeline, PipelineHash};
use super::record::{Event, Fact, Record};
use super::summary::Summary;

pub use deployment::{Deployment, End, Replay, Request, Run, Standing};

/// One source's word about one application, as far back as it matters.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Which stream.
    pub id: StreamId,
    /// The number of the last record; 0 when there is none.
    pub head: u64,
    /// Whether its caller has ever asked the rollback question.
    pub question_asked: bool,
    /// Which of the load tester's gates are open.
    pub gates: Gates,
    /// The number of the record that says so.
    gates_at: u64,
    /// The deployments, oldest first. The last one is the current one.
    pub deployments: Vec<Deployment>,
}

/// A record names a pipeline that is not in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {seq} pins the pipeline {hash}, which the ledger does not hold; run `stagehook ledger verify`")]
pub struct MissingPipeline {
    /// The record.
    pub seq: u64,
    /// The hash.
    pub hash: PipelineHash,
}

impl Stream {
    /// A stream without records.
    pub fn new(id: StreamId) -> Self {
        Self { id, head: 0, question_asked: false, gates: Gates::default(), gates_at: 0, deployments: Vec::new() }
    }

    /// Takes one record in. `pinned` resolves the pipelines that deployments pin.
    pub fn apply(
        &mut self,
        record: &Record,
        pinned: &dyn Fn(&PipelineHash) -> Option<Arc<Pipeline>>,
    ) -> Result<(), MissingPipeline> {
        let Record { seq, fact } = record;
        if let (Some(id), Event::Opened { pipeline: hash, .. }) = (fact.deployment, &fact.event) {
            let pipeline = pinned(hash).ok_or_else(|| MissingPipeline { seq: *seq, hash: hash.clone() })?;
            self.open(*seq, id, fact, pipeline);
        } else {
            self.advance(*seq, fact);
        }
        Ok(())
    }

    /// Takes in the fact that a deployment was opened.
    pub fn open(&mut self, seq: u64, id: DeploymentId, fact: &Fact, pipeline: Arc<Pipeline>) {
        self.head = self.head.max(seq);
        if let Event::Opened { hook, revision, rollout, under, opening, pipeline: hash, about, question_asked, gates } =
            &fact.event
        {
            self.question_asked |= question_asked;
            // One that is loaded later, since a command names it, is of the past.
            if self.gates_at < seq {
                (self.gates, self.gates_at) = (*gates, seq);
            }
            let at = self.deployments.partition_point(|d| d.opened_seq < seq);
            self.deployments.insert(
                at,
                Deployment {
                    id,
                    opened_seq: seq,
                    opened_at: fact.at,
                    opened_by: fact.by.clone(),
                    opened_hook: *hook,
                    updated_at: fact.at,
                    revision: revision.clone(),
                    rollout: rollout.clone(),
                    under: under.clone(),
                    opening: *opening,
                    pipeline,
                    pipeline_hash: hash.clone(),
                    about: about.clone(),
                    standing: Standing::Progressing,
                    promoted: false,
                    start_noted: false,
                    restart_noted: false,
                    request: None,
                    undone: false,
                    end_seen: false,
                    polled: self.id.source == Source::ArgoRollouts,
                    passes: Vec::new(),
                    replay: None,
                    runs: Vec::new(),
                    keys: Vec::new(),
                    reports: Vec::new(),
                },
            );
        }
    }

    /// Takes in any other fact. One about a deployment from before the window is not for us.
    pub fn advance(&mut self, seq: u64, fact: &Fact) {
        self.head = self.head.max(seq);
        match fact.event {
            Event::QuestionAsked => self.question_asked = true,
            Event::GateSet { gates, .. } if self.gates_at < seq => (self.gates, self.gates_at) = (gates, seq),
            _ => {}
        }
        if let Some(deployment) = fact.deployment.and_then(|id| self.get_mut(id)) {
            deployment.updated_at = fact.at;
            deployment.take(fact);
        }
    }

    /// The newest deployment: the one that calls are about.
    pub fn current(&self) -> Option<&Deployment> {
        self.deployments.last()
    }

    /// The deployment with this id.
    pub fn get(&self, id: DeploymentId) -> Option<&Deployment> {
        self.deployments.iter().find(|d| d.id == id)
    }

    /// The deployment with this id.
    fn get_mut(&mut self, id: DeploymentId) -> Option<&mut Deployment> {
        self.deployments.iter_mut().find(|d| d.id == id)
    }

    /// The deployment that a run belongs to.
    pub fn owner_of(&self, run: RunId) -> Option<&Deployment> {
        self.deployments.iter().find(|d| d.runs.iter().any(|r| r.id == run))
    }

    /// Drops ended deployments that no rule looks at any more: all but the newest `keep`.
    pub fn forget(&mut self, keep: usize) {
        let old = self.deployments.len().saturating_sub(keep);
        let mut index = 0;
        self.deployments.retain(|d| {
            index += 1;
            index > old || d.is_live()
        });
    }

    /// The line for listing of a deployment.
    pub fn summary(&self, deployment: &Deployment) -> Summary {
        let (reason, ended_at) = match &deployment.standing {
            Standing::Progressing => (deployment.request.as_ref().map(|r| r.reason), None),
            Standing::RollingBack { reason } => (Some(*reason), None),
            Standing::Ended(end) => (end.reason, Some(end.at)),
        };
        Summary {
            id: deployment.id,
            application: self.id.application.clone(),
            source: self.id.source,
            revision: deployment.revision.clone(),
            state: deployment.state(),
            reason,
            opened_at: deployment.opened_at,
            updated_at: deployment.updated_at,
            ended_at,
            opened_seq: deployment.opened_seq,
            live: deployment.is_live(),
        }
    }
}
