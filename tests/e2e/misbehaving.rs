//! Scripts that misbehave, as the caller and the operator see it: what the gate answers, what the ledger, the API and
//! the command line tell, what is left of it, and what it costs the service. The finer cases are the executor's own tests.

use std::path::Path;

use rustix::process::Pid;
use serde_json::{Value, json};
use stagehook::domain::printable::misleads;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::http::{Reply, flagger};
use crate::support::pipelines::{pipeline, pipeline_for};
use crate::support::poll::poll_until;
use crate::support::{World, processes, programs};

/// One script, and what is told of it.
struct Case {
    name: &'static str,
    with: Value,
    status: u16,
    /// The caller's answer, without `stage NAME `; `…` stands for anything.
    answer: &'static str,
    outcome: &'static str,
}

fn ok(name: &'static str, run: &str) -> Case {
    Case { name, with: json!({"run": run}), status: 200, answer: "", outcome: "Succeeded" }
}

fn fails(name: &'static str, run: &str, answer: &'static str) -> Case {
    Case { name, with: json!({"run": run}), status: 501, answer, outcome: "Failed" }
}

fn cases() -> Vec<Case> {
    let shell =
        |name, shell: Value, answer| Case { with: json!({"run": "true", "shell": shell}), ..fails(name, "", answer) };
    let ends_late = |name, run, answer| Case {
        with: json!({"run": run, "timeout": "1s"}),
        outcome: "TimedOut",
        ..fails(name, run, answer)
    };
    vec![
        fails("long-line", "head -c 3000000 /dev/zero | tr '\\0' x; exit 1", "failed (exit code 1): xxxx…"),
        fails(
            "binary",
            "head -c 100000 /dev/urandom; printf '\\n\\000\\377\\303(\\n'; exit 1",
            "failed (exit code 1): \u{fffd}\u{fffd}(",
        ),
        fails(
            "terminal",
            "printf '\\033]0;mine\\007\\033[2Jcleared\\r\\033[31mred\\342\\200\\256 dlo\\033[0m\\n'; exit 1",
            "failed (exit code 1): red dlo",
        ),
        fails("lines", "printf 'one\\342\\200\\250two\\302\\205three'; exit 1", "failed (exit code 1): onetwothree"),
        ok("many-lines", "yes | head -n 1000000"),
        ok("closes-its-pipes", "exec >&- 2>&-; sleep 0.1"),
        fails(
            "leaves-a-child",
            "exec >&- 2>&-; (trap '' TERM; exec sleep 1000) & exit 7",
            "failed (exit code 7; 1 process left behind was killed)",
        ),
        fails(
            "leaves-its-session",
            "setsid -f sleep 1000; exit 7",
            "failed (exit code 7; 1 process left behind was killed)",
        ),
        ends_late(
            "stops-itself",
            "kill -STOP $$",
            "timed out after 1s; 1 of its processes had been stopped by a signal (as SIGSTOP)",
        ),
        ends_late("never-ends", "trap '' TERM; while :; do sleep 1000; done", "timed out after 1s"),
        fails("kills-its-group", "sleep 1000 & kill -KILL 0", "failed (killed by signal 9 (SIGKILL))"),
        fails(
            "kills-its-parent",
            "sleep 1000 & kill -KILL $PPID; sleep 1000",
            "failed (the script's supervisor was killed from outside (perhaps memory ran out); …",
        ),
        shell(
            "no-interpreter",
            json!(["/no/such"]),
            "failed (/no/such could not be started: there is no such program here; install it or correct `shell`)",
        ),
        shell(
            "folder-as-shell",
            json!(["/usr"]),
            "failed (/usr could not be started: it is a folder; correct `shell`)",
        ),
        shell("no-program", json!(["/etc/passwd"]), "failed (/etc/passwd could not be started: permission denied; …"),
        fails("unknown-command", "no-such-command", "failed (exit code 127): …"),
        fails(
            "too-long",
            &format!(": {}", "x".repeat(140_000)),
            "failed (/bin/sh could not be started: its arguments and environment are too long for the system; the largest is the script with 140002 bytes …",
        ),
        Case {
            with: json!({"run": "true", "env": {"BIG": "x".repeat(140_000)}}),
            ..fails(
                "too-much",
                "",
                "failed (/bin/sh could not be started: its arguments and environment are too long for the system; the largest is BIG with 140000 bytes …",
            )
        },
        Case {
            with: json!({"run": "true", "env": {"NUL": {"fromFile": "../nul"}}}),
            ..fails("nul", "", "failed (the value of NUL has a NUL byte, which no environment variable can hold)")
        },
        ok("fills-its-outputs", "yes k=v | head -c 1000000 > $STAGEHOOK_OUTPUT; truncate -s 1G $STAGEHOOK_OUTPUT"),
        ok("outputs-pipe", "rm $STAGEHOOK_OUTPUT; mkfifo $STAGEHOOK_OUTPUT"),
        ok("outputs-link", "ln -sf /etc/passwd $STAGEHOOK_OUTPUT"),
        ok("no-folder", "rm -r ${STAGEHOOK_OUTPUT%/*}"),
        ok(
            "leaves-folders",
            "cd ${STAGEHOOK_OUTPUT%/*}; i=0; while [ $i -lt 60 ]; do mkdir d; cd d; : > f; i=$((i+1)); done; chmod 000 ../../d",
        ),
    ]
}

