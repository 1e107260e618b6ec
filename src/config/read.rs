//! From the merged tree to [`Settings`], with every fault noted at the place of its value.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::domain::names::Source;

use super::confinement;
use super::credentials::{self, url_fault};
use super::diagnostic::{Diagnostic, Place};
use super::fields::{Fields, items, text};
use super::github;
use super::layers::Shape;
use super::loadtester::{self, LoadTester};
use super::secret::Secret;
use super::settings::{
    ApiToken, Execution, Ledger, Log, LogFormat, Rollback, Scope, Server, ServerLimits, Settings, SourceSettings,
};
use super::tls::{ClientAuth, Tls};
use super::yaml::{Node, Value};

use Shape::{Leaf, List, Map};

const SECRET: Shape = Map(&[("fromFile", Leaf), ("fromEnv", Leaf)]);
const CREDENTIAL: Shape = Map(&[
    ("fromFile", Leaf),
    ("fromEnv", Leaf),
    ("name", Leaf),
    ("cluster", Leaf),
    ("clusters", List),
    ("namespaces", List),
]);
const AUTH: Shape = Map(&[
    ("type", Leaf),
    ("username", Leaf),
    ("password", CREDENTIAL),
    ("passwords", List),
    ("tokens", List),
    ("secrets", List),
]);
const TLS: Shape = Map(&[("certificate", Leaf), ("key", Leaf), ("clientCa", Leaf), ("clientAuth", Leaf)]);
const SOURCE: Shape = Map(&[
    ("enabled", Leaf),
    ("auth", AUTH),
    ("respondWithin", Leaf),
    ("maxBody", Leaf),
    ("status", Map(&[("rejected", Leaf), ("pending", Leaf)])),
]);

/// Of a source whose callers don't wait for the verdict.
const EVENTS: Shape = Map(&[("enabled", Leaf), ("auth", AUTH), ("maxBody", Leaf)]);

/// Of GitHub, which is told the outcome later.
const GITHUB: Shape = Map(&[
    ("enabled", Leaf),
    ("auth", AUTH),
    ("maxBody", Leaf),
    (
        "api",
        Map(&[
            ("url", Leaf),
            ("token", SECRET),
            ("app", Map(&[("id", Leaf), ("installation", Leaf), ("key", SECRET)])),
        ]),
    ),
]);

/// Of Argo Rollouts, which reads the verdict in the body.
const METRICS: Shape = Map(&[("enabled", Leaf), ("auth", AUTH), ("respondWithin", Leaf), ("maxBody", Leaf)]);

/// Of the load tester.
const COMMANDS: Shape = Map(&[
    ("enabled", Leaf),
    ("auth", AUTH),
    ("respondWithin", Leaf),
    ("maxBody", Leaf),
    ("timeout", Leaf),
    ("allow", List),
]);

/// A day: of less, somebody has mistaken a unit, and history is gone before he sees it.
const SHORTEST_RETAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// Every setting, for the variables.
pub(super) const SHAPE: Shape = Map(&[
    (
        "server",
        Map(&[
            ("listen", Leaf),
            ("shutdownGrace", Leaf),
            ("publicUrl", Leaf),
            ("headerTimeout", Leaf),
            ("bodyTimeout", Leaf),
            ("idleTimeout", Leaf),
            ("writeTimeout", Leaf),
            ("maxHeader", Leaf),
            ("maxConnections", Leaf),
            ("tls", TLS),
        ]),
    ),
    ("ledger", Map(&[("url", Leaf), ("retain", Leaf)])),
    ("pipelines", Leaf),
    ("staleAfter", Leaf),
    ("rollback", Map(&[("signalTimeout", Leaf)])),
    (
        "execution",
        Map(&[
            ("maxConcurrent", Leaf),
            ("queue", Leaf),
            ("defaultTimeout", Leaf),
            ("killGrace", Leaf),
            ("outputLimit", Leaf),
            ("inheritEnv", List),
            ("workDir", Leaf),
            ("runAs", Leaf),
            ("limits", confinement::LIMITS),
        ]),
    ),
    (
        "sources",
        Map(&[
            ("flagger", SOURCE),
            ("generic", SOURCE),
            ("github", GITHUB),
            ("argocd", SOURCE),
            ("argo-rollouts", METRICS),
            ("flux", EVENTS),
            ("loadtester", COMMANDS),
        ]),
    ),
    ("api", Map(&[("tokens", List)])),
    ("log", Map(&[("format", Leaf), ("level", Leaf)])),
]);

