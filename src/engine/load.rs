//! Memory: what of an application's streams is folded before a decision.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Engine;
use super::application::Streams;
use crate::domain::call::{Alias, Command, Says, WaitKey};
use crate::domain::ids::DeploymentId;
use crate::domain::names::{Revision, Source, StreamId};
use crate::domain::pipeline::{Pipeline, PipelineHash};
use crate::domain::state::Stream;
use crate::ledger::{LedgerError, Loaded};

/// How many ended deployments of a stream a decision may look back on.
pub const KEEP: usize = 8;

/// Something further back than rules look by themselves.
#[derive(Clone, Debug)]
pub enum Named<'a> {
    /// This one.
    Deployment(DeploymentId),
    /// The newest deployment that has it.
    Revision(&'a Revision),
    /// The newest deployment that callers know by this.
    Alias(Alias),
}

/// What a command names of the past.
pub fn named(command: &Command) -> Vec<Named<'_>> {
    let aliases = match command {
        Command::Call(call) => call.aliases().map(Named::Alias).collect(),
        _ => Vec::new(),
    };
    aliases.into_iter().chain(meant(command)).collect()
}

fn meant(command: &Command) -> Option<Named<'_>> {
    match command {
        Command::Call(call) => match &call.says {
            Says::Undo { deployment: Some(id), .. } => Some(Named::Deployment(*id)),
            // A failure that was reported before is answered from the ledger, however long ago that was.
            Says::Undo { deployment: None, revision } | Says::Failed { revision } => {
                revision.as_ref().map(Named::Revision)
            }
            // Its result may be waiting for whoever asks.
            Says::Task(task) => Some(Named::Revision(&task.revision)),
            Says::Opening { .. }
            | Says::Forward { .. }
            | Says::Succeeded { .. }
            | Says::Reconciled { .. }
            | Says::Reverted { .. }
            | Says::Question { .. }
            | Says::Event { .. }
            | Says::LoadGate { .. } => None,
        },
        Command::Operate { deployment, .. }
        | Command::Granted { deployment, .. }
        | Command::GrantedReplay { deployment }
        | Command::SignalTimedOut { deployment }
        | Command::Reported { deployment, .. }
        | Command::Unheard { key: WaitKey::Hook(deployment, _) | WaitKey::Replay(deployment) } => {
            Some(Named::Deployment(*deployment))
        }
        Command::Finished { .. } | Command::Resume { .. } => None,
    }
}

impl Engine {
    /// Folds the application's streams if they are not in memory, and a deployment that is named
    /// although it lies further back than rules look by themselves.
    pub(super) async fn load(&self, id: &StreamId, streams: &mut Streams, named: &[Named<'_>]) -> Result<(), String> {
        let ledger = &self.0.ledger;
        'again: loop {
            if streams.by_source.is_empty() {
                let mut folded = BTreeMap::new();
                // Mostly one, or none yet: the others are empty, and need no look at the ledger.
                let known = ledger.sources_of(&id.application).await.map_err(|error| self.0.unread(&error))?;
                for source in Source::ALL {
                    let stream = StreamId { source, application: id.application.clone() };
                    let mut state = Stream::new(stream.clone());
                    if known.contains(&source) {
                        let loaded = ledger.load(&stream, KEEP).await.map_err(|error| self.0.unread(&error))?;
                        fold(&mut state, &loaded).map_err(|why| self.unfit(&stream, &why))?;
                    }
                    folded.insert(source, state);
                }
                streams.by_source = folded;
                if std::mem::take(&mut streams.doubtful) {
                    self.make_good(streams);
                }
            }
            let Some(stream) = streams.by_source.get_mut(&id.source) else { return Ok(()) };
            for named in named {
                let Some(beside) = self.beside(stream, named).await? else { continue };
                if beside.head != stream.head {
                    // Somebody else wrote: what is in memory is not all that came before this head.
                    tracing::debug!(stream = %id, "another writer was first; loading again");
                    streams.by_source.clear();
                    continue 'again;
                }
                let id = stream.id.clone();
                fold(stream, &beside).map_err(|why| self.unfit(&id, &why))?;
            }
            return Ok(());
        }
    }

    /// Records that are what was written and still make no history.
    fn unfit(&self, stream: &StreamId, why: &str) -> String {
        self.0.unread(&LedgerError::Content(format!("{stream}: {why}")))
    }

    /// The records of a deployment that a command names and that is not in memory.
    async fn beside(&self, stream: &Stream, named: &Named<'_>) -> Result<Option<Loaded>, String> {
        let ledger = &self.0.ledger;
        let id = match named {
            Named::Deployment(id) => Some(*id),
            Named::Alias(alias) => {
                if stream.deployments.iter().rev().take(KEEP).any(|deployment| deployment.is_known_by(alias)) {
                    return Ok(None);
                }
                ledger.known_by(&stream.id, alias).await.map_err(|error| self.0.unread(&error))?
            }
            Named::Revision(revision) => {
                // Older ones are there by chance, so one of them need not be the newest of its revision. Of the load
                // tester's none need be.
                let certain = stream.id.source != Source::Loadtester;
                let mut newest = stream.deployments.iter().rev().take(KEEP);
                if certain && newest.any(|deployment| deployment.revision.as_ref() == Some(*revision)) {
                    return Ok(None);
                }
                ledger.newest_of(&stream.id, revision).await.map_err(|error| self.0.unread(&error))?
            }
        };
        let Some(id) = id.filter(|id| stream.get(*id).is_none()) else { return Ok(None) };
        let found = ledger.load_deployment(id).await.map_err(|error| self.0.unread(&error))?;
        Ok(found.filter(|(of, _)| *of == stream.id).map(|(_, loaded)| loaded))
    }
}

/// Takes loaded records in: into an empty stream all of its end, or into one that has the same head
/// a deployment from before it.
pub fn fold(stream: &mut Stream, loaded: &Loaded) -> Result<(), String> {
    let mut parsed: BTreeMap<&PipelineHash, Arc<Pipeline>> = BTreeMap::new();
    for (hash, json) in &loaded.pipelines {
        let pipeline = serde_json::from_str(json)
            .map_err(|error| format!("the pipeline {hash} in the ledger can't be read: {error}"))?;
        parsed.insert(hash, Arc::new(pipeline));
    }
    for record in &loaded.records {
        stream.apply(record, &|hash| parsed.get(hash).cloned()).map_err(|error| error.to_string())?;
    }
    stream.head = stream.head.max(loaded.head);
    Ok(())
}
