//! Failpoints: the named places at which a test may end the process, or make a commit fail.
//!
//! They are there with the cargo feature `failpoints` only, which no release build can have; without it [`hit`] and
//! [`fails`] are nothing. What happens where is said by the variable `FAILPOINTS`, read once by each process, with
//! `;` between its parts:
//!
//! - `log=FILE`: each hit is a line of that file, written before anything else happens. Needed: it is also what
//!   hits are counted by, over all processes that share it.
//! - `abort=NAME#N`: at the N-th hit of that name the process is gone, without unwinding and without a core file.
//! - `fail=NAME#N`: the N-th time the place says that what it stands for has failed.
//!
//! A name of its own, since `STAGEHOOK_…` are settings. The supervisors of scripts are handed the variable on
//! purpose ([`handed_on`]); a script never sees it. `tests/crash` walks over all of them, and fails when one in the
//! table is never hit. Deliberately not here: what is right after a crash.

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!("the feature failpoints is for tests: no release build has it");

macro_rules! points {
    ($($point:ident $name:literal $what:literal)*) => {
        /// Every place there is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $(#[doc = $what] $point,)*
        }

        #[cfg(feature = "failpoints")]
        impl Point {
            /// All of them, in the order of a call's way.
            pub const ALL: &[Self] = &[$(Self::$point,)*];

            /// What the variable and the log call it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

points! {
    MigrateBefore "ledger.migrate.before" "The tables are written and not committed."
    MigrateAfter "ledger.migrate.after" "The tables are committed."
    RecoverBefore "recovery.before" "The ledger is open, and nothing of the last life is taken up."
    ProveDeadBefore "recovery.prove-dead.before" "Scripts of the last life may be alive."
    ProveDeadAfter "recovery.prove-dead.after" "They are dead, and nothing says so."
    CleanAfter "recovery.clean.after" "The folders of their runs are gone."
    InterruptedBefore "recovery.interrupted.before" "A script of the last life is about to be recorded as Interrupted."
    InterruptedAfter "recovery.interrupted.after" "It is recorded."
    ResumeBefore "recovery.resume.before" "A stream is about to go on."
    ResumeAfter "recovery.resume.after" "It goes on."
    AdmittedAfter "http.admitted.after" "A call is read and let in, and nobody was told."
    AnswerBefore "http.answer.before" "A call has its answer, which is not rendered."
    AnswerAfter "http.answer.after" "The answer is rendered, and not written."
    WrittenAfter "http.written.after" "A connection is over: what was to be written is."
    OperateBefore "http.operate.before" "A person's request is let in, and nobody was told."
    OperateAfter "http.operate.after" "It is decided, and the person was not told."
    DecidedAfter "engine.decided.after" "A decision is made, and not on its way to the ledger."
    ProbeBefore "ledger.probe.before" "Somebody asks whether the ledger can be written."
    ProbeAfter "ledger.probe.after" "It could."
    CommitBefore "ledger.commit.before" "A transaction is written and not committed. It can be made to fail."
    CommitAfter "ledger.commit.after" "It is committed and nobody knows. It can be said to have failed."
    CommittedAfter "engine.committed.after" "The engine knows that a decision is durable, and has done nothing of it."
    ActedAfter "engine.acted.after" "All that was decided is done, and nobody was woken."
    WakeBefore "engine.wake.before" "A call that waits is about to be told."
    WakeAfter "engine.wake.after" "It was told."
    StartBefore "engine.start.before" "A script is about to be started."
    StartAfter "engine.start.after" "It is with the executor."
    StopBefore "engine.stop.before" "A script is about to be stopped."
    StopAfter "engine.stop.after" "It was asked to stop."
    WaitBefore "engine.wait.before" "A wait's timer is about to be armed."
    WaitAfter "engine.wait.after" "It is armed."
    WaitOver "engine.wait.over" "It is over, and nothing says so."
    SignalBefore "engine.signal.before" "The timer of a signalled rollback is about to be armed."
    SignalAfter "engine.signal.after" "It is armed."
    SignalOver "engine.signal.over" "It is over, and nothing says so."
    QueueBefore "engine.queue.before" "A pass is about to get in line for a slot."
    QueueAfter "engine.queue.after" "It is in line."
    QueueReplayBefore "engine.queue-replay.before" "A replay is about to get in line for a slot."
    QueueReplayAfter "engine.queue-replay.after" "It is in line."
    GrantedAfter "engine.granted.after" "Somebody in line has a slot, and nothing was decided with it."
    UnblockedBefore "engine.unblocked.before" "What a rollback held back is about to go on."
    UnblockedAfter "engine.unblocked.after" "It was asked to."
    FinishBefore "engine.finish.before" "A script is over, and its end is on no way to the ledger."
    FinishAfter "engine.finish.after" "Its end is durable."
    DoubtBefore "engine.doubt.before" "After a commit that may have happened: nothing is put right."
    DoubtAfter "engine.doubt.after" "It is on its way to be put right."
    TellBefore "report.tell.before" "An outcome is about to be told elsewhere."
    TellAfter "report.tell.after" "It was told, and nothing says so."
    TellRecorded "report.recorded.after" "It is recorded as told."
    DirBefore "executor.dir.before" "A run's folder is about to be made."
    DirAfter "executor.dir.after" "It is made."
    SpawnBefore "executor.spawn.before" "A command's supervisor is about to be started."
    SpawnAfter "executor.spawn.after" "It is started, and does not know what to run."
    OrderAfter "executor.order.after" "It was told."
    ReportAfter "executor.report.after" "Its word on the end has come."
    ReapedAfter "executor.reaped.after" "It is reaped."
    ClearBefore "executor.clear.before" "A supervisor was killed: what it leaves is about to be killed."
    ClearAfter "executor.clear.after" "What it left is dead."
    SupervisorBegins "supervisor.begins" "A supervisor has just begun."
    ExecBefore "supervisor.exec.before" "It is about to start the script."
    ExecAfter "supervisor.exec.after" "The script is started."
    KillBefore "supervisor.kill.before" "It is about to kill the script's tree."
    ReportBefore "supervisor.report.before" "The tree is dead, and the service does not know."
    SupervisorEnds "supervisor.ends" "The service was told."
    PruneBefore "retention.step.before" "A step of pruning is about to be taken."
    CondemnAfter "ledger.prune.condemned.after" "A cut may be made, and nothing of it is gone."
    RemoveAfter "ledger.prune.removed.after" "Some of it is removed, and the checkpoint is not where that ends."
    CheckpointAfter "ledger.prune.checkpoint.after" "It is there, and nothing is committed."
    PruneAfter "retention.step.after" "A step is durable, and nobody counts it."
    CutAfter "retention.cut.after" "Nothing is left of a cut, and the next is not looked for."
    DrainBefore "drain.before" "The service was asked to end."
    DrainBegun "drain.begun" "Nothing more is started."
    DrainStopped "drain.stopped" "What was still running is asked to stop."
    DrainAfter "drain.after" "Nothing runs any more."
}

#[cfg(not(feature = "failpoints"))]
mod switched {
    use super::Point;

    /// Nothing.
    #[inline(always)]
    pub const fn hit(_: Point) {}

    /// Never.
    #[inline(always)]
    pub const fn fails(_: Point) -> bool {
        false
    }

    /// Nothing.
    #[inline(always)]
    pub const fn handed_on() -> Option<(&'static str, String)> {
        None
    }
}

#[cfg(feature = "failpoints")]
mod switched {
    use std::fs::OpenOptions;
    use std::io::{Read as _, Write as _};
    use std::path::PathBuf;
    use std::sync::LazyLock;

    use rustix::process::{Signal, getpid, kill_process};

    use super::Point;

    const VARIABLE: &str = "FAILPOINTS";

    static PLAN: LazyLock<Option<Plan>> = LazyLock::new(|| {
        let text = std::env::var(VARIABLE).ok()?;
        // A test that does not say what it means has to fail at once.
        Some(Plan::read(&text).unwrap_or_else(|| panic!("{VARIABLE}={text} is not understood")))
    });

    struct Plan {
        log: PathBuf,
        steps: Vec<(Step, String, usize)>,
    }

    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Step {
        Abort,
        Fail,
    }

    impl Plan {
        fn read(text: &str) -> Option<Self> {
            let (mut log, mut steps) = (None, Vec::new());
            for part in text.split(';') {
                let (word, value) = part.split_once('=')?;
                let step = match word {
                    "log" => {
                        log = Some(PathBuf::from(value));
                        continue;
                    }
                    "abort" => Step::Abort,
                    "fail" => Step::Fail,
                    _ => return None,
                };
                let (name, number) = value.split_once('#')?;
                let known = Point::ALL.iter().any(|point| point.name() == name);
                steps.push((step, known.then(|| name.to_owned())?, number.parse().ok()?));
            }
            Some(Self { log: log?, steps })
        }

        /// Notes a hit; true where this one is to fail.
        fn reached(&self, point: Point) -> std::io::Result<bool> {
            let name = point.name();
            let mut log = OpenOptions::new().read(true).append(true).create(true).open(&self.log)?;
            // Threads and processes count together. Whoever dies here gives the lock back.
            log.lock()?;
            let mut before = String::new();
            log.read_to_string(&mut before)?;
            log.write_all(format!("{name}\n").as_bytes())?;
            let number = before.lines().filter(|line| *line == name).count() + 1;
            let step = self.steps.iter().find(|(_, at, n)| at == name && *n == number).map(|(step, ..)| *step);
            if step == Some(Step::Abort) {
                // SIGKILL and not abort(3): no core file, no handler, no other thread that goes on.
                let _ = kill_process(getpid(), Signal::KILL);
                std::process::abort();
            }
            Ok(step == Some(Step::Fail))
        }
    }

    /// The process has come to a point. It may be its last.
    pub fn hit(point: Point) {
        let _ = fails(point);
    }

    /// As [`hit`]; true where what the point stands for is to fail.
    pub fn fails(point: Point) -> bool {
        let reached = PLAN.as_ref().map_or(Ok(false), |plan| plan.reached(point));
        reached.unwrap_or_else(|error| panic!("the log of {VARIABLE} can't be written: {error}"))
    }

    /// The variable, for this program started again as a supervisor.
    pub fn handed_on() -> Option<(&'static str, String)> {
        Some((VARIABLE, std::env::var(VARIABLE).ok()?))
    }
}

pub use switched::{fails, handed_on, hit};