const CLIENT_AUTH: &[(&str, ClientAuth)] = &[("required", ClientAuth::Required), ("optional", ClientAuth::Optional)];
const SCOPE: &[(&str, Scope)] = &[("read", Scope::Read), ("operate", Scope::Operate)];
const FORMAT: &[(&str, LogFormat)] = &[("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];

/// Reads all of it; none when a value is missing or at fault.
pub(super) fn settings(root: &Node, faults: &mut Vec<Diagnostic>) -> Option<Settings> {
    let mut fields = Fields::of(root, "settings", faults)?;
    let server = section(&mut fields, "server", faults, server);
    let ledger = section(&mut fields, "ledger", faults, ledger);
    let pipelines = path(&mut fields, "pipelines", faults).or_else(|| missing(&fields, "pipelines", faults));
    let stale_after = fields.span("staleAfter", faults).or_else(|| missing(&fields, "staleAfter", faults));
    let rollback = section(&mut fields, "rollback", faults, |fields, faults| {
        Some(Rollback { signal_timeout: required(fields, "signalTimeout", faults, Fields::span)? })
    });
    let ledger_path = ledger.as_ref().map(|(ledger, _)| ledger.path.clone());
    let execution = section(&mut fields, "execution", faults, |fields, faults| execution(fields, ledger_path, faults));
    let mut load_tester = None;
    let sources = section(&mut fields, "sources", faults, |fields, faults| {
        let open = match &server {
            Some((server, at)) if !server.listen.ip().is_loopback() => Some((server.listen, at.clone())),
            _ => None,
        };
        let mut sources = BTreeMap::new();
        let mut github_api = None;
        for name in Source::ALL {
            if let Some(mut fields) = fields.map(name.as_str(), faults) {
                let settings = source(name, &mut fields, open.as_ref(), faults);
                if name == Source::Github {
                    github_api = github::api(&mut fields, faults);
                }
                if name == Source::Loadtester {
                    let (timeout, allow) = loadtester::read(&mut fields, faults);
                    let timeout = timeout.or_else(|| missing(&fields, "timeout", faults));
                    load_tester = timeout.map(|timeout| LoadTester { timeout, allow });
                }
                fields.finish(&format!("sources.{name}"), faults);
                if let Some(settings) = settings {
                    sources.insert(name, settings);
                }
            }
        }
        Some((sources, github_api?))
    });
    let api_tokens = section(&mut fields, "api", faults, |fields, faults| Some(api_tokens(fields, faults)));
    let log = section(&mut fields, "log", faults, log);
    fields.finish("the settings", faults);
    let (sources, github_api) = sources?;
    Some(Settings {
        server: server?.0,
        ledger: ledger?.0,
        pipelines: pipelines?,
        stale_after: stale_after?,
        rollback: rollback?,
        execution: execution?,
        sources,
        github_api,
        load_tester: load_tester?,
        api_tokens: api_tokens?,
        log: log?,
    })
}

fn section<'n, T>(
    fields: &mut Fields<'n>,
    name: &'static str,
    faults: &mut Vec<Diagnostic>,
    read: impl FnOnce(&mut Fields<'n>, &mut Vec<Diagnostic>) -> Option<T>,
) -> Option<T> {
    let mut section = fields.map(name, faults)?;
    let value = read(&mut section, faults);
    section.finish(name, faults);
    value
}

type Reader<'n, T> = fn(&mut Fields<'n>, &'static str, &mut Vec<Diagnostic>) -> Option<T>;

fn required<'n, T>(
    fields: &mut Fields<'n>,
    name: &'static str,
    faults: &mut Vec<Diagnostic>,
    read: Reader<'n, T>,
) -> Option<T> {
    read(fields, name, faults).or_else(|| missing(fields, name, faults))
}

/// Notes that a value is null, which takes its default away; a fault in it has been noted already.
pub(super) fn missing<T>(fields: &Fields<'_>, name: &'static str, faults: &mut Vec<Diagnostic>) -> Option<T> {
    if fields.is_absent(name) {
        let fault = Diagnostic::error(&fields.place(name), format!("{name} may not be empty"));
        faults.push(fault.hint("leave it out for its default"));
    }
    None
}

fn server(fields: &mut Fields<'_>, faults: &mut Vec<Diagnostic>) -> Option<(Server, Place)> {
    let listen = fields.get("listen");
    let address = required(fields, "listen", faults, Fields::text).and_then(|text| {
        let at = listen.map_or_else(|| fields.at.clone(), |node| node.at.clone());
        let parsed = text.parse::<SocketAddr>();
        if parsed.is_err() {
            let fault =
                Diagnostic::error(&at, format!("server.listen must be an address and a port, and not {text:?}"));
            faults.push(fault.hint("127.0.0.1:8080 listens on loopback, 0.0.0.0:8080 everywhere"));
        }
        parsed.ok().map(|address| (address, at))
    });
    let shutdown_grace = required(fields, "shutdownGrace", faults, Fields::span);
    let tls = section(fields, "tls", faults, tls);
    let public_url = public_url(fields, faults);
    let limits = limits(fields, faults);
    let (listen, at) = address?;
    let server =
        Server { listen, shutdown_grace: shutdown_grace?, public_url: public_url?, limits: limits?, tls: tls? };
    Some((server, at))
}

fn limits(fields: &mut Fields<'_>, faults: &mut Vec<Diagnostic>) -> Option<ServerLimits> {
    let header_timeout = required(fields, "headerTimeout", faults, Fields::span);
    let body_timeout = required(fields, "bodyTimeout", faults, Fields::span);
    let idle_timeout = required(fields, "idleTimeout", faults, Fields::span);
    let write_timeout = required(fields, "writeTimeout", faults, Fields::span);
    let max_header = required(fields, "maxHeader", faults, size).filter(|size| {
        // The lower bound is that of the HTTP library; the upper one is held by every connection at once.
        let fits = (8 << 10..=1 << 20).contains(size);
        if !fits {
            let fault = Diagnostic::error(&fields.place("maxHeader"), "maxHeader must be a size from 8KiB to 1MiB");
            faults.push(fault.hint("64KiB is enough for every caller that is known"));
        }
        fits
    });
    let max_connections =
        required(fields, "maxConnections", faults, |fields, name, faults| fields.number(name, 16..=1_000_000, faults));
    Some(ServerLimits {
        header_timeout: header_timeout?,
        body_timeout: body_timeout?,
        idle_timeout: idle_timeout?,
        write_timeout: write_timeout?,
        max_header: max_header?,
        max_connections: usize::try_from(max_connections?).ok()?,
    })
}

/// The outer option is whether it is sound, the inner whether there is any.
#[expect(clippy::option_option, reason = "the reader of a section gives an option, and none is a value of this one")]
fn tls(fields: &mut Fields<'_>, faults: &mut Vec<Diagnostic>) -> Option<Option<Tls>> {
    let before = faults.len();
    let certificate = path(fields, "certificate", faults);
    let key = path(fields, "key", faults);
    let client_ca = path(fields, "clientCa", faults);
    let client_auth =
        required(fields, "clientAuth", faults, |fields, name, faults| fields.word(name, CLIENT_AUTH, faults))?;
    if faults.len() > before {
        return None;
    }
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some(Some(Tls { certificate, key, client_ca, client_auth })),
        (None, None) if client_ca.is_none() => Some(None),
        (certificate, _) => {
            let (there, missing) = match (certificate, client_ca) {
                (Some(_), _) => ("certificate", "key"),
                (None, Some(_)) => ("clientCa", "certificate"),
                (None, None) => ("key", "certificate"),
            };
            let fault = Diagnostic::error(&fields.place(there), format!("server.tls has {there}, and no {missing}"));
            faults
                .push(fault.hint("{certificate: tls.crt, key: tls.key}, both PEM; or neither of them for plain HTTP"));
            None
        }
    }
}

