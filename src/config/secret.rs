//! Secrets: a reference in the settings, and the value that it leads to, which never prints.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::diagnostic::Diagnostic;
use super::fields::{Fields, text};
use super::yaml::{Node, Value};

/// How a reference is written.
const REFERENCE: &str = "{fromFile: /path} or {fromEnv: NAME}";

/// The variables of the service, read once and handed in.
pub type Environment = BTreeMap<String, String>;

/// A larger file is no secret but a slip.
const MAX_SECRET: u64 = 64 << 10;

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// The content of a file, without the line break at its end.
    File(PathBuf),
    /// A variable of the environment.
    Variable(String),
}

impl SecretRef {
    /// Whether both lead to the same variable or file, as far as that can be told now.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let real = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path));
        match (self, other) {
            (Self::File(one), Self::File(other)) => {
                one == other || real(one).is_ok_and(|one| real(other).is_ok_and(|other| one == other))
            }
            (Self::Variable(one), Self::Variable(other)) => one == other,
            (Self::File(_), Self::Variable(_)) | (Self::Variable(_), Self::File(_)) => false,
        }
    }
}

/// A secret in the settings: never its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The setting, for messages: `sources.generic.auth.tokens[0]`.
    pub setting: String,
    /// Where it comes from.
    pub reference: SecretRef,
}

impl Secret {
    /// Reads a reference that has no keys beside it.
    pub(super) fn of(node: &Node, setting: String, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        let mut fields = Self::fields(node, &setting, faults)?;
        let what = setting.clone();
        let secret = Self::read(&mut fields, setting, faults);
        fields.finish(&what, faults);
        secret
    }

    /// The keys of a reference. A value in its place is not repeated: it may well be the secret.
    pub(super) fn fields<'n>(node: &'n Node, setting: &str, faults: &mut Vec<Diagnostic>) -> Option<Fields<'n>> {
        if matches!(node.value, Value::Map(_)) {
            return Fields::of(node, setting, faults);
        }
        let fault = Diagnostic::error(&node.at, format!("{setting} must say where the secret comes from"));
        faults.push(fault.hint(REFERENCE));
        None
    }

    /// Reads a reference among other keys.
    pub(super) fn read(fields: &mut Fields<'_>, setting: String, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        let file = fields.get("fromFile").and_then(|node| Some((node, text(node, "fromFile", faults)?)));
        let variable = fields.text("fromEnv", faults);
        let reference = match (file, variable) {
            (Some((node, file)), None) => SecretRef::File(node.at.origin.base.join(file)),
            (None, Some(variable)) => SecretRef::Variable(variable.to_owned()),
            _ => {
                let fault = Diagnostic::error(&fields.at, format!("{setting} is taken from one place"));
                faults.push(fault.hint(REFERENCE));
                return None;
            }
        };
        Some(Self { setting, reference })
    }

    /// Reads the value. May be called again when a secret was rotated; a file is read each time.
    pub fn resolve(&self, env: &Environment) -> Result<SecretValue, SecretError> {
        self.resolve_as(env, |value| Ok(value.to_vec()))
    }

    /// Reads the value, and what it stands for. The decoder says what is wrong without the value in it.
    pub(super) fn resolve_as(
        &self,
        env: &Environment,
        decode: fn(&[u8]) -> Result<Vec<u8>, String>,
    ) -> Result<SecretValue, SecretError> {
        let (from, value) = self.value(env)?;
        let fault = |why| SecretError { setting: self.setting.clone(), from, why };
        if value.is_empty() {
            return Err(fault("it is empty".to_owned()));
        }
        decode(&value).map(SecretValue).map_err(fault)
    }

    /// The value as it stands there, and where that is.
    fn value(&self, env: &Environment) -> Result<(String, Vec<u8>), SecretError> {
        let fault = |from: String, why: String| SecretError { setting: self.setting.clone(), from, why };
        match &self.reference {
            SecretRef::File(path) => {
                let from = format!("the file {}", path.display());
                let value = read(path).map_err(|why| fault(from.clone(), why))?;
                Ok((from, value))
            }
            SecretRef::Variable(name) => {
                let from = format!("the variable {name}");
                let value = env.get(name).ok_or_else(|| fault(from.clone(), "it is not set".to_owned()))?;
                Ok((from, value.clone().into_bytes()))
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = super::file::open(path).map_err(|error| error.to_string())?;
    let mut value = Vec::new();
    file.take(MAX_SECRET + 1).read_to_end(&mut value).map_err(|error| error.to_string())?;
    if value.len() as u64 > MAX_SECRET {
        return Err("it is larger than 64KiB".to_owned());
    }
    // `echo` and editors end a file with a line break that is no part of the secret.
    if value.ends_with(b"\n") {
        value.pop();
        if value.ends_with(b"\r") {
            value.pop();
        }
    }
    Ok(value)
}

/// Why a secret has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret {setting} can't be read from {from}: {why}")]
pub struct SecretError {
    /// The setting.
    pub setting: String,
    /// The file or the variable.
    pub from: String,
    /// What is wrong with it.
    pub why: String,
}

/// The value of a secret. It prints as `***`; comparing it is left to those who do so in constant time:
///
/// ```compile_fail,E0369
/// let value = stagehook::config::secret::SecretValue::new(b"word".to_vec());
/// assert!(value.unwrap() == value.unwrap());
/// ```
#[derive(Clone)]
pub struct SecretValue(Vec<u8>);

impl SecretValue {
    /// Wraps a value that is not empty.
    pub fn new(value: Vec<u8>) -> Option<Self> {
        (!value.is_empty()).then_some(Self(value))
    }

    /// The value itself.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(reference: SecretRef) -> Secret {
        Secret { setting: "api.tokens[0].secret".to_owned(), reference }
    }

    #[test]
    fn a_file_is_read_without_its_last_line_break_and_again_after_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let secret = secret(SecretRef::File(path.clone()));
        for (content, value) in [("one\n", "one"), ("two\r\n", "two"), (" three \n\n", " three \n")] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(secret.resolve(&Environment::new()).unwrap().expose(), value.as_bytes());
        }
    }

    #[test]
    fn an_error_names_the_setting_and_the_place() {
        let missing = secret(SecretRef::File("/nowhere/token".into())).resolve(&Environment::new()).unwrap_err();
        assert!(
            missing.to_string().starts_with(
                "the secret api.tokens[0].secret can't be read from the file /nowhere/token: No such file"
            )
        );
        let env = Environment::from([("EMPTY".to_owned(), String::new())]);
        let variable = |name: &str| secret(SecretRef::Variable(name.to_owned())).resolve(&env).unwrap_err().to_string();
        assert_eq!(variable("T"), "the secret api.tokens[0].secret can't be read from the variable T: it is not set");
        assert!(variable("EMPTY").ends_with("it is empty"));
    }

    #[test]
    fn a_value_never_prints() {
        assert_eq!(format!("{:?}", SecretValue::new(b"hunter2".to_vec())), "Some(***)");
    }
}
