//! Flagger's load tester, stood in for: gates that people open and close, and commands that the call itself names.
//!
//! Paths, statuses and bodies are the original's, to the last byte where it has a body. What is not: a gate is in the
//! ledger, not in memory; a command runs only if the settings allow it, and as every other script does.
//!
//! This is the one adapter through which text of a payload reaches a shell. [`read`] lets none pass that
//! [`Allow`] does not permit as a whole.

use std::borrow::Cow;

use super::body::{BadCall, Body, line};
use super::{Parsed, render};
use crate::domain::allow::Allow;
use crate::domain::call::{Call, Says};
use crate::domain::hook::Hook;
use crate::domain::loadtester::{Gate, HOOK, Task, TaskKind, is_true};
use crate::domain::names::{Application, RolloutId, Source};
use crate::domain::record::{Ending, Outcome};
use crate::domain::span::Span;

/// Text: the original knows nothing else.
pub const DEFAULT_FORM: render::Form = render::Form::Text;

/// What one of the original's paths is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// A gate that is always open.
    Approve,
    /// A gate that is always closed.
    Halt,
    /// Is this gate open?
    Check(Gate),
    /// Open it, or close it.
    Set(Gate, bool),
    /// Run a command.
    Command,
}

/// Every path, what it is called in logs and metrics, and what it is for.
pub const ROUTES: [(&str, &str, Route); 9] = [
    ("/gate/approve", "gate-approve", Route::Approve),
    ("/gate/halt", "gate-halt", Route::Halt),
    ("/gate/check", "gate-check", Route::Check(Gate::Gate)),
    ("/gate/open", "gate-open", Route::Set(Gate::Gate, true)),
    ("/gate/close", "gate-close", Route::Set(Gate::Gate, false)),
    ("/rollback/check", "rollback-check", Route::Check(Gate::Rollback)),
    ("/rollback/open", "rollback-open", Route::Set(Gate::Rollback, true)),
    ("/rollback/close", "rollback-close", Route::Set(Gate::Rollback, false)),
    ("/", "command", Route::Command),
];

/// Metadata that says what runs, for whom, and what becomes of its output. All other is the script's.
const OWN: [&str; 5] = ["type", "cmd", "cluster", "logCmdOutput", "returnCmdOutput"];

/// What commands are run with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commands {
    /// Which may run.
    pub allow: Allow,
    /// For how long.
    pub timeout: Span,
    /// Where: an absolute path.
    pub directory: String,
}

impl Default for Commands {
    fn default() -> Self {
        Self { allow: Allow::default(), timeout: Span::from_secs(3600), directory: "/".to_owned() }
    }
}

/// Why a call is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It can't be understood; in our own words.
    #[error(transparent)]
    Bad(#[from] BadCall),
    /// It can't be understood; in the original's words.
    #[error("{0}")]
    Words(Cow<'static, str>),
    /// The settings don't allow this command.
    #[error("{0}")]
    NotAllowed(String),
}

/// What a call is about, once its body was read.
#[derive(Debug)]
pub struct Told {
    body: Body,
    /// The canary.
    pub application: Application,
}

/// Reads whom a call is about. `cluster` is the query's.
pub fn read(body: &[u8], cluster: Option<&str>) -> Result<Told, BadCall> {
    let body = Body::read(body)?;
    let application =
        body.application(&[("the query `cluster`", cluster), ("`metadata.cluster`", body.metadata("cluster"))])?;
    Ok(Told { body, application })
}

/// A command that was asked for, as far as the answer needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its text.
    pub command: String,
    /// Whether the caller waits for its end.
    pub held: bool,
    /// Whether what it printed is the body of the answer.
    pub wants_output: bool,
}

impl Told {
    /// A call about a gate; `set` where it is to be opened or closed.
    pub fn gate(self, gate: Gate, set: Option<bool>) -> Parsed {
        // The path does not say from which webhook it comes; of the hooks this is the one that most of them gate.
        let hook = match gate {
            Gate::Gate => Hook::ConfirmRollout,
            Gate::Rollback => Hook::Rollback,
        };
        let about = self.body.about(false);
        let says = Says::LoadGate { gate, set };
        let call = Call::new(Source::Loadtester, hook, says, self.body.into_payload(), about);
        Parsed { application: self.application, call }
    }

