//! The stories that are told with a crash at each of their points: rollouts as a delivery tool sees them, which come to
//! an end whatever dies meanwhile.

use std::future::Future;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::types::FromSql;
use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::flagger_sim::{Flagger, Phase, Strategy};
use crate::history;
use crate::life::{Lives, Mortal};
use crate::support::github::{self, Api, SECRET};
use crate::support::http::{Client, Lost, Reply};
use crate::support::past::Past;
use crate::support::pipelines::{pipeline, pipeline_for, stage};
use crate::support::poll::{DEADLINE, poll_until};
use crate::support::{World, journal, processes};

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Story {
    /// A rollout with a script on each hook, a wait among them, that succeeds.
    Succeeds,
    /// One whose analysis fails.
    Fails,
    /// One that fails, whose scripts' undoing fails in the middle and is asked for again.
    UndoFails,
    /// A second revision supersedes the first.
    Superseded,
    /// A person asks for a rollback, and Flagger for the answer.
    Requested,
    /// The same, but Flagger dies before it reports the failure: the replay begins by itself.
    RequestedInVain,
    /// A person wants the rollback at once.
    Now,
    /// A person cancels it while a script runs.
    Cancelled,
    /// A person wants the rollback, and while the script is being stopped the service and its supervisor are gone at
    /// once, so that nobody ends it.
    Orphaned,
    /// A stage fails and succeeds when it is called again.
    Retried,
    /// GitHub tells of a deployment and of its failure, and is told what became of it.
    Github,
    /// The service is asked to end while a script runs, which does not end by itself; nobody asks for its stage again, and a
    /// person wants the rollback.
    Drained,
    /// Two applications and one slot: one has to wait for the other, and a rollback for a script.
    Busy,
    /// What ended long ago is pruned.
    Pruned,
}

impl Story {
    pub const ALL: &[Self] = &[
        Self::Succeeds,
        Self::Fails,
        Self::UndoFails,
        Self::Superseded,
        Self::Requested,
        Self::RequestedInVain,
        Self::Now,
        Self::Cancelled,
        Self::Orphaned,
        Self::Retried,
        Self::Github,
        Self::Drained,
        Self::Busy,
        Self::Pruned,
    ];
}

const HOOKS: [&str; 7] =
    ["confirm-rollout", "pre-rollout", "rollout", "confirm-promotion", "post-rollout", "rollback", "event"];

fn stages(prefix: &str) -> Vec<Value> {
    let stage = |id: &str, hook: &str| stage(&format!("{prefix}{id}"), hook);
    vec![
        stage("announce", "confirm-rollout"),
        stage("migrate", "pre-rollout"),
        json!({"id": "pause", "name": "WAIT", "hook": "pre-rollout", "with": {"duration": "20ms"}}),
        stage("smoke", "rollout"),
        stage("promote", "confirm-promotion"),
        stage("notify", "post-rollout"),
    ]
}

/// A story that is being told.
pub struct Telling {
    pub mortal: Mortal,
    pub flaggers: Vec<Flagger>,
    api: Option<Api>,
    /// What the ledger holds from before the story.
    pub past: Option<Past>,
}

impl Telling {
    /// A world for a story, with what happens in it; the server is up.
    pub async fn begin(story: Story, lives: impl IntoIterator<Item = Lives>) -> Self {
        let all = stages("");
        let mut world = World::new()
            .set("/server/shutdownGrace", json!("30ms"))
            .set("/execution/killGrace", json!("200ms"))
            .set("/rollback/signalTimeout", json!("150ms"));
        let (mut api, mut past) = (None, None);
        match story {
            Story::Github => {
                let at = Api::start().await;
                let about = [stage("migrate", "pre-rollout"), stage("smoke", "rollout")];
                world = world
                    .pipeline("app.yaml", &pipeline_for("production", "octo/app", &about))
                    .set("/sources/github/enabled", json!(true))
                    .set("/sources/github/auth", json!({"type": "hmac-sha256", "secrets": [{"fromEnv": "SECRET"}]}))
                    .set("/sources/github/api", json!({"url": at.url, "token": {"fromEnv": "TOKEN"}}))
                    .variable("SECRET", SECRET)
                    .variable("TOKEN", "ghp_token");
                api = Some(at);
            }
            Story::Busy => {
                world = world
                    .set("/execution/maxConcurrent", json!(1))
                    .pipeline("podinfo.yaml", &pipeline(&all))
                    .pipeline("other.yaml", &pipeline_for("test", "other", &stages("other-")));
            }
            Story::Pruned => {
                world = world.set("/ledger/retain", json!("90d"));
                past = Some(Past::write(&world.path().join("data/stagehook.db")).await);
            }
            _ => world = world.pipeline("podinfo.yaml", &pipeline(&all)),
        }
        let mortal = Mortal::new(world, lives).await;
        let address = mortal.world.address();
        let mut flaggers = Vec::new();
        let names: &[&'static str] = match story {
            Story::Github | Story::Pruned => &[],
            Story::Busy => &["podinfo", "other"],
            _ => &["podinfo"],
        };
        for name in names {
            let mut flagger = Flagger::new(address.clone(), &HOOKS).of(name);
            (flagger.keeps_answers, flagger.strategy) = (true, Strategy::Steps(1));
            for webhook in &mut flagger.webhooks {
                webhook.retries = 7;
            }
            flaggers.push(flagger);
        }
        Self { mortal, flaggers, api, past }
    }

