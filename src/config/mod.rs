//! Settings and pipeline files: read, checked as a whole, and loaded again when they change.
//!
//! The settings are laid over each other in layers ([`settings::Settings::load`]); the pipelines of a directory
//! are a [`catalog::Catalog`], which a [`reload::Reloader`] keeps current. Both are read by hand from a YAML tree
//! that knows its places, so that every fault is told at once, each with its line.
//!
//! Nothing here runs anything, and nothing below [`environment`] looks at the process's own environment.

pub mod catalog;
mod confinement;
mod credentials;
pub mod diagnostic;
mod fields;
mod file;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod github;
mod globs;
mod layers;
pub mod loadtester;
pub mod one_file;
pub mod pipeline;
mod read;
pub mod reload;
pub mod rotation;
pub mod schema;
pub mod secret;
mod selector;
pub mod settings;
pub mod tls;
pub mod watching;
mod yaml;

use secret::Environment;

/// The process's environment, to be handed in. Variables that are not UTF-8 are left out: none of ours can be.
pub fn environment() -> Environment {
    let variables = std::env::vars_os();
    variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}