fn fits(answer: &str, pattern: &str) -> bool {
    match pattern.split_once('…') {
        Some((begin, end)) => answer.starts_with(begin) && answer[begin.len()..].ends_with(end),
        None => answer == pattern,
    }
}

#[tokio::test]
async fn each_has_its_recorded_end_and_a_plain_message() {
    let cases = cases();
    let mut world = World::new();
    world.write("nul", "a\0b");
    for case in &cases {
        let stage = json!({"id": case.name, "name": "SCRIPT_RUN", "hook": "pre-rollout", "with": case.with});
        world.write_pipeline(&format!("{}.yaml", case.name), &pipeline_for("test", case.name, &[stage]).to_string());
    }
    world.start().await;
    let held: Vec<_> = cases
        .iter()
        .map(|case| {
            let body = json!({"name": case.name, "namespace": "test", "phase": "Progressing", "checksum": "a1"});
            world.client().hold("/hooks/flagger/pre-rollout", &body)
        })
        .collect();
    for (case, held) in cases.iter().zip(held) {
        is_told(&world, case, held.answer().await).await;
    }
    let work = world.path().join("data/work");
    assert_eq!(std::fs::read_dir(work).unwrap().count(), 0, "nothing is left on the disk");
    world.verify();
    // Nor is anything alive: this asks for it.
    world.stop().await;
}

/// The answer, the record, the API and the command line all tell it, in one line that can be read.
async fn is_told(world: &World, case: &Case, reply: Reply) {
    let client = world.client();
    println!("{}: {} {}", case.name, reply.status, reply.text.trim_end());
    assert_eq!(reply.status, case.status, "{}: {reply:?}", case.name);
    let line = reply.text.strip_suffix('\n').unwrap_or(&reply.text);
    assert!(line.chars().count() < 700 && !line.chars().any(misleads), "{}: {line:?}", case.name);
    if case.status == 501 {
        let answer = line.strip_prefix(&format!("stage {} ", case.name)).unwrap_or(line);
        assert!(fits(answer, case.answer), "{}: {answer:?} is not {:?}", case.name, case.answer);
    }
    let id = reply.deployment();
    let records = client.records(&id).await;
    let finished = records.iter().find(|record| record["event"]["type"] == "stageFinished").unwrap();
    let (run, ending) = (finished["event"]["run"].as_str().unwrap(), &finished["event"]["ending"]);
    assert_eq!(ending["outcome"], case.outcome, "{}: {ending}", case.name);
    let output = &ending["output"];
    assert!(output["kept"].as_u64().unwrap() <= 1 << 20, "{output}");
    let message = ending["message"].as_str().unwrap();
    let shown = world.command(&["show", run]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(message), "{}: {shown}", case.name);
    assert!(!shown.chars().any(|c| c != '\n' && misleads(c)), "{}: {shown:?}", case.name);
    let logs = world.command(&["logs", run]);
    assert!(logs.status.success() && logs.stdout.len() < 4 << 20, "{}", case.name);
}

