//! What is kept of applications: once the deployments of any number of them have ended, as much as before the first.

use futures_util::StreamExt as _;
use serde_json::json;
use tokio::time::timeout;

use super::*;
use crate::config::pipeline::Defaults;
use crate::domain::call::ReportTo;
use crate::domain::names::Application;

/// How many lives there are.
const KINDS: usize = 8;

/// How many of them go on at a time: more than there are slots and places in the line together.
const AT_ONCE: usize = 64;

/// Far more than what is left to do takes once all calls are answered.
const FOREVER: Duration = Duration::from_secs(120);

/// How many applications come. `STAGEHOOK_KEPT`, for more.
fn applications() -> usize {
    std::env::var("STAGEHOOK_KEPT").map_or(2000, |value| value.parse().unwrap())
}

/// Everything that is kept by application, deployment, run or call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kept {
    applications: usize,
    gauges: [usize; 4],
    runs: usize,
    unfinished: usize,
    tickets: usize,
    telling: usize,
    rollbacks_in_line: usize,
    in_line: [usize; 2],
    turned_away: [usize; 2],
    tasks: usize,
}

fn kept(lab: &Lab) -> Kept {
    let (inner, gauges) = (&lab.engine.0, lab.engine.gauges());
    let (rollbacks_in_line, in_line, turned_away) = inner.slots.kept();
    Kept {
        applications: inner.applications.all().len(),
        gauges: [gauges.running, gauges.queued, gauges.held_calls, gauges.live_deployments],
        runs: inner.live().len(),
        unfinished: *inner.unfinished.borrow(),
        tickets: inner.tickets().len(),
        telling: inner.telling().len(),
        rollbacks_in_line,
        in_line,
        turned_away,
        tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
    }
}

/// An engine whose scripts fail at once, since there is nobody to start them, and whose waits are short or long.
async fn lab() -> Lab {
    let folder = tempfile::tempdir().unwrap();
    let pipelines = folder.path().join("pipelines");
    std::fs::create_dir(&pipelines).unwrap();
    let script = json!({"id": "script", "name": "SCRIPT_RUN", "hook": "pre-rollout",
        "with": {"run": "exit 3", "onRollback": "exit 4"}});
    let wait =
        |duration: &str| json!({"id": "wait", "name": "WAIT", "hook": "pre-rollout", "with": {"duration": duration}});
    // The second step of a replay gets in line anew.
    let after = json!({"id": "after", "name": "SCRIPT_RUN", "hook": "rollback", "with": {"run": "exit 5"}});
    for (name, stages) in [
        ("script", json!([script, after])),
        ("alone", json!([script])),
        ("short", json!([wait("1ms")])),
        ("long", json!([wait("1h")])),
    ] {
        let pipeline = json!({"apiVersion": "stagehook.dev/v1", "kind": "Pipeline", "metadata": {"name": name},
            "spec": {"selector": {"namespace": name, "name": "*"}, "stages": stages}});
        std::fs::write(pipelines.join(format!("{name}.yaml")), pipeline.to_string()).unwrap();
    }
    let (catalog, _) =
        Catalog::load(&pipelines, &Defaults { timeout: Span::from_secs(60), reserved: Vec::new() }).unwrap();
    let settings =
        Settings { max_concurrent: 4, queue: 16, signal_timeout: Span(Duration::from_millis(5)), ..settings() };
    let engine = start_with(folder.path(), settings, catalog, "/nobody/is/here").await;
    Lab { engine, folder }
}

