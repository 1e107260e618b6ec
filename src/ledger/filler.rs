//! Fills a ledger with deployments as the engine would have written them, without running anything: the facts, and what
//! is derived from them by the same fold. It goes through the real append. Tests and benchmarks from outside use this very
//! file, so it names the library as they do; no service has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use stagehook::domain::hook::Hook;
use stagehook::domain::ids::{DeploymentId, Mint, RunId};
use stagehook::domain::names::{Revision, RolloutId, StreamId};
use stagehook::domain::pipeline::{
    OnFailure, OnInterrupt, OnSupersede, Pipeline, PipelineHash, Repeat, RollbackPolicy, Script, Stage, Work,
};
use stagehook::domain::record::{
    About, Actor, EndState, Ending, Event, Fact, Outcome, OutputDigest, Owner, Payload, Purpose, Reason,
};
use stagehook::domain::span::Span;
use stagehook::domain::state::Stream;
use stagehook::ledger::Append;

/// Seals the checkpoints as they stand, as whoever forges one would. The format is written down here once more, so that
/// a change of it does not go unseen.
pub fn seal(connection: &rusqlite::Connection) {
    let mut statement = connection
        .prepare("SELECT stream_id, source || ':' || application, seq, c.hash, at, until FROM checkpoints c JOIN streams ON id = stream_id")
        .unwrap();
    let mut found = statement.query([]).unwrap();
    while let Some(row) = found.next().unwrap() {
        let (stream, seq, until): (i64, i64, i64) = (row.get(0).unwrap(), row.get(2).unwrap(), row.get(5).unwrap());
        let (name, hash, at): (String, String, String) =
            (row.get(1).unwrap(), row.get(3).unwrap(), row.get(4).unwrap());
        let mut hasher = Sha256::new_with_prefix("stagehook seal 1\n");
        for text in [name, seq.to_string(), hash, at, until.to_string()] {
            hasher.update((text.len() as u64).to_be_bytes());
            hasher.update(text);
        }
        let seal = hex::encode(hasher.finalize());
        connection.execute("UPDATE checkpoints SET seal = ?1 WHERE stream_id = ?2", (seal, stream)).unwrap();
    }
}

/// A stream that is being filled.
pub struct Filler {
    /// The time of the next fact; each takes a second.
    pub at: Timestamp,
    /// What scripts print.
    pub output: Vec<u8>,
    folded: Stream,
    pipeline: (PipelineHash, String, Arc<Pipeline>),
    random: u128,
    append: Append,
    touched: BTreeSet<DeploymentId>,
}

impl Filler {
    /// An empty stream. `salt` is different for each stream of a ledger: the ids are made of it.
    pub fn new(id: StreamId, salt: u64, at: Timestamp) -> Self {
        Self {
            at,
            output: b"migrated\n".to_vec(),
            append: Append::new(id.clone(), 0),
            folded: Stream::new(id),
            pipeline: pinned("podinfo"),
            random: u128::from(salt) << 40,
            touched: BTreeSet::new(),
        }
    }

    /// What deployments pin from here on: the content differs by the name.
    pub fn pin(&mut self, name: &str) -> PipelineHash {
        self.pipeline = pinned(name);
        self.pipeline.0.clone()
    }

    /// The last record.
    pub fn head(&self) -> u64 {
        self.folded.head
    }

    /// The stream, folded.
    pub fn folded(&self) -> &Stream {
        &self.folded
    }

    /// One fact more, of a deployment or of the stream.
    pub fn fact(&mut self, deployment: Option<DeploymentId>, event: Event) {
        let fact = Fact { at: self.at, by: Actor::stagehook(), deployment, event };
        self.at += SignedDuration::from_secs(1);
        let seq = self.folded.head + 1;
        match (&fact.event, deployment) {
            (Event::Opened { .. }, Some(id)) => self.folded.open(seq, id, &fact, Arc::clone(&self.pipeline.2)),
            _ => self.folded.advance(seq, &fact),
        }
        if let (Event::StageStarted { run, .. }, Some(id)) = (&fact.event, deployment) {
            self.append.runs.push((*run, id));
        }
        self.touched.extend(deployment);
        self.append.facts.push(fact);
    }

