//! Scripts outlive nobody: whatever they did to hide, and whoever of their keepers was killed, they are dead before
//! anything else happens to their deployment.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::{Pid, Resource, Rlimit, Signal, geteuid, getrlimit, kill_process, prlimit};
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::support::World;
use crate::support::pipelines::{pipeline, stage};
use crate::support::poll::poll_until;
use crate::support::programs::is_there;
use crate::support::server::{binary, field};

/// A script that is deaf to every signal that it can be deaf to and starts all kinds of runaways. Each notes its
/// number; the last, which goes on for ever, is in a new process every few milliseconds.
const RUNAWAYS: &str = r#"
trap '' TERM INT HUP QUIT USR1 USR2 ALRM
D=$E2E_DIR
echo $PPID > "$D/supervisor"
echo "$STAGEHOOK_RUN_ID" > "$D/run"
last='echo $$ >> "$1/pids"; while :; do sleep 1000; done'
env="env -i PATH=$PATH"
sh -c "$last" deaf "$D" &
(setsid sh -c '(sh -c "$1" daemon "$2" &)' - "$last" "$D" &)
(setsid $env sh -c "$last" without-environment "$D" &)
(setsid $env sh -c "printf kworker/0:1 > /proc/\$\$/comm; $last" renamed "$D" &)
(setsid $env sh -c 'echo $$ >> "$1/pids"; kill -STOP $$; while :; do sleep 1000; done' stopped "$D" &)
(setsid $env sh -c "exec <&- >&- 2>&-; $last" without-files "$D" &)
(set -m; $env sh -c "$last" own-group "$D" &)
(setsid $env sh -c 'echo $$ >> "$1/pids"; while :; do (setsid sleep 0.05 &); sleep 0.02; done' forking "$D" &)
echo 'echo $$ > "$1/step"; sleep 0.005; setsid env -i PATH="$PATH" sh "$1/chain" "$1" &' > "$D/chain"
sh "$D/chain" "$D"
until [ -s "$D/step" ] && [ "$(wc -l < "$D/pids" 2>/dev/null)" -ge 8 ]; do sleep 0.01; done
echo up > "$D/up"
while :; do sleep 1000; done
"#;

/// What undoes it tells who is alive beside it.
const UNDO: &str = r#"
tag=$(cat "$E2E_DIR/tag")
for process in $(grep -ls "timeout *$tag " /proc/[0-9]*/limits); do
  state=$(sed 's/.*) //; s/ .*//' "${process%limits}stat" 2>/dev/null)
  case $state in Z | X | '') ;; *) cat "${process%limits}stat" >> "$E2E_DIR/beside" ;; esac
done
echo undone >> "$E2E_DIR/undone"
"#;

/// The number that each process of a run carries as a limit, computed anew here.
pub fn tag(run: &str) -> String {
    let digest = sha2::Sha256::digest(run);
    let mut bytes = [0x53, 0, 0, 0, 0, 0, 0, 0];
    bytes[1..].copy_from_slice(&digest[..7]);
    u64::from_be_bytes(bytes).to_string()
}

/// The living processes that carry a tag, as `/proc` describes them.
pub fn carrying(tag: &str) -> Vec<String> {
    let living = |folder: &Path| {
        let limits = std::fs::read_to_string(folder.join("limits")).ok()?;
        let line = limits.lines().find(|line| line.starts_with("Max realtime timeout"))?;
        line.split_ascii_whitespace().any(|word| word == tag).then_some(())?;
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        let state = stat.rsplit(") ").next()?.chars().next()?;
        (!matches!(state, 'Z' | 'X')).then_some(stat)
    };
    std::fs::read_dir("/proc").unwrap().filter_map(|entry| living(&entry.ok()?.path())).collect()
}

/// A started service with the script that starts runaways, and all of them started.
struct Runaways {
    world: World,
    tag: String,
    supervisor: Pid,
    numbers: Vec<Pid>,
}

impl Runaways {
    async fn started() -> Self {
        let with = json!({"run": RUNAWAYS, "onRollback": UNDO});
        let stage = json!({"id": "run", "name": "SCRIPT_RUN", "hook": "pre-rollout", "with": with});
        // Long enough for nothing to be killed by the grace's end.
        let world = World::new().set("/execution/killGrace", json!("10m"));
        let world = world.pipeline("podinfo.yaml", &pipeline(&[stage])).started().await;
        let call = world.client().hold_flagger("pre-rollout", "Progressing", "a1");
        poll_until("the script has started everything", || async { world.path().join("up").exists().then_some(()) })
            .await;
        drop(call);
        let tag = tag(world.read("run").trim());
        world.write("tag", &tag);
        let numbers = |file: &str| {
            let text = world.read(file);
            text.split_whitespace().map(|number| Pid::from_raw(number.parse().unwrap()).unwrap()).collect::<Vec<_>>()
        };
        let (numbers, supervisor) = (numbers("pids"), numbers("supervisor")[0]);
        assert_eq!(numbers.len(), 8);
        let carrying = carrying(&tag);
        // Each of them, the script, its supervisor, and whom they started.
        assert!(carrying.len() >= 10 && numbers.iter().all(|pid| alive(*pid)), "{carrying:#?}");
        Self { world, tag, supervisor, numbers }
    }

