//! Stagehook: the hook runner of a deployment. See ARCHITECTURE.md for the map.
//!
//! The floors, from the ground up; imports go downward only:
//!
//! - [`domain`]: what a deployment is and every rule about it; pure
//! - [`config`], [`ledger`], [`executor`], [`source`]: settings and pipelines, the durable records, running scripts,
//!   the callers' dialects
//! - [`engine`]: commits what the core decides, then does it
//! - [`http`], [`cli`], [`reporter`]: the service on the wire, the command line, telling outcomes to GitHub
//! - [`app`]: the program; `fuzz`: what the fuzz targets do, in no build of it
//!
//! Beside them, on the ground: [`failpoint`], which is nothing outside of tests.

// What fills ledgers for the library's own tests fills them for those from outside, too, under one name of the crate.
#[cfg(test)]
extern crate self as stagehook;

pub mod app;
pub mod cli;
pub mod config;
pub mod domain;
pub mod engine;
pub mod executor;
pub mod failpoint;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod http;
pub mod ledger;
pub mod reporter;
pub mod source;
