//! How runs end: codes, signals, timeouts, stops, attempts.

use std::time::Duration;

use sha2::Digest as _;
use stagehook::domain::record::Outcome;
use stagehook::executor::StopKind;

use crate::world::{World, job, printed, text};

#[tokio::test]
async fn a_script_that_succeeds() {
    let finished = World::new().run("echo one; echo two >&2; echo three").await;
    assert_eq!(finished.ending.outcome, Outcome::Succeeded);
    assert_eq!(finished.ending.exit_code, Some(0));
    assert_eq!(text(&finished), "one\ntwo\nthree\n");
    assert_eq!(finished.ending.last_line, "three");
    assert_eq!(finished.ending.attempts.len(), 1);
    let digest = finished.ending.output.unwrap();
    assert_eq!((digest.bytes, digest.kept), (14, 14));
    assert_eq!(digest.sha256, hex::encode(sha2::Sha256::digest(&finished.output)));
}

#[tokio::test]
async fn an_exit_code_and_a_signal() {
    let world = World::new();
    let ending = world.run("echo why; exit 3").await.ending;
    assert_eq!((ending.outcome, ending.exit_code, ending.signal), (Outcome::Failed, Some(3), None));
    assert_eq!((ending.message.as_str(), ending.last_line.as_str()), ("exit code 3", "why"));
    let ending = world.run("kill -9 $$").await.ending;
    assert_eq!((ending.outcome, ending.exit_code, ending.signal), (Outcome::Failed, None, Some(9)));
    assert_eq!(ending.message, "killed by signal 9 (SIGKILL)");
}

#[tokio::test]
async fn a_list_stops_at_its_first_failure() {
    let world = World::new();
    let finished = world.finish(job(world.folder.path(), &["echo a", "echo b; exit 4", "echo c"])).await;
    assert_eq!(finished.ending.message, "exit code 4 (command 2 of 3)");
    assert_eq!(text(&finished), "a\nb\n");
}

#[tokio::test]
async fn a_timeout_kills_what_ignores_it() {
    let world = World::new();
    let mut job = world.job("trap '' TERM; echo $$ > pids; sleep 1000 & echo $! >> pids; wait; sleep 1000");
    job.timeout = Duration::from_millis(300);
    let ending = world.finish(job).await.ending;
    assert_eq!((ending.outcome, ending.signal), (Outcome::TimedOut, Some(9)));
    assert_eq!(ending.message, "timed out after 300ms");
    world.assert_dead("pids", 2);
}

#[tokio::test]
async fn a_timeout_lets_a_script_clean_up() {
    let world = World::with_grace(Duration::from_secs(30));
    let mut job = world.job("trap 'sh -c \"echo cleaned\"; exit 7' TERM; sleep 1000 & wait");
    job.timeout = Duration::from_millis(300);
    let ending = world.finish(job).await.ending;
    assert_eq!((ending.outcome, ending.exit_code), (Outcome::TimedOut, Some(7)));
    assert_eq!(ending.last_line, "cleaned");
}

#[tokio::test]
async fn the_timeout_is_of_all_attempts() {
    let world = World::new();
    let mut job = world.job("echo $STAGEHOOK_ATTEMPT; sleep 0.4; exit 1");
    job.timeout = Duration::from_secs(1);
    job.retries = 10;
    let ending = world.finish(job).await.ending;
    assert_eq!(ending.outcome, Outcome::TimedOut);
    assert!((2..=3).contains(&ending.attempts.len()), "{:?}", ending.attempts);
}

#[tokio::test]
async fn attempts_follow_a_failure() {
    let world = World::new();
    let mut job = world
        .job("echo x >> count; echo n=$STAGEHOOK_ATTEMPT > $STAGEHOOK_OUTPUT; printf try; test $(wc -l < count) = 3");
    job.retries = 5;
    let finished = world.finish(job).await;
    assert_eq!(finished.ending.outcome, Outcome::Succeeded);
    let messages: Vec<_> = finished.ending.attempts.iter().map(|attempt| attempt.message.as_str()).collect();
    assert_eq!(messages, ["exit code 1", "exit code 1", "exit code 0"]);
    assert_eq!(text(&finished), "try\n--- attempt 2 ---\ntry\n--- attempt 3 ---\ntry");
    assert_eq!(finished.ending.outputs["n"], "3");
}

#[tokio::test]
async fn a_stop_cancels_and_is_never_followed_by_an_attempt() {
    let world = World::new();
    let mut job = world.job("echo $$ > pids; echo up; sleep 1000");
    job.retries = 3;
    let mut running = world.executor.start(job);
    printed(&mut running.output, "up").await;
    running.stopper.stop(StopKind::Cancelled("by ada".into()));
    running.stopper.stop(StopKind::Interrupted("too late".into()));
    let ending = running.done.await.unwrap().ending;
    assert_eq!((ending.outcome, ending.signal), (Outcome::Cancelled, Some(15)));
    assert_eq!(ending.message, "cancelled: by ada");
    assert_eq!(ending.attempts.len(), 1);
    world.assert_dead("pids", 1);
}

#[tokio::test]
async fn a_stop_before_the_start_starts_nothing() {
    let world = World::new();
    let running = world.start("touch started");
    running.stopper.stop(StopKind::Interrupted("shutdown".into()));
    let ending = running.done.await.unwrap().ending;
    assert_eq!(ending.outcome, Outcome::Interrupted);
    assert!(!world.path("started").exists());
}
