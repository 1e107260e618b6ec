//! Flagger, as far as a webhook receiver can tell: which hooks it calls at which tick with which phase and checksum,
//! what it makes of the answers, and what it forgets when it dies.
//!
//! A tick is a future. To drop one is Flagger's death in the middle of it: what it had stored stays, the connection
//! breaks, the rest never happens.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http::{Client, Lost, Reply};

/// The phase of a canary, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Initialized,
    Waiting,
    Progressing,
    WaitingPromotion,
    Promoting,
    Finalising,
    Succeeded,
    Failed,
}

/// How traffic is shifted.
#[derive(Clone, Copy, Debug)]
pub enum Strategy {
    /// Step by step.
    Steps(u32),
    /// All at once after so many iterations.
    BlueGreen(u32),
    /// Without any analysis.
    Skip,
}

/// One webhook of a canary.
#[derive(Clone, Copy, Debug)]
pub struct Webhook {
    pub hook: &'static str,
    pub timeout: Duration,
    pub retries: u32,
}

impl Webhook {
    /// A patient webhook without retries.
    pub const fn new(hook: &'static str) -> Self {
        Self { hook, timeout: Duration::from_secs(60), retries: 0 }
    }
}

/// One rollout as Flagger knows it.
#[derive(Clone, Debug, Default)]
pub struct Rollout {
    pub checksum: String,
    /// The deployments that gates of it were answered with.
    pub deployments: Vec<String>,
    pub end: Option<Ended>,
}

/// How a rollout ended, and whether a post-rollout webhook was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub succeeded: bool,
    pub reported: bool,
}

/// One canary and the Flagger that looks after it.
pub struct Flagger {
    address: Arc<Mutex<String>>,
    /// The canary's name.
    pub name: String,
    /// How long a second of Flagger's own clock takes here: its pauses between two attempts.
    pub second: Duration,
    pub webhooks: Vec<Webhook>,
    pub strategy: Strategy,
    pub threshold: u32,
    /// What the target should be; a person edits it.
    pub content: String,
    /// Dies after the end is stored and before it is told.
    pub dies_at_the_end: bool,
    /// What the metrics say at the next tick.
    pub metrics_fail: bool,
    pub phase: Phase,
    checksum: String,
    weight: u32,
    iterations: u32,
    pub failed_checks: u32,
    pub rollouts: Vec<Rollout>,
    /// Every call: hook, phase, status.
    pub said: Vec<(String, String, Option<u16>)>,
    /// Every attempt of every call.
    pub attempts: Vec<Attempt>,
    /// Whether it asks for answers in JSON (the real one does not) and keeps them.
    pub keeps_answers: bool,
    /// What was acknowledged.
    pub answers: Vec<Value>,
}

/// One attempt of a call.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub hook: &'static str,
    /// When its answer was there, or it was lost.
    pub at: jiff::Timestamp,
    pub result: Result<Reply, Lost>,
}

/// The longest pause between two attempts, in seconds of Flagger's, where nothing else is asked for.
const LONGEST_PAUSE: u32 = 30;

impl Flagger {
    /// A canary whose target was initialized with some content.
    pub fn new(address: Arc<Mutex<String>>, hooks: &[&'static str]) -> Self {
        Self {
            address,
            name: String::new(),
            second: Duration::from_millis(10),
            webhooks: hooks.iter().copied().map(Webhook::new).collect(),
            strategy: Strategy::Steps(2),
            threshold: 1,
            content: "first".to_owned(),
            dies_at_the_end: false,
            metrics_fail: false,
            phase: Phase::Initialized,
            checksum: fnv("first"),
            weight: 0,
            iterations: 0,
            failed_checks: 0,
            rollouts: Vec::new(),
            said: Vec::new(),
            attempts: Vec::new(),
            keeps_answers: false,
            answers: Vec::new(),
        }
        .of(NAME)
    }

    /// The same for another canary.
    pub fn of(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Ticks until the canary is in a phase in which nothing more happens; gives that phase.
    pub async fn run(&mut self) -> Phase {
        for _ in 0..60 {
            self.tick().await;
            if self.is_done() {
                return self.phase;
            }
        }
        panic!("no end after 60 ticks: {:?} {:?}", self.phase, self.said);
    }

    /// Whether nothing more happens.
    pub fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed) && self.is_through()
    }

    /// Whether nothing is left to be rolled out.
    pub fn is_through(&self) -> bool {
        self.checksum == fnv(&self.content)
    }

    /// A client of where the service is now.
    pub fn client(&self) -> Client {
        Client::new(&self.address.lock().unwrap().clone())
    }