    /// Tells it to its end, and ends the server.
    pub async fn tell(&mut self, story: Story) {
        match story {
            Story::Github => self.github().await,
            Story::Busy => self.busy().await,
            Story::Pruned => self.pruned().await,
            _ => self.rollout(story).await,
        }
        self.rest().await;
        self.stop().await;
    }

    async fn rollout(&mut self, story: Story) {
        let caller = Caller::new(&self.mortal.world);
        // A check may fail for the death that the walk is about.
        self.flaggers[0].threshold = 3;
        match story {
            Story::Fails => self.mortal.world.fail("smoke"),
            Story::UndoFails => {
                self.mortal.world.fail("smoke");
                self.mortal.world.fail("undo.migrate");
            }
            Story::Retried => {
                self.mortal.world.fail("migrate");
                self.flaggers[0].threshold = 9;
            }
            Story::RequestedInVain => self.flaggers[0].dies_at_the_end = true,
            Story::Cancelled | Story::Drained | Story::Orphaned => {
                self.mortal.world.write("hang.migrate", "");
                self.mortal.world.make_stubborn("migrate");
            }
            _ => {}
        }
        self.flaggers[0].content = "second".to_owned();
        match story {
            Story::Succeeds => {
                self.mortal.survive(caller.send("GET", "/readyz", &Value::Null, &[200])).await;
            }
            Story::Cancelled | Story::Drained | Story::Orphaned => self.while_it_hangs(story, &caller).await,
            Story::Superseded | Story::Requested | Story::RequestedInVain | Story::Now => {
                self.until_passed("pre-rollout").await;
                match story {
                    Story::Superseded => self.flaggers[0].content = "third".to_owned(),
                    Story::Now => self.mortal.survive(caller.operate("rollback?now=true")).await,
                    _ => self.mortal.survive(caller.operate("rollback")).await,
                }
            }
            Story::Retried => {
                for _ in 0..3 {
                    self.tick().await;
                }
                self.mortal.world.mend("migrate");
            }
            _ => {}
        }
        self.until_the_end().await;
        // Where the request was lost with the server, Flagger may have gone on to its success, of which nobody hears.
        if story == Story::RequestedInVain && self.flaggers[0].phase == Phase::Failed {
            self.mortal.survive(caller.recorded("ended", 1)).await;
        }
        if story == Story::UndoFails {
            self.rest().await;
            self.mortal.world.mend("undo.migrate");
            let body = json!({"name": "podinfo", "namespace": "test", "deployment": caller.newest()});
            self.mortal.survive(caller.send("POST", "/hooks/generic/rollback", &body, &[200])).await;
        }
    }

    /// The tick in which a script does not end, and what is done about it.
    async fn while_it_hangs(&mut self, story: Story, caller: &Caller) {
        let Self { mortal, flaggers, .. } = self;
        for _ in 0..20 {
            let mut tick = Box::pin(flaggers[0].tick());
            let hangs = mortal.survive(async {
                tokio::select! {
                    () = &mut tick => false,
                    () = caller.hangs("migrate") => true,
                }
            });
            if !hangs.await {
                // A stage before it has failed for the death that the walk is about; Flagger asks again.
                continue;
            }
            if story == Story::Cancelled {
                mortal.survive(async { tokio::join!(tick, caller.operate("cancel")) }).await;
            } else if story == Story::Orphaned {
                mortal.survive(caller.operate("rollback?now=true")).await;
                processes::kill_with_supervisors(mortal.world.server().pid(), mortal.world.path());
                mortal.survive(tick).await;
            } else {
                mortal.world.server().signal(Signal::TERM);
                mortal.world.server().exited().await;
                std::fs::remove_file(mortal.world.path().join("hang.migrate")).unwrap();
                mortal.survive(caller.operate("rollback?now=true")).await;
                mortal.survive(tick).await;
            }
            return;
        }
        panic!("the script never hangs: {:?}", flaggers[0].said);
    }

