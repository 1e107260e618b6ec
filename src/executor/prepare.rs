//! Making a job ready: secrets read, the environment checked, the working directory found.
//!
//! Messages name references and variables, never values. Deliberately starts nothing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::mask::Secrets;
use super::wire::Order;
use crate::domain::pipeline::EnvValue;

/// What `PATH` is when nobody says.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The largest secret that is read; no variable could be larger.
const LARGEST_SECRET: u64 = 128 * 1024;

/// A job's environment with every reference read.
pub struct Resolved {
    /// Names and values.
    pub env: BTreeMap<String, Vec<u8>>,
    /// What must not show.
    pub secrets: Secrets,
}

/// Reads the references and checks every variable; an error is a line for people.
pub fn resolve(env: &[(String, EnvValue)], more_secrets: &[String]) -> Result<Resolved, String> {
    // Only the last of a name counts, so a reference that is overruled is not even read.
    let last: BTreeMap<&String, &EnvValue> = env.iter().map(|(name, value)| (name, value)).collect();
    let mut secrets: Vec<Vec<u8>> = more_secrets.iter().map(|secret| secret.clone().into_bytes()).collect();
    let mut resolved = BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.into())]);
    for (name, value) in last {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!("the environment variable name {name:?} is not valid: rename it"));
        }
        let value = match value {
            EnvValue::Plain(text) => text.clone().into_bytes(),
            EnvValue::FromFile(path) => {
                let bytes = read_secret(Path::new(path))
                    .map_err(|error| format!("{name} could not be read from the file {path}: {error}"))?;
                secrets.push(bytes.clone());
                bytes
            }
            EnvValue::FromEnv(variable) => {
                let value = std::env::var_os(variable).ok_or_else(|| {
                    format!("{name} could not be read: the service's own environment has no {variable}")
                })?;
                let bytes = trimmed(value.as_bytes().to_vec());
                secrets.push(bytes.clone());
                bytes
            }
        };
        if value.contains(&0) {
            return Err(format!("the value of {name} has a NUL byte, which no environment variable can hold"));
        }
        resolved.insert(name.clone(), value);
    }
    Ok(Resolved { env: resolved, secrets: Secrets::new(secrets) })
}

fn read_secret(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe that nobody writes would hold the run for ever, beyond its timeout and any cancel.
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST_SECRET + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_SECRET {
        return Err(io::Error::other(format!("it is larger than {LARGEST_SECRET} bytes")));
    }
    Ok(trimmed(bytes))
}

fn trimmed(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    bytes
}

/// The directory itself, or, where it is gone, the nearest folder above it that is there: a
/// rollback must run even when its pipeline's folder was deleted.
pub fn nearest_directory(directory: &Path) -> PathBuf {
    directory.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_path_buf()
}

/// Where the order's program is, by the script's own `PATH` and directory; nothing where there is none of that name.
fn found(order: &Order) -> Option<PathBuf> {
    let program = Path::new(OsStr::from_bytes(order.argv.first()?));
    let directory = Path::new(OsStr::from_bytes(&order.directory));
    let of_path = order.env.iter().find(|(name, _)| name == b"PATH").map_or(&b""[..], |(_, value)| value);
    let folders: Vec<_> = if order.argv.first()?.contains(&b'/') {
        vec![directory.to_path_buf()]
    } else {
        of_path.split(|byte| *byte == b':').map(|folder| directory.join(OsStr::from_bytes(folder))).collect()
    };
    folders.into_iter().map(|folder| folder.join(program)).find(|path| path.symlink_metadata().is_ok())
}

