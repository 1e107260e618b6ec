//! What is counted, for Prometheus.
//!
//! Calls are counted here; the ends of runs are told by whoever watches the engine ([`Metrics::run_ended`]), reloads by
//! whoever loads pipelines ([`Metrics::pipelines_reloaded`]). Numbers of the moment are asked of the engine at each scrape.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::State;
use super::problem::Problem;
use crate::domain::call::Verdict;
use crate::domain::names::Source;
use crate::domain::record::Outcome;
use crate::domain::summary;
use crate::engine::Gauges;

/// From an answer out of the ledger to a migration of an hour.
const SECONDS: [f64; 12] = [0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0];

/// The service's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    calls: Family<CallLabels, Counter>,
    call_seconds: Family<HookLabels, Histogram, Buckets>,
    refused: Family<RefusedLabels, Counter>,
    cut: Family<CutLabels, Counter>,
    connections: Number,
    runs: Family<RunLabels, Counter>,
    run_seconds: Family<PurposeLabels, Histogram, Buckets>,
    deployments: Family<StateLabels, Number>,
    pruned: Counter,
    running: Number,
    queued: Number,
    held_calls: Number,
    live_deployments: Number,
    stale_deployments: Number,
    draining: Number,
    reload_ok: Number,
    ledger_writable: Number,
    ledger_damaged: Number,
}

