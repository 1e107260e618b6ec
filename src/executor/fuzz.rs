//! What must hold of every stream, every outputs file and every message on the supervisor's socket.
//!
//! Each function is the body of a fuzz target; see `crate::fuzz`.

use super::mask::{MASK, Masker, Secrets};
use super::output::Recorder;
use super::outputs;
use super::wire::{Order, Report};

/// `mask`: fields that a NUL ends; the first cuts the stream, the last is its text, those between are the secrets.
pub fn mask(data: &[u8]) {
    let mut fields: Vec<&[u8]> = data.split(|byte| *byte == 0).collect();
    let (Some(text), false) = (fields.pop(), fields.is_empty()) else { return };
    let cuts = fields.remove(0);
    let secrets = Secrets::new(&fields);
    let whole = secrets.mask(text);
    let mut masker = Masker::new(secrets.clone());
    let (mut recorder, _) = Recorder::new(usize::MAX);
    recorder.mask(&secrets);
    let (mut streamed, mut rest) = (Vec::new(), text);
    let mut cuts = cuts.iter().cycle().map(|cut| usize::from(*cut).max(1));
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(cuts.next().unwrap_or(usize::MAX).min(rest.len()));
        masker.push(chunk, &mut streamed);
        recorder.push(chunk);
        rest = later;
    }
    masker.finish(&mut streamed);
    assert_eq!(streamed, whole, "where the stream is cut makes a difference");
    assert_eq!(whole, plainly(&fields, text), "it is not what the definition says");
    let (kept, digest, last_line) = recorder.finish();
    assert_eq!(kept, whole);
    assert_eq!(digest.bytes, whole.len() as u64);
    hides(&fields, &whole, "the output");
    text_hides(&fields, &last_line, "the last line");
    assert!(!last_line.contains(char::is_control) && last_line.chars().count() <= 200, "{last_line:?}");
}

/// The definition of masking, as slow as it is plain: every occurrence is covered, and each stretch shows as one mask,
/// where a stretch goes on while something that began in it has not ended.
fn plainly(secrets: &[&[u8]], text: &[u8]) -> Vec<u8> {
    let all = known(secrets);
    let (mut out, mut covered) = (Vec::new(), 0_usize);
    for (at, byte) in text.iter().enumerate() {
        let here = all.iter().filter(|secret| text[at..].starts_with(secret)).map(Vec::len).max().unwrap_or(0);
        if covered == 0 {
            out.extend_from_slice(if here == 0 { std::slice::from_ref(byte) } else { MASK });
        }
        covered = covered.max(here).saturating_sub(1);
    }
    out
}

/// The values, and of those with several lines each line of eight bytes and more.
fn known(secrets: &[&[u8]]) -> Vec<Vec<u8>> {
    let lines = |secret: &&[u8]| -> Vec<Vec<u8>> {
        let lines = secret.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        lines.filter(|line| line.len() >= 8).map(<[u8]>::to_vec).collect()
    };
    let whole = secrets.iter().map(|secret| secret.to_vec());
    whole.chain(secrets.iter().flat_map(lines)).filter(|secret| !secret.is_empty()).collect()
}

/// No secret is in what is shown. One with `*` in it may be made by a mask, and tells nothing then.
fn hides(secrets: &[&[u8]], shown: &[u8], what: &str) {
    for secret in known(secrets).iter().filter(|secret| !secret.contains(&b'*')) {
        let is_shown = shown.windows(secret.len()).any(|window| window == secret.as_slice());
        assert!(!is_shown, "{what} shows {:?}", String::from_utf8_lossy(secret));
    }
}

/// The same of a text. What was no UTF-8 shows as U+FFFD, which is nobody's secret.
fn text_hides(secrets: &[&[u8]], shown: &str, what: &str) {
    hides(secrets, shown.replace('\u{fffd}', "\0").as_bytes(), what);
}

/// `outputs`: fields that a NUL ends; the last is the file, the others are the secrets.
pub fn outputs(data: &[u8]) {
    let mut fields: Vec<&[u8]> = data.split(|byte| *byte == 0).collect();
    let Some(file) = fields.pop() else { return };
    let secrets = Secrets::new(&fields);
    let read = outputs::parse(file, &secrets);
    for (key, value) in &read.values {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        assert!(!key.is_empty() && key.chars().all(valid) && !value.contains('\n'), "{key:?}={value:?}");
        text_hides(&fields, &format!("{key}={value}"), "an output");
    }
    let length: usize = read.values.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(length <= 3 * outputs::LIMIT.min(file.len()), "masks and replaced bytes are three bytes for one, at most");
    assert!(read.notes.len() <= 3, "{:?}", read.notes);
    for note in &read.notes {
        assert!(!note.contains(char::is_control) && note.len() < 300, "{note:?}");
    }
    // What was read is read again as it is.
    let again: String = read.values.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    if again.len() <= outputs::LIMIT && !again.contains('\r') {
        assert_eq!(outputs::parse(again.as_bytes(), &Secrets::default()).values, read.values);
    }
}

/// `wire`: an order, or a report where it is as long as one.
pub fn wire(data: &[u8]) {
    let mut rest = data;
    if let Ok(order) = Order::read(&mut rest) {
        let read = &data[..data.len() - rest.len()];
        assert_eq!(order.encode(), read, "an order is written as it was read");
    }
    if let Some(report) = Report::decode(data) {
        assert_eq!(Report::decode(&report.encode()), Some(report));
    }
}