    fn kill_the_supervisor(&self) {
        kill_process(self.supervisor, Signal::KILL).unwrap();
    }

    /// What is alive although both keepers are dead, or there would be nothing to find.
    fn assert_alive(&self) {
        assert!(self.numbers.iter().all(|pid| alive(*pid)), "{:?}", carrying(&self.tag));
    }

    fn assert_dead(&self) {
        let carrying = carrying(&self.tag);
        assert!(carrying.is_empty(), "{carrying:#?}");
        assert!(!self.numbers.iter().any(|pid| alive(*pid)));
    }

    /// The deployment.
    async fn deployment(&self) -> Value {
        let client = self.world.client();
        let id = client.deployments().await[0]["id"].as_str().unwrap().to_owned();
        client.deployment(&id).await
    }

    /// The caller's failure report: the rollback is done, and was never beside any of them.
    async fn assert_undone_alone(&self) {
        self.world.client().flagger("post-rollout", "Failed", "a1").await.expect(200);
        assert_eq!(self.world.read("undone"), "undone\n");
        assert_eq!(self.world.read("beside"), "");
        assert_eq!(self.deployment().await["state"], "RolledBack");
        self.world.verify();
    }
}

fn alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

#[tokio::test]
async fn the_service_is_killed_and_its_scripts_with_it() {
    let mut run = Runaways::started().await;
    run.world.kill().await;
    run.world.start().await;
    run.assert_dead();
    assert_eq!(run.deployment().await["runs"][0]["state"], "Interrupted");
    run.assert_undone_alone().await;
}

#[tokio::test]
async fn the_supervisor_is_killed_and_the_service_finds_the_rest() {
    let run = Runaways::started().await;
    run.kill_the_supervisor();
    let ended = poll_until("the run has ended", || async {
        let deployment = run.deployment().await;
        (deployment["runs"][0]["state"] == "Failed").then_some(deployment)
    });
    let ended = ended.await;
    run.assert_dead();
    let message = ended["runs"][0]["message"].as_str().unwrap();
    assert!(message.contains("supervisor was killed from outside"), "{message}");
    run.assert_undone_alone().await;
}

#[tokio::test]
async fn both_are_killed_the_service_first() {
    let mut run = Runaways::started().await;
    // Else it would do its work as soon as the service is gone.
    kill_process(run.supervisor, Signal::STOP).unwrap();
    run.world.kill().await;
    run.kill_the_supervisor();
    run.assert_alive();
    run.world.start().await;
    run.assert_dead();
    let deployment = run.deployment().await;
    assert_eq!(deployment["runs"][0]["state"], "Interrupted", "{deployment:#}");
    let found = &run.world.server().log_with("killed what was left of a script")[0];
    assert!(field(found, "processes").unwrap().parse::<u32>().unwrap() >= 9, "{found}");
    run.assert_undone_alone().await;
}

#[tokio::test]
async fn both_are_killed_the_supervisor_first_and_the_rollback_that_waits_is_beside_nobody() {
    let mut run = Runaways::started().await;
    // The rollback is recorded and waits for the script's death: the next start goes on with it by itself.
    let report = run.world.client().hold_flagger("post-rollout", "Failed", "a1");
    poll_until("the rollback waits", || async { (run.deployment().await["state"] == "RollingBack").then_some(()) })
        .await;
    run.world.server().signal(Signal::STOP);
    run.kill_the_supervisor();
    run.world.kill().await;
    let _ = report.result().await;
    run.assert_alive();
    run.world.start().await;
    run.assert_dead();
    let id = run.deployment().await["id"].as_str().unwrap().to_owned();
    run.world.reaches(&id, "RolledBack").await;
    run.assert_undone_alone().await;
}

#[tokio::test]
async fn a_look_that_fails_is_no_proof_of_death() {
    let run = Runaways::started().await;
    let service = Some(run.world.server().pid());
    // No descriptor is left, so `/proc` can't be read: all that there is stays open.
    // It was started with this process's limits, and has raised the soft one.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let before = prlimit(service, Resource::Nofile, Rlimit { current: Some(3), maximum }).unwrap();
    run.kill_the_supervisor();
    run.world.server().logged("can't be looked at").await;
    run.assert_alive();
    prlimit(service, Resource::Nofile, before).unwrap();
    poll_until("the run has ended", || async {
        (run.deployment().await["runs"][0]["state"] == "Failed").then_some(())
    })
    .await;
    run.assert_dead();
    let told = run.world.server().log_with("can't be looked at");
    assert_eq!(told.len(), 1, "once in a while: {told:#?}");
    run.assert_undone_alone().await;
}

/// Starts the service as a user that may not signal root's processes. Its own program may lie where that user can't
/// go, so it is a copy.
const AS_NOBODY: &[&str] =
    &["sh", "-c", "shift; exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$E2E_DIR/program\" \"$@\"", "sh"];

