//! A server that dies as it is told to, and comes back.

use std::collections::VecDeque;
use std::future::Future;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;

use rustix::process::Signal;
use stagehook::ledger::{self, Head};

use crate::support::World;

/// The variable that says what happens at the failpoints.
const VARIABLE: &str = "FAILPOINTS";

/// What is to happen at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `abort` or `fail`.
    pub what: &'static str,
    pub point: String,
    /// At which hit.
    pub number: usize,
}

impl Fault {
    pub fn abort(point: &str, number: usize) -> Self {
        Self { what: "abort", point: point.to_owned(), number }
    }

    pub fn fail(point: &str, number: usize) -> Self {
        Self { what: "fail", point: point.to_owned(), number }
    }
}

/// The failpoints of one life, or of several until something has happened.
#[derive(Clone, Debug, Default)]
pub struct Lives {
    /// The file of the hits, in the world's folder.
    pub log: String,
    /// What happens in any case: part of the story.
    pub always: Vec<Fault>,
    /// What the walk is about; with it these lives are over.
    pub fault: Option<Fault>,
}

impl Lives {
    pub fn new(log: &str, always: &[Fault], fault: Option<Fault>) -> Self {
        Self { log: log.to_owned(), always: always.to_vec(), fault }
    }
}

/// A world whose server may die at any moment.
pub struct Mortal {
    pub world: World,
    lives: VecDeque<Lives>,
    /// Where the ledger ended before a server died or was asked for it.
    pub heads: Vec<Head>,
}

impl Mortal {
    /// Starts the first life.
    pub async fn new(world: World, lives: impl IntoIterator<Item = Lives>) -> Self {
        let mut mortal = Self { world, lives: lives.into_iter().collect(), heads: Vec::new() };
        mortal.rise().await;
        mortal
    }

    /// Goes on with something while the server dies and comes back, as often as it does.
    pub async fn survive<T>(&mut self, work: impl Future<Output = T>) -> T {
        // Not on the stack: a whole rollout is a large future, and these are wrapped in each other.
        let mut work = Box::pin(work);
        loop {
            // While the server rises, whoever works waits: a death takes no time, as far as callers can tell.
            tokio::select! {
                biased;
                () = gone(&self.world) => self.rise().await,
                done = &mut work => return done,
            }
        }
    }

    /// Notes where the ledger ends: from now on that is acknowledged.
    pub fn note_head(&mut self) {
        let database = self.world.path().join("data/stagehook.db");
        if database.exists()
            && let Ok(head) = ledger::head(&database)
        {
            // What a death leaves must be sound before anybody could have mended it.
            let report = ledger::verify(&database, self.heads.last()).unwrap();
            assert!(report.is_sound(), "{report:?}");
            if self.heads.last() != Some(&head) {
                self.heads.push(head);
            }
        }
    }

    /// What is in a log of hits.
    pub fn hits(&self, log: &str) -> Vec<String> {
        self.world.read(log).lines().map(str::to_owned).collect()
    }

    /// Whether a fault has happened.
    pub fn happened(&self, log: &str, fault: &Fault) -> bool {
        self.hits(log).iter().filter(|hit| **hit == fault.point).count() >= fault.number
    }

    /// Starts a life in which nothing happens.
    pub async fn start_in_peace(&mut self) {
        self.set(None);
        self.world.start().await;
    }

    fn set(&mut self, value: Option<String>) {
        self.world.variables.retain(|(name, _)| name != VARIABLE);
        self.world.variables.extend(value.map(|value| (VARIABLE.to_owned(), value)));
    }

    async fn rise(&mut self) {
        for _ in 0..20 {
            self.note_head();
            while let Some(Lives { log, fault: Some(fault), .. }) = self.lives.front()
                && self.happened(log, fault)
            {
                self.lives.pop_front();
            }
            let value = self.lives.front().map(|lives| {
                let log: PathBuf = self.world.path().join(&lives.log);
                let faults = lives.always.iter().chain(&lives.fault);
                let faults: Vec<_> = faults.map(|f| format!(";{}={}#{}", f.what, f.point, f.number)).collect();
                format!("log={}{}", log.display(), faults.concat())
            });
            self.set(value);
            if self.world.try_start().await {
                return;
            }
            let status = self.world.server().exited().await;
            // It dies as it was told, or says that the ledger can't be written, as it was told.
            let told = status.signal() == Some(Signal::KILL.as_raw()) || status.code() == Some(2);
            assert!(told, "{status:?}: {}", self.world.server().log().join("\n"));
        }
        panic!("the server does not come back: {}", self.world.server().log().join("\n"));
    }
}

/// Waits for the server's end: by a fault, or after a drain.
async fn gone(world: &World) {
    let status = world.server().ended().await;
    let told = status.signal() == Some(Signal::KILL.as_raw()) || status.code() == Some(0);
    assert!(told, "{status:?}: {}", world.server().log().join("\n"));
}
