//! What a script may do to escape its end, and does not get away with.

use std::time::Duration;

use rustix::process::test_kill_process;
use stagehook::domain::record::Outcome;
use stagehook::executor::StopKind;

use crate::world::{World, is_dead, printed, text};

#[tokio::test]
async fn a_script_that_was_faster_than_the_stop_has_its_own_end() {
    let world = World::with_grace(Duration::from_secs(30));
    // The script is over; what it left ignores everything but the kill.
    let mut running =
        world.start("(trap '' TERM; echo $(exec sh -c 'echo $PPID') > pids; echo up; while :; do sleep 1000; done) & while ! test -s pids; do :; done; exit 0");
    printed(&mut running.output, "up").await;
    let main = loop {
        // The supervisor reaps the script: the rest is then its own child.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", world.pids("pids")[0].as_raw_nonzero())).unwrap();
        let parent: i32 = stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
        let line = std::fs::read_to_string(format!("/proc/{parent}/cmdline")).unwrap_or_default();
        if line.contains("__supervise") {
            break parent;
        }
        tokio::task::yield_now().await;
    };
    assert!(main > 0);
    running.stopper.stop(StopKind::Cancelled("too late".into()));
    let ending = running.done.await.unwrap().ending;
    assert_eq!(ending.outcome, Outcome::Succeeded, "{}", ending.message);
    assert!(ending.message.starts_with("exit code 0; "), "{}", ending.message);
    world.assert_dead("pids", 1);
}

#[tokio::test]
async fn children_that_left_are_found() {
    let world = World::new();
    for (script, count) in [
        // In the background, with the output still open.
        ("nohup sleep 1000 & echo $! > pids", 1),
        // In a session of their own.
        ("setsid sh -c 'echo $$ > pids; echo up > ready; exec sleep 1000' & while ! test -s ready; do :; done", 1),
        // Without a parent and without the marker.
        (
            "(env -i setsid sh -c 'echo $$ > pids; (sleep 1000 & echo $! >> pids); echo up > ready; exec sleep 1000' &); while ! test -s ready; do :; done",
            2,
        ),
        // Deaf to SIGTERM, with closed pipes.
        ("(trap '' TERM; exec >&- 2>&-; exec setsid sleep 1000) & echo $! > pids", 1),
    ] {
        let finished = world.run(script).await;
        assert_eq!(finished.ending.outcome, Outcome::Succeeded, "{script}");
        let message = if count == 1 {
            "exit code 0; 1 process left behind was killed".to_owned()
        } else {
            format!("exit code 0; {count} processes left behind were killed")
        };
        assert_eq!(finished.ending.message, message, "{script}");
        world.assert_dead("pids", count);
        let _ = std::fs::remove_file(world.path("ready"));
    }
}

#[tokio::test]
async fn a_late_writer_may_finish() {
    let world = World::new();
    let mut job = world.job("exec > >(while read -r line; do echo \"log $line\"; done); echo one");
    job.shell = vec!["bash".into(), "-c".into()];
    let finished = world.finish(job).await;
    assert_eq!(text(&finished), "log one\n");
    assert_eq!(finished.ending.message, "exit code 0");
}

#[tokio::test]
async fn a_script_that_stops_itself_is_ended() {
    let world = World::with_grace(Duration::from_secs(30));
    let mut job = world.job("echo $$ > pids; kill -STOP $$");
    job.timeout = Duration::from_millis(300);
    let ending = world.finish(job).await.ending;
    assert_eq!((ending.outcome, ending.signal), (Outcome::TimedOut, Some(15)));
    world.assert_dead("pids", 1);
}

#[tokio::test]
async fn a_script_that_stops_its_supervisor_is_ended() {
    let world = World::new();
    let mut job = world.job("echo $$ > pids; kill -STOP $PPID; sleep 1000");
    job.timeout = Duration::from_millis(300);
    let ending = world.finish(job).await.ending;
    assert_eq!((ending.outcome, ending.signal), (Outcome::TimedOut, Some(15)));
    world.assert_dead("pids", 1);
}

#[tokio::test]
async fn a_signal_to_the_supervisor_ends_the_script_and_not_the_proof() {
    let world = World::new();
    for (signal, ended_by) in [("TERM", 15), ("QUIT", 9)] {
        let ending =
            world.run(&format!("echo $$ > pids; kill -HUP $PPID; kill -{signal} $PPID; sleep 1000")).await.ending;
        assert_eq!((ending.outcome, ending.signal), (Outcome::Failed, Some(ended_by)));
        world.assert_dead("pids", 1);
    }
}

#[tokio::test]
async fn a_script_that_was_told_to_stop_has_not_succeeded() {
    let world = World::new();
    let script = "trap 'echo cleaning up; exit 0' TERM; kill -TERM $PPID; while :; do sleep 0.05; done; echo migrated";
    let ending = world.run(script).await.ending;
    assert_eq!((ending.outcome, ending.exit_code), (Outcome::Failed, Some(0)));
    assert_eq!(
        ending.message,
        "its supervisor was told from outside to stop, by a signal, and stopped the script (exit code 0)"
    );
}

#[tokio::test]
async fn fork_loops_are_ended() {
    let world = World::new();
    for script in [
        "trap '' TERM; f() { setsid sh -c : & f & }; echo $$ > pids; while :; do f; sleep 0.05; done",
        // Each step in a session of its own, and orphaned at once.
        "trap '' TERM; echo 'setsid sh ./step &' > step; echo $$ > pids; sh ./step; sleep 1000",
    ] {
        let mut job = world.job(script);
        job.timeout = Duration::from_millis(300);
        let run = job.run;
        let ending = world.finish(job).await.ending;
        assert_eq!((ending.outcome, ending.signal), (Outcome::TimedOut, Some(9)));
        world.assert_dead("pids", 1);
        assert_eq!(world.executor.prove_dead(&[run]).await, []);
    }
}

#[tokio::test]
async fn runs_leave_each_other_alone() {
    let world = World::new();
    let mut long = world.start("sleep 1000 & echo $! > long; echo up; wait");
    printed(&mut long.output, "up").await;
    let others: Vec<_> = (0..8).map(|_| world.start("sleep 1000 & setsid sleep 1000 & exit 1")).collect();
    for other in others {
        assert_eq!(other.done.await.unwrap().ending.message, "exit code 1; 2 processes left behind were killed");
    }
    assert!(test_kill_process(world.pids("long")[0]).is_ok());
    long.stopper.stop(StopKind::Cancelled("enough".into()));
    assert_eq!(long.done.await.unwrap().ending.outcome, Outcome::Cancelled);
    world.assert_dead("long", 1);
}

#[tokio::test]
async fn a_supervisor_that_is_killed_leaves_nothing() {
    let world = World::new();
    let finished = world.run("sleep 1000 & echo $! > pids; setsid sleep 1000 & echo $! >> pids; echo $$ >> pids; kill -9 $PPID; sleep 1000").await;
    assert_eq!(finished.ending.outcome, Outcome::Failed);
    assert!(
        finished.ending.message.starts_with("the script's supervisor was killed from outside"),
        "{}",
        finished.ending.message
    );
    let pids = world.pids("pids");
    assert_eq!(pids.len(), 3);
    // Adopted by the first process of the machine, the dead may still wait to be reaped.
    for pid in pids {
        assert!(is_dead(pid), "{pid:?}");
    }
}
