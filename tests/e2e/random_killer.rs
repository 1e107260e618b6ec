//! SIGKILL at random moments under load: several applications whose rollouts go on beside each other, some of them
//! undone, a person who interferes, and one ledger that lives through many deaths of its server. `STAGEHOOK_KILLS` says
//! how many rounds there are, `STAGEHOOK_KILL_SEED` which ledger alone.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use rusqlite::{Connection, OpenFlags};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use stagehook::ledger::{self, Head};

use crate::flagger_sim::{Flagger, Strategy};
use crate::history;
use crate::support::World;
use crate::support::dice::Dice;
use crate::support::pipelines::{pipeline_for, stage};
use crate::support::poll::poll_until;
use crate::support::processes;

const NAMES: [&str; 4] = ["one", "two", "three", "four"];
const HOOKS: [&str; 7] =
    ["confirm-rollout", "pre-rollout", "rollout", "confirm-promotion", "post-rollout", "rollback", "event"];

/// How many rounds one ledger lives through.
const ROUNDS: u64 = 25;

/// What happened to the server in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// It alone was killed.
    Alone,
    /// The supervisors of its scripts were killed with it, so that nobody ends the scripts.
    WithSupervisors,
    /// A supervisor was killed before it.
    AfterSupervisor,
}

struct Killer {
    dice: Dice,
    world: World,
    flaggers: Vec<Flagger>,
    contents: u64,
    /// Where the ledger ended at some moment before each death.
    heads: Vec<Head>,
    /// How much of the journal was compared with the ledger.
    compared: usize,
}

impl Killer {
    async fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut world = World::new()
            .set("/server/shutdownGrace", json!("30ms"))
            .set("/execution/maxConcurrent", json!(3))
            .set("/execution/killGrace", json!("100ms"))
            .set("/rollback/signalTimeout", json!("200ms"));
        for name in NAMES {
            let id = |id: &str| format!("{name}-{id}");
            let stages = [
                stage(&id("migrate"), "pre-rollout"),
                stage(&id("smoke"), "rollout"),
                stage(&id("promote"), "confirm-promotion"),
                stage(&id("notify"), "post-rollout"),
            ];
            let mut pipeline = pipeline_for("test", name, &stages);
            if dice.one_in(4) {
                pipeline["spec"]["onFailure"] = json!("rollback");
            }
            world = world.pipeline(&format!("{name}.yaml"), &pipeline);
        }
        let world = world.started().await;
        let flaggers = NAMES.map(|name| {
            let mut flagger = Flagger::new(world.address(), &HOOKS).of(name);
            (flagger.keeps_answers, flagger.strategy) = (true, Strategy::Steps(1));
            flagger.content = "second".to_owned();
            for webhook in &mut flagger.webhooks {
                webhook.retries = dice.of(&[0, 3, 6]).try_into().unwrap_or(0);
            }
            flagger
        });
        Self { dice, world, flaggers: flaggers.into(), contents: 0, heads: Vec::new(), compared: 0 }
    }

    /// What the scripts do from now on. A long one lives longer than a restart takes: with its supervisor killed it is
    /// still there when the server comes back, unless that looks for it.
    fn fate(&mut self) {
        for name in NAMES {
            for stage in ["migrate", "smoke", "promote", "notify"] {
                let stage = format!("{name}-{stage}");
                for (what, chance) in [("slow", 3), ("long", 6), ("fail", 12), ("stubborn", 6)] {
                    for key in [stage.clone(), format!("undo.{stage}")] {
                        let file = self.world.path().join(format!("{what}.{key}"));
                        // What undoes may fail, too, but not often.
                        if self.dice.one_in(if key == stage { chance } else { chance * 3 }) {
                            std::fs::write(file, "").unwrap();
                        } else {
                            let _ = std::fs::remove_file(file);
                        }
                    }
                }
            }
        }
    }

    /// Everybody goes on, and the server is killed in the middle.
    async fn round(&mut self) {
        self.fate();
        let moment = Duration::from_micros(self.dice.below(120_000));
        let death = self.dice.of(&[Death::Alone, Death::Alone, Death::WithSupervisors, Death::AfterSupervisor]);
        let person = self.dice.of(&["", "", "rollback", "rollback?now=true", "cancel"]);
        let over = Cell::new(false);
        let Self { world, flaggers, contents, heads, .. } = self;
        let shared = Cell::new(*contents);
        let callers = join_all(flaggers.iter_mut().map(|flagger| async {
            while !over.get() {
                if flagger.is_done() {
                    shared.set(shared.get() + 1);
                    flagger.content = format!("content {}", shared.get());
                }
                flagger.tick().await;
            }
        }));
        let killer = async {
            let interferes = interfere(world, person);
            let _ =
                tokio::time::timeout(moment, async { tokio::join!(interferes, std::future::pending::<()>()) }).await;
            heads.push(ledger::head(&world.path().join("data/stagehook.db")).unwrap());
            kill(world, death).await;
            world.start().await;
            over.set(true);
        };
        tokio::join!(callers, killer);
        *contents = shared.get();
        self.compare();
    }

    /// What can be seen at any moment.
    fn compare(&mut self) {
        let database = self.world.path().join("data/stagehook.db");
        let report = ledger::verify(&database, self.heads.last()).unwrap();
        assert!(report.is_sound(), "what was acknowledged is gone: {report:?}");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let ledger = Connection::open_with_flags(database, flags).unwrap();
        let mut known = ledger.prepare("SELECT run FROM runs").unwrap();
        let known: BTreeSet<String> = known.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let journal = self.world.journal();
        for line in &journal[self.compared..] {
            assert!(known.contains(&line.run), "a script ran that the ledger does not know: {line:?}");
        }
        self.compared = journal.len();
        assert_eq!(self.world.read("violations"), "", "scripts that were alive beside each other");
    }

    /// No more faults: every rollout comes to its end, and then everything is looked at.
    async fn settle(mut self) {
        for entry in std::fs::read_dir(self.world.path()).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if ["fail.", "slow.", "long.", "stubborn."].iter().any(|what| name.starts_with(what)) {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        join_all(self.flaggers.iter_mut().map(|flagger| async {
            for _ in 0..60 {
                if flagger.is_done() {
                    break;
                }
                flagger.tick().await;
            }
        }))
        .await;
        let flaggers: Vec<_> = self.flaggers.iter().collect();
        history::check_all(&self.world, &flaggers).await;
        let server = self.world.server().pid();
        poll_until("nothing is left alive", || async {
            processes::of(self.world.path()).iter().all(|process| process.pid == server).then_some(())
        })
        .await;
        let database = self.world.path().join("data/stagehook.db");
        for head in &self.heads {
            assert!(ledger::verify(&database, Some(head)).unwrap().is_sound());
        }
    }
}