    /// One look at the canary.
    pub async fn tick(&mut self) {
        match self.phase {
            Phase::Initialized | Phase::Succeeded | Phase::Failed | Phase::Waiting => self.begin().await,
            Phase::Progressing | Phase::WaitingPromotion => self.advance().await,
            Phase::Promoting => self.phase = Phase::Finalising,
            Phase::Finalising => {
                self.phase = Phase::Succeeded;
                self.ended(true).await;
            }
        }
    }

    async fn begin(&mut self) {
        let wanted = fnv(&self.content);
        if wanted == self.checksum && self.phase != Phase::Waiting {
            return;
        }
        if self.rollouts.last().is_none_or(|rollout| rollout.end.is_some()) {
            self.rollouts.push(Rollout::default());
        }
        if self.phase == Phase::Failed {
            // Flagger stores the new checksum of a failed canary before it asks.
            let told = self.confirm(&wanted).await;
            if told != Some(true) {
                self.checksum = wanted;
                if told.is_none() {
                    self.phase = Phase::Waiting;
                }
                return;
            }
        } else {
            let checksum = self.checksum.clone();
            match self.confirm(&checksum).await {
                Some(true) => {}
                Some(false) => return,
                None => {
                    self.phase = Phase::Waiting;
                    return;
                }
            }
        }
        self.event("New revision detected! Scaling up {}").await;
        self.start(wanted);
    }

    fn start(&mut self, checksum: String) {
        self.phase = Phase::Progressing;
        self.checksum.clone_from(&checksum);
        (self.weight, self.iterations, self.failed_checks) = (0, 0, 0);
        if let Some(rollout) = self.rollouts.last_mut() {
            rollout.checksum = checksum;
        }
    }

    /// The confirm-rollout webhooks: `None` when one denied, `Some(false)` when one passed that had been waited for, which
    /// is enough for this tick.
    async fn confirm(&mut self, checksum: &str) -> Option<bool> {
        for webhook in self.wired("confirm-rollout") {
            let phase = format!("{:?}", self.phase);
            if self.call(webhook, &phase, checksum).await.is_err() {
                if self.phase != Phase::Waiting {
                    self.event("Halt {} advancement waiting for approval").await;
                }
                return None;
            }
            if self.phase == Phase::Waiting {
                self.phase = Phase::Progressing;
                return Some(false);
            }
        }
        Some(true)
    }

    async fn advance(&mut self) {
        let wanted = fnv(&self.content);
        if wanted != self.checksum {
            let known = self.rollouts.last().is_some_and(|rollout| !rollout.checksum.is_empty());
            if known {
                self.rollouts.push(Rollout::default());
            }
            self.start(wanted);
            self.event("New revision detected! Restarting analysis for {}").await;
            return;
        }
        if let Some(rollout) = self.rollouts.last_mut() {
            rollout.checksum.clone_from(&self.checksum);
        }
        if matches!(self.strategy, Strategy::Skip) {
            self.phase = Phase::Succeeded;
            self.end(true, false);
            self.event("Promotion completed! Canary analysis was skipped for {}").await;
            return;
        }
        let (phase, checksum) = (format!("{:?}", self.phase), self.checksum.clone());
        for webhook in self.wired("rollback") {
            if self.call(webhook, &phase, &checksum).await.is_ok() {
                self.event("Rolling back {} manual webhook invoked").await;
                return self.roll_back().await;
            }
        }
        if self.failed_checks >= self.threshold {
            return self.roll_back().await;
        }
        let passed = if self.weight == 0 && self.iterations == 0 {
            self.event("Starting canary analysis for {}").await;
            self.hooks("pre-rollout").await
        } else {
            self.hooks("rollout").await && !std::mem::take(&mut self.metrics_fail)
        };
        if !passed {
            self.failed_checks += 1;
            self.event("Halt {} advancement").await;
            return;
        }
        match self.strategy {
            Strategy::BlueGreen(iterations) => {
                if self.iterations < iterations {
                    self.iterations += 1;
                } else if self.promotion_is_confirmed().await {
                    if self.iterations == iterations {
                        self.iterations += 1;
                    } else {
                        self.phase = Phase::Promoting;
                    }
                }
            }
            Strategy::Steps(_) | Strategy::Skip => {
                if self.phase != Phase::WaitingPromotion && !self.hooks("confirm-traffic-increase").await {
                    return;
                }
                let Strategy::Steps(steps) = self.strategy else { return };
                if self.weight < steps {
                    self.weight += 1;
                    self.event("Advance {} canary weight").await;
                } else if self.promotion_is_confirmed().await {
                    self.phase = Phase::Promoting;
                }
            }
        }
    }