/// Where it is reached from outside. Null: wherever a caller has reached it.
fn public_url(fields: &mut Fields<'_>, faults: &mut Vec<Diagnostic>) -> Option<Option<String>> {
    let Some(node) = fields.get("publicUrl") else { return Some(None) };
    let told = text(node, "publicUrl", faults)?;
    let parsed = told.parse::<http::Uri>().ok().filter(|uri| {
        let named = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        matches!(uri.scheme_str(), Some("http" | "https")) && named && uri.query().is_none() && !told.contains('#')
    });
    if parsed.is_none() {
        let fault = url_fault(&node.at, "server.publicUrl must be an http or https URL without a user", told);
        faults.push(fault.hint("https://stagehook.example.com, or with a path before /hooks"));
        return None;
    }
    Some(Some(told.trim_end_matches('/').to_owned()))
}

fn ledger(fields: &mut Fields<'_>, faults: &mut Vec<Diagnostic>) -> Option<(Ledger, Place)> {
    let retain_at = fields.place("retain");
    let retain = fields.span("retain", faults);
    let node = fields.get("url");
    let url = required(fields, "url", faults, Fields::text)?;
    let at = node.map_or_else(|| fields.at.clone(), |node| node.at.clone());
    let path = url.strip_prefix("sqlite://").filter(|path| !path.is_empty() && !path.ends_with('/'));
    let Some(path) = path.filter(|path| !path.contains(['?', '#'])) else {
        let fault = Diagnostic::error(&at, "ledger.url must name an SQLite file");
        faults.push(fault.hint("sqlite://data/stagehook.db, or sqlite:///absolute/path.db"));
        return None;
    };
    let path = at.origin.base.join(path);
    if retain.is_some_and(|retain| retain.0 < SHORTEST_RETAIN) {
        let fault = Diagnostic::error(&retain_at, "ledger.retain must be at least 1d: what is pruned is gone");
        faults.push(fault.hint("30d, or 3months; `m` is minutes"));
        return None;
    }
    Some((Ledger { url: url.to_owned(), path, retain }, at))
}

