//! What callers of Flagger's load tester ask for: two gates for each canary, and commands that the call itself names.
//!
//! A command runs like every other script. The call that brings it opens a small deployment of its own, whose
//! pipeline is made of it: one stage, nothing to undo. So the ledger, its lists and the executor know nothing special.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::hook::Hook;
use super::names::{InvalidName, Revision, Shown, StageId};
use super::pipeline::{
    OnFailure, OnInterrupt, OnSupersede, Pipeline, PipelineHash, Repeat, RollbackPolicy, Script, Stage, Work,
};
use super::record::Payload;
use super::span::Span;

/// The hook whose pass a command is. The load tester is not told from which of its webhooks Flagger calls.
pub const HOOK: Hook = Hook::Rollout;

/// Which of a canary's two gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// `/gate/…`: whether it may go on.
    Gate,
    /// `/rollback/…`: whether it is to be rolled back.
    Rollback,
}

impl Gate {
    /// As it is written in paths.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Rollback => "rollback",
        }
    }
}

/// Which gates of a canary are open; closed is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gates {
    /// `/gate/…`.
    pub gate: bool,
    /// `/rollback/…`.
    pub rollback: bool,
}

impl Gates {
    /// Whether one is open.
    pub const fn is_open(self, gate: Gate) -> bool {
        match gate {
            Gate::Gate => self.gate,
            Gate::Rollback => self.rollback,
        }
    }

    /// The same with one of them set.
    pub const fn with(mut self, gate: Gate, open: bool) -> Self {
        match gate {
            Gate::Gate => self.gate = open,
            Gate::Rollback => self.rollback = open,
        }
        self
    }

    /// Whether both are closed.
    pub fn are_closed(&self) -> bool {
        *self == Self::default()
    }
}

/// What runs a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskKind {
    /// `sh -c`, in the background: the caller is answered at once.
    Cmd,
    /// `bash -c`.
    Bash,
    /// `helm`, with the command's words as its arguments.
    Helm,
    /// `helmv3`, likewise.
    Helmv3,
    /// `kubectl`, likewise.
    Kubectl,
}

impl TaskKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Cmd, Self::Bash, Self::Helm, Self::Helmv3, Self::Kubectl];

    /// As `metadata.type` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cmd => "cmd",
            Self::Bash => "bash",
            Self::Helm => "helm",
            Self::Helmv3 => "helmv3",
            Self::Kubectl => "kubectl",
        }
    }

    /// Whether the caller waits for the end of it.
    pub const fn is_held(self) -> bool {
        !matches!(self, Self::Cmd)
    }

    /// The program with its leading arguments, and the last one; none where there is no word to be that.
    fn argv(self, command: &str) -> Option<(Vec<String>, String)> {
        let shell = |program: &str| Some((vec![program.to_owned(), "-c".to_owned()], command.to_owned()));
        match self {
            Self::Cmd => shell("sh"),
            Self::Bash => shell("bash"),
            // Without a shell, and without quotes: blanks alone part the words, as the original does it.
            Self::Helm | Self::Helmv3 | Self::Kubectl => {
                let mut words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
                let last = words.pop()?;
                words.insert(0, self.as_str().to_owned());
                Some((words, last))
            }
        }
    }
}

impl fmt::Display for TaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TaskKind {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            InvalidName::new("type", format!("{} is none of {known}", Shown(text)))
        })
    }
}

/// A command that is allowed, ready to be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// What it runs as: of two calls of one canary with the same it is the same command.
    pub revision: Revision,
    /// The pipeline that is made of it.
    pub pipeline: Arc<Pipeline>,
    /// The hash of that.
    pub hash: PipelineHash,
    /// Whether the caller waits for the end of it.
    pub held: bool,
}

