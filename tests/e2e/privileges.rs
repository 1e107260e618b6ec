//! `execution.runAs` and `execution.limits`: whom scripts run as, what they reach then, and what ends them.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use nix::unistd::User;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::{Value, json};

use crate::support::World;
use crate::support::pipelines::pipeline;
use crate::support::poll::poll_until;
use crate::support::programs::is_there;
use crate::support::server::binary;

/// A user that every system has, by name; the rest of it is not the same everywhere.
const USER: &str = "nobody";

fn nobody() -> User {
    User::from_name(USER).unwrap().unwrap()
}

fn number() -> u32 {
    nobody().uid.as_raw()
}

/// A group of that user's own choosing, by number: nobody else is in it.
const GROUP: u32 = 3_999_999_998;

/// Whether scripts can be run as somebody else here.
fn can_run_as() -> bool {
    if geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "execution.runAs takes root");
    eprintln!("NOT TESTED: execution.runAs takes root");
    false
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn stage(run: &str) -> Value {
    json!({"id": "run", "name": "SCRIPT_RUN", "hook": "pre-rollout", "with": {"run": run}})
}

/// A world whose scripts run as another user, who may enter what it has to.
fn world(run_as: Value, script: &str) -> World {
    let world = World::new().pipeline("podinfo.yaml", &pipeline(&[stage(script)]));
    let work = world.path().join("elsewhere");
    mode(world.path(), 0o711);
    mode(&world.path().join("pipelines"), 0o711);
    world.set("/execution/runAs", run_as).set("/execution/workDir", json!(work))
}

/// Runs the script and gives its run.
async fn ran(world: &World, status: u16) -> (Value, String) {
    let client = world.client();
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(status).deployment();
    let run = client.deployment(&id).await["runs"][0].clone();
    let path = format!("/api/v1/runs/{}/logs", run["id"].as_str().unwrap());
    let log = client.get(&path).await.expect(200).text;
    (run, log)
}

#[tokio::test]
async fn a_script_is_its_user_s_and_reaches_nothing_of_the_service() {
    if !can_run_as() || !is_there("setpriv") {
        return;
    }
    let script = r#"
id -u; id -g; id -G
echo "home=$HOME user=$USER logname=$LOGNAME shell=$SHELL"
cat "$STAGEHOOK_EVENT_FILE" > /dev/null && echo key=value > "$STAGEHOOK_OUTPUT" && echo to-stderr > /dev/stderr
stat -c 'folder %a %u' "${STAGEHOOK_OUTPUT%/*}"
grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status | tr -d '\t' | sort -u | tr '\n' ' '; echo
exec 2> /dev/null
service=$(sed 's/.*) //' /proc/$PPID/stat | cut -d' ' -f2)
for process in $PPID $service; do
  for signal in 0 TERM KILL STOP; do kill -$signal "$process" && echo "SIGNALLED $process"; done
  cat "/proc/$process/environ" && echo "READ $process"
  ls "/proc/$process/fd/" && echo "LISTED $process"
done
cat "$DATA/stagehook.db" && echo "READ THE LEDGER"
ls "$DATA" && echo "LISTED THE LEDGER"
(echo > "$DATA/stagehook.db") && echo "CUT THE LEDGER"
ls "${STAGEHOOK_OUTPUT%/*}/.." > /dev/null && touch "${STAGEHOOK_OUTPUT%/*}/../mine" && echo "WROTE BESIDE"
touch "$E2E_DIR/mine" && echo "WROTE AROUND"
echo end
"#;
    let world = world(json!(format!("{USER}:{GROUP}")), script);
    let data = world.path().join("data");
    let env = json!(["PATH", "E2E_DIR", "HOME", "USER", "DATA"]);
    let world = world.set("/execution/inheritEnv", env).variable("DATA", data.to_str().unwrap());
    let world = world.variable("HOME", "/root").variable("USER", "root");
    // Groups of the service's own, none of which is the script's.
    let world = world.launched_by(&["setpriv", "--groups=0,3999999997"]).started().await;
    let (run, log) = ran(&world, 200).await;
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines[..3], [number().to_string(), GROUP.to_string(), GROUP.to_string()], "{log}");
    let entry = nobody();
    let (home, shell) = (entry.dir.display(), entry.shell.display());
    assert_eq!(lines[3], format!("home={home} user=nobody logname=nobody shell={shell}"), "{log}");
    assert_eq!(lines[4..6], ["to-stderr".to_owned(), format!("folder 700 {}", number())], "{log}");
    assert_eq!(
        lines[6].trim(),
        "CapAmb:0000000000000000 CapEff:0000000000000000 CapInh:0000000000000000 CapPrm:0000000000000000"
    );
    assert_eq!(lines[7..], ["end"], "{log}");
    assert_eq!(run["outputs"]["key"], "value", "{run:#}");
    let left: Vec<_> = std::fs::read_dir(world.path().join("elsewhere")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    world.verify();
}

