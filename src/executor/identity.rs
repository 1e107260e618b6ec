//! Whom scripts run as: a user and a group of this machine, found once, and what a process does to become it.
//!
//! Deliberately only the way down: the supervisor and the service stay who they are, so that they can end what they
//! have started, and the script can't reach them.

use std::ffi::CString;
use std::path::Path;

use nix::unistd::{self, Group, User};
use rustix::process::{Gid, Uid, getegid, geteuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

/// What the service has to be allowed to, each with its name: to become another user, to end and to clean up after it.
const NEEDED: [(CapabilitySet, &str); 6] = [
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
    (CapabilitySet::KILL, "CAP_KILL"),
    (CapabilitySet::CHOWN, "CAP_CHOWN"),
    (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
    (CapabilitySet::FOWNER, "CAP_FOWNER"),
];

/// What a process becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// All other groups.
    pub groups: Vec<u32>,
}

/// A user for scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// As the setting has it.
    written: String,
    credentials: Credentials,
    /// Name, home and shell, where the user has an entry.
    entry: Option<(String, String, String)>,
}

impl Identity {
    /// The user, and perhaps group, of a setting, each by its name or number; the error is a line for people.
    pub fn find(user: &str, group: Option<&str>) -> Result<Self, String> {
        let written = group.map_or_else(|| user.to_owned(), |group| format!("{user}:{group}"));
        let unreadable = |error| format!("execution.runAs {written}: the users of this machine can't be read: {error}");
        let number = user.parse::<u32>().ok();
        let found = match number {
            Some(uid) => User::from_uid(unistd::Uid::from_raw(uid)).map_err(unreadable)?,
            None => User::from_name(user).map_err(unreadable)?,
        };
        let gid = match (group, &found) {
            (Some(group), _) => match group.parse::<u32>() {
                Ok(gid) => gid,
                Err(_) => Group::from_name(group).map_err(unreadable)?.map(|group| group.gid.as_raw()).ok_or_else(|| {
                    format!("execution.runAs {written}: there is no group {group} on this machine: add it, or correct the setting")
                })?,
            },
            (None, Some(found)) => found.gid.as_raw(),
            (None, None) if number.is_some() => {
                return Err(format!(
                    "execution.runAs {written}: this machine knows no user with that number, so its group is not known: \
                     write {written}:GROUP"
                ));
            }
            (None, None) => 0,
        };
        let (uid, entry, groups) = match found {
            Some(found) => {
                let name =
                    CString::new(found.name.clone()).map_err(|error| format!("execution.runAs {written}: {error}"))?;
                let groups = unistd::getgrouplist(&name, unistd::Gid::from_raw(gid)).map_err(unreadable)?;
                let text = |path: &Path| path.to_string_lossy().into_owned();
                let entry = (found.name, text(&found.dir), text(&found.shell));
                (found.uid.as_raw(), Some(entry), groups.into_iter().map(unistd::Gid::as_raw).collect())
            }
            None => match number {
                Some(uid) => (uid, None, Vec::new()),
                None => {
                    return Err(format!(
                        "execution.runAs {written}: there is no user {user} on this machine: add it, or correct the setting"
                    ));
                }
            },
        };
        // To the system calls this number says «as it was»: the service's own.
        for (what, number) in [("user", uid), ("group", gid)] {
            if number == u32::MAX {
                return Err(format!(
                    "execution.runAs {written}: no {what} can have the number {number}, with which a process stays what it \
                     was: correct the setting"
                ));
            }
        }
        Ok(Self { written, credentials: Credentials { uid, gid, groups }, entry })
    }

    /// What its processes become.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The variables that tell a process who it is; none: not to be inherited either.
    pub fn variables(&self) -> [(&'static str, Option<&str>); 4] {
        let (name, home, shell) = match &self.entry {
            Some((name, home, shell)) => (Some(name.as_str()), home.as_str(), Some(shell.as_str())),
            None => (None, "/", None),
        };
        [("HOME", Some(home)), ("USER", name), ("LOGNAME", name), ("SHELL", shell)]
    }

    /// Whether this process may become it, and end it; the error is a line for people.
    pub fn is_permitted(&self) -> Result<(), String> {
        let have = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
        let missing: Vec<_> =
            NEEDED.iter().filter(|(needed, _)| !have.contains(*needed)).map(|(_, name)| *name).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        Err(format!(
            "execution.runAs {}: the service runs as user {user}, group {group}, which may not start and end another user's \
             processes: start it as root, or with {} (AmbientCapabilities= in a systemd unit)",
            self.written,
            missing.join(", ")
        ))
    }

    /// As the setting has it.
    pub fn written(&self) -> &str {
        &self.written
    }
}

impl Credentials {
    /// Whether the process that asks is that user's, and that group's.
    pub fn are_own(&self) -> bool {
        self.uid == geteuid().as_raw() && self.gid == getegid().as_raw()
    }