/// A person does something to the newest deployment.
async fn interfere(world: &World, word: &str) {
    if word.is_empty() {
        return;
    }
    let client = world.client();
    let listed = client.get("/api/v1/deployments?limit=1").await;
    let listed: Value = serde_json::from_str(&listed.text).unwrap();
    let Some(newest) = listed["deployments"][0]["id"].as_str() else { return };
    let reply = client.post(&format!("/api/v1/deployments/{newest}/{word}"), &json!({})).await;
    assert!([202, 409].contains(&reply.status), "{reply:?}");
    if reply.status == 202 {
        history::assert_recorded(world.path(), newest, &["rollbackRequested", "rollbackStarted"]);
    }
}

async fn kill(world: &World, death: Death) {
    match death {
        Death::Alone => {}
        Death::WithSupervisors => processes::kill_with_supervisors(world.server().pid(), world.path()),
        Death::AfterSupervisor => {
            let all = processes::of(world.path());
            if let Some(supervisor) = all.iter().find(|process| process.command.contains("__supervise")) {
                let _ = kill_process(supervisor.pid, Signal::KILL);
            }
        }
    }
    world.server().signal(Signal::KILL);
    world.server().exited().await;
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Half of the ledgers, so that two go on beside each other.
async fn half(which: u64) {
    let rounds = variable("STAGEHOOK_KILLS").unwrap_or(200);
    let only = variable("STAGEHOOK_KILL_SEED");
    for seed in 0..rounds.div_ceil(ROUNDS) {
        if seed % 2 != which || only.is_some_and(|only| only != seed) {
            continue;
        }
        let mut killer = Killer::new(seed).await;
        for round in 0..ROUNDS.min(rounds - seed * ROUNDS) {
            println!("ledger {seed}, round {round} (STAGEHOOK_KILL_SEED={seed} plays that ledger alone)");
            killer.round().await;
        }
        Box::pin(killer.settle()).await;
    }
}

#[tokio::test]
async fn killed_at_random_under_load_first_half() {
    half(0).await;
}

#[tokio::test]
async fn killed_at_random_under_load_second_half() {
    half(1).await;
}