#[tokio::test]
async fn a_stage_s_own_environment_wins_and_a_number_needs_no_entry() {
    if !can_run_as() {
        return;
    }
    let world = world(json!("3999999999:3999999998"), "echo $(id -u):$(id -g):$(id -G) $HOME $USER.");
    let mut own = pipeline(&[stage("echo $(id -u):$(id -g):$(id -G) $HOME $USER.")]);
    own["spec"]["stages"][0]["with"]["env"] = json!({"USER": "mine"});
    let world = world.pipeline("podinfo.yaml", &own).started().await;
    let (_, log) = ran(&world, 200).await;
    assert_eq!(log.trim(), "3999999999:3999999998:3999999998 / mine.");
}

#[tokio::test]
async fn another_user_s_tree_is_killed_all_the_same() {
    if !can_run_as() {
        return;
    }
    let script = "trap '' TERM; (env -i setsid sleep 1000 &); id -u; exec sleep 1000";
    let mut world = world(json!(USER), script);
    world.start().await;
    let client = world.client();
    let call = client.hold_flagger("pre-rollout", "Progressing", "a1");
    let run = poll_until("the script runs as that user", || async {
        let deployments = client.deployments().await;
        let id = deployments.first()?["id"].as_str()?.to_owned();
        let run = client.deployment(&id).await["runs"][0]["id"].as_str()?.to_owned();
        let log = client.get(&format!("/api/v1/runs/{run}/logs")).await.text;
        log.contains(&number().to_string()).then_some(run)
    })
    .await;
    let tag = super::outlive::tag(&run);
    assert!(super::outlive::carrying(&tag).len() >= 3);
    world.crash().await;
    let _ = call.result().await;
    let left = super::outlive::carrying(&tag);
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test]
async fn what_that_user_must_reach_and_must_not_is_checked_at_the_start() {
    if !can_run_as() {
        return;
    }
    let refused = |world: &World, told: &[&str]| {
        std::fs::create_dir_all(world.path().join("data")).unwrap();
        let output = world.command(&["check"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(told.iter().all(|told| text.contains(told)), "{text}");
    };
    // What is not there yet is made at the start, and no fault before it.
    let new = world(json!(USER), "true").started().await;
    std::fs::remove_dir_all(new.path().join("elsewhere")).unwrap();
    let output = new.command(&["check"]);
    assert!(output.status.success(), "{output:?}");
    // Its folder lies beside the ledger, in a directory that is nobody else's.
    let mut world = world(json!(USER), "true").set("/execution/workDir", Value::Null);
    world.spawn();
    assert_eq!(world.server().exited().await.code(), Some(2));
    let log = world.server().log().join("\n");
    let data = world.path().join("data");
    assert!(log.contains(&format!("can't enter {} (mode 700, of user 0)", data.display())), "{log}");
    assert!(log.contains("set execution.workDir to a directory elsewhere"), "{log}");
    refused(&world, &["can't enter", "execution.workDir"]);
    // The ledger is anybody's.
    mode(&data, 0o755);
    mode(&data.join("stagehook.db"), 0o644);
    refused(&world, &["that user can reach", "stagehook.db", "chmod 700"]);
    mode(&data.join("stagehook.db"), 0o600);
    chown(&data, Some(number()), None).unwrap();
    refused(&world, &["that user can reach", "so its scripts could read or change the ledger"]);
    chown(&data, Some(0), None).unwrap();
    // Where the pipelines are nobody else's.
    mode(&world.path().join("pipelines"), 0o700);
    refused(&world, &["pipelines (mode 700, of user 0)", "chmod o+x"]);
    let world = world.set("/execution/runAs", json!("no-such-user"));
    world.write("stagehook.yaml", &json!({"execution": {"runAs": "no-such-user"}}).to_string());
    refused(&world, &["there is no user no-such-user on this machine"]);
    // To the system this number says that nothing is to change.
    world.write("stagehook.yaml", &json!({"execution": {"runAs": "4294967295:1"}}).to_string());
    refused(&world, &["execution.runAs 4294967295:1: no user can have the number 4294967295"]);
}

/// What is played against it: whoever can put something else in the place of what the service relies on is as good as the
/// service.
#[tokio::test]
async fn what_that_user_could_put_something_else_in_the_place_of_is_refused() {
    if !can_run_as() {
        return;
    }
    let refused = |world: &World, path: &Path, how: &str, what: &str| {
        world.write_settings();
        let told = format!("execution.runAs nobody: that user {how} {} (mode ", path.display());
        let output = world.command(&["check"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        let line = text.lines().find(|line| line.contains(&told)).unwrap_or_else(|| panic!("no {told}: {text}"));
        assert!(line.contains(what) && line.contains("chown it to the service's user and chmod go-w"), "{line}");
    };
    let own = |path: &Path| chown(path, Some(number()), None).unwrap();
    let made = |path: &Path, rights| {
        std::fs::create_dir_all(path).unwrap();
        mode(path, rights);
    };

    // The work folder: so a run's folder was exchanged for a link, and what that led to was given to the script's user.
    let mut world = world(json!(USER), "true");
    let work = world.path().join("elsewhere");
    made(&work, 0o711);
    own(&work);
    refused(&world, &work, "owns", "and it is execution.workDir:");
    world.spawn();
    assert_eq!(world.server().exited().await.code(), Some(2));
    assert!(world.server().log().join("\n").contains("that user owns"));
    chown(&work, Some(0), None).unwrap();
    for rights in [0o777, 0o1777] {
        mode(&work, rights);
        refused(&world, &work, "can write", "it is execution.workDir:");
    }
    mode(&work, 0o711);

    // The pipelines, which name what the service reads.
    let pipelines = world.path().join("pipelines");
    mode(&pipelines, 0o777);
    refused(&world, &pipelines, "can write", "it is pipelines:");
    mode(&pipelines, 0o711);
    own(&pipelines.join("podinfo.yaml"));
    refused(&world, &pipelines.join("podinfo.yaml"), "owns", "it is pipelines:");
    chown(pipelines.join("podinfo.yaml"), Some(0), None).unwrap();

    // The settings, and a secret of theirs.
    let settings = world.path().join("stagehook.yaml");
    own(&settings);
    refused(&world, &settings, "owns", "it is the settings:");
    chown(&settings, Some(0), None).unwrap();
    let secrets = world.path().join("secrets");
    made(&secrets, 0o777);
    world.write("secrets/token", "word");
    let tokens = json!([{"name": "ci", "scope": "operate", "secret": {"fromFile": secrets.join("token")}}]);
    let world = world.set("/api/tokens", tokens);
    refused(&world, &secrets, "can write", "on the way to a secret of the settings");
    mode(&secrets, 0o700);

    // Above the ledger; and where a link leads through.
    let above = world.path().join("above");
    made(&above.join("between/data"), 0o700);
    mode(&above.join("between"), 0o711);
    mode(&above, 0o711);
    own(&above);
    let url = |folder: &Path| json!(format!("sqlite://{}/data/l.db", folder.display()));
    let world = world.set("/ledger/url", url(&above.join("between")));
    refused(&world, &above, "owns", "it is on the way to ledger.url");
    let link = world.path().join("link");
    std::os::unix::fs::symlink(above.join("between"), &link).unwrap();
    let world = world.set("/ledger/url", url(&link));
    refused(&world, &above, "owns", "it is on the way to ledger.url");

    // In a folder as /tmp nobody takes away what is another's.
    chown(&above, Some(0), None).unwrap();
    mode(&above, 0o1777);
    let world = world.started().await;
    world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    own(&above.join("between"));
    refused(&world, &above.join("between"), "owns", "it is on the way to ledger.url");
    refused(&world, &above, "can write", "it is on the way to ledger.url");
}

/// A service that can't make its own folder so that scripts pass would refuse itself.
#[tokio::test]
async fn the_work_folder_can_be_passed_whatever_the_umask() {
    if !can_run_as() {
        return;
    }
    let world =
        world(json!(USER), "cat \"$STAGEHOOK_EVENT_FILE\" > /dev/null && echo key=value > \"$STAGEHOOK_OUTPUT\"");
    let work = world.path().join("elsewhere/below");
    let world = world.set("/execution/workDir", json!(work));
    let world = world.launched_by(&["sh", "-c", "umask 077; exec \"$@\"", "sh"]).started().await;
    let (run, _) = ran(&world, 200).await;
    assert_eq!(run["outputs"]["key"], "value", "{run:#}");
    // Also when it was taken away, and is made again.
    std::fs::remove_dir_all(world.path().join("elsewhere")).unwrap();
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "b2").await.expect(200);
    for folder in [work.as_path(), work.parent().unwrap()] {
        assert_eq!(std::fs::metadata(folder).unwrap().permissions().mode() & 0o7777, 0o711, "{}", folder.display());
    }
}

/// Not root, but with the capabilities that it takes, as a systemd unit gives them. Its own program may lie where that
/// user can't go, so it is a copy.
const WITH_CAPABILITIES: &[&str] = &[
    "sh",
    "-c",
    "shift; all=+setuid,+setgid,+kill,+chown,+dac_override,+fowner; exec setpriv --reuid=65534 --regid=65534 \
     --clear-groups --inh-caps=$all --ambient-caps=$all \"$E2E_DIR/program\" \"$@\"",
    "sh",
];

#[tokio::test]
async fn a_service_with_capabilities_hands_none_of_them_on() {
    if !can_run_as() || !is_there("setpriv") {
        return;
    }
    let script =
        "echo $(id -u); (trap '' TERM; env -i setsid sleep 1000 &); grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status";
    let world = world(json!("3999999999:3999999998"), script);
    std::fs::copy(env!("CARGO_BIN_EXE_stagehook"), world.path().join("program")).unwrap();
    for path in [world.path().to_owned(), world.path().join("pipelines")] {
        chown(path, Some(65534), Some(65534)).unwrap();
    }
    let world = world.launched_by(WITH_CAPABILITIES).started().await;
    let (run, log) = ran(&world, 200).await;
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines[0], "3999999999", "{log}");
    assert_eq!(lines.len(), 5, "{log}");
    assert!(lines[1..].iter().all(|line| line.ends_with("\t0000000000000000")), "{log}");
    assert_eq!(run["message"], "exit code 0; 1 process left behind was killed");
    let left: Vec<_> = std::fs::read_dir(world.path().join("elsewhere")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The same, where `/proc` is its own: first as it is, or hiding what is other users'.
const WITH_OWN_PROC: &[&str] = &[
    "unshare",
    "--mount",
    "sh",
    "-c",
    "shift; mount -t proc $PROC proc /proc && all=+setuid,+setgid,+kill,+chown,+dac_override,+fowner && \
     exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=$all --ambient-caps=$all \"$E2E_DIR/program\" \"$@\"",
    "sh",
];

/// A world for that; none where it can't be had here.
fn world_with_own_proc(options: &str, stage: &Value) -> Option<World> {
    if !can_run_as() || !is_there("setpriv") || !is_there("unshare") || !is_there("nsenter") {
        return None;
    }
    let world =
        world(json!("3999999999:3999999998"), "").pipeline("podinfo.yaml", &pipeline(std::slice::from_ref(stage)));
    std::fs::copy(binary(), world.path().join("program")).unwrap();
    for path in [world.path().to_owned(), world.path().join("pipelines")] {
        chown(path, Some(65534), Some(65534)).unwrap();
    }
    Some(world.variable("PROC", options).launched_by(WITH_OWN_PROC))
}

#[tokio::test]
async fn a_service_that_could_not_see_its_scripts_is_refused() {
    let Some(mut world) = world_with_own_proc("-o hidepid=2", &stage("true")) else { return };
    world.spawn();
    assert_eq!(world.server().exited().await.code(), Some(2), "{}", world.server().log().join("\n"));
    let says = |text: &str| {
        for told in ["/proc hides the processes of user 3999999999", "hidepid", "ProtectProc=default", "CAP_SYS_PTRACE"]
        {
            assert!(text.contains(told), "{told:?} in {text}");
        }
    };
    says(&world.server().log().join("\n"));
    // What checks says so before.
    let check = std::process::Command::new(WITH_OWN_PROC[0])
        .args(&WITH_OWN_PROC[1..])
        .args(["", "check"])
        .env("STAGEHOOK_CONFIG", world.path().join("stagehook.yaml"))
        .env("E2E_DIR", world.path())
        .env("PROC", "-o hidepid=2")
        .output()
        .unwrap();
    assert_eq!(check.status.code(), Some(2), "{check:?}");
    says(&String::from_utf8_lossy(&check.stdout));
}

/// A script of another user that goes on when it is told to end, and has left a deaf one behind elsewhere; what undoes it tells who is beside it.
/// `/proc` begins to hide both of them while they run.
async fn hidden_while_it_runs() -> Option<(World, String, String)> {
    let run = "trap 'echo told' TERM; (env -i setsid sh -c 'trap \"\" TERM; (sleep 1000; :)' &); echo up; while :; do sleep 1000; done";
    let undo = "tag=$(cat \"$E2E_DIR/tag\"); [ ${#tag} -gt 10 ] && grep -ls \"timeout *$tag \" /proc/[0-9]*/limits; echo undone";
    let with = json!({"run": run, "onRollback": undo});
    let stage = json!({"id": "run", "name": "SCRIPT_RUN", "hook": "pre-rollout", "with": with});
    let world = world_with_own_proc("", &stage)?.set("/execution/killGrace", json!("2s")).started().await;
    let client = world.client();
    let call = client.hold_flagger("pre-rollout", "Progressing", "a1");
    let run = poll_until("the script runs", || async {
        let id = client.deployments().await.first()?["id"].as_str()?.to_owned();
        let run = client.deployment(&id).await["runs"][0]["id"].as_str()?.to_owned();
        let log = client.get(&format!("/api/v1/runs/{run}/logs")).await.text;
        log.contains("up").then_some(run)
    })
    .await;
    drop(call);
    let tag = super::outlive::tag(&run);
    world.write("tag", &tag);
    mode(&world.path().join("tag"), 0o644);
    poll_until("all of it runs", || async { (super::outlive::carrying(&tag).len() >= 5).then_some(()) }).await;
    let namespace = format!("--mount=/proc/{}/ns/mnt", world.server().pid().as_raw_nonzero());
    let remount = ["mount", "-o", "remount,hidepid=2", "/proc"];
    assert!(std::process::Command::new("nsenter").arg(namespace).args(remount).status().unwrap().success());
    Some((world, run, tag))
}

/// Reports the failure: the rollback is done, and was beside nobody.
async fn undone_alone(world: &World, tag: &str) -> Value {
    let client = world.client();
    let id = client.flagger("post-rollout", "Failed", "a1").await.expect(200).deployment();
    let left = super::outlive::carrying(tag);
    assert!(left.is_empty(), "{left:#?}");
    let deployment = client.deployment(&id).await;
    let undo = deployment["runs"][1]["id"].as_str().unwrap();
    let log = client.get(&format!("/api/v1/runs/{undo}/logs")).await.text;
    assert_eq!(log.trim(), "undone", "beside it");
    deployment["runs"][0].clone()
}

#[tokio::test]
async fn a_supervisor_kills_what_it_cannot_see() {
    let Some((world, _, tag)) = hidden_while_it_runs().await else { return };
    let run = undone_alone(&world, &tag).await;
    // By its supervisor's word, and not because that was silent for too long.
    assert_eq!(run["signal"], 9, "{run:#}");
    let log = world.client().get(&format!("/api/v1/runs/{}/logs", run["id"].as_str().unwrap())).await.text;
    assert!(log.contains("told"), "{log}");
}

#[tokio::test]
async fn what_a_supervisor_leaves_is_killed_where_it_cannot_be_seen() {
    let Some((world, run, tag)) = hidden_while_it_runs().await else { return };
    let own = format!("STAGEHOOK_RUN_ID={run}");
    let is_supervisor = |pid: &i32| {
        let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let is = |bytes: Vec<u8>, text: &str| bytes.split(|byte| *byte == 0).any(|part| part == text.as_bytes());
        is(read("cmdline"), "__supervise") && is(read("environ"), &own)
    };
    let mut numbers =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let supervisor = Pid::from_raw(numbers.find(is_supervisor).unwrap()).unwrap();
    kill_process(supervisor, Signal::KILL).unwrap();
    let client = world.client();
    let id = client.deployments().await[0]["id"].as_str().unwrap().to_owned();
    poll_until("the run has ended", || async {
        (client.deployment(&id).await["runs"][0]["state"] == "Failed").then_some(())
    })
    .await;
    let left = super::outlive::carrying(&tag);
    assert!(left.is_empty(), "{left:#?}");
    undone_alone(&world, &tag).await;
}

#[tokio::test]
async fn a_script_has_no_files_of_the_service() {
    let world = World::new()
        .pipeline("podinfo.yaml", &pipeline(&[stage("(read -r line <&7) 2>&1 && echo read; ls /proc/self/fd")]));
    let world = world.launched_by(&["sh", "-c", "exec \"$@\" 7</etc/passwd", "sh"]).started().await;
    assert!(
        std::fs::read_link(format!("/proc/{}/fd/7", world.server().pid().as_raw_nonzero()))
            .unwrap()
            .ends_with("passwd")
    );
    let (_, log) = ran(&world, 200).await;
    let last: Vec<_> = log.lines().rev().take(4).collect();
    // The last is the listing's own.
    assert_eq!(last, ["3", "2", "1", "0"], "{log}");
    assert!(!log.lines().any(|line| line == "read"), "{log}");
}

#[tokio::test]
async fn a_service_that_may_not_is_refused_with_what_to_do() {
    let as_another: &'static [&'static str] = if geteuid().is_root() {
        if !is_there("setpriv") {
            return;
        }
        &["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    } else {
        &[]
    };
    let mut world = World::new().launched_by(as_another).set("/execution/runAs", json!("4000000000:4000000000"));
    world.spawn();
    assert_eq!(world.server().exited().await.code(), Some(2));
    let log = world.server().log().join("\n");
    assert!(
        log.contains("may not start and end another user's processes: start it as root, or with CAP_SETUID"),
        "{log}"
    );
}

#[tokio::test]
async fn a_limit_binds_and_its_end_says_so() {
    let scripts = [
        (
            "cpuTime",
            json!("1s"),
            "while :; do :; done",
            "killed by signal 24 (SIGXCPU): execution.limits.cpuTime is 1s",
        ),
        (
            "cpuTime",
            json!("1s"),
            "sh -c 'while :; do :; done'; exit $?",
            "exit code 152: as after (SIGXCPU), execution.limits.cpuTime is 1s",
        ),
        (
            "fileSize",
            json!("4KiB"),
            "exec head -c 10000 /dev/zero > large",
            "killed by signal 25 (SIGXFSZ): execution.limits.fileSize is 4096 bytes",
        ),
    ];
    for (limit, value, script, message) in scripts {
        let world = World::new().pipeline("podinfo.yaml", &pipeline(&[stage(script)]));
        let world = world.set(&format!("/execution/limits/{limit}"), value).started().await;
        let (run, _) = ran(&world, 501).await;
        assert_eq!(run["message"], message);
    }
    // The others have no signal of their own; that they bind shows.
    let all = json!({"openFiles": 40, "memory": "1GiB", "coreSize": 0, "fileSize": "2GiB", "cpuTime": "1500ms"});
    let show = "ulimit -n; ulimit -v; ulimit -c; ulimit -f; ulimit -t; ulimit -Hn; ulimit -Ht; \
        grep -E '^Max (open|cpu)' /proc/$PPID/limits | tr -s ' '";
    let world = World::new().pipeline("podinfo.yaml", &pipeline(&[stage(show)]));
    let world = world.set("/execution/limits", all).started().await;
    let (_, log) = ran(&world, 200).await;
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines[..7], ["40", "1048576", "0", "4194304", "2", "40", "7"], "{log}");
    assert!(
        !log.contains("Max open files 40") && log.contains("Max cpu time unlimited"),
        "the supervisor's own: {log}"
    );
}

#[tokio::test]
async fn a_limit_that_cannot_be_set_is_refused() {
    let mut world = World::new().launched_by(&["sh", "-c", "ulimit -n 512; exec \"$@\"", "sh"]);
    world = world.set("/execution/limits/openFiles", json!(1024));
    world.spawn();
    assert_eq!(world.server().exited().await.code(), Some(2));
    let log = world.server().log().join("\n");
    assert!(log.contains("execution.limits.openFiles is 1024, and the service's own hard limit is 512"), "{log}");
    if geteuid().is_root() {
        world = World::new().set("/execution/limits/processes", json!(100));
        world.spawn();
        assert_eq!(world.server().exited().await.code(), Some(2));
        let log = world.server().log().join("\n");
        assert!(log.contains("execution.limits.processes does not bind root: set execution.runAs, too"), "{log}");
    }
}