/// A service of `nobody` that was killed while a script ran, and a process that another user started, perhaps with a setuid
/// program of root's, and that carries the run's tag and nothing else of it; none where that can't be had here.
async fn killed_beside_a_tag(user: u32, setuid: bool) -> Option<(World, tokio::process::Child)> {
    if !geteuid().is_root() || !is_there("setpriv") || !is_there("prlimit") {
        assert!(std::env::var_os("CI").is_none(), "it takes root, setpriv and prlimit");
        eprintln!("NOT TESTED: it takes root, setpriv and prlimit");
        return None;
    }
    let world = World::new().pipeline("podinfo.yaml", &pipeline(&[stage("migrate", "pre-rollout")]));
    std::fs::copy(binary(), world.path().join("program")).unwrap();
    for path in [world.path().to_owned(), world.path().join("library.sh"), world.path().join("pipelines")] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let mut world = world.launched_by(AS_NOBODY).started().await;
    let mut gate = world.gate("migrate");
    for pipe in ["migrate.in", "migrate.out"] {
        std::os::unix::fs::chown(world.path().join(pipe), Some(65534), Some(65534)).unwrap();
    }
    let call = world.client().hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    // By the limit of its own that anybody may lower.
    let tag = tag(&world.journal()[0].run);
    let mut sleep = tokio::process::Command::new("prlimit");
    let program = world.path().join("sleep");
    std::fs::copy("/usr/bin/sleep", &program).unwrap();
    for (path, mode) in [(world.path(), 0o711), (program.as_path(), if setuid { 0o4755 } else { 0o755 })] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    sleep.arg(format!("--rttime={tag}:{tag}")).arg(program).arg("1000").uid(user).env_clear();
    let stranger = sleep.kill_on_drop(true).spawn().unwrap();
    let its = format!("{} (sleep)", pid_of(&stranger).as_raw_nonzero());
    let sleeps = || async { carrying(&tag).iter().any(|stat| stat.starts_with(&its)).then_some(()) };
    poll_until("it carries the tag", sleeps).await;
    world.kill().await;
    let _ = call.result().await;
    Some((world, stranger))
}

fn pid_of(child: &tokio::process::Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_script_of_the_user_that_was_runs_beside_nothing() {
    let Some((mut world, mut stranger)) = killed_beside_a_tag(3_999_999_999, false).await else { return };
    // As if scripts had run as that user when it was started, and run as another one from now on.
    let folder = world.path().join("data/work").join(&world.journal()[0].run);
    std::os::unix::fs::chown(&folder, Some(3_999_999_999), Some(3_999_999_999)).unwrap();
    world.spawn();
    let told = world.server().logged("can't be killed").await;
    assert_eq!(field(&told, "run").unwrap(), world.journal()[0].run);
    assert!(world.server().log_with("listening").is_empty());
    stranger.kill().await.unwrap();
    world.server().logged("listening").await;
}

#[tokio::test]
async fn what_cannot_be_killed_is_named_and_nothing_goes_on_beside_it() {
    // As if the script had become root and had left its tree: nothing is left but the tag.
    let Some((mut world, mut stranger)) = killed_beside_a_tag(0, false).await else { return };
    world.spawn();
    let told = world.server().logged("can't be killed").await;
    assert_eq!(field(&told, "run").unwrap(), world.journal()[0].run);
    let named = format!("{} (\"sleep\", state S, user 0)", pid_of(&stranger).as_raw_nonzero());
    assert_eq!(field(&told, "processes").unwrap(), named);
    // Who stops it is not held up, and the next start waits anew.
    world.server().signal(Signal::TERM);
    assert_eq!(world.server().exited().await.code(), Some(0), "{}", world.server().log().join("\n"));
    assert!(world.server().log_with("listening").is_empty());
    world.spawn();
    world.server().logged("can't be killed").await;
    assert!(world.server().log_with("listening").is_empty());
    stranger.kill().await.unwrap();
    world.server().logged("listening").await;
}

#[tokio::test]
async fn who_copies_a_tag_holds_nobody_up() {
    // Anybody may read the number, lower its own limit to it, and start what is root in effect.
    for (setuid, user) in [(false, 3_999_999_999_u32), (true, 0)] {
        let Some((mut world, stranger)) = killed_beside_a_tag(3_999_999_999, setuid).await else { return };
        let pid = pid_of(&stranger).as_raw_nonzero();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(
            status.contains(&format!("Uid:\t3999999999\t{user}\t{user}\t")),
            "/tmp is mounted with nosuid: {status}"
        );
        world.start().await;
        let told = world.server().log_with("carries this run's mark");
        assert_eq!(told.len(), 1, "{told:#?}");
        assert_eq!(field(&told[0], "run").unwrap(), world.journal()[0].run);
        assert!(field(&told[0], "process").unwrap().starts_with(&format!("{pid} (\"sleep\", state S, ")), "{told:?}");
        assert_eq!(field(&told[0], "started_by").unwrap(), "3999999999");
        assert!(alive(pid_of(&stranger)));
    }
}
