//! Programs of the machine that some tests run.

use std::process::{Command, Stdio};

/// Whether a program is there. Without it nothing is tested: that is said, and is a failure where everything has to be
/// (`CI` is set).
pub fn is_there(program: &str) -> bool {
    let mut command = Command::new(program);
    let found = command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let there = found.is_ok_and(|status| status.success());
    if !there {
        assert!(std::env::var_os("CI").is_none(), "{program} is not there");
        eprintln!("NOT TESTED: {program} is not there");
    }
    there
}