/// Why a script could not be started, for people.
pub fn why_not_started(order: &Order, errno: i32) -> String {
    let error = Errno::from_raw_os_error(errno);
    let program = order.argv.first().map(|program| String::from_utf8_lossy(program)).unwrap_or_default();
    match error {
        Errno::NOENT | Errno::NOTDIR if found(order).is_some() => format!(
            "{program} could not be started: it is there, but what should run it is not; correct the program that its first \
             line (`#!`) names"
        ),
        Errno::NOENT | Errno::NOTDIR => {
            format!("{program} could not be started: there is no such program here; install it or correct `shell`")
        }
        Errno::ACCESS if found(order).is_some_and(|path| path.is_dir()) => {
            format!("{program} could not be started: it is a folder; correct `shell`")
        }
        Errno::ACCESS => format!(
            "{program} could not be started: permission denied; check that it and the working directory {} are accessible{}",
            String::from_utf8_lossy(&order.directory),
            match &order.credentials {
                Some(credentials) => format!(" to user {} (execution.runAs)", credentials.uid),
                None => String::new(),
            }
        ),
        Errno::AGAIN => format!(
            "{program} could not be started: its user has as many processes as it may (execution.limits.processes, or the \
             system's own limit)"
        ),
        Errno::NOEXEC => format!(
            "{program} could not be started: it is no program of this machine, and has no first line (`#!`) that says what runs it"
        ),
        Errno::TOOBIG => {
            let script = order.argv.iter().map(|argument| ("the script".to_owned(), argument.len()));
            let variables =
                order.env.iter().map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.len()));
            let parts: Vec<_> = script.chain(variables).collect();
            let (count, total) = (parts.len(), parts.iter().map(|(_, length)| length).sum::<usize>());
            let (what, length) = parts.into_iter().max_by_key(|(_, length)| *length).unwrap_or_default();
            format!(
                "{program} could not be started: its arguments and environment are too long for the system; the largest \
                 is {what} with {length} bytes (one may have 131071), of {total} in {count} together: move it to a file, \
                 or send less"
            )
        }
        error => format!("{program} could not be started: {}", io::Error::from(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_masked() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "hunter2\n").unwrap();
        let path = file.to_str().unwrap().to_owned();
        let env = [
            ("A".to_owned(), EnvValue::FromFile("/nowhere".into())),
            ("A".to_owned(), EnvValue::FromFile(path)),
            ("B".to_owned(), EnvValue::FromEnv("CARGO_MANIFEST_DIR".into())),
        ];
        let resolved = resolve(&env, &["other".into()]).unwrap();
        assert_eq!(resolved.env["A"], b"hunter2");
        assert_eq!(resolved.env["PATH"], DEFAULT_PATH.as_bytes());
        // Of the run, not of the build: a shared target directory may hold one from another checkout.
        let line = format!("hunter2 other {}", std::env::var("CARGO_MANIFEST_DIR").unwrap());
        assert_eq!(resolved.secrets.mask_text(&line), "*** *** ***");
    }

    #[test]
    fn messages_name_the_reference() {
        let failed = |name: &str, value| resolve(&[(name.into(), value)], &[]).err().unwrap();
        let message = failed("T", EnvValue::FromFile("/nowhere/token".into()));
        assert!(message.starts_with("T could not be read from the file /nowhere/token: No such file"), "{message}");
        assert!(failed("T", EnvValue::FromEnv("NOT_SET".into())).contains("has no NOT_SET"));
        assert!(failed("T", EnvValue::Plain("a\0b".into())).contains("NUL"));
        assert!(failed("A=B", EnvValue::Plain(String::new())).contains("\"A=B\" is not valid"));
    }

    #[test]
    fn a_secret_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let env = [("T".to_owned(), EnvValue::FromFile(pipe.to_str().unwrap().to_owned()))];
        let message = resolve(&env, &[]).err().unwrap();
        assert!(message.ends_with("it is no regular file"), "{message}");
    }

    #[test]
    fn a_folder_that_is_gone_has_a_nearest() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(nearest_directory(&folder.path().join("gone/too")), folder.path());
        assert_eq!(nearest_directory(Path::new("/nowhere/at/all")), Path::new("/"));
        assert_eq!(nearest_directory(Path::new("")), Path::new("/"));
    }
}
