//! What a script finds when it starts, and what is kept of what it prints.

use stagehook::domain::pipeline::EnvValue;
use stagehook::domain::record::Outcome;

use crate::world::{World, text};

#[tokio::test]
async fn what_can_not_be_started_says_what_to_do() {
    let world = World::new();
    let mut missing = world.job("true");
    missing.shell = vec!["no-such-shell".into()];
    let ending = world.finish(missing).await.ending;
    assert_eq!(ending.outcome, Outcome::Failed);
    assert!(
        ending.message.contains("no-such-shell could not be started: there is no such program"),
        "{}",
        ending.message
    );

    let mut long = world.job("true");
    long.env.push(("BIG".into(), EnvValue::Plain("x".repeat(200_000))));
    let ending = world.finish(long).await.ending;
    assert!(ending.message.contains("the largest is BIG with 200000 bytes"), "{}", ending.message);

    let mut secret = world.job("true");
    secret.env.push(("TOKEN".into(), EnvValue::FromFile("/nowhere/token".into())));
    let finished = world.finish(secret).await;
    assert!(finished.ending.message.contains("TOKEN could not be read from the file /nowhere/token"));
    assert!(text(&finished).contains("/nowhere/token"));
}

#[tokio::test]
async fn a_folder_that_is_gone_keeps_nothing_from_running() {
    let world = World::new();
    let mut gone = world.job("pwd");
    gone.directory = world.path("gone/too").to_str().unwrap().into();
    let finished = world.finish(gone).await;
    assert_eq!(finished.ending.outcome, Outcome::Succeeded);
    assert!(text(&finished).contains("gone/too is gone; running in"), "{}", text(&finished));
    assert_eq!(finished.ending.last_line, world.folder.path().to_str().unwrap());
}

#[tokio::test]
async fn the_environment_is_the_job_s_and_nothing_else() {
    let world = World::new();
    let mut env = world.job("env | sort; cat $STAGEHOOK_EVENT_FILE; grep Sig[BI] /proc/self/status; stat -c %a $(dirname $STAGEHOOK_OUTPUT)");
    env.env = vec![
        ("A".into(), EnvValue::Plain("1".into())),
        ("A".into(), EnvValue::Plain("2".into())),
        ("STAGEHOOK_RUN_ID".into(), EnvValue::Plain("mine".into())),
    ];
    let run = env.run;
    let text = text(&world.finish(env).await);
    let names: Vec<_> = text.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let known = [
        "A",
        "PATH",
        "PWD",
        "STAGEHOOK_ATTEMPT",
        "STAGEHOOK_EVENT_FILE",
        "STAGEHOOK_OUTPUT",
        "STAGEHOOK_OUTPUTS",
        "STAGEHOOK_RUN_ID",
    ];
    // Some shells add these.
    let own = ["OLDPWD", "SHLVL", "_"];
    assert_eq!(names.into_iter().filter(|name| !own.contains(name)).collect::<Vec<_>>(), known);
    assert!(text.contains("\nA=2\n") || text.starts_with("A=2\n"));
    assert!(text.contains("STAGEHOOK_ATTEMPT=1\n"));
    assert!(text.contains(&format!("STAGEHOOK_RUN_ID={run}\n")));
    assert!(text.contains(r#"STAGEHOOK_OUTPUTS={"build":{"image":"a:1"}}"#));
    assert!(text.contains(r#"{"phase":"Failed"}"#));
    // No ordinary signal is blocked or ignored, and the folder is private.
    for mask in ["SigBlk:\t", "SigIgn:\t"] {
        let mask = text.split(mask).nth(1).unwrap().lines().next().unwrap();
        assert_eq!(u64::from_str_radix(mask, 16).unwrap() & 0x7fff_ffff, 0, "{text}");
    }
    assert!(text.ends_with("700\n"));
}

#[tokio::test]
async fn any_output_is_bounded() {
    let world = World::new();
    let finished = world.run("echo begin; head -c 268435456 /dev/zero; echo; echo end").await;
    assert_eq!(finished.ending.outcome, Outcome::Succeeded);
    let digest = finished.ending.output.clone().unwrap();
    assert_eq!((digest.bytes, digest.kept), (268_435_456 + 11, 65_536));
    assert!(finished.output.len() < 66_000);
    assert!(text(&finished).starts_with("begin\n"));
    assert!(text(&finished).contains("\n… 268369931 bytes cut …\n"));
    assert_eq!(finished.ending.last_line, "end");
}

#[tokio::test]
async fn secrets_are_masked_everywhere() {
    let world = World::new();
    std::fs::write(world.path("token"), "s3cret-token\n").unwrap();
    let mut job = world.job("printf 'is s3cret-'; sleep 0.05; printf 'token\n'; echo v=x-$TOKEN- > $STAGEHOOK_OUTPUT; echo bad >> $STAGEHOOK_OUTPUT; exit 1");
    job.env.push(("TOKEN".into(), EnvValue::FromFile(world.path("token").to_str().unwrap().into())));
    let finished = world.finish(job).await;
    assert!(
        text(&finished).starts_with("is ***\n[stagehook] line 2 of the outputs file is left out"),
        "{}",
        text(&finished)
    );
    assert_eq!(finished.ending.last_line, "is ***");
    assert_eq!(finished.ending.outputs["v"], "x-***-");
    assert!(!format!("{:?}", finished.ending).contains("s3cret"));
}
