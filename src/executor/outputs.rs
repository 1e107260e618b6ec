//! The file in which a script leaves its outputs: `key=value` lines.
//!
//! Deliberately nothing fancier: no quoting, no values of several lines. A bad line is told and
//! left out; it never fails a run.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::mask::Secrets;

/// The most that is read of the file.
pub const LIMIT: usize = 64 * 1024;
/// The longest key.
const LONGEST_KEY: usize = 255;

const REPLACED: &str = "the outputs file was replaced by something that is no file";

/// The outputs that a script left, and what is to be said about the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// The outputs; values masked.
    pub values: BTreeMap<String, String>,
    /// What was left out, one line each.
    pub notes: Vec<String>,
}

/// Reads the file that the script had; it may have made anything of it.
pub fn read(path: &Path, secrets: &Secrets) -> Outputs {
    match read_bounded(path) {
        Ok(bytes) => parse(&bytes, secrets),
        Err(why) => Outputs { values: BTreeMap::new(), notes: vec![format!("{why}, so there are no outputs")] },
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let could_not = |error: io::Error| format!("the outputs file could not be read: {error}");
    // Neither a link to some other file nor a pipe that nobody writes.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file =
        OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => "the outputs file was removed by the script".to_owned(),
            Some(libc::ELOOP) => "the outputs file was replaced by a link, which is not followed".to_owned(),
            Some(libc::ENXIO) => REPLACED.to_owned(),
            _ => could_not(error),
        })?;
    let metadata = file.metadata().map_err(could_not)?;
    if !metadata.is_file() {
        return Err(REPLACED.to_owned());
    }
    // The service may be able to read files that the script's user can't, and can only link to.
    if metadata.nlink() > 1 {
        return Err("the outputs file was replaced by a file that has another name, too, which is not read".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(LIMIT as u64 + 1).read_to_end(&mut bytes).map_err(could_not)?;
    Ok(bytes)
}

pub(super) fn parse(mut bytes: &[u8], secrets: &Secrets) -> Outputs {
    let mut outputs = Outputs::default();
    if bytes.len() > LIMIT {
        // The last complete line within the limit.
        let end = bytes[..LIMIT].iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        bytes = &bytes[..end];
        outputs.notes.push(format!("the outputs file is larger than {LIMIT} bytes; the rest of it is left out"));
    }
    let mut bad = Vec::new();
    let mut left_out = Vec::new();
    let mut size = 0;
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        // The line as a whole: a secret may hold the `=`, as one that is base64 often ends with it.
        let masked = secrets.mask(line);
        let at = line.iter().position(|byte| *byte == b'=').map_or(0, |at| at + 1);
        // A key is not masked but refused where it holds a secret: two of them could become one.
        let value = masked.strip_prefix(&line[..at]);
        match (line[..at].strip_suffix(b"=").map(std::str::from_utf8), value) {
            (Some(Ok(key)), Some(value)) if valid_key(key) => {
                let value = String::from_utf8_lossy(value).into_owned();
                let before = outputs.values.get(key).map_or(0, |before| written(key, before));
                let after = size - before + written(key, &value);
                if after > LIMIT {
                    left_out.push(index + 1);
                } else {
                    size = after;
                    outputs.values.insert(key.to_owned(), value);
                }
            }
            // Its number, not its text, which may be anything.
            _ => bad.push(index + 1),
        }
    }
    if !bad.is_empty() {
        outputs.notes.push(format!(
            "{} left out: it is not key=value with a key of letters, digits, _ . - (at most {LONGEST_KEY}) and without a secret",
            lines(&bad)
        ));
    }
    if !left_out.is_empty() {
        outputs
            .notes
            .push(format!("{} left out: as JSON the outputs would be larger than {LIMIT} bytes", lines(&left_out)));
    }
    outputs
}

/// How long an output is in JSON, which is how later scripts are given it.
fn written(key: &str, value: &str) -> usize {
    let value = serde_json::to_string(value).map_or(0, |json| json.len());
    // Its quotes, the colon and the comma.
    key.len() + 4 + value
}