    /// A call that brings a command.
    pub fn command(self, commands: &Commands) -> Result<(Parsed, Asked), Refused> {
        let Self { body, application } = self;
        if !body.has_metadata() {
            return Err(Refused::Words("metadata not found in payload".into()));
        }
        let kind = body.metadata("type").unwrap_or("cmd");
        let Ok(kind) = kind.parse::<TaskKind>() else {
            return Err(Refused::Words(format!("unknown task type {}", line(kind, 200)).into()));
        };
        let command = body.metadata("cmd").unwrap_or_default().to_owned();
        let beside = body.all_metadata().filter(|(key, _)| !OWN.contains(key));
        let Some(task) = Task::new(kind, &command, beside, &commands.directory, commands.timeout) else {
            return Err(Refused::Words("cmd not found in metadata".into()));
        };
        let namespace = &application.namespace;
        if !commands.allow.permits(namespace, kind, &command) {
            return Err(Refused::NotAllowed(format!(
                "this command is not allowed: `sources.loadtester.allow` has no rule for the namespace {namespace} and the \
                 type {kind} whose `command` is all of its text"
            )));
        }
        // The revision of the canary, not of the command: what was found out about one does not pass for another.
        let rollout = body.text("checksum")?.filter(|text| !text.is_empty()).map(RolloutId::new).transpose();
        let rollout = rollout.map_err(BadCall::from)?;
        let mut about = body.about(false);
        if about.summary.is_empty() {
            about.summary = line(&command, 200);
        }
        let wants_output = body.metadata("returnCmdOutput").is_some_and(is_true);
        let asked = Asked { command, held: task.held, wants_output };
        let call = Call::new(Source::Loadtester, HOOK, Says::Task(task), body.into_payload(), about);
        Ok((Parsed { application, call: Call { rollout, ..call } }, asked))
    }
}

/// The body that tells of a command that did not succeed: the original's, which is Go's.
pub fn failure(command: &str, output: &[u8], ending: &Ending) -> Vec<u8> {
    // Of one that never ran, what is kept as its output are our own words.
    let output = if ending.exit_code.is_none() && ending.signal.is_none() { b"" } else { output };
    let how = match (ending.outcome, ending.exit_code, ending.signal) {
        (Outcome::Failed, Some(code), _) => format!("exit status {code}").into(),
        (Outcome::Failed, None, Some(signal)) => signal_name(signal),
        _ => Cow::Borrowed(ending.message.as_str()),
    };
    let mut body = format!("command {command} failed: ").into_bytes();
    body.extend_from_slice(output);
    body.extend_from_slice(b": ");
    body.extend_from_slice(how.as_bytes());
    body
}