/// A gigabyte on both streams at once, while one follower never reads and one reads as slowly as it can.
#[tokio::test]
async fn a_gigabyte_takes_no_memory_and_waits_for_no_follower() {
    const HALF: u64 = 1 << 29;
    let run =
        format!("head -c {HALF} /dev/zero & yes | head -c {HALF} >&2; wait; grep VmHWM /proc/$PPID/status; exit 1");
    let stage = json!({"id": "flood", "name": "SCRIPT_RUN", "hook": "pre-rollout", "with": {"run": format!("echo up; read -r _ < $E2E_DIR/go; {run}")}});
    let world = World::with_stages(&[stage]).await;
    let go = world.path().join("go");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &go,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let client = world.client();
    let held = client.hold_flagger("pre-rollout", "Progressing", "a1");
    let run = poll_until("the script runs", || async {
        let id = client.deployments().await.first()?["id"].as_str()?.to_owned();
        Some(client.deployment(&id).await["runs"][0]["id"].as_str()?.to_owned())
    })
    .await;
    let mut followers = Vec::new();
    for _ in 0..2 {
        let mut follower = tokio::net::TcpStream::connect(&world.server().address).await.unwrap();
        let request =
            format!("GET /api/v1/runs/{run}/logs?follow=true HTTP/1.1\r\nHost: {}\r\n\r\n", world.server().address);
        follower.write_all(request.as_bytes()).await.unwrap();
        // It is being told: the head of the answer is there.
        assert_eq!(follower.read_u8().await.unwrap(), b'H');
        followers.push(follower);
    }
    let (memory, cpu) = (memory(world.server().pid(), "VmHWM"), cpu(world.server().pid()));
    std::fs::write(&go, "go\n").unwrap();
    let mut slow = followers.pop().unwrap();
    let reads = tokio::spawn(async move {
        let mut read = 0;
        let mut byte = [0; 1];
        while slow.read(&mut byte).await.is_ok_and(|length| length > 0) {
            read += 1;
            tokio::task::yield_now().await;
        }
        read
    });
    let reply = held.answer().await.expect(501);
    let grown = self::memory(world.server().pid(), "VmHWM") - memory;
    let supervisor =
        reply.text.trim().rsplit_once("VmHWM:").unwrap().1.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
    println!(
        "a gigabyte: the service grew by {grown} kB and took {} ticks of CPU, the supervisor has {supervisor} kB",
        self::cpu(world.server().pid()) - cpu
    );
    assert!(grown < 24 << 10, "{grown} kB more than before");
    assert!(supervisor < 24 << 10, "{supervisor} kB in the supervisor");
    let run = client.api(&format!("runs/{run}")).await;
    let bytes = run["output"]["bytes"].as_u64().unwrap();
    assert!(bytes > 2 * HALF && bytes < 2 * HALF + 100, "{run}");
    assert_eq!(run["output"]["kept"], 1 << 20);
    assert!(!reads.is_finished());
    reads.abort();
    drop(followers);
    world.verify();
}

/// Every descriptor and every child, counted before and after.
#[tokio::test]
async fn a_thousand_scripts_in_a_row_leave_nothing_in_the_service() {
    let stage = json!({"id": "many", "name": "SCRIPT_RUN", "hook": "rollout", "with": {"run": vec![":"; 125], "repeat": "always"}});
    let world = World::with_stages(&[stage]).await;
    let pid = world.server().pid();
    let calls = |count: usize| {
        let client = world.client();
        async move {
            for _ in 0..count {
                client.flagger("rollout", "Progressing", "a1").await.expect(200);
            }
        }
    };
    calls(2).await;
    let before = (settled(&world).await, memory(pid, "VmRSS"));
    calls(8).await;
    let after = (settled(&world).await, memory(pid, "VmRSS"));
    println!("descriptors and children, and kB of memory: {before:?} before a thousand scripts, {after:?} after");
    assert_eq!(before.0, after.0);
    assert!(after.1 < before.1 + (4 << 10), "{before:?} {after:?}");
}