/// `line 4 and 1 others of the outputs file is`.
fn lines(numbers: &[usize]) -> String {
    let others = if numbers.len() > 1 { format!(" and {} others", numbers.len() - 1) } else { String::new() };
    format!("line {}{others} of the outputs file is", numbers.first().copied().unwrap_or_default())
}

fn valid_key(key: &str) -> bool {
    key.len() <= LONGEST_KEY
        && key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_good_lines_and_names_the_bad() {
        let outputs = parse(b"a=1\r\n\nb.c-d=x=y hunter2\n1x=2\nnothing\na=3", &Secrets::new(["hunter2"]));
        let values: Vec<_> = outputs.values.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(values, ["a=3", "b.c-d=x=y ***"]);
        assert_eq!(outputs.notes.len(), 1);
        assert!(outputs.notes[0].starts_with("line 4 and 1 others"), "{:?}", outputs.notes);
    }

    #[test]
    fn a_key_holds_no_secret() {
        let outputs = parse(b"token_hunter2=1\nhunter2=2\nb=3", &Secrets::new(["hunter2"]));
        assert_eq!(outputs.values.into_keys().collect::<Vec<_>>(), ["b"]);
        assert!(!outputs.notes.concat().contains("hunter2"), "{:?}", outputs.notes);
    }

    #[test]
    fn a_secret_is_hidden_across_the_sign() {
        let outputs =
            parse(b"c2VjcmV0=\nx=c2VjcmV0=\nabc=def\nab=c=de", &Secrets::new(["c2VjcmV0=", "abc=def", "b=c"]));
        assert_eq!(outputs.values.into_iter().collect::<Vec<_>>(), [("x".to_owned(), "***".to_owned())]);
        assert!(outputs.notes[0].starts_with("line 1 and 2 others"), "{:?}", outputs.notes);
    }

    #[test]
    fn is_bounded() {
        let text = "key=0123456789\n".repeat(10_000) + "last=1\n";
        let outputs = parse(&text.as_bytes()[..=LIMIT], &Secrets::default());
        assert_eq!(outputs.values.len(), 1);
        assert!(outputs.notes[0].contains("larger than 65536 bytes"));
    }

    #[test]
    fn follows_no_link_and_waits_for_no_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert_eq!(read(&link, &Secrets::default()).values.len(), 0);
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(read(&pipe, &Secrets::default()).notes.len(), 1);
        for made_of_it in ["link", "pipe", "none", "socket", "folder", "another"] {
            let path = folder.path().join(made_of_it);
            match made_of_it {
                "socket" => drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
                "folder" => std::fs::create_dir(&path).unwrap(),
                "another" => {
                    std::fs::write(folder.path().join("secret"), "a=1").unwrap();
                    std::fs::hard_link(folder.path().join("secret"), &path).unwrap();
                }
                _ => {}
            }
            let outputs = read(&path, &Secrets::default());
            assert_eq!(outputs.values.len(), 0, "{made_of_it}");
            let note = &outputs.notes[0];
            assert!(note.ends_with(", so there are no outputs") && !note.contains("os error"), "{made_of_it}: {note}");
        }
    }

    #[test]
    fn later_scripts_can_be_given_what_it_left() {
        // Each byte is six in JSON.
        let text = [b"big=".to_vec(), vec![1; 20_000], b"\nsmall=1\nsmall=2\nhuge".to_vec()].concat();
        let outputs = parse(&[text, vec![b'k'; 300], b"=1".to_vec()].concat(), &Secrets::default());
        assert_eq!(outputs.values.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(), ["small=2"]);
        assert!(outputs.notes[0].starts_with("line 4 of the outputs file is left out"), "{:?}", outputs.notes);
        assert!(outputs.notes[1].starts_with("line 1 of the outputs file is left out: as JSON"), "{:?}", outputs.notes);
    }
}