fn path(fields: &mut Fields<'_>, name: &'static str, faults: &mut Vec<Diagnostic>) -> Option<PathBuf> {
    let node = fields.get(name)?;
    text(node, name, faults).map(|text| node.at.origin.base.join(text))
}

fn execution(fields: &mut Fields<'_>, ledger: Option<PathBuf>, faults: &mut Vec<Diagnostic>) -> Option<Execution> {
    let max_concurrent =
        required(fields, "maxConcurrent", faults, |fields, name, faults| fields.number(name, 1..=10_000, faults));
    let queue = required(fields, "queue", faults, |fields, name, faults| fields.number(name, 0..=1_000_000, faults));
    let default_timeout = required(fields, "defaultTimeout", faults, Fields::span);
    let kill_grace = required(fields, "killGrace", faults, Fields::span);
    let output_limit = required(fields, "outputLimit", faults, size);
    let mut inherit_env = Vec::new();
    if let Some(node) = fields.get("inheritEnv") {
        for item in items(node, "inheritEnv", faults).unwrap_or_default() {
            inherit_env.extend(text(item, "inheritEnv", faults).map(str::to_owned));
        }
    }
    let beside = ledger.map(|ledger| ledger.parent().unwrap_or(Path::new("")).join("work"));
    let work_dir = path(fields, "workDir", faults).or(beside);
    let run_as = fields.get("runAs").map(|node| confinement::run_as(node, faults));
    let limits = section(fields, "limits", faults, |fields, faults| Some(confinement::limits(fields, faults)));
    Some(Execution {
        max_concurrent: usize::try_from(max_concurrent?).ok()?,
        queue: usize::try_from(queue?).ok()?,
        default_timeout: default_timeout?,
        kill_grace: kill_grace?,
        output_limit: output_limit?,
        inherit_env,
        work_dir: work_dir?,
        run_as: run_as.map_or(Some(None), |run_as| run_as.map(Some))?,
        limits: limits?,
    })
}

fn source(
    source: Source,
    fields: &mut Fields<'_>,
    open: Option<&(SocketAddr, Place)>,
    faults: &mut Vec<Diagnostic>,
) -> Option<SourceSettings> {
    let enabled = required(fields, "enabled", faults, Fields::boolean);
    let auth =
        match fields.get("auth") {
            Some(node) => Some(credentials::auth(source, node, faults)),
            None => {
                if let (Some((listen, at)), Some(true)) = (open, enabled)
                    && !source.is_never_open()
                {
                    let message = format!("{source} would be open to everyone who reaches {listen}");
                    faults.push(Diagnostic::error(at, message).hint(format!(
                        "set sources.{source}.auth; {{type: none}} there says that it is meant to be open"
                    )));
                }
                None
            }
        };
    let gates = answers_gates(source);
    let respond_within = if gates { fields.span("respondWithin", faults) } else { None };
    let max_body = required(fields, "maxBody", faults, size);
    let status = if gates && !matches!(source, Source::ArgoRollouts | Source::Loadtester) {
        section(fields, "status", faults, |fields, faults| {
            let mut status = |name| {
                let number =
                    required(fields, name, faults, |fields, name, faults| fields.number(name, 400..=599, faults));
                number.and_then(|number| u16::try_from(number).ok())
            };
            Some((status("rejected"), status("pending")))
        })
    } else {
        // The load tester's callers know no other. The others' are never rendered: they wait for no verdict, or read it
        // in the body of a 200.
        Some((Some(if source == Source::Loadtester { 500 } else { 501 }), Some(503)))
    };
    let (rejected, pending) = status?;
    let auth = match auth {
        Some(None) => return None,
        Some(auth) => auth,
        None => None,
    };
    Some(SourceSettings {
        enabled: enabled?,
        auth,
        respond_within,
        max_body: max_body?,
        rejected: rejected?,
        pending: pending?,
    })
}

