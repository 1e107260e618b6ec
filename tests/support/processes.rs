//! Processes that carry a test's folder in their environment or command line.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use super::journal;

/// A process that is alive.
#[derive(Debug)]
pub struct Process {
    pub pid: Pid,
    pub command: String,
}

/// Every process that belongs to a folder, zombies left out: they have neither environment nor command line.
pub fn of(folder: &Path) -> Vec<Process> {
    // A supervisor knows nothing of the folder, but carries its run's id.
    let mut markers: Vec<_> = journal::read(folder).into_iter().map(|line| line.run).collect();
    markers.push(folder.to_str().unwrap().to_owned());
    let marked = |text: &str| !text.is_empty() && markers.iter().any(|marker| text.contains(marker.as_str()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        let text = |file: &str| {
            std::fs::read(entry.path().join(file))
                .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', "\n"))
                .unwrap_or_default()
        };
        let (command, environment) = (text("cmdline"), text("environ"));
        if marked(&command) || marked(&environment) {
            found.push(Process { pid, command });
        }
    }
    found
}

/// Whether a process is there, even as a zombie.
pub fn is_alive(pid: Pid) -> bool {
    rustix::process::test_kill_process(pid).is_ok()
}

/// Kills a server and the supervisors of its scripts, and leaves the scripts to themselves: a supervisor that is not halted
/// would see that the server is gone, and end its script.
pub fn kill_with_supervisors(server: Pid, folder: &Path) {
    let supervisors: Vec<_> = of(folder).into_iter().filter(|it| it.command.contains("__supervise")).collect();
    let pids = || supervisors.iter().map(|it| it.pid);
    for (pid, signal) in pids()
        .map(|pid| (pid, Signal::STOP))
        .chain([(server, Signal::KILL)])
        .chain(pids().map(|pid| (pid, Signal::KILL)))
    {
        let _ = kill_process(pid, signal);
    }
}

/// Kills whatever belongs to a folder; gives what it had to kill.
pub fn kill_all_of(folder: &Path) -> Vec<Process> {
    let found = of(folder);
    for process in &found {
        let _ = kill_process(process.pid, Signal::KILL);
    }
    found
}
