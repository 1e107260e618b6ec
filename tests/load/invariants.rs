//! What must be true of any load: by the journal of the scripts, by the ledger, and by what each Flagger was told.

use std::collections::{BTreeMap, BTreeSet};

use crate::canary::{Canary, Fate, SLOTS, STAGES};
use crate::flagger_sim::Attempt;
use crate::ledger::{Deployment, Run};
use crate::support::journal::Line;
use crate::support::{Reply, World};

/// The text of back-pressure, as it is promised.
pub const TURNED_AWAY: &str = "too many scripts wait for a slot";

/// Everything about a load that is over.
pub struct Load<'a> {
    pub canaries: &'a [Canary],
    pub deployments: &'a BTreeMap<String, Deployment>,
    pub journal: &'a [Line],
    /// Whether the service was stopped or killed meanwhile.
    pub cut: bool,
}

impl Load<'_> {
    /// Everything that holds whatever happened.
    pub fn check(&self, world: &World) {
        self.never_more_scripts_than_slots();
        self.the_journal_is_the_ledger();
        self.what_is_undone_is_what_was_executed();
        self.nothing_goes_forward_beside_a_rollback();
        self.each_ended_as_its_flagger_says();
        self.what_was_approved_was_finished();
        self.back_pressure_is_told_as_promised();
        world.verify();
    }

    fn runs(&self) -> impl Iterator<Item = (&Deployment, &Run)> {
        self.deployments.values().flat_map(|deployment| deployment.runs.iter().map(move |run| (deployment, run)))
    }

    /// By the scripts' own word.
    fn never_more_scripts_than_slots(&self) {
        // One that was cut has no last word; it is dead when the next life of the service starts anything.
        let ends: BTreeSet<_> = self.journal.iter().filter(|line| line.what == "end").map(|line| &line.run).collect();
        let (mut alive, mut most) = (0, 0);
        for line in self.journal.iter().filter(|line| ends.contains(&line.run)) {
            if line.what == "start" {
                alive += 1
            } else {
                alive -= 1
            }
            most = most.max(alive);
        }
        assert!(most <= SLOTS, "{most} scripts at once");
        assert_eq!(alive, 0);
        // Else nothing was measured.
        assert!(self.canaries.len() < 100 || most > SLOTS / 2, "never more than {most} at once");
    }

    fn the_journal_is_the_ledger(&self) {
        let known: BTreeMap<_, _> = self.runs().map(|(deployment, run)| (&run.id, (deployment, run))).collect();
        let mut seen = BTreeMap::new();
        for line in self.journal {
            let (deployment, run) = known.get(&line.run).unwrap_or_else(|| panic!("not in the ledger: {line:?}"));
            let key = if run.rollback { format!("undo.{}", run.stage) } else { run.stage.clone() };
            assert_eq!((&line.deployment, &line.key), (&deployment.id, &key), "{line:?}");
            let expected = if line.what == "start" { 0 } else { 1 };
            let before = seen.insert(&line.run, expected + 1).unwrap_or_default();
            assert_eq!(before, expected, "one run, two processes: {line:?}");
        }
        for (deployment, run) in self.runs() {
            let written = seen.get(&run.id).copied().unwrap_or_default();
            let cut = self.cut && run.outcome == "Interrupted";
            assert!(written == 2 || cut, "{run:?} of {deployment:?} wrote {written} lines");
        }
    }

    fn what_is_undone_is_what_was_executed(&self) {
        for deployment in self.deployments.values() {
            let names = |rollback| {
                let mut names: Vec<_> = deployment.runs(rollback).map(|run| run.stage.as_str()).collect();
                // What was interrupted ran again.
                names.dedup();
                names
            };
            let (executed, undone) = (names(false), names(true));
            let order: Vec<_> = STAGES.iter().map(|(id, _)| *id).filter(|id| executed.contains(id)).collect();
            assert_eq!(executed, order, "{deployment:#?}");
            match deployment.state.as_str() {
                "RolledBack" => assert_eq!(undone, executed, "{deployment:#?}"),
                "Succeeded" => assert!(undone.is_empty(), "{deployment:#?}"),
                other => panic!("{other}: {deployment:#?}"),
            }
        }
    }

    fn nothing_goes_forward_beside_a_rollback(&self) {
        let mut by_name: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (deployment, run) in self.runs() {
            by_name.entry(&deployment.name).or_default().push((deployment, run));
        }
        for (name, mut runs) in by_name {
            runs.sort_by_key(|(_, run)| run.started.0);
            for pair in runs.windows(2) {
                let [(_, before), (_, after)] = pair else { continue };
                // One canary calls one hook after the other, and a rollback waits for what is alive.
                assert!(
                    before.finished.is_some_and(|end| end <= after.started.1),
                    "{name}: {after:?} beside {before:?}"
                );
            }
        }
        let mut alive: BTreeMap<&str, &Line> = BTreeMap::new();
        let owner = |line: &Line| self.deployments[&line.deployment].name.as_str();
        // One that was cut has no last word. That it was dead by then is in its record, above.
        let cut: BTreeSet<_> =
            self.runs().filter(|(_, run)| run.outcome == "Interrupted").map(|(_, run)| &run.id).collect();
        for line in self.journal.iter().filter(|line| !cut.contains(&line.run)) {
            if line.what == "end" {
                alive.remove(owner(line));
            } else if let Some(other) = alive.insert(owner(line), line) {
                panic!("{line:?} beside {other:?}");
            }
        }
    }

    fn each_ended_as_its_flagger_says(&self) {
        let mut by_name: BTreeMap<&str, Vec<&Deployment>> = BTreeMap::new();
        for deployment in self.deployments.values() {
            by_name.entry(&deployment.name).or_default().push(deployment);
        }
        for canary in self.canaries {
            if self.cut && canary.fate == Fate::Requested {
                // The request may come late then, and find the rollout at its end.
                by_name.remove(canary.name.as_str());
                continue;
            }
            let own = by_name.remove(canary.name.as_str()).unwrap_or_default();
            let states: Vec<_> = own.iter().map(|deployment| deployment.state.as_str()).collect();
            assert_eq!(states, canary.fate.ends(), "{} {:?}: {own:#?}", canary.name, canary.fate);
            let executed: BTreeSet<_> = own[0].runs(false).map(|run| run.stage.as_str()).collect();
            assert_eq!(executed, canary.fate.executed().iter().copied().collect(), "{} {:?}", canary.name, canary.fate);
            let ends: Vec<_> = canary.flagger.rollouts.iter().filter_map(|rollout| rollout.end).collect();
            let expected = *states.last().unwrap() == "Succeeded";
            assert!(ends.iter().all(|end| end.succeeded == expected && end.reported), "{ends:?} {own:#?}");
        }
        assert!(by_name.is_empty(), "nobody knows of {by_name:#?}");
    }

    /// A gate is answered 200 only after the records of its stages' ends, and never without them.
    fn what_was_approved_was_finished(&self) {
        for (attempt, reply) in self.answers().filter(|(_, reply)| reply.status == 200) {
            let Some((stage, _)) = STAGES.iter().find(|(_, hook)| *hook == attempt.hook) else { continue };
            let deployment = &self.deployments[&reply.deployment()];
            if deployment.state == "RolledBack" && attempt.hook == "post-rollout" {
                let undone = deployment.runs(true).all(|run| run.finished.is_some_and(|end| end <= attempt.at));
                assert!(undone, "{attempt:?} came before the rollback was over: {deployment:#?}");
                continue;
            }
            let finished = deployment.runs(false).any(|run| {
                run.stage == *stage && run.outcome == "Succeeded" && run.finished.is_some_and(|end| end <= attempt.at)
            });
            assert!(finished, "{attempt:?} before {stage} was over: {deployment:#?}");
        }
    }

    fn back_pressure_is_told_as_promised(&self) {
        for (attempt, reply) in self.answers().filter(|(_, reply)| reply.status == 503) {
            let after: u64 = reply.header("retry-after").unwrap_or_else(|| panic!("{attempt:?}")).parse().unwrap();
            assert!((1..=60).contains(&after), "{attempt:?}");
            if is_turned_away(reply) {
                let refusable = ["confirm-rollout", "pre-rollout", "rollout", "confirm-promotion"];
                assert!(refusable.contains(&attempt.hook), "never to be turned away: {attempt:?}");
            } else {
                assert!(self.cut, "{attempt:?}");
            }
        }
    }

    /// A rollback's script is the next to start wherever a slot comes free: between its turn and its start no more
    /// forward scripts begin than had their slot before.
    pub fn rollbacks_come_first(&self) {
        let mut forward: Vec<_> = self.runs().filter(|(_, run)| !run.rollback).map(|(_, run)| run.started.1).collect();
        forward.sort();
        let mut most = 0;
        for deployment in self.deployments.values() {
            let mut since = deployment.undone_from;
            for step in deployment.runs(true) {
                let between =
                    forward.iter().filter(|at| since.is_some_and(|since| **at > since) && **at < step.started.1);
                most = most.max(between.count());
                since = step.finished;
            }
        }
        println!("forward scripts that began while a rollback waited: at most {most}");
        assert!(most <= SLOTS, "{most} forward scripts began while a rollback waited");
    }

    /// Every attempt that was answered, with its answer.
    pub fn answers(&self) -> impl Iterator<Item = (&Attempt, &Reply)> {
        let attempts = self.canaries.iter().flat_map(|canary| &canary.flagger.attempts);
        attempts.filter_map(|attempt| Some((attempt, attempt.result.as_ref().ok()?)))
    }
}

/// Whether this is back-pressure.
pub fn is_turned_away(reply: &Reply) -> bool {
    reply.status == 503 && reply.text.contains(TURNED_AWAY)
}