    /// Ticks until a gate has passed.
    async fn until_passed(&mut self, gate: &str) {
        for _ in 0..20 {
            if self.flaggers[0].said.iter().any(|(hook, _, status)| hook == gate && *status == Some(200)) {
                return;
            }
            self.tick().await;
        }
        panic!("{gate} never passes: {:?}", self.flaggers[0].said);
    }

    async fn busy(&mut self) {
        let Self { mortal, flaggers, .. } = self;
        let caller = Caller::new(&mortal.world);
        let [one, other] = &mut flaggers[..] else { unreachable!() };
        (one.content, other.content) = ("second".to_owned(), "second".to_owned());
        (one.threshold, other.threshold) = (3, 3);
        // A pass that has to wait for the other's script.
        let hold = mortal.world.path().join("hold.other-announce");
        std::fs::write(&hold, "").unwrap();
        let both = async {
            // Again where its first process was killed before it could say that it is there.
            let next = async {
                while !caller.started("other-announce") {
                    other.tick().await;
                }
            };
            tokio::join!(next, async {
                caller.has_started("other-announce").await;
                tokio::join!(one.tick(), async {
                    caller.recorded("called", 2).await;
                    std::fs::remove_file(&hold).unwrap();
                });
            });
        };
        mortal.survive(both).await;
        for _ in 0..2 {
            mortal.survive(one.tick()).await;
        }
        // A rollback that has to.
        let hold = mortal.world.path().join("hold.other-migrate");
        std::fs::write(&hold, "").unwrap();
        let both = async {
            let next = async {
                while !caller.started("other-migrate") {
                    other.tick().await;
                }
            };
            tokio::join!(next, async {
                caller.has_started("other-migrate").await;
                caller.operate_on(&caller.deployment_of("test/podinfo"), "rollback?now=true").await;
                caller.recorded("rollbackStarted", 1).await;
                std::fs::remove_file(&hold).unwrap();
            });
        };
        mortal.survive(both).await;
        self.until_the_end().await;
    }

    async fn github(&mut self) {
        let Self { mortal, api, .. } = self;
        let caller = Caller::new(&mortal.world);
        let api = api.as_ref().unwrap();
        let deliver = |event: &'static str, id: &'static str, body: Value| {
            let caller = caller.clone();
            async move { caller.until(|client| github::try_deliver(client, event, id, body.clone()), &[200, 202]).await }
        };
        mortal.survive(deliver("deployment", "d-1", github::deployment(42, "abc"))).await;
        assert!(caller.count("called") >= 1, "acknowledged and not recorded");
        mortal.survive(caller.recorded("reportSent", 1)).await;
        api.says(42, "failure");
        mortal.survive(deliver("deployment_status", "d-2", github::status(42, "abc", "failure"))).await;
        assert!(caller.count("rollbackStarted") >= 1, "acknowledged and not recorded");
        mortal.survive(caller.recorded("reportSent", 2)).await;
        let told = api.posted("/deployments/42/statuses");
        // A step of the replay fails where its supervisor dies.
        let undone = caller.ask::<String>("SELECT state FROM deployments") == "RolledBack";
        let expected = if undone { "failure" } else { "error" };
        assert_eq!(told.last().unwrap().body["state"], expected, "{told:?}");
    }

    async fn pruned(&mut self) {
        let Self { mortal, past, .. } = self;
        let past = past.as_ref().unwrap();
        for _ in 0..10_000 {
            if past.is_pruned() {
                return;
            }
            // After a commit that failed it is tried again within the hour, or by the next life.
            if !mortal.world.server().log_with("not pruned further").is_empty() {
                mortal.world.server().signal(Signal::TERM);
                mortal.world.server().exited().await;
            }
            mortal.survive(tokio::time::sleep(Duration::from_millis(5))).await;
        }
        panic!("it is never pruned: {}", mortal.world.server().log().join("\n"));
    }

    async fn tick(&mut self) {
        self.mortal.survive(self.flaggers[0].tick()).await;
        self.mortal.note_head();
    }