/// The story of one application, from its first call to the end of its last deployment. False where it was turned away
/// for load, and has to come again.
async fn lives(lab: &Lab, number: usize) -> bool {
    let one = One { lab, number };
    match number % KINDS {
        // It succeeds, and is told of again.
        0 => {
            assert_eq!(one.forward("short", Source::Generic, 1).await, Some(Verdict::Approved));
            for _ in 0..2 {
                one.says("short", Source::Generic, Hook::PostRollout, |revision| Says::Succeeded { revision }).await;
            }
        }
        // It fails, and is undone.
        1 => {
            let Some(verdict) = one.forward("script", Source::Generic, 1).await else { return false };
            assert_eq!(verdict, Verdict::Rejected);
            one.fails("script", Source::Generic).await;
        }
        // One is superseded by another.
        2 => {
            if one.forward("script", Source::Flagger, 2).await.is_none()
                || one.forward("script", Source::Flagger, 1).await.is_none()
            {
                return false;
            }
            one.fails("script", Source::Flagger).await;
        }
        // There is no such application.
        3 => {
            let told = one.call("unknown", Source::Generic, Hook::PreRollout, Says::Forward { revision: revision(1) });
            assert!(matches!(told.await, Told::Unknown { .. }));
        }
        // Its caller hangs up, and a person ends it.
        4 => {
            let call = one.call("long", Source::Generic, Hook::PreRollout, Says::Forward { revision: revision(1) });
            assert!(timeout(Duration::from_millis(1), call).await.is_err());
            let pending = one.pending("long").await;
            one.operate(pending, Operation::Cancel).await;
        }
        // A person ends a wait and no more, and the caller tells of a failure.
        5 => {
            let pending = one.pending("long").await;
            let (_, deployment) = lab.engine.deployment(pending).await.unwrap().unwrap();
            let told = lab.engine.cancel_run(deployment.runs[0].id, Actor("person".into())).await;
            assert!(matches!(told, Told::Accepted { .. }), "{told:?}");
            one.fails("long", Source::Generic).await;
        }
        // A rollback is signalled, and its caller never tells the end.
        6 => {
            assert_eq!(one.forward("short", Source::Flagger, 1).await, Some(Verdict::Approved));
            let id = one.asks().await.1.unwrap();
            one.operate(id, Operation::Rollback { now: false }).await;
            assert_eq!(one.asks().await.0, Verdict::Approved);
        }
        // An outcome is to be told elsewhere, where nobody can.
        _ => {
            let mut call = one.of(Source::Github, Hook::PreRollout, Says::Forward { revision: revision(1) });
            (call.unattended, call.report) = (true, Some(ReportTo(json!({"nobody": "here"}))));
            lab.engine.call(one.stream("short", Source::Github), call, Actor("github".into()), None).await;
            one.says("short", Source::Github, Hook::PostRollout, |revision| Says::Succeeded { revision }).await;
        }
    }
    true
}

struct One<'a> {
    lab: &'a Lab,
    number: usize,
}