/// A signal as Go names it.
fn signal_name(signal: i32) -> Cow<'static, str> {
    Cow::Borrowed(match signal {
        1 => "signal: hangup",
        2 => "signal: interrupt",
        3 => "signal: quit",
        4 => "signal: illegal instruction",
        5 => "signal: trace/breakpoint trap",
        6 => "signal: aborted",
        7 => "signal: bus error",
        8 => "signal: floating point exception",
        9 => "signal: killed",
        10 => "signal: user defined signal 1",
        11 => "signal: segmentation fault",
        12 => "signal: user defined signal 2",
        13 => "signal: broken pipe",
        14 => "signal: alarm clock",
        15 => "signal: terminated",
        _ => return Cow::Owned(format!("signal: signal {signal}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::allow::{CommandPattern, Rule};
    use crate::domain::glob::Glob;

    fn commands() -> Commands {
        let rule = Rule {
            namespaces: vec![Glob::new("test").unwrap()],
            types: TaskKind::ALL.to_vec(),
            commands: vec![CommandPattern::new("hey http://*/", false).unwrap()],
        };
        Commands { allow: Allow(vec![rule]), ..Commands::default() }
    }

    fn asked(body: &str) -> Result<(Parsed, Asked), Refused> {
        read(body.as_bytes(), None)?.command(&commands())
    }

    fn with(metadata: &str) -> String {
        format!(r#"{{"name": "podinfo", "namespace": "test", "checksum": "7d7b", "metadata": {metadata}}}"#)
    }

    fn said(metadata: &str) -> String {
        asked(&with(metadata)).unwrap_err().to_string()
    }

    #[test]
    fn refusals_are_in_the_words_of_the_original() {
        for none in ["null", "{}"] {
            assert_eq!(said(none), "metadata not found in payload");
        }
        assert_eq!(
            asked(r#"{"name": "podinfo", "namespace": "test"}"#),
            Err(Refused::Words("metadata not found in payload".into()))
        );
        assert_eq!(said(r#"{"type": "concord"}"#), "unknown task type concord");
        assert_eq!(said(r#"{"type": ""}"#), "unknown task type ");
        assert_eq!(said(r#"{"cmdd": "x"}"#), "cmd not found in metadata");
        assert_eq!(said(r#"{"type": "helm", "cmd": " "}"#), "cmd not found in metadata");
        assert!(matches!(asked("nope"), Err(Refused::Bad(_))));
        assert!(asked(r#"{"metadata": {"cmd": "x"}}"#).unwrap_err().to_string().contains("`namespace` is missing"));
    }

    #[test]
    fn what_is_not_allowed_names_the_setting_and_repeats_nothing() {
        let Err(Refused::NotAllowed(why)) = asked(&with(r#"{"cmd": "hey http://a/; id #secret"}"#)) else {
            panic!("it is allowed")
        };
        assert!(why.contains("`sources.loadtester.allow`") && why.contains("namespace test"), "{why}");
        assert!(!why.contains("secret"), "{why}");
    }

    #[test]
    fn a_command_that_is_allowed_is_a_task() {
        let (parsed, asked) = asked(&with(r#"{"cmd": "hey http://podinfo/", "returnCmdOutput": "TRUE"}"#)).unwrap();
        assert_eq!(parsed.application.to_string(), "test/podinfo");
        assert_eq!(parsed.call.rollout, Some(RolloutId::new("7d7b").unwrap()));
        assert_eq!(parsed.call.about.summary, "hey http://podinfo/");
        assert_eq!(asked, Asked { command: "hey http://podinfo/".into(), held: false, wants_output: true });
        let Says::Task(task) = &parsed.call.says else { panic!("{:?}", parsed.call.says) };
        assert!(!task.held);
    }

    #[test]
    fn what_a_command_is_told_makes_it_another_one() {
        let revision = |metadata: &str| {
            let (parsed, _) = asked(&with(&format!(r#"{{"cmd": "hey http://podinfo/"{metadata}}}"#))).unwrap();
            let Says::Task(task) = parsed.call.says else { panic!("it is no command") };
            task.revision
        };
        let plain = revision("");
        for same in [r#", "type": "cmd""#, r#", "logCmdOutput": "true""#, r#", "returnCmdOutput": true"#] {
            assert_eq!(revision(same), plain, "{same}");
        }
        assert_ne!(revision(r#", "target": "a""#), plain);
        assert_ne!(revision(r#", "target": "a""#), revision(r#", "target": "b""#));
    }

    #[test]
    fn a_failure_reads_as_in_go() {
        let ending =
            |outcome, exit_code, signal| Ending { exit_code, signal, ..Ending::plain(outcome, "timed out after 5m") };
        let body = |ending| String::from_utf8(failure("false", b"out\n", &ending)).unwrap();
        assert_eq!(body(ending(Outcome::Failed, Some(1), None)), "command false failed: out\n: exit status 1");
        assert_eq!(body(ending(Outcome::Failed, None, Some(9))), "command false failed: out\n: signal: killed");
        assert_eq!(body(ending(Outcome::Failed, None, Some(40))), "command false failed: out\n: signal: signal 40");
        assert_eq!(body(ending(Outcome::TimedOut, None, Some(15))), "command false failed: out\n: timed out after 5m");
        assert_eq!(body(ending(Outcome::Failed, None, None)), "command false failed: : timed out after 5m");
    }
}
