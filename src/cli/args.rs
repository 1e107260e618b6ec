//! What can be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::domain::hook::Hook;
use crate::domain::ids::{DeploymentId, RunId};
use crate::domain::names::{Application, InvalidName, Revision, Source};
use crate::domain::span::Span;
use crate::domain::summary::State;

use super::webhooks::Caller;

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  the answer is no: rejected, pending, not found, in conflict; or the ledger is not sound
  2  the command line, the settings or a pipeline file can't be used; or the service can't start
  3  the server can't be reached

Environment:
  STAGEHOOK_CONFIG   the settings file, as --config
  STAGEHOOK_SERVER   the server that client commands talk to, as --server
  STAGEHOOK_TOKEN    the bearer token of client commands
  STAGEHOOK_CA       the certificates that client commands trust, as --ca
  STAGEHOOK_CLIENT_CERTIFICATE
                     the certificate and key that client commands show, as --client-certificate
  STAGEHOOK_X__Y     the setting x.y, for example STAGEHOOK_SERVER__LISTEN=0.0.0.0:8080";

/// Runs the stages that a rollout calls for, answers its gates, and rolls back what it started.
#[derive(Debug, Parser)]
#[command(name = "stagehook", version, after_help = AFTER_HELP, subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Args {
    /// The settings file, laid over the defaults [env: STAGEHOOK_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the service
    Serve,
    /// Check the settings and the pipelines, and say what is wrong with them
    Check(CheckArgs),
    /// Show what runs on which hook of an application, and what a rollback would replay
    Plan(PlanArgs),
    /// Print what a delivery tool needs to call Stagehook: its webhooks, with timeouts from the pipeline's stages
    Webhooks(WebhooksArgs),
    /// Call a hook as a delivery tool would, and show the answer
    Send(SendArgs),
    /// List the deployments, newest first
    Deployments(ListArgs),
    /// Show one deployment, or one run
    Show(ShowArgs),
    /// Print what a run printed
    Logs(LogsArgs),
    /// Roll a deployment back
    Rollback(RollbackArgs),
    /// Stop a deployment's scripts and roll it back now; or stop the script of one run
    Cancel(CancelArgs),
    /// End a deployment as Abandoned; nothing is replayed
    Close(ChangeArgs),
    /// Let a held stage, or the revision of a rollout that was undone, go on
    Release(ChangeArgs),
    /// Prove the ledger, note where it ends, or copy it
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Print the JSON Schema of pipeline files
    Schema,
    /// Ask the service whether it is ready
    Health(HealthArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum LedgerCommand {
    /// Check every record, pipeline and output against its hash
    Verify(VerifyArgs),
    /// Print where every stream ends: keep it elsewhere, for `verify --against`
    Head(HeadArgs),
    /// Copy the ledger into a file, also while the service runs, and prove the copy
    Backup(BackupArgs),
}

/// How a result is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// Which server.
#[derive(Debug, clap::Args)]
pub(super) struct ServerArgs {
    /// The server's URL; else the configured listen address is asked [env: STAGEHOOK_SERVER]
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// A PEM file with the certificates to trust, of the server itself or of who signed it; no others are then
    /// [env: STAGEHOOK_CA]
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// A PEM file with the certificate to show and its key [env: STAGEHOOK_CLIENT_CERTIFICATE]
    #[arg(long, value_name = "FILE")]
    pub client_certificate: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct PlanArgs {
    /// namespace/name, or cluster:namespace/name
    #[arg(value_name = "APP")]
    pub application: Application,
    /// Who would call
    #[arg(long, default_value = "flagger")]
    pub source: Source,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct WebhooksArgs {
    /// Who is to call
    pub caller: Caller,
    /// The pipeline file: native or PipeCD, with one pipeline or several
    #[arg(long, value_name = "FILE")]
    pub pipeline: PathBuf,
    /// Where the caller reaches the service, for example http://stagehook.stagehook
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// The application, where the pipeline's selector leaves it open, or the file has several pipelines
    #[arg(long = "app", value_name = "APP")]
    pub application: Option<Application>,
}

#[derive(Debug, clap::Args)]
pub(super) struct SendArgs {
    /// Who calls: flagger, generic, argocd or argo-rollouts
    pub source: Source,
    /// The hook: confirm-rollout, pre-rollout, rollout, …; for flagger also event
    #[arg(value_parser = hook)]
    pub hook: String,
    /// namespace/name, or cluster:namespace/name
    #[arg(long = "app", value_name = "APP")]
    pub application: Application,
    /// What is rolled out: Flagger's checksum, a commit, a version
    #[arg(long)]
    pub revision: Option<Revision>,
    /// Flagger's phase; by default the one that it would send with this hook
    #[arg(long, value_parser = PHASES)]
    pub phase: Option<String>,
    /// Undo this deployment (generic rollback only)
    #[arg(long, value_name = "ID")]
    pub deployment: Option<DeploymentId>,
    /// Metadata of the call; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub metadata: Vec<(String, String)>,
    /// How long the server may hold the answer back; else as long as the source's respondWithin
    #[arg(long, value_name = "TIME")]
    pub wait: Option<Span>,
    /// Basic authentication, in place of the bearer token; or write http://NAME:PASSWORD@host as the server
    #[arg(long, value_name = "NAME:PASSWORD")]
    pub user: Option<String>,
    #[command(flatten)]
    pub server: ServerArgs,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

const PHASES: [&str; 10] = [
    "Initializing",
    "Initialized",
    "Waiting",
    "Progressing",
    "WaitingPromotion",
    "Promoting",
    "Finalising",
    "Succeeded",
    "Failed",
    "Terminating",
];

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Only of this application
    #[arg(long = "app", alias = "application", value_name = "APP")]
    pub application: Option<Application>,
    /// Only in this state: Progressing, Succeeded, RollingBack, RolledBack, RollbackFailed, Abandoned
    #[arg(long, value_parser = state)]
    pub state: Option<State>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub limit: u16,
    /// Go on from where the last page ended
    #[arg(long)]
    pub cursor: Option<String>,
    #[command(flatten)]
    pub server: ServerArgs,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// A deployment (dep_…) or a run (run_…)
    pub id: Id,
    #[command(flatten)]
    pub server: ServerArgs,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct LogsArgs {
    /// The run (run_…)
    pub run: RunId,
    /// Go on until the run is over
    #[arg(short, long)]
    pub follow: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct RollbackArgs {
    /// Replay at once, without telling the delivery tool first
    #[arg(long)]
    pub now: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct ChangeArgs {
    /// The deployment (dep_…)
    pub id: DeploymentId,
    #[command(flatten)]
    pub server: ServerArgs,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct CancelArgs {
    /// A deployment (dep_…), or a run (run_…) to stop that script alone
    pub id: Id,
    #[command(flatten)]
    pub server: ServerArgs,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// What `ledger head` printed earlier: proves that nothing was cut since
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct HeadArgs {
    /// The text is for reading; only the JSON can be given to `verify --against`
    #[arg(long, value_enum, default_value_t = Output::Json)]
    pub output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct BackupArgs {
    /// The file to make; it appears once the copy is proven and on the disk
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
    /// The JSON has the head of the copy, for `verify --against`
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct HealthArgs {
    /// Ask only whether it is alive (healthz), not whether it is ready (readyz)
    #[arg(long)]
    pub live: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// The id of a deployment or of a run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Id {
    /// `dep_…`
    Deployment(DeploymentId),
    /// `run_…`
    Run(RunId),
}

impl std::str::FromStr for Id {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("run_") {
            return text.parse().map(Self::Run);
        }
        text.parse().map(Self::Deployment).map_err(|_| {
            InvalidName::new("id", "it is written dep_ (a deployment) or run_ (a run) and 26 letters or digits")
        })
    }
}

fn hook(text: &str) -> Result<String, String> {
    // Flagger's webhook that only tells; the domain knows no such hook.
    if text == "event" || text.parse::<Hook>().is_ok() {
        return Ok(text.to_owned());
    }
    let known: Vec<_> = Hook::ALL.iter().map(|hook| hook.as_str()).collect();
    Err(format!("it is none of {}; for flagger also event", known.join(", ")))
}

fn state(text: &str) -> Result<State, String> {
    let found = State::ALL.into_iter().find(|state| state.as_str().eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("it is none of {}", State::ALL.map(State::as_str).join(", ")))
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it is written key=value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn config_is_taken_before_and_after_the_subcommand() {
        for line in ["stagehook --config a.yaml serve", "stagehook serve --config a.yaml"] {
            let args = Args::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(args.config, Some(PathBuf::from("a.yaml")), "{line}");
        }
        let line = "stagehook ledger --config a.yaml verify";
        assert_eq!(Args::try_parse_from(line.split(' ')).unwrap().config, Some(PathBuf::from("a.yaml")));
    }

    #[test]
    fn slips_are_told_in_words() {
        for (line, part) in [
            ("stagehook plan podinfo", "namespace/name"),
            ("stagehook show dep_1", "26 letters or digits"),
            ("stagehook send flagger prerollout --app a/b", "confirm-rollout"),
            ("stagehook send flagger rollout --app a/b --metadata FAIL", "key=value"),
            ("stagehook deployments --state done", "RolledBack"),
        ] {
            let error = Args::try_parse_from(line.split(' ')).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
