//! `sources.NAME.auth`: what callers must show, and what each of their secrets is for.
//!
//! A secret is a reference when it is read ([`Auth`]), and a value once it is resolved ([`Credentials`]).

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::domain::glob::Glob;
use crate::domain::names::{Cluster, Source};

use super::diagnostic::{Diagnostic, Place};
use super::fields::{Fields, items, text};
use super::secret::{Environment, Secret, SecretError, SecretValue};
use super::yaml::{Node, Value};

/// What callers must show. Of several secrets any is good, so that they can be rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth<S = Secret> {
    /// Open, on purpose.
    None,
    /// HTTP Basic.
    Basic {
        /// The user.
        username: String,
        /// The passwords.
        passwords: Vec<Credential<S>>,
    },
    /// A bearer token.
    Bearer {
        /// The tokens.
        tokens: Vec<Credential<S>>,
    },
    /// A signature over the raw body.
    HmacSha256 {
        /// The keys.
        secrets: Vec<Credential<S>>,
    },
    /// The headers of Standard Webhooks. A value is the bytes that `whsec_…` stands for.
    StandardWebhooks {
        /// The keys.
        secrets: Vec<Credential<S>>,
    },
}

/// The same with the values.
pub type Credentials = Auth<SecretValue>;

/// One secret of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential<S = Secret> {
    /// The setting, for messages: `sources.generic.auth.tokens[0]`.
    pub setting: String,
    /// The secret.
    pub secret: S,
    /// What the ledger calls whoever uses it; else it is its number.
    pub name: Option<String>,
    /// What it is for.
    pub limits: Limits,
}

/// Which applications a credential is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The cluster that all of them are in.
    pub cluster: Option<Cluster>,
    /// The clusters that may be named; without any, all.
    pub clusters: Vec<Glob>,
    /// The namespaces; without any, all.
    pub namespaces: Vec<Glob>,
}

impl Auth {
    /// Every secret, in the order of the settings.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let credentials: &[Credential] = match self {
            Self::None => &[],
            Self::Basic { passwords: list, .. }
            | Self::Bearer { tokens: list }
            | Self::HmacSha256 { secrets: list }
            | Self::StandardWebhooks { secrets: list } => list,
        };
        credentials.iter().map(|credential| &credential.secret)
    }

    /// Reads the values; every one that can't be read is an error.
    pub fn resolve(&self, env: &Environment, errors: &mut Vec<SecretError>) -> Credentials {
        let mut all = |credentials: &[Credential], decode: fn(&[u8]) -> Result<Vec<u8>, String>| {
            let mut resolved = Vec::new();
            for Credential { setting, secret, name, limits } in credentials {
                match secret.resolve_as(env, decode) {
                    Ok(secret) => resolved.push(Credential {
                        setting: setting.clone(),
                        secret,
                        name: name.clone(),
                        limits: limits.clone(),
                    }),
                    Err(error) => errors.push(error),
                }
            }
            resolved
        };
        let plain = |value: &[u8]| Ok(value.to_vec());
        match self {
            Self::None => Auth::None,
            Self::Basic { username, passwords } => {
                Auth::Basic { username: username.clone(), passwords: all(passwords, plain) }
            }
            Self::Bearer { tokens } => Auth::Bearer { tokens: all(tokens, plain) },
            Self::HmacSha256 { secrets } => Auth::HmacSha256 { secrets: all(secrets, plain) },
            Self::StandardWebhooks { secrets } => Auth::StandardWebhooks { secrets: all(secrets, webhook_key) },
        }
    }
}

/// The bytes of a secret of Standard Webhooks. What is wrong with it is said without its text.
fn webhook_key(value: &[u8]) -> Result<Vec<u8>, String> {
    // Its padding is left out by some.
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let key = value.strip_prefix(b"whsec_".as_slice());
    let key = key.and_then(|key| GeneralPurpose::new(&alphabet::STANDARD, config).decode(key).ok());
    key.filter(|key| !key.is_empty()).ok_or_else(|| "it is not written as whsec_ and base64".to_owned())
}

const KINDS: &[(&str, &str)] = &[
    ("none", "none"),
    ("basic", "basic"),
    ("bearer", "bearer"),
    ("hmac-sha256", "hmac-sha256"),
    ("standard-webhooks", "standard-webhooks"),
];

