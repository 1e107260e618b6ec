//! Log lines on standard error: text for a terminal, JSON for everything else.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use crate::config::settings::{Log, LogFormat};

/// Installs the log. A second call changes nothing.
pub fn install(log: &Log) {
    // The directives were parsed once, when the settings were checked.
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let text = match log.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => terminal,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let _ = if text {
        registry.with(fmt::layer().with_writer(std::io::stderr).with_ansi(terminal).with_target(false)).try_init()
    } else {
        let json = fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).with_current_span(false);
        registry.with(json.with_span_list(false)).try_init()
    };
}
