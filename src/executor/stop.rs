//! Why a run is to end before its scripts do.
//!
//! Only the wish: what becomes of it is for the supervisor to do and to tell.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Who stops a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopKind {
    /// Somebody wants it ended; the text says who, or why.
    Cancelled(String),
    /// The service is going down.
    Interrupted(String),
}

/// Stops one run. Cheap to clone, and to be used from anywhere.
#[derive(Clone, Debug)]
pub struct Stopper {
    sender: Arc<watch::Sender<Option<StopKind>>>,
}

impl Stopper {
    /// Asks for the end; the first to ask gives the reason. Returns at once: the run's end tells
    /// when everything is dead, and whether the script was faster.
    pub fn stop(&self, why: StopKind) {
        self.sender.send_if_modified(|asked| {
            let first = asked.is_none();
            asked.get_or_insert(why);
            first
        });
    }
}

/// Why a command was told to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The time of all attempts was up.
    Timeout,
    /// Somebody asked.
    Asked(StopKind),
}

/// Both reasons to stop, as one thing to wait for.
pub struct Stops {
    deadline: Option<Instant>,
    receiver: watch::Receiver<Option<StopKind>>,
}

impl Stops {
    /// A run without a deadline has one that no clock reaches.
    pub fn new(deadline: Option<Instant>) -> (Self, Stopper) {
        let (sender, receiver) = watch::channel(None);
        (Self { deadline, receiver }, Stopper { sender: Arc::new(sender) })
    }

    /// The reason that there is already.
    pub fn now(&self) -> Option<Cause> {
        let asked = self.receiver.borrow().clone().map(Cause::Asked);
        asked.or_else(|| self.deadline.filter(|at| *at <= Instant::now()).map(|_| Cause::Timeout))
    }

    /// Waits for a reason.
    pub async fn wait(&mut self) -> Cause {
        let Self { deadline, receiver } = self;
        let asked = async {
            match receiver.wait_for(Option::is_some).await.map(|asked| asked.clone()) {
                Ok(Some(why)) => why,
                // Nobody is left who could ask.
                Ok(None) | Err(_) => std::future::pending().await,
            }
        };
        let timeout = async {
            match deadline {
                Some(at) => sleep_until(*at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            why = asked => Cause::Asked(why),
            () = timeout => Cause::Timeout,
        }
    }
}
