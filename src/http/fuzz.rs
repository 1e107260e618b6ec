//! What must hold of every request, from its target to what its payload is read into and what a script is given.
//!
//! Each function is the body of a fuzz target; see `crate::fuzz`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Response, Uri};
use jiff::Timestamp;

use super::prefer::Prefer;
use super::query::Params;
use crate::domain::allow::{Allow, CommandPattern, Rule};
use crate::domain::call::{Answer, Says, Subject, Verdict};
use crate::domain::github::{Globs, Pushes, Releases, Rules, Target, WorkflowRuns};
use crate::domain::glob::Glob;
use crate::domain::hook::Hook;
use crate::domain::ids::{DeploymentId, Mint};
use crate::domain::loadtester::TaskKind;
use crate::domain::names::{Application, Namespace, Source, StageId};
use crate::domain::pipeline::EnvValue;
use crate::domain::span::Span;
use crate::executor::environment::{Facts, environment};
use crate::source::fuzz::{call_is_sound, is_sound, line_is_sound, message};
use crate::source::github::{Known, Mapping};
use crate::source::loadtester::{self, Commands, ROUTES, Refused, Route};
use crate::source::render::{self, About, Dialect, Form, Statuses};
use crate::source::{self, Incoming, Parsed, Read};

/// `request`: the target of a request (`/hooks/flagger/rollout?wait=4m`), its headers, an empty line, its body.
pub fn request(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (target, rest) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let Ok(uri) = Uri::try_from(target) else { return };
    let (headers, body) = message(rest);
    let Ok(params) = Params::of(&uri) else { return };
    let wait = params.parsed("wait", |text| text.parse::<Span>());
    if let Ok(Some(wait)) = &wait {
        assert_eq!(wait.to_string().parse(), Ok(*wait), "a length of time is read as it is written");
    }
    let _ = (params.switch("now"), params.switch("follow"));
    let Ok(cluster) = params.get("cluster") else { return };
    let mut parts = uri.path().split('/').skip(1);
    if let Some((_, _, route)) = ROUTES.into_iter().find(|(known, ..)| *known == uri.path()) {
        load_tester(route, body, cluster);
    }
    let (Some("hooks"), Some(source), hook, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        if let Some(Ok(id)) = uri.path().rsplit('/').next().map(str::parse::<DeploymentId>) {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        return;
    };
    let Ok(source) = source.parse::<Source>() else { return };
    let hooks = source::hooks(source);
    let hook = match hook {
        Some(told) => match hooks.iter().find(|known| **known == told) {
            Some(known) => Some(*known),
            None => return,
        },
        None if hooks.is_empty() => None,
        None => return,
    };
    let prefer = Prefer::of(source, &headers);
    let incoming = Incoming { hook, headers: &headers, cluster, body };
    let read = with_rules(|known| source::read(source, &incoming, known));
    is_sound(&read);
    let form = Form::of(source, &headers);
    match &read {
        Ok(Read::Calls(calls)) => calls.iter().for_each(|parsed| {
            script_is_sound(parsed, source);
            answer_is_sound(parsed, source, form, prefer, wait.as_ref().ok().copied().flatten());
        }),
        Ok(Read::Ignored(why)) => assert!(render::ignored(why, form).status().is_success()),
        Ok(Read::Unsupported(_)) | Err(_) => {}
    }
    let again = with_rules(|known| source::read(source, &incoming, known));
    assert_eq!(read, again, "the same request is the same call");
}

/// With a pipeline that maps all that can be mapped.
fn with_rules<T>(read: impl FnOnce(Known<'_>) -> T) -> T {
    let Ok(environment) = "production".parse::<Namespace>() else { panic!("it is a namespace") };
    let target = |hook| Target { hook, environment: environment.clone() };
    let rule = |hook, when| vec![crate::domain::github::Rule { target: target(hook), when }];
    let main = || Globs::new(Glob::new("*").into_iter().collect());
    let releases = Releases { actions: vec!["published".to_owned()], tag: Globs::default(), prerelease: None };
    let runs = WorkflowRuns {
        actions: vec!["completed".to_owned()],
        workflow: Globs::default(),
        branch: Globs::default(),
        event: Globs::default(),
        conclusions: vec!["success".to_owned()],
    };
    let rules = Rules {
        push: vec![crate::domain::github::Rule {
            target: target(Hook::PreRollout),
            when: Pushes { branch: main(), tag: main() },
        }],
        release: vec![crate::domain::github::Rule { target: target(Hook::PostRollout), when: releases }],
        workflow_run: rule(Hook::Rollout, runs),
    };
    let all = |_: &Application| true;
    read(Known { reports: true, mappings: &[Mapping { pipeline: "fuzz", rules: &rules, selects: &all }] })
}

/// The load tester's paths: only a command that the settings allow gets through, as it was sent.
fn load_tester(route: Route, body: &[u8], cluster: Option<&str>) {
    let commands = Commands {
        allow: Allow(vec![Rule {
            namespaces: Glob::new("test*").into_iter().collect(),
            types: TaskKind::ALL.to_vec(),
            commands: CommandPattern::new("hey -z 1m http://*.test:9898/", false).into_iter().collect(),
        }]),
        ..Commands::default()
    };
    let told = match loadtester::read(body, cluster) {
        Ok(told) => told,
        Err(error) => return line_is_sound(&error.0),
    };
    match route {
        Route::Approve | Route::Halt => {}
        Route::Check(gate) => call_is_sound(&told.gate(gate, None)),
        Route::Set(gate, open) => call_is_sound(&told.gate(gate, Some(open))),
        Route::Command => match told.command(&commands) {
            Ok((parsed, asked)) => {
                call_is_sound(&parsed);
                let command = asked.command.trim();
                assert!(command.starts_with("hey -z 1m http://") && command.ends_with(".test:9898/"), "{command:?}");
                assert!(!command.contains([';', '$', '`', '&', '|', '\n', '<', '>', '(', '\'', '"']), "{command:?}");
                assert!(parsed.application.namespace.as_str().starts_with("test"));
                assert!(matches!(parsed.call.says, Says::Task(_)));
                script_is_sound(&parsed, Source::Loadtester);
            }
            Err(Refused::Bad(error)) => line_is_sound(&error.0),
            Err(Refused::Words(words)) => line_is_sound(&words),
            Err(Refused::NotAllowed(why)) => line_is_sound(&why),
        },
    }
}

/// The environment of a script that this call starts: names and values that a process can have.
fn script_is_sound(parsed: &Parsed, source: Source) {
    let (call, mut mint) = (&parsed.call, Mint::new(Timestamp::UNIX_EPOCH, 1));
    let Ok(stage) = "stage".parse::<StageId>() else { panic!("it is a stage") };
    let env = environment(&Facts {
        inherited: &[],
        deployment: mint.deployment(),
        application: &parsed.application,
        hook: call.hook,
        source,
        revision: None,
        stage: &stage,
        run: mint.run(),
        metadata: &call.payload.metadata,
        labels: &BTreeMap::new(),
        about: &call.about,
        is_rollback: false,
        triggered_at: Timestamp::UNIX_EPOCH,
        forward: None,
        own: &BTreeMap::new(),
    });
    let mut fixed = BTreeSet::new();
    for (name, value) in &env.all {
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{name:?}");
        assert!(!name.starts_with(|c: char| c.is_ascii_digit()), "{name:?}");
        let EnvValue::Plain(value) = value else { panic!("{name} is a reference, and a caller made it") };
        assert!(!value.contains('\0'), "{name}");
        // What a caller names is never one of ours.
        assert!(name.starts_with("STAGEHOOK_METADATA_") || fixed.insert(name), "{name} is there twice");
    }
}

/// An answer to this call can be written, in either form.
fn answer_is_sound(parsed: &Parsed, source: Source, form: Form, prefer: Prefer, wait: Option<Span>) {
    let hook = parsed.call.hook;
    let statuses = Statuses::default();
    for verdict in [Verdict::Approved, Verdict::Rejected, Verdict::Pending] {
        let answer = Answer {
            verdict,
            subject: Subject::Gate,
            hook,
            deployment: None,
            message: "stage migrate failed (exit code 3)".to_owned(),
            stages: Vec::new(),
        };
        let about = About { application: &parsed.application, hook: hook.as_str() };
        let dialect = Dialect { source, statuses, form, unattended: parsed.call.unattended };
        let response = render::answer(&answer, about, dialect);
        assert!(response.headers().contains_key(CONTENT_TYPE) && !response.headers().contains_key(ACCEPT));
        if form == Form::Json {
            let told: serde_json::Value = serde_json::from_str(response.body()).unwrap_or_default();
            assert_eq!(told["application"], parsed.application.to_string().as_str());
        }
    }
    let mut response = Response::new(());
    prefer.note(&mut response, prefer.over(wait.map(Duration::from)));
}