/// Why this kind of authentication would let nobody in, or everybody.
fn unsuitable(source: Source, kind: &str) -> Option<(&'static str, &'static str)> {
    let signed = matches!(kind, "hmac-sha256" | "standard-webhooks");
    match source {
        Source::Flagger | Source::Loadtester if signed => Some((
            "Flagger can't sign its calls, so none would ever pass",
            "use {type: basic, …} with the user and password in the webhook's URL, or {type: none} behind a network \
             policy",
        )),
        source if source.is_never_open() && kind != "hmac-sha256" => Some((
            "GitHub signs its calls, and nothing else proves that they are its own",
            "use {type: hmac-sha256, secrets: [{fromFile: /path}]} with the secret of the webhook",
        )),
        _ => None,
    }
}

/// Reads the `auth` of a source.
pub(super) fn auth(source: Source, node: &Node, faults: &mut Vec<Diagnostic>) -> Option<Auth> {
    let setting = format!("sources.{source}.auth");
    let mut fields = Fields::of(node, &setting, faults)?;
    let Some(kind_at) = fields.get("type") else {
        let fault = Diagnostic::error(&fields.at, format!("{setting}.type is missing"));
        let kinds: Vec<_> = KINDS.iter().map(|(kind, _)| *kind).collect();
        faults.push(fault.hint(format!("it is one of {}", kinds.join(", "))));
        return None;
    };
    let kind = fields.word("type", KINDS, faults)?;
    let auth = match kind {
        "basic" => {
            let name = match fields.get("username") {
                Some(_) => fields.text("username", faults),
                None => needed(&fields, &setting, "username", "flagger", faults),
            };
            let name = name.filter(|name| {
                let fits = !name.contains(':');
                if !fits {
                    faults.push(Diagnostic::error(&fields.place("username"), "a username can't have a colon in it"));
                }
                fits
            });
            let passwords = passwords(&mut fields, &setting, faults);
            name.zip(passwords).map(|(name, passwords)| Auth::Basic { username: name.to_owned(), passwords })
        }
        "bearer" => credentials(&mut fields, "tokens", &setting, faults).map(|tokens| Auth::Bearer { tokens }),
        "hmac-sha256" => {
            credentials(&mut fields, "secrets", &setting, faults).map(|secrets| Auth::HmacSha256 { secrets })
        }
        "standard-webhooks" => {
            credentials(&mut fields, "secrets", &setting, faults).map(|secrets| Auth::StandardWebhooks { secrets })
        }
        _ => Some(Auth::None),
    };
    if let Some((why, hint)) = unsuitable(source, kind) {
        faults.push(Diagnostic::error(&kind_at.at, why).hint(hint));
        return None;
    }
    fields.finish(&setting, faults);
    auth
}

/// Notes that a key is not there. There is no default that it could have.
fn needed<T>(
    fields: &Fields<'_>,
    setting: &str,
    name: &'static str,
    example: &str,
    faults: &mut Vec<Diagnostic>,
) -> Option<T> {
    let fault = Diagnostic::error(&fields.at, format!("{setting}.{name} is missing"));
    faults.push(fault.hint(format!("{name}: {example}")));
    None
}

/// One `password`, or several `passwords`.
fn passwords(fields: &mut Fields<'_>, setting: &str, faults: &mut Vec<Diagnostic>) -> Option<Vec<Credential>> {
    match (fields.get("password"), fields.get("passwords")) {
        (Some(node), None) => Some(vec![credential(node, format!("{setting}.password"), faults)?]),
        (None, Some(_)) => credentials(fields, "passwords", setting, faults),
        (Some(_), Some(second)) => {
            let fault = Diagnostic::error(&second.at, format!("{setting} has both `password` and `passwords`"));
            faults.push(fault.hint("keep `passwords` alone, with all of them"));
            None
        }
        (None, None) => needed(fields, setting, "password", "{fromFile: /path}", faults),
    }
}

