//! The death of the server, of supervisors, and what recovery finds.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit, setrlimit};
use stagehook::domain::ids::RunId;
use stagehook::executor::become_subreaper;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::world::{World, executor_in, is_dead, job, printed, run_id};

/// Names the folder that this test binary shall work in as a server of its own.
const SERVER: &str = "EXECUTOR_TEST_SERVER";

/// No test by itself: what the tests below start as another process, to kill it.
#[tokio::test]
async fn as_a_server() {
    let Some(folder) = std::env::var_os(SERVER).map(PathBuf::from) else { return };
    become_subreaper().unwrap();
    let executor = executor_in(&folder, Duration::from_millis(300));
    let script = std::fs::read_to_string(folder.join("script")).unwrap();
    let mut job = job(&folder, &[&script]);
    job.run = std::fs::read_to_string(folder.join("run")).unwrap().parse().unwrap();
    let mut running = executor.start(job);
    printed(&mut running.output, "up").await;
    std::fs::write(folder.join("ready"), "").unwrap();
    println!("ready");
    let finished = running.done.await.unwrap();
    std::fs::write(folder.join("ending"), finished.ending.message).unwrap();
}

/// Starts a server that runs `script`, and waits until that has printed `up`.
async fn server(world: &World, run: RunId, script: &str) -> tokio::process::Child {
    std::fs::write(world.path("script"), script).unwrap();
    std::fs::write(world.path("run"), run.to_string()).unwrap();
    let mut server = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["server::as_a_server", "--exact", "--nocapture"])
        .env(SERVER, world.folder.path())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains("ready") {
            break;
        }
    }
    server
}

/// Waits for the death of a process.
async fn dead(pid: Pid) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{PidfdFlags, pidfd_open};
    tokio::task::spawn_blocking(move || {
        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
            let timeout = Timespec { tv_sec: 20, tv_nsec: 0 };
            let dead = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).unwrap();
            assert_eq!(dead, 1, "{pid:?} is alive");
        }
    })
    .await
    .unwrap();
}

const TREE: &str = "trap '' TERM; sleep 1000 & echo $! > pids; env -i setsid sleep 1000 & echo $! >> pids; \
    echo $$ >> pids; echo $PPID > supervisor; echo up; while :; do sleep 1000; done";

#[tokio::test]
async fn scripts_do_not_outlive_the_server() {
    let world = World::new();
    let mut server = server(&world, run_id(), TREE).await;
    server.kill().await.unwrap();
    for pid in world.pids("pids").into_iter().chain(world.pids("supervisor")) {
        dead(pid).await;
    }
}

#[tokio::test]
async fn a_server_finds_what_a_dead_supervisor_leaves() {
    let world = World::new();
    let mut server = server(&world, run_id(), TREE).await;
    kill_process(world.pids("supervisor")[0], Signal::KILL).unwrap();
    server.wait().await.unwrap();
    // Also the one that had changed its session and its environment: the server adopted it.
    world.assert_dead("pids", 3);
    let ending = std::fs::read_to_string(world.path("ending")).unwrap();
    assert!(ending.contains("4 of the script's processes"), "{ending}");
}

#[tokio::test]
async fn recovery_proves_a_run_dead() {
    let world = World::new();
    let run = run_id();
    let mut server = server(&world, run, TREE).await;
    // The supervisor must not notice that the server dies: then it is recovery's.
    let supervisor = world.pids("supervisor")[0];
    kill_process(supervisor, Signal::STOP).unwrap();
    server.kill().await.unwrap();
    let found = world.executor.prove_dead(&[run, run_id()]).await;
    assert_eq!(found.iter().map(|left| left.run).collect::<BTreeSet<_>>(), BTreeSet::from([run]));
    assert!(found[0].processes >= 3, "{found:?}");
    for pid in world.pids("pids").into_iter().chain([supervisor]) {
        assert!(is_dead(pid), "{pid:?}");
    }
    assert!(world.path("work").join(run.to_string()).exists());
    world.executor.clean_work_dir().await.unwrap();
    assert!(!world.path("work").join(run.to_string()).exists());
    assert_eq!(world.executor.prove_dead(&[run]).await, []);
}