    async fn promotion_is_confirmed(&mut self) -> bool {
        let confirmed = self.hooks("confirm-promotion").await;
        self.phase = if confirmed { Phase::Progressing } else { Phase::WaitingPromotion };
        confirmed
    }

    async fn roll_back(&mut self) {
        self.event("Canary failed! Scaling down {}").await;
        self.phase = Phase::Failed;
        self.ended(false).await;
    }

    fn end(&mut self, succeeded: bool, reported: bool) {
        if let Some(rollout) = self.rollouts.last_mut() {
            rollout.end = Some(Ended { succeeded, reported });
        }
    }

    /// The end is stored; then it is told, once.
    async fn ended(&mut self, succeeded: bool) {
        self.end(succeeded, false);
        if self.dies_at_the_end {
            return;
        }
        let (phase, checksum) = (format!("{:?}", self.phase), self.checksum.clone());
        for webhook in self.wired("post-rollout") {
            match self.call(webhook, &phase, &checksum).await {
                Ok(()) => self.end(succeeded, true),
                Err(status) => {
                    self.end(succeeded, status == Some(501));
                    break;
                }
            }
        }
        self.event("Promotion completed! Scaling down {}").await;
    }

    /// All webhooks of a gate; the first that does not pass is the last that is called.
    async fn hooks(&mut self, hook: &str) -> bool {
        let checksum = self.checksum.clone();
        for webhook in self.wired(hook) {
            if self.call(webhook, "Progressing", &checksum).await.is_err() {
                return false;
            }
        }
        true
    }

    fn wired(&self, hook: &str) -> Vec<Webhook> {
        self.webhooks.iter().filter(|webhook| webhook.hook == hook).copied().collect()
    }

    /// Tells of an event; `{}` in it is the canary.
    async fn event(&mut self, message: &str) {
        let checksum = self.checksum.clone();
        let message = message.replace("{}", &format!("{}.{NAMESPACE}", self.name));
        for webhook in self.wired("event") {
            let mut body = self.payload(&format!("{:?}", self.phase), &checksum);
            body["metadata"] = json!({"eventMessage": message, "eventType": "Normal", "timestamp": "1578607635167"});
            let _ = self.send(webhook, &body).await;
        }
    }

    /// One webhook; an error is the last status, if there was one.
    async fn call(&mut self, webhook: Webhook, phase: &str, checksum: &str) -> Result<(), Option<u16>> {
        let result = self.send(webhook, &self.payload(phase, checksum)).await;
        let status = result.as_ref().ok().map(|reply| reply.status);
        self.said.push((webhook.hook.to_owned(), phase.to_owned(), status));
        let reply = result.map_err(|_| None)?;
        if self.keeps_answers && webhook.hook != "rollback" {
            self.answers.push(reply.json());
        }
        if webhook.hook != "rollback"
            && let (Some(rollout), true) = (self.rollouts.last_mut(), reply.header("location").is_some())
        {
            let id = reply.deployment();
            if !rollout.deployments.contains(&id) {
                rollout.deployments.push(id);
            }
        }
        if (200..=202).contains(&reply.status) { Ok(()) } else { Err(Some(reply.status)) }
    }

    /// Flagger's HTTP client: what it repeats, and how long it waits between.
    async fn send(&mut self, webhook: Webhook, body: &Value) -> Result<Reply, Lost> {
        let mut pause = 1;
        for attempt in 0.. {
            let path = format!("/hooks/flagger/{}", webhook.hook);
            let mut client = self.client();
            if self.keeps_answers {
                client = client.with("Accept", "application/json");
            }
            let result = client.try_send("POST", &path, body.to_string().as_bytes(), webhook.timeout).await;
            self.attempts.push(Attempt {
                hook: webhook.hook,
                at: stagehook::engine::clock::now(),
                result: result.clone(),
            });
            let again = match &result {
                Err(_) => true,
                Ok(reply) => reply.status == 429 || reply.status >= 500 && reply.status != 501,
            };
            if !again || attempt == webhook.retries {
                return result;
            }
            let told = result.ok().filter(|reply| [429, 503].contains(&reply.status));
            let told = told.and_then(|reply| reply.header("retry-after")?.parse().ok());
            tokio::time::sleep(self.second * told.unwrap_or(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        unreachable!("the last attempt returns")
    }

    fn payload(&self, phase: &str, checksum: &str) -> Value {
        json!({"name": self.name, "namespace": NAMESPACE, "phase": phase, "checksum": checksum})
    }
}

const NAMESPACE: &str = "test";
const NAME: &str = "podinfo";

/// 32-bit FNV-1a: it names content, not a rollout.
pub fn fnv(content: &str) -> String {
    let hash = content.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.to_string()
}