fn credentials(
    fields: &mut Fields<'_>,
    name: &'static str,
    setting: &str,
    faults: &mut Vec<Diagnostic>,
) -> Option<Vec<Credential>> {
    let Some(node) = fields.get(name) else { return needed(fields, setting, name, "[{fromFile: /path}]", faults) };
    let nodes = items(node, name, faults)?;
    if nodes.is_empty() {
        let fault = Diagnostic::error(&node.at, format!("{setting}.{name} is empty, so no call would ever pass"));
        faults.push(fault.hint("[{fromFile: /path}] or [{fromEnv: NAME}]"));
        return None;
    }
    let read = nodes.iter().enumerate();
    // Not collected into an Option at once: that would stop at the first fault.
    let read: Vec<_> =
        read.map(|(place, node)| credential(node, format!("{setting}.{name}[{place}]"), faults)).collect();
    let read: Vec<_> = read.into_iter().collect::<Option<_>>()?;
    for (place, Credential { name, .. }) in read.iter().enumerate() {
        let taken = read.iter().take(place).any(|other| name.is_some() && other.name == *name);
        if let (true, Some(name), Some(node)) = (taken, name, nodes.get(place)) {
            let fault = Diagnostic::error(&node.at, format!("the name {name:?} is taken"));
            faults.push(fault.hint("the ledger tells who did what by it"));
        }
    }
    Some(read)
}

/// A secret, and beside it its name and its limits.
fn credential(node: &Node, setting: String, faults: &mut Vec<Diagnostic>) -> Option<Credential> {
    let secret_fields = |node, faults: &mut _| Secret::fields(node, &setting, faults);
    let mut fields = secret_fields(node, faults)?;
    let secret = Secret::read(&mut fields, setting.clone(), faults);
    let name_at = fields.place("name");
    let name = fields.text("name", faults).map(str::to_owned);
    if let Some(why) = name.as_deref().and_then(unfit) {
        faults.push(Diagnostic::error(&name_at, format!("{setting}.name {why}")).hint("name: ci"));
    }
    let cluster = fields.parsed::<Cluster>("cluster", faults);
    let clusters = globs(&mut fields, "clusters", &setting, faults);
    let namespaces = globs(&mut fields, "namespaces", &setting, faults);
    if cluster.is_some() && !clusters.is_empty() {
        let fault =
            Diagnostic::error(&fields.place("clusters"), format!("{setting} has both `cluster` and `clusters`"));
        faults.push(
            fault.hint("`cluster` is the one that all its applications are in; `clusters` are those they may name"),
        );
    }
    fields.finish(&setting, faults);
    Some(Credential { setting, secret: secret?, name, limits: Limits { cluster, clusters, namespaces } })
}

/// What is wrong with the name of a credential.
fn unfit(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > 63 {
        return Some("has 1 to 63 bytes");
    }
    if name.contains(|c: char| c.is_control() || c.is_whitespace() || c == ':') {
        return Some("can't have a colon, a space or a control character in it");
    }
    // Those without a name are called by their number.
    name.bytes().all(|byte| byte.is_ascii_digit()).then_some("can't be a number")
}

/// Globs of which one must match.
fn globs(fields: &mut Fields<'_>, name: &'static str, setting: &str, faults: &mut Vec<Diagnostic>) -> Vec<Glob> {
    let Some(node) = fields.get(name) else { return Vec::new() };
    let nodes = items(node, name, faults).unwrap_or_default();
    if matches!(node.value, Value::Seq(_)) && nodes.is_empty() {
        let fault = Diagnostic::error(&node.at, format!("{setting}.{name} is empty, so no call would ever pass"));
        faults.push(fault.hint("leave it out to limit nothing"));
    }
    let mut globs = Vec::new();
    for node in nodes {
        let Some(text) = text(node, name, faults) else { continue };
        match Glob::new(text) {
            Ok(glob) => globs.push(glob),
            Err(why) => faults.push(Diagnostic::error(&node.at, format!("{setting}.{name} is no glob: {why}"))),
        }
    }
    globs
}

/// A fault of a URL. One with a user may have a password as well, so it is not repeated.
pub(super) fn url_fault(at: &Place, what: &str, url: &str) -> Diagnostic {
    if !url.contains('@') {
        return Diagnostic::error(at, format!("{what}, and it is {url:?}"));
    }
    Diagnostic::error(at, format!("{what}, and there is an @ in it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_secret_is_a_prefix_and_base64() {
        for right in ["whsec_QUJD", "whsec_QUJDRA==", "whsec_QUJDRA"] {
            assert!(webhook_key(right.as_bytes()).unwrap().starts_with(b"ABC"), "{right}");
        }
        for wrong in ["QUJD", "whsec_", "whsec_???", "WHSEC_QUJD", "whsec_ QUJD"] {
            assert_eq!(webhook_key(wrong.as_bytes()).unwrap_err(), "it is not written as whsec_ and base64");
        }
    }
}
