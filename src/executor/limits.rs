//! The resource limits of scripts: what can be limited, and what the system calls it.
//!
//! They are set in the script's own process, never in the supervisor: that must be able to end whatever there is.
//! Deliberately each a limit of one process (of one user: `processes`), as the kernel has them, and not of the tree.

use std::collections::BTreeMap;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How much longer than its time a process may have to end by itself, in seconds.
const CPU_GRACE: u64 = 5;

/// What can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limited {
    /// The time on the processor, in seconds.
    CpuTime,
    /// The address space, in bytes.
    Memory,
    /// The largest file that is written, in bytes.
    FileSize,
    /// How many files may be open.
    OpenFiles,
    /// How many processes its user may have.
    Processes,
    /// The largest core dump, in bytes.
    CoreSize,
}

impl Limited {
    const ALL: [Self; 6] =
        [Self::CpuTime, Self::Memory, Self::FileSize, Self::OpenFiles, Self::Processes, Self::CoreSize];

    /// The setting.
    pub fn setting(self) -> &'static str {
        match self {
            Self::CpuTime => "execution.limits.cpuTime",
            Self::Memory => "execution.limits.memory",
            Self::FileSize => "execution.limits.fileSize",
            Self::OpenFiles => "execution.limits.openFiles",
            Self::Processes => "execution.limits.processes",
            Self::CoreSize => "execution.limits.coreSize",
        }
    }

    /// The one whose setting ends so.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|limited| limited.setting().rsplit('.').next() == Some(name))
    }

    /// Its number on the wire.
    pub fn number(self) -> u64 {
        self as u64
    }

    /// The one with that number.
    pub fn of_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|limited| limited.number() == number)
    }

    fn resource(self) -> Resource {
        match self {
            Self::CpuTime => Resource::Cpu,
            Self::Memory => Resource::As,
            Self::FileSize => Resource::Fsize,
            Self::OpenFiles => Resource::Nofile,
            Self::Processes => Resource::Nproc,
            Self::CoreSize => Resource::Core,
        }
    }
}

/// The limits of every script.
pub type Limits = BTreeMap<Limited, u64>;

/// What can't be set here, as lines for people. `root` is whether scripts run as root.
pub fn faults(limits: &Limits, root: bool) -> Vec<String> {
    let above = limits.iter().filter_map(|(limited, value)| {
        let hard = getrlimit(limited.resource()).maximum.filter(|hard| value > hard)?;
        Some(format!(
            "{} is {value}, and the service's own hard limit is {hard}: lower it, or raise that (LimitXXX= in a systemd unit, \
             ulimit -H)",
            limited.setting()
        ))
    });
    let mut faults: Vec<_> = above.collect();
    if root && limits.contains_key(&Limited::Processes) {
        faults.push(format!("{} does not bind root: set execution.runAs, too", Limited::Processes.setting()));
    }
    faults
}

/// Sets them for the process that calls it, before it loses the right to. Nothing but system calls: it runs between
/// `fork` and `exec`. (The limit of open files that the service raised for itself is put back by the
/// supervisor already.)
pub fn set(limits: &[(Limited, u64)]) -> rustix::io::Result<()> {
    for (limited, value) in limits {
        let hard = match limited {
            // At the hard limit comes SIGKILL, and at the soft one SIGXCPU, which says what it was.
            Limited::CpuTime => {
                let own = getrlimit(Resource::Cpu).maximum.unwrap_or(u64::MAX);
                value.saturating_add(CPU_GRACE).min(own)
            }
            _ => *value,
        };
        setrlimit(limited.resource(), Rlimit { current: Some(*value), maximum: Some(hard) })?;
    }
    Ok(())
}

/// What a signal or the exit code of a shell tells of a limit that was hit.
pub fn hit(limits: &Limits, signal: i32) -> Option<String> {
    let limited = match signal {
        libc::SIGXCPU => Limited::CpuTime,
        libc::SIGXFSZ => Limited::FileSize,
        _ => return None,
    };
    let value = limits.get(&limited)?;
    let unit = if limited == Limited::CpuTime { "s" } else { " bytes" };
    Some(format!("{} is {value}{unit}", limited.setting()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for limited in Limited::ALL {
            assert_eq!(Limited::of_number(limited.number()), Some(limited));
        }
        assert_eq!(Limited::of_number(99), None);
    }

    #[test]
    fn only_signals_of_a_limit_that_is_set_tell_of_it() {
        let limits = Limits::from([(Limited::CpuTime, 10)]);
        assert_eq!(hit(&limits, libc::SIGXCPU).as_deref(), Some("execution.limits.cpuTime is 10s"));
        assert_eq!((hit(&limits, libc::SIGXFSZ), hit(&limits, libc::SIGKILL)), (None, None));
    }
}
