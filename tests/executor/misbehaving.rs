//! Scripts that misbehave: each has its recorded end and a plain message, nothing of it is left alive or on the disk
//! (`World::finish` looks there), and what is kept of it is bounded.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use sha2::Digest as _;
use stagehook::domain::pipeline::EnvValue;
use stagehook::domain::printable::misleads;
use stagehook::domain::record::Outcome;
use stagehook::executor::{Finished, Job, StopKind};

use crate::world::{World, printed, text};

/// What a case expects of a run's ending.
struct Case {
    script: &'static str,
    code: Option<i32>,
    signal: Option<i32>,
    message: &'static str,
    last_line: &'static str,
}

/// A script that ends by itself, with this code.
const fn exits(script: &'static str, code: i32, message: &'static str, last_line: &'static str) -> Case {
    Case { script, code: Some(code), signal: None, message, last_line }
}

/// A script that a signal ends.
const fn is_killed(script: &'static str, signal: i32, message: &'static str) -> Case {
    Case { script, code: None, signal: Some(signal), message, last_line: "" }
}

#[track_caller]
fn assert_is(finished: &Finished, case: &Case) {
    let ending = &finished.ending;
    let outcome = if case.code == Some(0) { Outcome::Succeeded } else { Outcome::Failed };
    assert_eq!(
        (ending.outcome, ending.exit_code, ending.signal, ending.message.as_str(), ending.last_line.as_str()),
        (outcome, case.code, case.signal, case.message, case.last_line),
        "{}\n{}",
        case.script,
        text(finished)
    );
    is_sound(finished);
}

/// What holds of every ending.
#[track_caller]
fn is_sound(finished: &Finished) {
    let ending = &finished.ending;
    let output = ending.output.as_ref().unwrap();
    assert_eq!(output.sha256, hex::encode(sha2::Sha256::digest(&finished.output)));
    assert_eq!(output.kept == output.bytes, !text(finished).contains(" bytes cut …"));
    for line in [&ending.message, &ending.last_line] {
        assert!(!line.chars().any(misleads) && line.chars().count() < 500, "{line:?}");
    }
    let json = serde_json::to_string(ending).unwrap();
    assert_eq!(&serde_json::from_str::<stagehook::domain::record::Ending>(&json).unwrap(), ending);
}

async fn walk(world: &World, cases: &[Case]) {
    for case in cases {
        assert_is(&world.run(case.script).await, case);
    }
}

