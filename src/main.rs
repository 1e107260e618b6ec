//! The `stagehook` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all: as the supervisor of a script the program is something else altogether.
    if let Some(code) = stagehook::executor::supervisor::main_if_asked() {
        return code;
    }
    stagehook::app::main()
}
