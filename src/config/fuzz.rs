//! What must hold of every pipeline file, of all settings and of every pair of selectors.
//!
//! Each function is the body of a fuzz target; see `crate::fuzz`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::catalog::{check_names, check_ties};
use super::diagnostic::{Diagnostic, Severity};
use super::pipeline::{self, Defaults};
use super::secret::Environment;
use super::selector::Pattern;
use super::settings::Settings;
use super::tls;
use super::yaml;
use crate::domain::names::{Application, Source};
use crate::domain::pipeline::{Pipeline, PipelineHash};
use crate::domain::span::Span;

const FILE: &str = "pipelines/fuzz.yaml";

/// `pipeline`: the bytes of a pipeline file, of whichever dialect.
pub fn pipeline(data: &[u8]) {
    let mut faults = Vec::new();
    let documents = yaml::parse(FILE.to_owned(), PathBuf::from("pipelines"), data, &mut faults);
    let defaults = Defaults { timeout: Span::from_secs(3600), reserved: Vec::new() };
    let loaded = pipeline::load_documents(Path::new(FILE), &documents, &defaults, &mut faults);
    check_names(&loaded, &mut faults);
    check_ties(&loaded, &mut faults);
    all_are_placed(&faults, FILE, data);
    if faults.iter().any(|fault| fault.severity == Severity::Error) {
        return;
    }
    assert!(!loaded.is_empty() || !faults.is_empty(), "a file without a pipeline is told of");
    for loaded in &loaded {
        let pipeline = &loaded.pipeline;
        let (hash, json) = pipeline.pinned();
        let again: Pipeline = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
        assert_eq!(&again, pipeline, "what is pinned is read again as it was");
        assert_eq!((&again.pinned().1, PipelineHash::of(&json)), (&json, hash));
        let ids: BTreeSet<_> = pipeline.stages.iter().map(|stage| &stage.id).collect();
        assert_eq!(ids.len(), pipeline.stages.len(), "ids are unique");
        assert!(!pipeline.name.is_empty() && !pipeline.name.contains(char::is_control), "{:?}", pipeline.name);
        for stage in &pipeline.stages {
            if let Some(script) = stage.script() {
                let texts = script.shell.iter().chain(&script.run).chain(&script.on_rollback);
                assert!(texts.chain(script.env.keys()).all(|text| !text.contains('\0')), "{script:?}");
                assert!(script.env.keys().all(|name| !name.is_empty() && !name.contains('=')), "{script:?}");
                assert!(!script.shell.is_empty() && script.timeout.0 > std::time::Duration::ZERO, "{script:?}");
            }
        }
        let application: Application = "eu:test/octo/app".parse().unwrap_or_else(|error| panic!("{error}"));
        let _ = Source::ALL.map(|source| loaded.selector.matches(source, &application));
    }
}

/// `pem`: a file with certificates, or with a key.
pub fn pem(data: &[u8]) {
    // A beginning within a section ends none: rustls reads on.
    let lines = data.split(|byte| matches!(byte, b'\n' | b'\r')).filter(|line| !line.starts_with(b"-----"));
    let text: Vec<u8> = lines.flatten().copied().filter(u8::is_ascii_graphic).collect();
    let has = |der: &[u8]| {
        // The last few bits may stand there in more than one way.
        let inside = STANDARD.encode(&der[..der.len() - der.len() % 3]);
        assert!(
            inside.is_empty() || text.windows(inside.len()).any(|window| window == inside.as_bytes()),
            "it is what stands there"
        );
    };
    match tls::certificates_in(data) {
        Ok(found) => {
            assert!(!found.is_empty());
            found.iter().for_each(|one| has(one));
        }
        Err(why) => is_no_quotation(&why),
    }
    match tls::key_in(data) {
        Ok(key) => has(key.secret_der()),
        Err(why) => is_no_quotation(&why),
    }
}