impl Task {
    /// A command of this kind, to be run in a directory and for so long. None where it is blank. `beside` is what of
    /// the call its script sees, too: the same text that is told something else is another command.
    pub fn new<'a>(
        kind: TaskKind,
        command: &str,
        beside: impl Iterator<Item = (&'a str, &'a str)>,
        directory: &str,
        timeout: Span,
    ) -> Option<Self> {
        let (shell, text) = kind.argv(command).filter(|_| !command.trim().is_empty())?;
        let script = Script {
            shell,
            run: vec![text],
            on_rollback: Vec::new(),
            env: BTreeMap::new(),
            timeout,
            retries: 0,
            repeat: Repeat::Always,
            on_interrupt: OnInterrupt::Rerun,
        };
        let stage = Stage { id: StageId::new(kind.as_str()).ok()?, work: Work::Script { hook: HOOK, script } };
        let pipeline = Pipeline {
            name: "loadtester".to_owned(),
            file: "the payload of POST /".to_owned(),
            directory: directory.to_owned(),
            labels: BTreeMap::new(),
            rollback: RollbackPolicy::default(),
            on_supersede: OnSupersede::Keep,
            on_failure: OnFailure::Wait,
            stages: vec![stage],
        };
        let mut identity = format!("{kind}\0{command}");
        // No payload has a NUL.
        beside.for_each(|(key, value)| identity.extend(["\0", key, "\0", value]));
        let hash = hex::encode(Sha256::digest(identity));
        // Half of it is enough for no two commands to be taken for one another.
        let revision = Revision::new(format!("{kind}:{}", hash.get(..32)?)).ok()?;
        Some(Self { revision, hash: pipeline.pinned().0, pipeline: Arc::new(pipeline), held: kind.is_held() })
    }
}

/// Whether the call wants what its command prints in the service's log.
pub fn wants_log(payload: &Payload) -> bool {
    payload.metadata.get("logCmdOutput").is_some_and(|text| is_true(text))
}

/// A truth as Go reads it.
pub fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(kind: TaskKind, command: &str) -> Option<Task> {
        Task::new(kind, command, std::iter::empty(), "/", Span::from_secs(60))
    }

    fn argv(kind: TaskKind, command: &str) -> Vec<String> {
        let task = task(kind, command).unwrap();
        let script = task.pipeline.stages[0].script().unwrap();
        script.shell.iter().chain(&script.run).cloned().collect()
    }

    #[test]
    fn a_command_becomes_the_arguments_that_the_original_gives() {
        assert_eq!(argv(TaskKind::Cmd, "hey -z 1m; true"), ["sh", "-c", "hey -z 1m; true"]);
        assert_eq!(argv(TaskKind::Bash, "echo {a,b}"), ["bash", "-c", "echo {a,b}"]);
        assert_eq!(argv(TaskKind::Helm, " test  run\n'a b' "), ["helm", "test", "run", "'a", "b'"]);
        assert_eq!(argv(TaskKind::Helmv3, "list"), ["helmv3", "list"]);
        assert_eq!(argv(TaskKind::Kubectl, "get po; id"), ["kubectl", "get", "po;", "id"]);
        for kind in TaskKind::ALL {
            assert_eq!(task(kind, " \n"), None);
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
    }

    #[test]
    fn it_is_known_by_its_kind_and_its_text() {
        let revision = |kind, command| task(kind, command).unwrap().revision;
        assert_eq!(revision(TaskKind::Cmd, "true"), revision(TaskKind::Cmd, "true"));
        assert_ne!(revision(TaskKind::Cmd, "true"), revision(TaskKind::Bash, "true"));
        assert_ne!(revision(TaskKind::Cmd, "true"), revision(TaskKind::Cmd, "true "));
        assert!(revision(TaskKind::Cmd, "true").as_str().starts_with("cmd:"));
        let told = |beside: &[(&str, &str)]| {
            let task = Task::new(TaskKind::Cmd, "true", beside.iter().copied(), "/", Span::from_secs(60));
            task.unwrap().revision
        };
        assert_eq!(told(&[]), revision(TaskKind::Cmd, "true"));
        assert_eq!(told(&[("a", "x")]), told(&[("a", "x")]));
        assert_ne!(told(&[("a", "x")]), told(&[("a", "y")]));
        assert_ne!(told(&[("a", "x")]), told(&[("ax", "")]));
        let task = task(TaskKind::Cmd, "true").unwrap();
        assert_eq!(task.pipeline.pinned().0, task.hash);
    }

    #[test]
    fn gates_are_set_apart() {
        let gates = Gates::default().with(Gate::Rollback, true);
        assert!(gates.is_open(Gate::Rollback) && !gates.is_open(Gate::Gate) && !gates.are_closed());
        assert!(gates.with(Gate::Rollback, false).are_closed());
    }
}
