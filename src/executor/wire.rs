//! What the server and a script's supervisor say to each other over their socket.
//!
//! The order goes one way once, before anything runs: so no secret is ever on a command line or in
//! the supervisor's own environment. Afterwards single bytes go one way and fixed reports the other.
//! Deliberately not JSON: arguments and values are bytes, and both ends are the same program.

use std::io::{self, Read};
use std::time::Duration;

use super::identity::Credentials;
use super::limits::Limited;

/// The server's word: SIGTERM to everything, SIGKILL after the grace.
pub const TERM: u8 = b't';
/// The server's word: SIGKILL to everything, now.
pub const KILL: u8 = b'k';

/// What to run, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The program and its arguments.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// The working directory.
    pub directory: Vec<u8>,
    /// Between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    /// Whom it runs as; none: as whoever runs the supervisor.
    pub credentials: Option<Credentials>,
    /// Its limits.
    pub limits: Vec<(Limited, u64)>,
}

impl Order {
    /// As it goes over the socket.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(u64::try_from(self.kill_grace.as_millis()).unwrap_or(u64::MAX).to_le_bytes());
        put(&mut body, &self.directory);
        body.extend((self.argv.len() as u64).to_le_bytes());
        for argument in &self.argv {
            put(&mut body, argument);
        }
        body.extend((self.env.len() as u64).to_le_bytes());
        for (name, value) in &self.env {
            put(&mut body, name);
            put(&mut body, value);
        }
        let credentials = self.credentials.iter().map(|credentials| {
            let groups = credentials.groups.iter().copied();
            [credentials.uid, credentials.gid].into_iter().chain(groups).map(u64::from).collect::<Vec<_>>()
        });
        let credentials = credentials.flatten().collect::<Vec<_>>();
        let limits = self.limits.iter().flat_map(|(limited, value)| [limited.number(), *value]).collect::<Vec<_>>();
        for numbers in [credentials, limits] {
            body.extend((numbers.len() as u64).to_le_bytes());
            body.extend(numbers.into_iter().flat_map(u64::to_le_bytes));
        }
        body
    }

    /// Reads one from the socket.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let kill_grace = Duration::from_millis(number(from)?);
        let directory = take(from)?;
        let argv = (0..number(from)?).map(|_| take(from)).collect::<io::Result<_>>()?;
        let env = (0..number(from)?).map(|_| Ok((take(from)?, take(from)?))).collect::<io::Result<_>>()?;
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let credentials: Vec<u64> = (0..number(from)?).map(|_| number(from)).collect::<io::Result<_>>()?;
        let credentials: Vec<u32> =
            credentials.into_iter().map(u32::try_from).collect::<Result<_, _>>().map_err(|_| invalid())?;
        let credentials = match credentials.as_slice() {
            [] => None,
            [uid, gid, groups @ ..] => Some(Credentials { uid: *uid, gid: *gid, groups: groups.to_vec() }),
            [_] => return Err(invalid()),
        };
        let mut limits = Vec::new();
        let numbers = number(from)?;
        if numbers % 2 != 0 {
            return Err(invalid());
        }
        for _ in 0..numbers / 2 {
            limits.push((Limited::of_number(number(from)?).ok_or_else(invalid)?, number(from)?));
        }
        Ok(Self { argv, env, directory, kill_grace, credentials, limits })
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// The supervisor's last word; it comes when no descendant of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The script ran, and it and everything that it started is dead.
    Ended {
        /// How the script's own process ended.
        exit: Exit,
        /// How many processes outlived it and were killed.
        left_behind: u32,
        /// Whether it was still alive when it was told to stop.
        stopped: bool,
        /// How many of its processes a signal had suspended then.
        suspended: u32,
    },
    /// The script could not be started: the system's error number.
    NotStarted {
        /// That number.
        errno: i32,
    },
}

/// The length of a report on the socket.
const REPORT: usize = 14;

impl Report {
    /// As it goes over the socket.
    pub fn encode(self) -> [u8; REPORT] {
        let (tag, number, left_behind, stopped, suspended) = match self {
            Self::Ended { exit, left_behind, stopped, suspended } => {
                let (tag, number) = match exit {
                    Exit::Code(code) => (b'e', code),
                    Exit::Signal(signal) => (b's', signal),
                };
                (tag, number, left_behind, stopped, suspended)
            }
            Self::NotStarted { errno } => (b'n', errno, 0, false, 0),
        };
        let mut bytes = [0; REPORT];
        bytes[0] = tag;
        bytes[1..5].copy_from_slice(&number.to_le_bytes());
        bytes[5..9].copy_from_slice(&left_behind.to_le_bytes());
        bytes[9] = u8::from(stopped);
        bytes[10..].copy_from_slice(&suspended.to_le_bytes());
        bytes
    }

    /// Reads it back; nothing when the supervisor died before it was complete.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let &[tag, n0, n1, n2, n3, l0, l1, l2, l3, stopped, s0, s1, s2, s3] = bytes else { return None };
        let number = i32::from_le_bytes([n0, n1, n2, n3]);
        let left_behind = u32::from_le_bytes([l0, l1, l2, l3]);
        let suspended = u32::from_le_bytes([s0, s1, s2, s3]);
        let ended = |exit| Some(Self::Ended { exit, left_behind, stopped: stopped != 0, suspended });
        match tag {
            b'e' => ended(Exit::Code(number)),
            b's' => ended(Exit::Signal(number)),
            b'n' => Some(Self::NotStarted { errno: number }),
            _ => None,
        }
    }
}

fn put(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend((bytes.len() as u64).to_le_bytes());
    body.extend(bytes);
}

fn number(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn take(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let length = number(from)?;
    let mut bytes = Vec::new();
    // Grows with what really comes, so that a wrong length can't ask for all the memory.
    let came = from.by_ref().take(length).read_to_end(&mut bytes)?;
    if came as u64 == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_reports_come_back() {
        let order = Order {
            argv: vec![b"/bin/sh".to_vec(), b"-c".to_vec(), vec![0xff, b'\n']],
            env: vec![(b"A".to_vec(), b"".to_vec())],
            directory: b"/".to_vec(),
            kill_grace: Duration::from_millis(1500),
            credentials: Some(Credentials { uid: 1, gid: 2, groups: vec![3, u32::MAX] }),
            limits: vec![(Limited::CpuTime, 7), (Limited::CoreSize, 0)],
        };
        let bytes = order.encode();
        assert_eq!(Order::read(&mut bytes.as_slice()).unwrap(), order);
        assert!(Order::read(&mut &bytes[..bytes.len() - 1]).is_err());
        for report in [
            Report::Ended { exit: Exit::Code(3), left_behind: 2, stopped: true, suspended: 3 },
            Report::Ended { exit: Exit::Signal(9), left_behind: 0, stopped: false, suspended: 0 },
            Report::NotStarted { errno: 7 },
        ] {
            assert_eq!(Report::decode(&report.encode()), Some(report));
            assert_eq!(Report::decode(&report.encode()[..13]), None);
        }
    }
}