    /// Every canary goes on until nothing more happens to it.
    async fn until_the_end(&mut self) {
        for at in 0..self.flaggers.len() {
            for _ in 0..60 {
                if self.flaggers[at].is_done() {
                    break;
                }
                self.mortal.survive(self.flaggers[at].tick()).await;
                self.mortal.note_head();
            }
            assert!(self.flaggers[at].is_done(), "no end: {:?}", self.flaggers[at].said);
        }
    }

    /// Waits until nothing is to be done any more, by what the ledger says: a call would count as a hit.
    async fn rest(&mut self) {
        let caller = Caller::new(&self.mortal.world);
        self.mortal.survive(caller.rests()).await;
    }

    async fn stop(&mut self) {
        self.mortal.note_head();
        let server = self.mortal.world.server();
        server.signal(Signal::TERM);
        let status = server.exited().await;
        let told = status.code() == Some(0) || status.signal() == Some(Signal::KILL.as_raw());
        assert!(told, "{status:?}: {}", server.log().join("\n"));
        self.mortal.note_head();
    }
}

/// Whoever calls beside Flagger, and the ledger's file for whoever must not call.
#[derive(Clone)]
struct Caller {
    address: Arc<Mutex<String>>,
    folder: PathBuf,
}

impl Caller {
    fn new(world: &World) -> Self {
        Self { address: world.address(), folder: world.path().to_owned() }
    }

    /// Calls until somebody is there who answers so.
    async fn until<F: Future<Output = Result<Reply, Lost>>>(
        &self,
        ask: impl Fn(Client) -> F,
        statuses: &[u16],
    ) -> Reply {
        poll_until(&format!("an answer with one of {statuses:?}"), || async {
            let client = Client::new(&self.address.lock().unwrap().clone());
            ask(client).await.ok().filter(|reply| statuses.contains(&reply.status))
        })
        .await
    }

    async fn send(&self, method: &str, path: &str, body: &Value, statuses: &[u16]) -> Reply {
        let body = body.to_string();
        let ask = |client: Client| {
            let body = body.clone();
            async move { client.try_send(method, path, body.as_bytes(), DEADLINE).await }
        };
        self.until(ask, statuses).await
    }

    async fn operate(&self, word: &str) {
        self.operate_on(&self.newest(), word).await;
    }

    async fn operate_on(&self, deployment: &str, word: &str) {
        let path = format!("/api/v1/deployments/{deployment}/{word}");
        if self.send("POST", &path, &json!({}), &[202, 409]).await.status == 202 {
            history::assert_recorded(&self.folder, deployment, &["rollbackRequested", "rollbackStarted"]);
        }
    }

    fn started(&self, key: &str) -> bool {
        journal::read(&self.folder).iter().any(|line| line.what == "start" && line.key == key)
    }

    async fn has_started(&self, key: &str) {
        poll_until(&format!("{key} has started"), || async { self.started(key).then_some(()) }).await;
    }

    async fn hangs(&self, key: &str) {
        let file = self.folder.join(format!("hangs.{key}"));
        poll_until(&format!("{key} hangs"), || async { file.exists().then_some(()) }).await;
    }

    fn ask<T: FromSql>(&self, query: &str) -> T {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let ledger = Connection::open_with_flags(self.folder.join("data/stagehook.db"), flags).unwrap();
        ledger.busy_timeout(DEADLINE).unwrap();
        ledger.query_row(query, [], |row| row.get(0)).unwrap()
    }

    fn newest(&self) -> String {
        self.ask("SELECT id FROM deployments ORDER BY id DESC LIMIT 1")
    }

    fn deployment_of(&self, application: &str) -> String {
        self.ask(&format!("SELECT id FROM deployments WHERE application = '{application}' ORDER BY id DESC LIMIT 1"))
    }

    fn count(&self, event: &str) -> i64 {
        self.ask(&format!("SELECT count(*) FROM records WHERE body ->> '$.event.type' = '{event}'"))
    }

    async fn recorded(&self, event: &str, times: i64) {
        poll_until(&format!("{times} {event}"), || async { (self.count(event) >= times).then_some(()) }).await;
    }

    async fn rests(&self) {
        poll_until("nothing is to be done", || async {
            let undoing: i64 = self.ask("SELECT count(*) FROM deployments WHERE state = 'RollingBack'");
            let alive = self.count("stageStarted") - self.count("stageFinished");
            (undoing == 0 && alive == 0).then_some(())
        })
        .await;
    }
}