/// How many descriptors and children the service has when nobody calls.
async fn settled(world: &World) -> (usize, usize) {
    let pid = world.server().pid().as_raw_nonzero();
    let mut last = None;
    poll_until("the service is at rest", || {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let children =
            std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| is_child_of(entry, pid.get())).count();
        let seen = (descriptors, children);
        let same = last.replace(seen) == Some(seen) && children == 0;
        async move { same.then_some(seen) }
    })
    .await
}

/// Whether it is a process, a zombie too, whose parent is this one.
fn is_child_of(entry: &std::fs::DirEntry, parent: i32) -> bool {
    let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
    let field = stat.rsplit(')').next().and_then(|fields| fields.split_whitespace().nth(1));
    field.is_some_and(|field| field == parent.to_string())
}

/// A figure of a process's memory, in kB.
fn memory(pid: Pid, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// CPU time of a process, in hundredths of a second.
fn cpu(pid: Pid) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..=12].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn outputs_that_are_too_much_together_keep_no_rollback_from_running() {
    let filling = |id: &str| {
        json!({"id": id, "name": "SCRIPT_RUN", "hook": "pre-rollout", "with": {
            "run": "printf 'k=%060000d\\n' 1 > $STAGEHOOK_OUTPUT",
            "onRollback": "printf %s \"$STAGEHOOK_OUTPUTS\" | wc -c",
        }})
    };
    let world = World::with_stages(&[filling("one"), filling("two"), filling("three"), filling("four")]).await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let id = client.flagger("post-rollout", "Failed", "a1").await.expect(200).deployment();
    let deployment = client.deployment(&id).await;
    assert_eq!(deployment["state"], "RolledBack");
    let runs = deployment["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 8);
    for run in runs.iter().filter(|run| run["name"] == "SCRIPT_RUN_ROLLBACK") {
        let logs = client.get(&format!("/api/v1/runs/{}/logs", run["id"].as_str().unwrap())).await.expect(200).text;
        assert!(logs.starts_with("[stagehook] STAGEHOOK_OUTPUTS is without the outputs of "), "{logs}");
        // Its own are there, and those of one other.
        let own = logs.lines().next().unwrap().contains(run["stage"].as_str().unwrap());
        assert!(!own && logs.ends_with("\n120032\n") || logs.contains("\n1200"), "{logs}");
    }
}

#[tokio::test]
async fn a_caller_s_text_that_is_too_long_refuses_a_stage_and_never_its_rollback() {
    let stage = json!({"id": "migrate", "name": "SCRIPT_RUN", "hook": "pre-rollout", "with": {
        "run": "true", "onRollback": "set -u; echo \"[$STAGEHOOK_METADATA_WHY] $STAGEHOOK_METADATA_TICKET\"",
    }});
    let world = World::with_stages(&[stage]).await;
    let client = world.client();
    let call = |phase: &str, why: &str| {
        let mut body = flagger(phase, "a1");
        body["metadata"] = json!({"why": why, "ticket": "T-1"});
        body
    };
    let long = "x".repeat(200_000);
    let refused = client.post("/hooks/flagger/pre-rollout", &call("Progressing", &long)).await.expect(501);
    assert!(refused.text.contains("STAGEHOOK_METADATA_WHY"), "{refused:?}");
    client.post("/hooks/flagger/pre-rollout", &call("Progressing", "short")).await.expect(200);
    let id = client.post("/hooks/flagger/post-rollout", &call("Failed", &long)).await.expect(200).deployment();
    let deployment = client.deployment(&id).await;
    assert_eq!(deployment["state"], "RolledBack", "{deployment:#}");
    let undo = deployment["runs"].as_array().unwrap().last().unwrap();
    let logs = client.get(&format!("/api/v1/runs/{}/logs", undo["id"].as_str().unwrap())).await.expect(200).text;
    let told =
        "[stagehook] what the caller sent is too long for STAGEHOOK_METADATA_WHY; the event file has it\n[] T-1\n";
    assert_eq!(logs, told);
}

#[tokio::test]
async fn a_script_that_ends_the_service_is_given_the_grace_of_others() {
    // The same user may: it is what SIGTERM is to the service.
    let run = "service=$(cut -d ' ' -f 4 /proc/$PPID/stat); kill -TERM $service; echo told";
    let stage = json!({"id": "ends-it", "name": "SCRIPT_RUN", "hook": "pre-rollout", "with": {"run": run}});
    let world = World::with_stages(&[stage]).await;
    let held = world.client().hold_flagger("pre-rollout", "Progressing", "a1");
    held.answer().await.expect(200);
    assert_eq!(world.server().exited().await.code(), Some(0));
    world.verify();
}

#[tokio::test]
async fn a_full_disk_of_runs_fails_a_run_and_is_free_when_that_is_over() {
    // A small disk of its own, which only this server and its scripts see.
    const LAUNCHER: &[&str] = &[
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mkdir -p $E2E_DIR/work && mount -t tmpfs -o size=512k tmpfs $E2E_DIR/work && exec \"$@\"",
        "sh",
    ];
    if !can_mount() {
        return;
    }
    let folder = "${STAGEHOOK_OUTPUT%/*}";
    let fill =
        format!("cat /dev/zero > {folder}/fill 2>/dev/null; echo a=1 > $STAGEHOOK_OUTPUT || echo no room; exit 1");
    let hold =
        format!("cat /dev/zero > {folder}/fill 2>/dev/null; : > $E2E_DIR/full; read -r _ < $E2E_DIR/fill.gate; exit 1");
    let mount = format!("mkdir {folder}/disk; mount -t tmpfs tmpfs {folder}/disk; : > {folder}/disk/precious");
    let stage =
        |id: &str, run: &str| json!({"id": id, "name": "SCRIPT_RUN", "hook": "pre-rollout", "with": {"run": run}});
    let mut world = World::new();
    let work = world.path().join("work");
    world = world.set("/execution/workDir", json!(work));
    for (name, run) in [
        ("fill", fill.as_str()),
        ("hold", hold.as_str()),
        ("plain", "echo a=1 > $STAGEHOOK_OUTPUT"),
        ("mount", mount.as_str()),
    ] {
        world.write_pipeline(&format!("{name}.yaml"), &pipeline_for("test", name, &[stage(name, run)]).to_string());
    }
    let gate = world.path().join("fill.gate");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &gate,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let world = world.launched_by(LAUNCHER).started().await;
    let client = world.client();
    let body = |name: &str| json!({"name": name, "namespace": "test", "phase": "Progressing", "checksum": "a1"});
    let path = "/hooks/flagger/pre-rollout";
    let reply = client.post(path, &body("fill")).await.expect(501);
    assert_eq!(reply.text, "stage fill failed (exit code 1): no room\n");
    client.post(path, &body("plain")).await.expect(200);
    // While it is full, others fail with the reason; then all is well again.
    let held = client.hold(path, &body("hold"));
    poll_until("the disk is full", || async { world.path().join("full").exists().then_some(()) }).await;
    let mut next = body("plain");
    next["checksum"] = json!("a2");
    let refused = client.post(path, &next).await.expect(501);
    assert!(refused.text.contains("could not be made: No space left on device"), "{refused:?}");
    std::fs::write(&gate, "go\n").unwrap();
    held.answer().await.expect(501);
    client.post(path, &next).await.expect(200);
    // What is mounted in a run's folder is not emptied, and said to be in the way.
    let id = client.post(path, &body("mount")).await.expect(200).deployment();
    let run = client.deployment(&id).await["runs"][0]["id"].as_str().unwrap().to_owned();
    let logs = client.get(&format!("/api/v1/runs/{run}/logs")).await.expect(200).text;
    assert!(logs.contains("could not be removed, and is tried again at the next start"), "{logs}");
    let seen = Path::new("/proc").join(world.server().pid().as_raw_nonzero().to_string()).join("root");
    let precious = seen.join(work.strip_prefix("/").unwrap()).join(run).join("disk/precious");
    assert!(precious.exists(), "{precious:?}");
}

/// Whether a disk can be mounted for some processes alone; says loudly where not.
fn can_mount() -> bool {
    let can = std::process::Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).status();
    let can = can.is_ok_and(|status| status.success());
    if !can {
        assert!(std::env::var_os("CI").is_none(), "no disk can be mounted here");
        eprintln!("NOT TESTED: no disk can be mounted here (it takes unshare, and root)");
    }
    can
}