/// Whoever stops the service meanwhile has to be heard: on this runtime's only thread nothing else would be.
#[tokio::test]
async fn what_is_removed_at_the_start_holds_up_nothing_else() {
    let world = World::new();
    let left = world.path("work").join(run_id().to_string());
    std::fs::create_dir_all(&left).unwrap();
    for n in 0..5_000 {
        std::fs::File::create(left.join(n.to_string())).unwrap();
    }
    let mut clean = std::pin::pin!(world.executor.clean_work_dir());
    tokio::select! {
        biased;
        _ = &mut clean => panic!("all of it was removed before anything else had its turn"),
        () = std::future::ready(()) => {}
    }
    clean.await.unwrap();
    assert!(!left.exists());
}

#[tokio::test]
async fn recovery_finds_scripts_whose_supervisor_is_gone() {
    let world = World::new();
    let run = run_id();
    // What is left when the server and the supervisor died together: only the marker tells.
    let mut orphan = tokio::process::Command::new("sh")
        .args(["-c", "trap '' TERM; env -i sleep 1000 & echo $! > pids; echo $$ >> pids; echo up; wait; sleep 1000"])
        .current_dir(world.folder.path())
        .env("STAGEHOOK_RUN_ID", run.to_string())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    BufReader::new(orphan.stdout.take().unwrap()).lines().next_line().await.unwrap();
    let found = world.executor.prove_dead(&[run]).await;
    orphan.wait().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].processes, 2);
    for pid in world.pids("pids") {
        assert!(is_dead(pid), "{pid:?}");
    }
}

/// Names the run that this test binary shall prove dead, without a descriptor to look with.
const BLIND: &str = "EXECUTOR_TEST_BLIND";

/// No test by itself: what the next one starts as another process, whose limit is its own.
#[tokio::test]
async fn as_a_blind_recovery() {
    let Some(run) = std::env::var(BLIND).ok().map(|run| run.parse().unwrap()) else { return };
    let world = World::new();
    tracing_subscriber::fmt().with_writer(std::io::stdout).init();
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum }).unwrap();
    println!("found {:?}", world.executor.prove_dead(&[run]).await);
}

#[tokio::test]
async fn recovery_does_not_take_for_dead_what_it_cannot_look_at() {
    let run = run_id();
    let mut script =
        tokio::process::Command::new("sleep").arg("1000").env("STAGEHOOK_RUN_ID", run.to_string()).spawn().unwrap();
    let mut recovery = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["server::as_a_blind_recovery", "--exact", "--nocapture"])
        .env(BLIND, run.to_string())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(recovery.stdout.take().unwrap()).lines();
    let mut said = async |wanted: &str| loop {
        let line = lines.next_line().await.unwrap().expect("it ended");
        if line.contains(wanted) {
            return line;
        }
        assert!(!line.contains("found"), "{line}");
    };
    said("can't be looked at").await;
    assert!(script.try_wait().unwrap().is_none());
    let limit = getrlimit(Resource::Nofile);
    let pid = Pid::from_raw(i32::try_from(recovery.id().unwrap()).unwrap());
    prlimit(pid, Resource::Nofile, limit).unwrap();
    let found = said("found").await;
    assert!(found.contains("processes: 1"), "{found}");
    assert!(!script.wait().await.unwrap().success());
    recovery.wait().await.unwrap();
}

#[tokio::test]
async fn recovery_leaves_the_runs_of_others_alone() {
    let worlds = [World::new(), World::new()];
    let runs = [run_id(), run_id()];
    for (world, run) in worlds.iter().zip(runs) {
        let mut server = server(world, run, TREE).await;
        let supervisor = world.pids("supervisor")[0];
        kill_process(supervisor, Signal::STOP).unwrap();
        server.kill().await.unwrap();
        kill_process(supervisor, Signal::KILL).unwrap();
    }
    let [one, other] = &worlds;
    let found = one.executor.prove_dead(&runs[..1]).await;
    assert_eq!(found.iter().map(|left| left.run).collect::<Vec<_>>(), runs[..1]);
    assert!(one.pids("pids").into_iter().all(is_dead));
    assert!(!other.pids("pids").into_iter().any(is_dead), "another run's");
    other.executor.prove_dead(&runs).await;
    assert!(other.pids("pids").into_iter().all(is_dead));
}
