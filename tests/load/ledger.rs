//! What the ledger says of the load, as the API tells it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::Client;

/// One run of a script.
#[derive(Clone, Debug)]
pub struct Run {
    pub id: String,
    pub stage: String,
    pub rollback: bool,
    /// The number of its start in the stream, and when that was decided.
    pub started: (u64, Timestamp),
    /// When its end was recorded; none: it has none.
    pub finished: Option<Timestamp>,
    pub outcome: String,
}

/// One deployment.
#[derive(Clone, Debug)]
pub struct Deployment {
    pub id: String,
    /// `app-0-17`
    pub name: String,
    pub state: String,
    /// In the order of their starts.
    pub runs: Vec<Run>,
    /// When its rollback began.
    pub undone_from: Option<Timestamp>,
}

impl Deployment {
    /// Its runs, forward or of the replay.
    pub fn runs(&self, rollback: bool) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.rollback == rollback)
    }
}

/// Every deployment, by its id: ids are in the order of time.
pub async fn read(client: &Client) -> BTreeMap<String, Deployment> {
    let all = client.deployments().await;
    let few = Arc::new(Semaphore::new(4));
    let mut reading = JoinSet::new();
    for told in all {
        let (client, few) = (client.clone(), few.clone());
        reading.spawn(async move {
            let _one = few.acquire().await.unwrap();
            let records = client.records(told["id"].as_str().unwrap()).await;
            deployment(&told, &records)
        });
    }
    let read = reading.join_all().await;
    read.into_iter().map(|deployment| (deployment.id.clone(), deployment)).collect()
}

fn deployment(told: &Value, records: &[Value]) -> Deployment {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let at = |record: &Value| record["at"].as_str().unwrap().parse::<Timestamp>().unwrap();
    let mut runs: Vec<Run> = Vec::new();
    let mut undone_from = None;
    for record in records {
        let event = &record["event"];
        match event["type"].as_str().unwrap() {
            "stageStarted" => runs.push(Run {
                id: text(&event["run"]),
                stage: text(&event["stage"]),
                rollback: event["purpose"]["kind"] == "rollback",
                started: (record["seq"].as_u64().unwrap(), at(record)),
                finished: None,
                outcome: "Running".to_owned(),
            }),
            "stageFinished" => {
                let run = runs.iter_mut().find(|run| event["run"] == run.id.as_str()).unwrap();
                assert!(run.finished.is_none(), "a run ended twice: {record}");
                (run.finished, run.outcome) = (Some(at(record)), text(&event["ending"]["outcome"]));
            }
            "rollbackStarted" => undone_from = undone_from.or(Some(at(record))),
            _ => {}
        }
    }
    let name = told["application"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    Deployment { id: text(&told["id"]), name, state: text(&told["state"]), runs, undone_from }
}