#[tokio::test]
async fn ends_are_told_as_they_were() {
    let world = World::new();
    walk(
        &world,
        &[
            exits("./nowhere 2>/dev/null", 127, "exit code 127", ""),
            exits(": > file; ./file 2>/dev/null", 126, "exit code 126", ""),
            exits("exit 130", 130, "exit code 130", ""),
            exits("exit 255", 255, "exit code 255", ""),
            // A code is a byte. Some shells refuse more than that.
            exits("(exit 256) && echo it is 0", 0, "exit code 0", "it is 0"),
            exits("kill -0 $$; sh -c 'kill -SEGV $$' 2>/dev/null; exit $?", 139, "exit code 139", ""),
            is_killed("kill -KILL $$", 9, "killed by signal 9 (SIGKILL)"),
            is_killed("ulimit -c 0; kill -SEGV $$", 11, "killed by signal 11 (SIGSEGV)"),
            is_killed("ulimit -c 0; kill -ABRT $$", 6, "killed by signal 6 (SIGABRT)"),
            is_killed("kill -PIPE $$", 13, "killed by signal 13 (SIGPIPE)"),
            is_killed("kill -HUP $$", 1, "killed by signal 1 (SIGHUP)"),
            // Its group is all of it; the supervisor is in another.
            is_killed("sleep 1000 & kill -KILL 0; sleep 1000", 9, "killed by signal 9 (SIGKILL)"),
            is_killed("sleep 1000 & kill -TERM 0; wait", 15, "killed by signal 15 (SIGTERM)"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_last_line_is_one_line_that_can_be_read() {
    let world = World::new();
    walk(
        &world,
        &[
            exits("printf 'no newline'", 0, "exit code 0", "no newline"),
            exits("printf 'one\\r\\ntwo\\r\\n'", 0, "exit code 0", "two"),
            exits("printf '10%%\\r20%%\\r'", 0, "exit code 0", "20%"),
            exits("printf 'a\\000b\\000\\n'", 0, "exit code 0", "ab"),
            exits("printf 'caf\\351 \\377\\n'", 0, "exit code 0", "caf\u{fffd} \u{fffd}"),
            exits("printf '\\033[2J\\033[1;31mred\\033(B\\033[m\\007\\n'", 0, "exit code 0", "red"),
            exits("printf '\\033]0;title\\007\\033]8;;http://x\\033\\\\link\\n'", 0, "exit code 0", "link"),
            // Bidirectional marks, no width, and a separator of lines.
            exits("printf 'a\\342\\200\\256b\\342\\200\\213c\\342\\200\\250d\\n'", 0, "exit code 0", "abcd"),
            exits("echo said; printf '\\n \\t\\n\\033[0m\\n\\000\\n'", 0, "exit code 0", "said"),
            exits("echo to stderr >&2; exit 3", 3, "exit code 3", "to stderr"),
        ],
    )
    .await;
    // Whatever the bytes are.
    let finished = world.run("head -c 200000 /dev/urandom").await;
    assert_eq!(finished.ending.output.as_ref().unwrap().bytes, 200_000);
    is_sound(&finished);
}

#[tokio::test]
async fn lines_without_an_end_are_cut() {
    let world = World::new();
    // A line that is longer than all that is kept, and longer than a message may be.
    let finished = world.run("head -c 10000000 /dev/zero | tr '\\0' x").await;
    let output = finished.ending.output.clone().unwrap();
    assert_eq!((output.bytes, output.kept), (10_000_000, 65_536));
    assert!(text(&finished).contains("x\n… 9934464 bytes cut …\nx"));
    assert_eq!(finished.ending.last_line, "x".repeat(200));
    is_sound(&finished);
}

#[tokio::test]
async fn both_streams_may_flood_and_a_reader_that_does_not_read_holds_nothing_up() {
    let world = World::new();
    // Two writers at once; nobody who follows has read a byte until it is over.
    let running = world.start("yes | head -c 20000000 & head -c 20000000 /dev/zero >&2; wait");
    let view = running.output.clone();
    let finished = running.done.await.unwrap();
    assert_eq!(finished.ending.output.as_ref().unwrap().bytes, 40_000_000);
    is_sound(&finished);
    let (mut at, mut skipped, mut read) = (0, 0, 0);
    loop {
        let piece = view.since(at);
        assert!(piece.bytes.len() <= 64 * 1024, "one piece is {} bytes", piece.bytes.len());
        if piece.next == at {
            break;
        }
        (at, skipped, read) = (piece.next, skipped + piece.skipped, read + piece.bytes.len() as u64);
    }
    assert_eq!((at, read), (40_000_000, 65_536));
    assert_eq!(skipped, 40_000_000 - 65_536);
}

#[tokio::test]
async fn secrets_are_masked_in_a_flood_of_lines() {
    let world = World::new();
    let mut job = world.job("i=0; while [ $i -lt 2000 ]; do printf 'x%s' $SECRET; i=$((i+1)); done; yes \"a $SECRET\" | head -n 200000; yes | head -n 800000");
    job.env.push(("SECRET".into(), EnvValue::FromFile(world.path("secret").to_str().unwrap().into())));
    std::fs::write(world.path("secret"), "hunter2-hunter2").unwrap();
    let finished = world.finish(job).await;
    let output = finished.ending.output.clone().unwrap();
    // Every occurrence is three bytes now, wherever it was cut on its way.
    assert_eq!(output.bytes, 2_000 * 4 + 200_000 * 6 + 800_000 * 2);
    assert!(text(&finished).starts_with("x***x***x***"));
    assert_eq!(finished.ending.last_line, "y");
    assert!(!text(&finished).contains("hunter"));
}

/// What the output costs the service, by how it is cut into lines. In CPU time, so whatever else goes on counts for nothing.
#[tokio::test]
async fn short_lines_cost_hardly_more_than_long_ones() {
    let world = World::new();
    let mut took = Vec::new();
    for script in [
        "head -c 50000000 /dev/zero",
        "yes | head -c 50000000",
        "yes '' | head -c 50000000",
        "yes ' ' | head -c 50000000",
    ] {
        let before = own_cpu();
        let finished = world.run(script).await;
        assert_eq!(finished.ending.output.unwrap().bytes, 50_000_000);
        took.push(own_cpu() - before);
    }
    // The yardstick: to look at each byte once, in this very build.
    let bytes = vec![b' '; 50_000_000];
    let before = own_cpu();
    assert_eq!(std::hint::black_box(&bytes).iter().filter(|byte| **byte == b'\n').count(), 0);
    let once = own_cpu() - before;
    println!(
        "CPU for 50 MB without lines, in lines of a byte, of none, of a space: {took:?} ticks; to look at each byte: {once}"
    );
    assert!(took.iter().all(|ticks| *ticks <= 2 * once + 30), "{took:?} {once} ticks");
}

/// CPU time of this thread so far, in ticks of a hundredth of a second. A test's runtime has no other thread for this.
fn own_cpu() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..=12].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn pipes_may_be_closed_and_files_written_instead() {
    let world = World::new();
    walk(
        &world,
        &[
            exits("echo before; exec >&- 2>&-; sleep 0.3; touch after", 0, "exit code 0", "before"),
            exits("exec >&- 2>&-; sleep 1000 & exit 4", 4, "exit code 4; 1 process left behind was killed", ""),
            exits("exec > file 2>&1; echo into the file; exit 5", 5, "exit code 5", ""),
            exits("exec <&-; cat 2>/dev/null; exit 6", 6, "exit code 6", ""),
        ],
    )
    .await;
    assert!(world.path("after").exists());
    assert_eq!(std::fs::read_to_string(world.path("file")).unwrap(), "into the file\n");
}

#[tokio::test]
async fn what_is_stopped_by_a_signal_is_ended_and_said_to_have_been() {
    let world = World::with_grace(Duration::from_secs(30));
    for (script, message) in [
        ("kill -STOP $$", "timed out after 1s; 1 of its processes had been stopped by a signal (as SIGSTOP)"),
        (
            "sh -c 'kill -TSTP $$' & sh -c 'kill -STOP $$' & wait",
            "timed out after 1s; 2 of its processes had been stopped by a signal (as SIGSTOP)",
        ),
        (
            "sh -c 'kill -STOP $$' & kill -STOP 0",
            "timed out after 1s; 2 of its processes had been stopped by a signal (as SIGSTOP)",
        ),
    ] {
        let mut job = world.job(script);
        job.timeout = Duration::from_secs(1);
        let ending = world.finish(job).await.ending;
        assert_eq!((ending.outcome, ending.signal), (Outcome::TimedOut, Some(15)), "{script}");
        assert_eq!(ending.message, message, "{script}");
    }
    // A cancel says it, too.
    let running = world.start("echo up; kill -STOP $$");
    let supervised = running.output.clone();
    printed(&mut supervised.clone(), "up").await;
    running.stopper.stop(StopKind::Cancelled("by ada".into()));
    assert!(running.done.await.unwrap().ending.message.starts_with("cancelled: by ada"));
}

#[tokio::test]
async fn other_groups_and_sessions_are_no_escape() {
    let world = World::new();
    for (script, message) in [
        (
            "setsid sh -c 'sleep 1000 & sleep 1000' & sleep 0.1; exit 2",
            "exit code 2; 3 processes left behind were killed",
        ),
        ("set -m; sleep 1000 & sleep 1000 & exit 2", "exit code 2; 2 processes left behind were killed"),
        (
            "(trap '' TERM HUP INT; echo up > up; exec sleep 1000) & until [ -s up ]; do :; done; exit 2",
            "exit code 2; 1 process left behind was killed",
        ),
    ] {
        let finished = world.run(script).await;
        assert_eq!(finished.ending.message, message, "{script}");
    }
    // The whole of it in another session, the service's child no more.
    let mut job = world.job("exec setsid -f sh -c 'trap \"\" TERM; echo $$ > pids; while :; do sleep 1000; done'");
    job.shell = vec!["/bin/sh".into(), "-c".into()];
    let finished = world.finish(job).await;
    assert!(finished.ending.message.starts_with("exit code 0"), "{}", finished.ending.message);
    if world.path("pids").exists() {
        world.assert_dead("pids", 1);
    }
}

#[tokio::test]
async fn a_bomb_of_forks_is_ended_at_its_time() {
    let world = World::new();
    // Two hundred at a time, each of which begins the next and is gone. (Many more, or quicker ones, end as well, but keep a
    // small machine from everything else for a minute.)
    let mut job = world.job("trap '' TERM; echo 'sleep 0.2; [ -e stop ] || setsid sh ./step &' > step; i=0; while [ $i -lt 60 ]; do sh ./step & i=$((i+1)); done; wait; sleep 1000");
    job.timeout = Duration::from_secs(1);
    let run = job.run;
    let ending = world.finish(job).await.ending;
    assert_eq!(ending.outcome, Outcome::TimedOut);
    assert_eq!(world.executor.prove_dead(&[run]).await, []);
}

#[tokio::test]
async fn an_outputs_file_is_read_as_what_it_is_and_no_further() {
    let world = World::new();
    std::fs::write(world.path("secret"), "stolen=1\n").unwrap();
    for (script, values, note) in [
        ("echo a=1 > $O; echo a=2 >> $O", 1, ""),
        ("echo a=1 > $O.new; mv $O.new $O", 1, ""),
        ("head -c 1000000 /dev/zero >> $O", 0, "is larger than 65536 bytes"),
        ("echo a=1 > $O; truncate -s 1G $O", 1, "is larger than 65536 bytes"),
        ("i=0; while [ $i -lt 20000 ]; do echo k$i=$i; i=$((i+1)); done > $O", 4_000, "is larger than 65536 bytes"),
        ("yes nothing | head -n 100 > $O", 0, "line 1 and 99 others of the outputs file is left out"),
        ("head -c 300 /dev/zero | tr '\\0' k > $O; echo =1 >> $O", 0, "line 1 of the outputs file is left out"),
        ("printf 'k\\377=1\\n' > $O", 0, "line 1 of the outputs file is left out"),
        ("printf 'k=\\377\\000\\n' > $O", 1, ""),
        ("rm $O", 0, "was removed by the script, so there are no outputs"),
        ("rm -r ${O%/*}", 0, "was removed by the script, so there are no outputs"),
        ("rm $O; mkdir $O", 0, "was replaced by something that is no file, so there are no outputs"),
        ("rm $O; mkfifo $O", 0, "was replaced by something that is no file, so there are no outputs"),
        ("ln -sf /etc/passwd $O", 0, "was replaced by a link, which is not followed, so there are no outputs"),
        ("ln -sf /dev/zero $O", 0, "was replaced by a link, which is not followed, so there are no outputs"),
        ("ln -sf /dev/stdin $O", 0, "was replaced by a link, which is not followed, so there are no outputs"),
        ("ln -f secret $O", 0, "was replaced by a file that has another name, too, which is not read"),
        ("echo x > $STAGEHOOK_EVENT_FILE; echo a=1 > $O", 1, ""),
        ("mkdir -p ${O%/*}/a/b; touch ${O%/*}/a/b/c; chmod 000 ${O%/*}/a/b ${O%/*}/a; echo a=1 > $O", 1, ""),
        ("cd ${O%/*}; i=0; while [ $i -lt 2000 ]; do : > f$i; i=$((i+1)); done; echo a=1 > $O", 1, ""),
        // Something that goes on writing is dead before it is read.
        ("echo a=1 > $O; (while :; do echo b=1; done >> $O) & exit 0", 1, "is larger than 65536 bytes"),
    ] {
        let finished = world.run(&format!("O=$STAGEHOOK_OUTPUT; {script}")).await;
        let ending = &finished.ending;
        assert_eq!(ending.outcome, Outcome::Succeeded, "{script}: {}", text(&finished));
        let enough = if values > 1 {
            ending.outputs.len() >= values
        } else {
            ending.outputs.len() >= values && ending.outputs.len() <= values + 1
        };
        assert!(enough && (values > 0 || ending.outputs.is_empty()), "{script}: {:?}", ending.outputs.len());
        assert!(!ending.outputs.contains_key("stolen"), "{script}");
        let said = text(&finished);
        assert!(if note.is_empty() { said.is_empty() } else { said.contains(note) }, "{script}: {said}");
        is_sound(&finished);
    }
}

#[tokio::test]
async fn each_attempt_finds_the_folder_as_the_first_did() {
    let world = World::new();
    let mut job = world.job(
        "[ $STAGEHOOK_ATTEMPT = 3 ] && { ls -A ${STAGEHOOK_OUTPUT%/*}; cat $STAGEHOOK_EVENT_FILE; exit 0; }; \
         echo forged > $STAGEHOOK_EVENT_FILE; touch ${STAGEHOOK_OUTPUT%/*}/left; ln -s $PWD/mine ${STAGEHOOK_OUTPUT%/*}/output-$((STAGEHOOK_ATTEMPT+1)); \
         [ $STAGEHOOK_ATTEMPT = 1 ] || rm -r ${STAGEHOOK_OUTPUT%/*}; exit 1",
    );
    std::fs::write(world.path("mine"), "mine").unwrap();
    job.retries = 2;
    let finished = world.finish(job).await;
    assert_eq!(finished.ending.outcome, Outcome::Succeeded, "{}", text(&finished));
    assert!(text(&finished).ends_with("event.json\noutput-3\n{\"phase\":\"Failed\"}"), "{}", text(&finished));
    assert_eq!(std::fs::read_to_string(world.path("mine")).unwrap(), "mine");
}

#[tokio::test]
async fn a_folder_that_can_not_be_made_is_an_end_of_its_own_attempt() {
    let world = World::new();
    // The second attempt finds a file where the folders of all runs were.
    let mut job = world.job("W=${STAGEHOOK_OUTPUT%/*/*}; rm -r $W; touch $W; exit 3");
    job.retries = 1;
    let finished = world.executor.start(job).done.await.unwrap();
    let messages: Vec<_> = finished.ending.attempts.iter().map(|attempt| attempt.message.as_str()).collect();
    assert_eq!(messages[0], "exit code 3");
    assert!(
        messages[1].starts_with("the run's folder in ") && messages[1].contains("could not be made"),
        "{messages:?}"
    );
    assert_eq!(finished.ending.message, messages[1]);
}

#[tokio::test]
async fn outputs_that_fit_into_no_variable_keep_nothing_from_running() {
    let world = World::new();
    let mut job = world.job("printf %s \"$STAGEHOOK_OUTPUTS\" | wc -c; printf %s \"$STAGEHOOK_OUTPUTS\" | cut -c 1-20");
    let big = |size: usize| serde_json::json!({"key": "x".repeat(size)});
    job.env.push(("STAGEHOOK_STAGE".into(), EnvValue::Plain("own".into())));
    job.outputs_of_earlier =
        serde_json::json!({"a": big(64_000), "b": big(60_000), "own": big(65_000), "z": {"k": "1"}});
    let finished = world.finish(job).await;
    assert_eq!(finished.ending.outcome, Outcome::Succeeded, "{}", finished.ending.message);
    assert!(text(&finished).contains("STAGEHOOK_OUTPUTS is without the outputs of a: together"), "{}", text(&finished));
    let (b, own) = (r#""b":{"key":""}"#.len() + 60_000, r#""own":{"key":""}"#.len() + 65_000);
    let length = r#"{,,"z":{"k":"1"}}"#.len() + b + own;
    assert!(text(&finished).contains(&format!("\n{length}\n")), "{length}: {}", text(&finished));
}

/// A job with another shell.
fn with_shell(world: &World, shell: &str) -> Job {
    let mut job = world.job("true");
    job.shell = vec![shell.to_owned()];
    job
}

#[tokio::test]
async fn what_can_not_be_started_is_told_why() {
    let world = World::new();
    let path = |name: &str| world.path(name).to_str().unwrap().to_owned();
    let write = |name: &str, text: &str, mode| {
        std::fs::write(world.path(name), text).unwrap();
        std::fs::set_permissions(world.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write("lost", "#!/no/such/interpreter\n", 0o755);
    write("plain", "echo no program", 0o644);
    write("binary", "\u{1}\u{2}\u{3}", 0o755);
    std::fs::create_dir(world.path("folder")).unwrap();
    let mut long = world.job(&"#".repeat(200_000));
    long.env.push(("SMALL".into(), EnvValue::Plain("x".into())));
    let mut many = world.job("true");
    many.env = (0..200).map(|n| (format!("V{n}"), EnvValue::Plain("x".repeat(100_000)))).collect();
    let mut nul = world.job("true");
    std::fs::write(world.path("nul"), "a\0b").unwrap();
    nul.env.push(("TOKEN".into(), EnvValue::FromFile(path("nul"))));
    for (job, message) in [
        (with_shell(&world, "/no/such"), "/no/such could not be started: there is no such program here".to_owned()),
        (with_shell(&world, "no-such"), "no-such could not be started: there is no such program here".to_owned()),
        (with_shell(&world, "/etc/passwd/sh"), "/etc/passwd/sh could not be started: there is no such program here".to_owned()),
        (with_shell(&world, "./lost"), "./lost could not be started: it is there, but what should run it is not".to_owned()),
        (with_shell(&world, &path("plain")), format!("{} could not be started: permission denied", path("plain"))),
        (with_shell(&world, &path("binary")), format!("{} could not be started: it is no program of this machine", path("binary"))),
        (with_shell(&world, "./folder"), "./folder could not be started: it is a folder; correct `shell`".to_owned()),
        (long, "/bin/sh could not be started: its arguments and environment are too long for the system; the largest is the script with 200000 bytes".to_owned()),
        (many, "/bin/sh could not be started: its arguments and environment are too long for the system; the largest is ".to_owned()),
        (nul, "the value of TOKEN has a NUL byte, which no environment variable can hold".to_owned()),
        (world.job("echo a\0b"), "the script has a NUL byte, which no program's argument can hold".to_owned()),
    ] {
        let finished = world.finish(job).await;
        let ending = &finished.ending;
        assert_eq!((ending.outcome, ending.exit_code, ending.signal), (Outcome::Failed, None, None), "{message}");
        assert!(ending.message.starts_with(&message), "{}\nand not {message}", ending.message);
        // And it stands where somebody looks who reads the output.
        assert!(text(&finished).starts_with(&format!("[stagehook] {message}")), "{}", text(&finished));
        assert!(!text(&finished).contains("os error"), "{}", text(&finished));
        is_sound(&finished);
    }
    // What the script itself calls is its shell's to tell.
    let ending = world.run("./lost").await.ending;
    assert_eq!(ending.exit_code, Some(127));
    assert!(!ending.last_line.is_empty());
}