    /// Makes the thread that calls it such a user's, for ever: groups, group, user, in this order, since each takes away
    /// the right to do the one before. Nothing but system calls: it runs between `fork` and `exec`, too.
    pub fn assume(&self) -> rustix::io::Result<()> {
        // A system has far fewer groups than this for one user, so nothing is allocated.
        let mut groups = [Gid::ROOT; MOST_GROUPS];
        let groups = groups.get_mut(..self.groups.len()).ok_or(rustix::io::Errno::TOOBIG)?;
        for (place, group) in groups.iter_mut().zip(&self.groups) {
            *place = Gid::from_raw(*group);
        }
        if self.uid == u32::MAX || self.gid == u32::MAX {
            return Err(rustix::io::Errno::INVAL);
        }
        set_thread_groups(groups)?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        // Nothing is believed that shows: what follows would run as the service.
        let (users, groups) = (unistd::getresuid(), unistd::getresgid());
        let is = |ids: nix::Result<[u32; 3]>, id| ids.is_ok_and(|ids| ids == [id; 3]);
        let users = users.map(|ids| [ids.real, ids.effective, ids.saved].map(unistd::Uid::as_raw));
        let groups = groups.map(|ids| [ids.real, ids.effective, ids.saved].map(unistd::Gid::as_raw));
        if !is(users, self.uid) || !is(groups, self.gid) {
            return Err(rustix::io::Errno::PERM);
        }
        if !uid.is_root() {
            // Whoever was root has lost them by now; who had them without being root has not.
            clear_ambient_capability_set()?;
            let none = CapabilitySet::empty();
            set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
        }
        Ok(())
    }
}

/// How many groups a user may have here.
const MOST_GROUPS: usize = 1024;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let root = Identity::find("root", None).unwrap();
        assert_eq!((root.credentials.uid, root.credentials.gid), (0, 0));
        assert_eq!(root.variables()[1], ("USER", Some("root")));
        assert_eq!(Identity::find("0", None).unwrap().credentials, root.credentials);
        let number = Identity::find("3999999999", Some("3999999998")).unwrap();
        assert_eq!(number.credentials, Credentials { uid: 3_999_999_999, gid: 3_999_999_998, groups: vec![] });
        assert_eq!(number.variables(), [("HOME", Some("/")), ("USER", None), ("LOGNAME", None), ("SHELL", None)]);
    }

    #[test]
    fn a_user_has_the_groups_that_it_is_in() {
        let groups = fs::read_to_string("/etc/group").unwrap();
        for line in groups.lines() {
            let [_, _, gid, members] = line.split(':').collect::<Vec<_>>()[..] else { continue };
            for member in members.split(',').filter(|member| !member.is_empty()) {
                // The file may name users that are gone.
                let Ok(found) = Identity::find(member, None) else { continue };
                let credentials = found.credentials;
                assert!(credentials.groups.contains(&gid.parse().unwrap()), "{member} is in {gid}: {credentials:?}");
                assert!(credentials.groups.contains(&credentials.gid));
            }
        }
        let other = Identity::find("root", Some("3999999998")).unwrap().credentials;
        assert_eq!((other.gid, other.groups.contains(&3_999_999_998)), (3_999_999_998, true));
    }

    #[test]
    fn who_is_not_there_is_named() {
        let refused = |user, group| Identity::find(user, group).unwrap_err();
        assert!(refused("no-such-user", None).contains("there is no user no-such-user on this machine"));
        assert!(refused("root", Some("no-such-group")).contains("there is no group no-such-group on this machine"));
        assert!(refused("3999999999", None).ends_with("write 3999999999:GROUP"));
    }

    #[test]
    fn the_number_that_means_nobody_is_nobody_s() {
        for (user, group, what) in [("4294967295", "1", "user"), ("1", "4294967295", "group")] {
            let refused = Identity::find(user, Some(group)).unwrap_err();
            assert!(refused.contains(&format!("no {what} can have the number 4294967295")), "{refused}");
        }
    }

    #[test]
    fn what_did_not_become_that_user_does_not_go_on() {
        if !geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "to become another user takes root");
            eprintln!("NOT TESTED: to become another user takes root");
            return;
        }
        // In threads, which end as whom they have become.
        let assumed = |uid, gid| {
            let credentials = Credentials { uid, gid, groups: vec![] };
            std::thread::spawn(move || credentials.assume()).join().unwrap()
        };
        assert_eq!(assumed(3_999_999_999, 3_999_999_998), Ok(()));
        assert_eq!(assumed(u32::MAX, 1), Err(rustix::io::Errno::INVAL));
        assert_eq!(assumed(3_999_999_999, u32::MAX), Err(rustix::io::Errno::INVAL));
    }
}