impl One<'_> {
    fn stream(&self, namespace: &str, source: Source) -> StreamId {
        let application: Application = format!("{namespace}/app-{}", self.number).parse().unwrap();
        StreamId { source, application }
    }

    fn of(&self, source: Source, hook: Hook, says: Says) -> Call {
        Call::new(source, hook, says, Payload::default(), About::default())
    }

    async fn call(&self, namespace: &str, source: Source, hook: Hook, says: Says) -> Told {
        let (stream, call) = (self.stream(namespace, source), self.of(source, hook, says));
        self.lab.engine.call(stream, call, Actor(source.as_str().into()), None).await
    }

    /// The verdict of a first call about a revision; none where it was turned away.
    async fn forward(&self, namespace: &str, source: Source, number: u64) -> Option<Verdict> {
        let says = Says::Forward { revision: revision(number) };
        match self.call(namespace, source, Hook::PreRollout, says).await {
            Told::Answer(answer) => Some(answer.verdict),
            Told::Busy { .. } => None,
            told => panic!("{told:?}"),
        }
    }

    async fn says(&self, namespace: &str, source: Source, hook: Hook, says: fn(Option<Revision>) -> Says) {
        let told = self.call(namespace, source, hook, says(revision(1))).await;
        assert!(matches!(told, Told::Answer(_)), "{told:?}");
    }

    async fn fails(&self, namespace: &str, source: Source) {
        self.says(namespace, source, Hook::PostRollout, |revision| Says::Failed { revision }).await;
    }

    /// Flagger's question, and which deployment it is about.
    async fn asks(&self) -> (Verdict, Option<DeploymentId>) {
        let says = Says::Question { revision: revision(1) };
        match self.call("short", Source::Flagger, Hook::Rollback, says).await {
            Told::Answer(answer) => (answer.verdict, answer.deployment),
            told => panic!("{told:?}"),
        }
    }

    /// The deployment of a call that is held for no time.
    async fn pending(&self, namespace: &str) -> DeploymentId {
        let says = Says::Forward { revision: revision(1) };
        let call = self.of(Source::Generic, Hook::PreRollout, says);
        let stream = self.stream(namespace, Source::Generic);
        let told = self.lab.engine.call(stream, call, Actor("generic".into()), Some(Duration::ZERO)).await;
        let Told::Answer(answer) = told else { panic!("{told:?}") };
        assert_eq!(answer.verdict, Verdict::Pending);
        answer.deployment.unwrap()
    }

    async fn operate(&self, id: DeploymentId, operation: Operation) {
        let told = self.lab.engine.operate(id, operation, Actor("person".into())).await;
        assert!(matches!(told, Told::Accepted { .. }), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_kept_of_applications_whose_deployments_have_ended() {
    let lab = lab().await;
    let before = kept(&lab);
    assert_eq!(before, Kept { tasks: before.tasks, ..Kept::default() });
    let mut coming: Vec<usize> = (0..applications()).collect();
    let mut most = Kept::default();
    while !coming.is_empty() {
        let told = futures_util::stream::iter(coming)
            .map(async |number| (!lives(&lab, number).await).then_some(number))
            .buffer_unordered(AT_ONCE);
        let mut told = std::pin::pin!(told);
        let mut again = Vec::new();
        while let Some(turned_away) = timeout(FOREVER, told.next()).await.expect("every call is answered") {
            let now = kept(&lab);
            most.applications = most.applications.max(now.applications);
            most.turned_away = most.turned_away.max(now.turned_away);
            again.extend(turned_away);
        }
        coming = again;
    }
    // It was to do with all of them, and nothing is shown where nobody was turned away.
    assert!(most.applications > 1 && most.turned_away > [0, 0], "{most:?}");
    // Replays, reports and signals go on when their callers have gone. Of the engine's own start a task may be over.
    let is_back = |now: &Kept| now.tasks <= before.tasks && *now == Kept { tasks: now.tasks, ..before.clone() };
    let rest = async {
        while !is_back(&kept(&lab)) {
            tokio::task::yield_now().await;
        }
    };
    let _ = timeout(FOREVER, rest).await;
    let now = kept(&lab);
    assert!(is_back(&now), "before: {before:?}\nnow:    {now:?}");
    println!("{} applications, at once at the most {most:?}", applications());
}

#[tokio::test]
async fn what_is_over_leaves_the_line_before_its_turn() {
    let lab = lab().await;
    let slots = &lab.engine.0.slots;
    let taken: Vec<_> = std::iter::from_fn(|| slots.try_take()).collect();
    // More than there are places. Nobody comes to a turn meanwhile.
    for number in 0..40 {
        let one = One { lab: &lab, number };
        let id = one.pending("alone").await;
        assert_eq!((lab.engine.0.tickets().len(), slots.usage().1), (1, 1), "{number}");
        one.operate(id, Operation::Cancel).await;
        assert_eq!(lab.engine.0.tickets().len(), 0, "{number}");
        let left = async {
            while slots.usage().1 > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(FOREVER, left).await.expect("its place is free");
    }
    drop(taken);
    assert_eq!(slots.usage(), (0, 0));
}