/// Whether callers of this source wait for a verdict.
const fn answers_gates(source: Source) -> bool {
    match source {
        Source::Flagger | Source::Generic | Source::Argocd | Source::ArgoRollouts | Source::Loadtester => true,
        Source::Github | Source::Flux => false,
    }
}

fn api_tokens(fields: &mut Fields<'_>, faults: &mut Vec<Diagnostic>) -> Vec<ApiToken> {
    let mut tokens: Vec<ApiToken> = Vec::new();
    let nodes = fields.get("tokens").and_then(|node| items(node, "api.tokens", faults)).unwrap_or_default();
    for (index, node) in nodes.iter().enumerate() {
        let setting = format!("api.tokens[{index}]");
        if !matches!(node.value, Value::Map(_)) {
            let fault = Diagnostic::error(&node.at, format!("{setting} must be a map"));
            faults.push(fault.hint("{name: ops, scope: operate, secret: {fromFile: /path}}"));
            continue;
        }
        let Some(mut fields) = Fields::of(node, &setting, faults) else { continue };
        let name = required(&mut fields, "name", faults, Fields::text);
        let scope = required(&mut fields, "scope", faults, |fields, name, faults| fields.word(name, SCOPE, faults));
        let secret = match fields.get("secret") {
            Some(node) => Secret::of(node, format!("{setting}.secret"), faults),
            None => missing(&fields, "secret", faults),
        };
        if let Some(name) = name
            && tokens.iter().any(|token| token.name == name)
        {
            let fault = Diagnostic::error(&fields.place("name"), format!("the token name {name:?} is taken"));
            faults.push(fault.hint("the ledger tells who did what by it"));
        }
        fields.finish(&setting, faults);
        if let (Some(name), Some(scope), Some(secret)) = (name, scope, secret) {
            tokens.push(ApiToken { name: name.to_owned(), scope, secret });
        }
    }
    tokens
}

fn log(fields: &mut Fields<'_>, faults: &mut Vec<Diagnostic>) -> Option<Log> {
    let format = required(fields, "format", faults, |fields, name, faults| fields.word(name, FORMAT, faults));
    let level = required(fields, "level", faults, Fields::text);
    if let Some(text) = level
        && let Err(error) = filter(text)
    {
        let fault = Diagnostic::error(&fields.place("level"), format!("log.level is not understood: {error}"));
        faults.push(fault.hint("it is error, warn, info, debug or trace"));
        return None;
    }
    Some(Log { format: format?, level: level?.to_owned() })
}

/// Whether a text says what is logged. A word alone is a level: the filter would take any other for the name of a module,
/// and with `warning` or `inof` log nothing of all the rest.
fn filter(text: &str) -> Result<(), String> {
    let alone = |part: &&str| !part.is_empty() && !part.contains(['=', '[']);
    for part in text.split(',').map(str::trim).filter(alone) {
        part.parse::<tracing_subscriber::filter::LevelFilter>().map_err(|_| format!("{part:?} is no level"))?;
    }
    tracing_subscriber::EnvFilter::try_new(text).map(drop).map_err(|error| error.to_string())
}

/// A size in bytes: `64KiB`, `1MiB`, or a plain number.
fn size(fields: &mut Fields<'_>, name: &'static str, faults: &mut Vec<Diagnostic>) -> Option<u64> {
    let node = fields.get(name)?;
    let size = match &node.value {
        Value::Scalar { text, .. } => bytes(text),
        _ => None,
    };
    let size = size.filter(|size| (1..=1 << 30).contains(size));
    if size.is_none() {
        let fault = Diagnostic::error(&node.at, format!("{name} must be a size of at most 1GiB"));
        faults.push(fault.hint("it is written like 64KiB or 1MiB"));
    }
    size
}

pub(super) fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let factor: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}