#[tokio::test]
async fn a_directory_that_can_not_be_entered_is_named() {
    // Root enters everything, unless it is not allowed to overrule rights.
    const LAUNCHER: &[&str] = &["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"];
    let root = rustix::process::getuid().is_root();
    if root && !programs::is_there("setpriv") {
        return;
    }
    let stage = json!({"id": "check", "name": "SCRIPT_RUN", "hook": "pre-rollout", "with": {"run": "true"}});
    let world = World::new().pipeline("podinfo.yaml", &pipeline(&[stage]));
    let mut world = if root { world.launched_by(LAUNCHER) } else { world };
    world.start().await;
    let pipelines = world.path().join("pipelines");
    let rights =
        |mode| std::fs::set_permissions(&pipelines, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    rights(0o600);
    let reply = world.client().flagger("pre-rollout", "Progressing", "a1").await;
    rights(0o700);
    let said = format!(
        "/bin/sh could not be started: permission denied; check that it and the working directory {} are accessible",
        pipelines.display()
    );
    assert!(reply.status == 501 && reply.text.contains(&said), "{reply:?}");
}

#[tokio::test]
async fn no_terminal_is_steered_by_what_a_script_prints() {
    if !programs::is_there("script") {
        return;
    }
    let run = "printf '\\033]0;mine\\007\\033[2Ja\\rb\\tc\\342\\200\\256\\302\\233d\\nlast\\n'; exit 1";
    let stage = json!({"id": "loud", "name": "SCRIPT_RUN", "hook": "pre-rollout", "with": {"run": run}});
    let world = World::with_stages(&[stage]).await;
    let id = world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(501).deployment();
    let run = world.client().deployment(&id).await["runs"][0]["id"].as_str().unwrap().to_owned();
    for (arguments, shows) in [
        (format!("logs {run}"), "\\u{1b}]0;mine\\u{7}\\u{1b}[2Ja\\rb\tc\\u{202e}\\u{9b}d\r\nlast\r\n"),
        (format!("logs -f {run}"), "\\u{1b}]0;mine"),
        (format!("show {run}"), "last"),
        (format!("show {id} --output json"), "last"),
    ] {
        let command =
            format!("{} {arguments} --server http://{}", env!("CARGO_BIN_EXE_stagehook"), world.server().address);
        let shown =
            std::process::Command::new("script").args(["-q", "-e", "-c", &command, "/dev/null"]).output().unwrap();
        let text = String::from_utf8(shown.stdout).unwrap();
        assert!(text.contains(shows), "{arguments}: {text:?}");
        // A terminal writes a line's end in two characters.
        assert!(
            !text.replace("\r\n", "\n").chars().any(|c| !matches!(c, '\n' | '\t') && misleads(c)),
            "{arguments}: {text:?}"
        );
    }
    // Into a pipe it goes as it is.
    let piped = world.command(&["logs", &run]).stdout;
    assert!(piped.starts_with(b"\x1b]0;mine\x07\x1b[2Ja\rb\tc"), "{piped:?}");
    assert!(processes::of(world.path()).iter().all(|process| process.pid == world.server().pid()));
}
