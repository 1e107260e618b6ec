//! Flagger: the `webhooks` of a Canary's analysis.

use std::fmt::Write as _;

use crate::domain::hook::Hook;

use super::times::{timeout, wait, written as time};
use super::{Wiring, yaml};

const SOURCE: &str = "flagger";

/// How it looks in the Canary.
pub(super) fn written(wiring: &Wiring<'_>) -> String {
    let mut out = wiring.title("Flagger's webhooks (spec.analysis.webhooks of the Canary)");
    out.push_str(HEAD);
    out.push_str("webhooks:\n");
    let times = &wiring.times;
    // In the order in which Flagger calls them.
    call(&mut out, wiring, Hook::ConfirmRollout, "Opens the deployment. Rejected or pending: the canary waits.", None);
    out.push_str("  # A question, asked at every tick: 404 is go on, 200 is roll back. No stage runs here.\n");
    plain(&mut out, wiring, Hook::Rollback.as_str());
    for (hook, what) in [
        (Hook::PreRollout, "Before the first traffic. Rejected, or pending after the retries: a failed check."),
        (Hook::Rollout, "At each step. Rejected, or pending after the retries: a failed check."),
    ] {
        if times.has(hook) {
            call(&mut out, wiring, hook, what, Some(3));
        }
    }
    for (hook, what) in [
        (Hook::ConfirmTrafficIncrease, "Before each step. Rejected or pending: the weight stays, and it asks again."),
        (Hook::ConfirmPromotion, "Before the promotion. Rejected or pending: the analysis goes on, and it asks again."),
    ] {
        if times.has(hook) {
            call(&mut out, wiring, hook, what, None);
        }
    }
    let what = "How it ended, told once: hence the retries. Failed: held until onRollback has been replayed.";
    call(&mut out, wiring, Hook::PostRollout, what, Some(5));
    out.push_str("  # Optional: that an analysis was restarted proves that a revision was superseded.\n");
    plain(&mut out, wiring, "event");
    out
}

const HEAD: &str = "\
# `timeout` is above what the stages of the hook can take: their timeouts (execution.defaultTimeout where they have none of
# their own) with execution.killGrace for each, and their waits. `wait` is a little below it: a call that was held up by
# something else (a rollback of the same application, no free slot) is then answered 503 `pending`, and Flagger need not
# hang up. The script goes on, and the next call joins it.
# `retries` repeats what was pending, or was not answered at all since Stagehook was starting; never a rejection (501).
# Where sources.flagger.auth is set, each url is written http://NAME:PASSWORD@…
";

fn call(out: &mut String, wiring: &Wiring<'_>, hook: Hook, what: &str, retries: Option<u8>) {
    let busy = if hook == Hook::PostRollout { wiring.times.end() } else { wiring.times.forward(hook) };
    let url = wiring.url(SOURCE, hook, Some(&time(wait(busy))));
    let _ = writeln!(out, "  # {what}");
    let _ = writeln!(out, "  - name: stagehook-{hook}\n    type: {hook}\n    url: {}", yaml::quoted(&url));
    let _ = writeln!(out, "    timeout: {}", time(timeout(busy)));
    if let Some(retries) = retries {
        let _ = writeln!(out, "    retries: {retries}");
    }
}

/// What is answered at once, from what is known.
fn plain(out: &mut String, wiring: &Wiring<'_>, hook: &str) {
    let url = wiring.base.with(&format!("/hooks/{SOURCE}/{hook}"), &[("cluster", wiring.place.cluster())]);
    let _ = writeln!(out, "  - name: stagehook-{hook}\n    type: {hook}\n    url: {}", yaml::quoted(&url));
    out.push_str("    timeout: 10s\n");
}