type Number = Gauge<u64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    source: &'static str,
    hook: &'static str,
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookLabels {
    source: &'static str,
    hook: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    source: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CutLabels {
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RunLabels {
    purpose: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PurposeLabels {
    purpose: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(SECONDS)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("stagehook");
        registry.register("build", "The version that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let calls = Family::default();
        registry.register("calls", "Calls that were answered with a verdict", calls.clone());
        let call_seconds = Family::new_with_constructor(Buckets);
        let help = "From a call to its answer";
        registry.register_with_unit("call_duration", help, Unit::Seconds, call_seconds.clone());
        let refused = Family::default();
        registry.register("requests_refused", "Requests that were not served", refused.clone());
        let cut = Family::default();
        registry.register(
            "connections_cut",
            "Connections that were closed for taking too long, or too many",
            cut.clone(),
        );
        let runs = Family::default();
        registry.register("runs", "Runs that are over", runs.clone());
        let run_seconds = Family::new_with_constructor(Buckets);
        let help = "From the start of a run to its proven end";
        registry.register_with_unit("run_duration", help, Unit::Seconds, run_seconds.clone());
        let deployments = Family::default();
        registry.register("deployments", "Deployments in the ledger", deployments.clone());
        let pruned = Counter::default();
        registry.register("deployments_pruned", "Deployments that ledger.retain has removed", pruned.clone());
        let mut number = |name: &'static str, help: &'static str| {
            let gauge = Number::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let running = number("running_scripts", "Scripts that run now");
        let queued = number("queued_scripts", "Scripts that wait for a slot");
        let held_calls = number("held_calls", "Calls that wait for their verdict");
        let live_deployments = number("live_deployments", "Deployments that are not over");
        let stale_deployments = number("stale_deployments", "Live deployments without a call for staleAfter");
        let connections = number("connections", "Connections that are open");
        let draining = number("draining", "1 while the service shuts down");
        let reload_ok =
            number("pipelines_last_reload_successful", "0 when the last reload of the pipelines was refused");
        reload_ok.set(1);
        let ledger_writable = number("ledger_writable", "0 when the last write to the ledger failed");
        let ledger_damaged =
            number("ledger_damaged", "1 once the ledger was found damaged; nothing is recorded or started then");
        Self {
            registry,
            calls,
            call_seconds,
            refused,
            cut,
            connections,
            runs,
            run_seconds,
            deployments,
            pruned,
            running,
            queued,
            held_calls,
            live_deployments,
            stale_deployments,
            draining,
            reload_ok,
            ledger_writable,
            ledger_damaged,
        }
    }
}

impl Metrics {
    pub(super) fn answered(&self, source: Source, hook: &'static str, verdict: Verdict, took: Duration) {
        let (source, verdict) = (source.as_str(), verdict.as_str());
        self.calls.get_or_create(&CallLabels { source, hook, verdict }).inc();
        self.call_seconds.get_or_create(&HookLabels { source, hook }).observe(took.as_secs_f64());
    }

    pub(super) fn refused(&self, source: &'static str, status: u16) {
        self.refused.get_or_create(&RefusedLabels { source, status }).inc();
    }

    pub(super) fn cut(&self, why: &'static str) {
        self.cut.get_or_create(&CutLabels { why }).inc();
    }

    /// A run is over.
    pub fn run_ended(&self, is_rollback: bool, outcome: Outcome, took: Duration) {
        let purpose = if is_rollback { "rollback" } else { "forward" };
        self.runs.get_or_create(&RunLabels { purpose, outcome: outcome.as_str() }).inc();
        self.run_seconds.get_or_create(&PurposeLabels { purpose }).observe(took.as_secs_f64());
    }

    /// The pipelines were loaded again, or were refused and those before stay in force.
    pub fn pipelines_reloaded(&self, accepted: bool) {
        self.reload_ok.set(u64::from(accepted));
    }

    fn scrape(
        &self,
        gauges: Gauges,
        connections: usize,
        draining: bool,
        ledger: LedgerState,
        counts: &[(summary::State, u64)],
    ) -> Result<String, std::fmt::Error> {
        self.running.set(gauges.running as u64);
        self.queued.set(gauges.queued as u64);
        self.held_calls.set(gauges.held_calls as u64);
        self.live_deployments.set(gauges.live_deployments as u64);
        self.stale_deployments.set(gauges.stale_deployments as u64);
        self.connections.set(connections as u64);
        self.draining.set(u64::from(draining));
        self.ledger_writable.set(u64::from(ledger.writable));
        self.ledger_damaged.set(u64::from(ledger.damaged));
        // The engine counts; it never counts down.
        self.pruned.inner().store(gauges.pruned_deployments, std::sync::atomic::Ordering::Relaxed);
        for (state, count) in counts {
            self.deployments.get_or_create(&StateLabels { state: state.as_str() }).set(*count);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// The ledger's condition, as far as it showed.
#[derive(Clone, Copy, Debug)]
struct LedgerState {
    writable: bool,
    damaged: bool,
}

/// `GET /metrics`.
pub(super) async fn show(Shared(state): Shared<State>) -> Response {
    // Without the ledger the other numbers are worth all the more.
    let ledger = state.engine.ledger();
    let counts = ledger.counts().await.unwrap_or_default();
    let ledger = LedgerState { writable: ledger.write_fault().is_none(), damaged: ledger.sound().is_err() };
    match state.metrics.scrape(state.engine.gauges(), state.seats.taken(), state.engine.is_draining(), ledger, &counts)
    {
        Ok(text) => {
            ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
        }
        Err(_) => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written; please report it as a bug")
                .into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let metrics = Metrics::default();
        metrics.answered(Source::Flagger, "pre-rollout", Verdict::Approved, Duration::from_millis(7));
        metrics.refused("api", 401);
        metrics.cut("idle");
        metrics.run_ended(true, Outcome::TimedOut, Duration::from_secs(2));
        metrics.pipelines_reloaded(false);
        let gauges = Gauges { queued: 3, pruned_deployments: 4, ..Gauges::default() };
        let ledger = LedgerState { writable: false, damaged: true };
        let text = metrics.scrape(gauges, 7, true, ledger, &[(summary::State::Succeeded, 5)]).unwrap();
        for line in [
            concat!("stagehook_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            r#"stagehook_calls_total{source="flagger",hook="pre-rollout",verdict="approved"} 1"#,
            r#"stagehook_call_duration_seconds_count{source="flagger",hook="pre-rollout"} 1"#,
            r#"stagehook_requests_refused_total{source="api",status="401"} 1"#,
            r#"stagehook_runs_total{purpose="rollback",outcome="TimedOut"} 1"#,
            r#"stagehook_run_duration_seconds_count{purpose="rollback"} 1"#,
            r#"stagehook_deployments{state="Succeeded"} 5"#,
            r#"stagehook_connections_cut_total{why="idle"} 1"#,
            "stagehook_connections 7",
            "stagehook_queued_scripts 3",
            "stagehook_deployments_pruned_total 4",
            "stagehook_draining 1",
            "stagehook_pipelines_last_reload_successful 0",
            "stagehook_ledger_writable 0",
            "stagehook_ledger_damaged 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|is| is == line), "{line} is missing in:\n{text}");
        }
    }
}
