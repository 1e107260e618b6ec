//! The service's metrics, and what the kernel knows of its process.

use std::collections::BTreeMap;

use rustix::process::Pid;

use crate::support::Client;

/// One scrape: each line's name with its labels, and its value.
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    pub async fn of(client: &Client) -> Self {
        let text = client.get("/metrics").await.expect(200).text;
        let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        Self(lines.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect())
    }

    /// The value of a line, `running_scripts` or `runs_total{…}`; 0 where there is none.
    pub fn get(&self, line: &str) -> u64 {
        let value = self.0.get(&format!("stagehook_{line}")).copied().unwrap_or_default();
        value as u64
    }

    /// All lines of one name, by their labels.
    pub fn family(&self, name: &str) -> BTreeMap<String, u64> {
        let begin = format!("stagehook_{name}{{");
        let own = self.0.iter().filter_map(|(line, value)| Some((line.strip_prefix(&begin)?, *value as u64)));
        own.filter(|(_, value)| *value > 0)
            .map(|(labels, value)| (labels.trim_end_matches('}').to_owned(), value))
            .collect()
    }

    /// That nothing is under way.
    #[track_caller]
    pub fn at_rest(&self) {
        for gauge in ["running_scripts", "queued_scripts", "held_calls", "live_deployments"] {
            assert_eq!(self.get(gauge), 0, "{gauge}");
        }
    }
}

/// How much memory a process has in use, in KiB.
pub fn resident(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// How many files a process has open.
pub fn open_files(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap().count()
}