/// What is wrong with a file that may hold a key is told in one line, and in none of its bytes: not as text, and not as
/// a list of numbers.
pub(crate) fn is_no_quotation(why: &str) {
    assert!(!why.is_empty() && why.len() < 150 && why.is_ascii(), "{why}");
    assert!(!why.contains(|c: char| c.is_control() || matches!(c, '[' | '"')), "{why}");
}

/// `settings`: fields that a NUL ends: the settings file, then variables, `NAME=value`.
pub fn settings(data: &[u8]) {
    const FILE: &str = "stagehook.yaml";
    let mut fields = data.split(|byte| *byte == 0);
    let file = fields.next().unwrap_or_default();
    let variable = |field: &[u8]| {
        let text = String::from_utf8(field.to_vec()).ok()?;
        text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let variables: Environment = fields.filter_map(variable).collect();
    let mut faults = Vec::new();
    let documents = yaml::parse(FILE.to_owned(), PathBuf::from("/etc/stagehook"), file, &mut faults);
    let settings = Settings::of(documents, &variables, &mut faults);
    all_are_placed(&faults, FILE, file);
    let refused = faults.iter().any(|fault| fault.severity == Severity::Error);
    let Some(settings) = settings.filter(|_| !refused) else {
        assert!(refused, "settings that are not taken are told of");
        return;
    };
    assert!(settings.execution.max_concurrent > 0);
    for (source, of_source) in &settings.sources {
        for code in [of_source.rejected, of_source.pending] {
            assert!((100..1000).contains(&code), "{source}: {code}");
        }
    }
    assert_eq!(settings.with_credentials_of(&settings), settings);
    let _ = (format!("{settings:?}"), settings.secret_files());
}

/// `globs`: lines: two patterns of a selector, then texts.
pub fn globs(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let (Some(a), Some(b)) = (lines.next(), lines.next()) else { return };
    if a.len() + b.len() > 200 {
        return;
    }
    let (a, b) = (Pattern::new(a), Pattern::new(b));
    for fault in [&a, &b].into_iter().filter_map(|pattern| pattern.as_ref().err()) {
        assert!(!fault.is_empty() && !fault.contains('\n'), "{fault:?}");
    }
    let (Ok(a), Ok(b)) = (a, b) else { return };
    let meets = a.meets(&b);
    assert_eq!(meets, b.meets(&a), "{a:?} {b:?}");
    assert!(a.meets(&a) || a.literal().is_none(), "{a:?}");
    for text in lines {
        let both = a.matches(Some(text)) && b.matches(Some(text));
        assert!(meets || !both, "{a:?} and {b:?} have {text:?} in common, and it was denied");
    }
}

/// Every fault is where it is said to be, and nothing of it can harm a terminal or a line of the log.
fn all_are_placed(faults: &[Diagnostic], file: &str, data: &[u8]) {
    let text = String::from_utf8_lossy(data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data));
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let lines: Vec<&str> = text.split('\n').collect();
    for fault in faults {
        let sound = |text: &str| !text.contains(|c: char| c.is_control());
        assert!(sound(&fault.message) && !fault.message.is_empty(), "{:?}", fault.message);
        assert!(fault.hint.as_deref().is_none_or(sound), "{:?}", fault.hint);
        assert!(fault.snippet.as_deref().is_none_or(sound), "{:?}", fault.snippet);
        let shown = fault.to_string();
        let quoted = if fault.snippet.is_some() { 2 } else { 0 };
        assert!(shown.split('\n').count() == 1 + quoted && shown.split('\n').all(sound), "{shown:?}");
        if fault.line == 0 || fault.file != file {
            assert_eq!(fault.column, 0, "{fault:?}");
            continue;
        }
        // One beyond the last is where something is missing.
        assert!(fault.line <= lines.len() + 1, "line {} of {}: {}", fault.line, lines.len(), fault.message);
        let length = fault.line.checked_sub(1).and_then(|at| lines.get(at)).map_or(0, |line| line.chars().count());
        assert!(fault.column <= length + 1, "column {} of {length}: {}", fault.column, fault.message);
    }
}
