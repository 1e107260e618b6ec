//! One application, what is to become of its rollout, and the Flagger that looks after it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::flagger_sim::{Flagger, Phase};
use crate::support::World;
use crate::support::pipelines::{SCRIPT, pipeline_for, stage};

/// How long a second of Flagger's takes here.
pub const SECOND: Duration = Duration::from_millis(200);

/// Flagger's shortest interval between two looks at a canary, in its seconds.
const INTERVAL: u32 = 10;

/// How many scripts may run at once.
pub const SLOTS: usize = 8;

/// How many wait for that: the default.
pub const QUEUE: usize = 64;

/// The stages, in pipeline order, with the hooks that they run on.
pub const STAGES: [(&str, &str); 5] = [
    ("ask", "confirm-rollout"),
    ("migrate", "pre-rollout"),
    ("smoke", "rollout"),
    ("approve", "confirm-promotion"),
    ("notify", "post-rollout"),
];

/// Every webhook that a canary may have.
const HOOKS: [&str; 7] =
    ["confirm-rollout", "rollback", "pre-rollout", "rollout", "confirm-promotion", "post-rollout", "event"];

/// Each script notes its start and its end, also when it fails. One write for each line: with `O_APPEND` the lines of
/// scripts that run beside each other are in the order in which they were written.
const LIBRARY: &str = r#"
key=$STAGEHOOK_STAGE
[ "$SR_IS_ROLLBACK" = true ] && key=undo.$STAGEHOOK_STAGE
who="$key $SR_DEPLOYMENT_ID $STAGEHOOK_RUN_ID $STAGEHOOK_REVISION"
echo "start $who" >> "$E2E_DIR/journal"
# Long enough for others to begin meanwhile.
[ $STAGEHOOK_STAGE = migrate ] && sleep 0.05
[ -e "$E2E_DIR/fail.$STAGEHOOK_NAME.$key" ] && failed=3
echo "end $who" >> "$E2E_DIR/journal"
exit ${failed-0}
"#;

/// What is to become of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Succeeds,
    /// The script of this stage fails.
    Fails(&'static str),
    /// The metrics are bad after the first step.
    BadMetrics,
    /// The promotion is denied, and the analysis fails while it waits.
    Denied,
    /// A person wants it undone in the middle of it.
    Requested,
    /// A new revision comes in the middle of it, and succeeds.
    Superseded,
}

impl Fate {
    /// A tenth fails, each of them elsewhere; one in twenty is superseded.
    pub const fn of(number: usize) -> Self {
        const FAILURES: [Fate; 5] =
            [Fate::Fails("migrate"), Fate::Fails("smoke"), Fate::BadMetrics, Fate::Denied, Fate::Requested];
        match number % 20 {
            3 | 13 => FAILURES[number / 10 % FAILURES.len()],
            7 => Self::Superseded,
            _ => Self::Succeeds,
        }
    }

    /// The states of its deployments, oldest first.
    pub const fn ends(self) -> &'static [&'static str] {
        match self {
            Self::Succeeds => &["Succeeded"],
            Self::Superseded => &["RolledBack", "Succeeded"],
            Self::Fails(_) | Self::BadMetrics | Self::Denied | Self::Requested => &["RolledBack"],
        }
    }

    /// The stages that are executed in its first deployment.
    pub fn executed(self) -> &'static [&'static str] {
        match self {
            Self::Succeeds => &["ask", "migrate", "smoke", "approve", "notify"],
            Self::Fails("migrate") | Self::Requested => &["ask", "migrate"],
            Self::Fails(_) | Self::BadMetrics | Self::Superseded => &["ask", "migrate", "smoke"],
            Self::Denied => &["ask", "migrate", "smoke", "approve"],
        }
    }
}

/// One application.
pub struct Canary {
    pub name: String,
    pub fate: Fate,
    pub flagger: Flagger,
    content: String,
}

/// A world whose pipeline is for every application of the load.
pub fn world() -> World {
    let mut stages: Vec<Value> = STAGES.iter().map(|(id, hook)| stage(id, hook)).collect();
    // Once for both steps: a script is dear.
    stages[2]["with"] = json!({"run": SCRIPT, "onRollback": SCRIPT, "repeat": "retry-failed"});
    let world = World::new()
        .set("/execution/maxConcurrent", json!(SLOTS))
        .set("/log/level", json!("warn,stagehook::app=info,stagehook::http::server=info"))
        .pipeline("all.yaml", &pipeline_for("test", "app-*", &stages));
    world.write("library.sh", LIBRARY);
    world
}

impl Canary {
    /// The application of this number, for the `round`th time.
    pub fn new(world: &World, number: usize, round: usize) -> Self {
        let name = format!("app-{round}-{number}");
        let fate = Fate::of(number);
        if let Fate::Fails(stage) = fate {
            world.write(&format!("fail.{name}.{stage}"), "");
        }
        if fate == Fate::Denied {
            world.write(&format!("fail.{name}.approve"), "");
        }
        let mut flagger = Flagger::new(world.address(), &HOOKS).of(&name);
        flagger.second = SECOND;
        for webhook in &mut flagger.webhooks {
            // A gate that is denied comes again at the next tick by itself. The others fail a check.
            let counts = ["pre-rollout", "rollout", "post-rollout"].contains(&webhook.hook);
            webhook.retries = if counts { u32::MAX } else { 0 };
        }
        let content = format!("content of {name}");
        Self { name, fate, flagger, content }
    }

    /// The whole rollout, to its end.
    pub async fn run(mut self) -> Self {
        self.flagger.content.clone_from(&self.content);
        let mut intervened = false;
        loop {
            self.flagger.tick().await;
            if !intervened {
                intervened = self.intervene().await;
            }
            if matches!(self.flagger.phase, Phase::Succeeded | Phase::Failed) && self.flagger.is_through() {
                return self;
            }
            tokio::time::sleep(SECOND * INTERVAL).await;
        }
    }

    /// What fate has in mind, once the rollout has come so far.
    async fn intervene(&mut self) -> bool {
        let told =
            |hook: &str, with| self.flagger.said.iter().any(|(said, _, status)| said == hook && *status == Some(with));
        let passed = |hook| told(hook, 200);
        match self.fate {
            Fate::BadMetrics if passed("pre-rollout") => self.flagger.metrics_fail = true,
            Fate::Denied if told("confirm-promotion", 501) => self.flagger.metrics_fail = true,
            Fate::Superseded if passed("rollout") => self.flagger.content = format!("new {}", self.content),
            Fate::Requested if passed("pre-rollout") => {
                let id = self.flagger.rollouts.last().and_then(|rollout| rollout.deployments.last()).unwrap();
                let path = format!("/api/v1/deployments/{id}/rollback");
                let client = self.flagger.client();
                // Not answered where the service stops: asked again then.
                return client
                    .try_send("POST", &path, b"", Duration::from_secs(60))
                    .await
                    .is_ok_and(|it| it.status == 202);
            }
            _ => return false,
        }
        true
    }
}
