//! `webhooks`: what to paste into a caller's own configuration, with the timeouts that a pipeline's stages need.
//!
//! One file a caller. Each knows its caller's configuration and nothing of the wire: how a call is read and answered
//! is `source`'s. No server is asked, and no credential is printed: what comes out says where it belongs.
//!
//! In it besides: `times` (how long calls take), `place` (URL and names), `yaml` (text as YAML).

mod argo_rollouts;
mod argocd;
mod flagger;
mod flux;
mod github;
mod place;
mod spinnaker;
mod times;
mod yaml;

use std::path::Path;

use clap::ValueEnum;

use crate::config::one_file::{self, Described};
use crate::domain::github::Rules;
use crate::domain::hook::Hook;
use crate::domain::names::{Application, Source};
use crate::domain::pipeline::Pipeline;

use super::Environment;
use super::args::WebhooksArgs;
use super::failure::Failure;
use super::local;
use super::out::{self, Out};

use place::{Base, Place};
use times::Times;

/// Who is to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Caller {
    /// The `webhooks` of a Canary
    Flagger,
    /// Hook Jobs, and notifications
    Argocd,
    /// An AnalysisTemplate, and notifications
    ArgoRollouts,
    /// A Provider and an Alert
    Flux,
    /// The webhook of a repository
    Github,
    /// Preconfigured webhook stages for Orca
    Spinnaker,
}

impl Caller {
    /// The source that its calls reach.
    const fn source(self) -> Source {
        match self {
            Self::Flagger => Source::Flagger,
            Self::Argocd => Source::Argocd,
            Self::ArgoRollouts => Source::ArgoRollouts,
            Self::Flux => Source::Flux,
            Self::Github => Source::Github,
            Self::Spinnaker => Source::Generic,
        }
    }
}

/// All that is known when a caller's part is written.
struct Wiring<'a> {
    base: &'a Base,
    place: Place,
    times: Times<'a>,
    pipeline: &'a Pipeline,
    /// Which events of GitHub the pipeline maps.
    github: &'a Rules,
    file: &'a Path,
}

impl Wiring<'_> {
    /// The URL of a hook of a source; `wait` is how long the call asks to be held.
    fn url(&self, source: &str, hook: Hook, wait: Option<&str>) -> String {
        self.base.with(&format!("/hooks/{source}/{hook}"), &[("cluster", self.place.cluster()), ("wait", wait)])
    }

    /// What comes behind the URL of a source, where the two are configured apart.
    fn path(&self, hook: Hook) -> String {
        let url = self.url("x", hook, None);
        let source = self.base.with("/hooks/x", &[]);
        url.strip_prefix(&source).unwrap_or(&url).to_owned()
    }

    /// What the comment begins with.
    fn title(&self, what: &str) -> String {
        format!(
            "# {what}, by `stagehook webhooks`\n# for the pipeline {} of {}.\n",
            yaml::comment(&self.pipeline.name),
            yaml::comment(&self.file.display().to_string()),
        )
    }
}

/// Prints what a caller needs for each pipeline of a file, or for the one that is meant for an application.
pub(super) fn webhooks(
    args: &WebhooksArgs,
    config: Option<&Path>,
    environment: &Environment,
    out: &mut Out,
) -> Result<(), Failure> {
    // Not read by clap, which repeats what it refuses: it may hold a password.
    let base: Base = args.url.parse().map_err(|why| Failure::Usage(format!("--url: {why}")))?;
    let file = local::pipeline_file(config, environment, &args.pipeline)?;
    for warning in &file.warnings {
        out::complain(&warning.to_string());
    }
    let meant = meant(args, &file.pipelines)?;
    for (index, described) in meant.into_iter().enumerate() {
        if index > 0 {
            out.line("---")?;
        }
        let wiring = Wiring {
            base: &base,
            place: Place::of(described, args.application.as_ref()),
            times: Times::of(&described.pipeline, file.kill_grace.0),
            pipeline: &described.pipeline,
            github: &described.github,
            file: &args.pipeline,
        };
        let written = written(args.caller, &wiring);
        let open: Vec<_> = place::PLACEHOLDERS.into_iter().filter(|text| written.contains(text)).collect();
        if !open.is_empty() {
            let open = open.join(" and ");
            out.line(format!("# The pipeline's selector leaves {open} open: put the real one in, or give --app."))?;
        }
        out.line(written.trim_end())?;
    }
    Ok(())
}

fn written(caller: Caller, wiring: &Wiring<'_>) -> String {
    match caller {
        Caller::Flagger => flagger::written(wiring),
        Caller::Argocd => argocd::written(wiring),
        Caller::ArgoRollouts => argo_rollouts::written(wiring),
        Caller::Flux => flux::written(wiring),
        Caller::Github => github::written(wiring),
        Caller::Spinnaker => spinnaker::written(wiring),
    }
}

fn meant<'a>(args: &WebhooksArgs, pipelines: &'a [Described]) -> Result<Vec<&'a Described>, Failure> {
    let source = args.caller.source();
    let none = |what: String| Failure::No(format!("no pipeline of {} {what}", args.pipeline.display()));
    match &args.application {
        Some(application) => {
            let selected = one_file::select(pipelines, source, application);
            selected.map(|described| vec![described]).ok_or_else(|| none(selects_no(application, source)))
        }
        None => {
            let told: Vec<_> = pipelines.iter().filter(|described| described.is_told_by(source)).collect();
            if told.is_empty() { Err(none(format!("is for what {source} tells of"))) } else { Ok(told) }
        }
    }
}

fn selects_no(application: &Application, source: Source) -> String {
    format!("selects {application} as told by {source}")
}