    /// Opens a deployment.
    pub fn open(&mut self, revision: Option<Revision>, rollout: Option<RolloutId>) -> DeploymentId {
        let id = self.mint().deployment();
        let opened = Event::Opened {
            hook: Hook::PreRollout,
            revision,
            rollout,
            under: None,
            opening: None,
            pipeline: self.pipeline.0.clone(),
            about: About::default(),
            question_asked: self.folded.question_asked,
            gates: self.folded.gates,
        };
        let (hash, json, _) = &self.pipeline;
        if !self.append.pipelines.iter().any(|(known, _)| known == hash) {
            self.append.pipelines.push((hash.clone(), json.clone()));
        }
        self.fact(Some(id), opened);
        id
    }

    /// Starts its script.
    pub fn start(&mut self, id: DeploymentId) -> RunId {
        let run = self.mint().run();
        let payload =
            Payload { body: serde_json::json!({"name": "podinfo", "phase": "Progressing"}), ..Payload::default() };
        let hook = Hook::PreRollout;
        let called = Event::Called { hook, pass: 1, payload, about: About::default(), unattended: false };
        self.fact(Some(id), called);
        let started = Event::StageStarted {
            run,
            stage: "migrate".parse().unwrap(),
            purpose: Purpose::Forward { hook, pass: 1 },
            until: None,
            owner: Owner { instance: "test".into(), boot: "1".into() },
        };
        self.fact(Some(id), started);
        run
    }

    /// Ends its script.
    pub fn finish(&mut self, id: DeploymentId, run: RunId, outcome: Outcome) {
        let mut ending = Ending::plain(outcome, "exit code 0");
        let bytes = self.output.len() as u64;
        if bytes > 0 {
            let sha256 = hex::encode(Sha256::digest(&self.output));
            ending.output = Some(OutputDigest { bytes, kept: bytes, sha256 });
            self.append.outputs.push((run, self.output.clone()));
        }
        self.fact(Some(id), Event::StageFinished { run, ending, awaited: true });
    }

    /// Ends the deployment.
    pub fn end(&mut self, id: DeploymentId, state: EndState) {
        match state {
            EndState::Succeeded => self.fact(Some(id), Event::RolloutSucceeded),
            _ => {
                let begun = Event::RollbackStarted { replay: 1, reason: Reason::Failed, own: false, payload: None };
                self.fact(Some(id), begun);
            }
        }
        let reason = (state != EndState::Succeeded).then_some(Reason::Failed);
        self.fact(Some(id), Event::Ended { state, reason, skipped: Vec::new() });
    }

    /// A whole deployment: six records.
    pub fn whole(&mut self, revision: &str, state: EndState) -> DeploymentId {
        let id = self.open(Some(revision.parse().unwrap()), None);
        let run = self.start(id);
        self.finish(id, run, if state == EndState::Succeeded { Outcome::Succeeded } else { Outcome::Failed });
        self.end(id, state);
        id
    }

    /// What was gathered since the last time.
    pub fn append(&mut self) -> Append {
        let empty = Append::new(self.folded.id.clone(), self.folded.head);
        let mut append = std::mem::replace(&mut self.append, empty);
        let touched = std::mem::take(&mut self.touched);
        append.summaries =
            touched.iter().filter_map(|id| self.folded.get(*id)).map(|d| self.folded.summary(d)).collect();
        append
    }

    /// Forgets what is over and not among the newest.
    pub fn forget(&mut self, keep: usize) {
        self.folded.forget(keep);
    }

    fn mint(&mut self) -> Mint {
        self.random += 1;
        Mint::new(self.at, self.random)
    }
}

fn pinned(name: &str) -> (PipelineHash, String, Arc<Pipeline>) {
    let script = Script {
        shell: vec!["/bin/sh".to_owned(), "-c".to_owned()],
        run: vec!["./migrate.sh up".to_owned()],
        on_rollback: vec!["./migrate.sh down".to_owned()],
        env: BTreeMap::new(),
        timeout: Span::from_secs(60),
        retries: 0,
        repeat: Repeat::default(),
        on_interrupt: OnInterrupt::default(),
    };
    let pipeline = Pipeline {
        name: name.to_owned(),
        file: "podinfo.yaml".to_owned(),
        directory: "/".to_owned(),
        labels: BTreeMap::new(),
        rollback: RollbackPolicy::default(),
        on_supersede: OnSupersede::default(),
        on_failure: OnFailure::default(),
        stages: vec![Stage { id: "migrate".parse().unwrap(), work: Work::Script { hook: Hook::PreRollout, script } }],
    };
    let (hash, json) = pipeline.pinned();
    (hash, json, Arc::new(pipeline))
}
