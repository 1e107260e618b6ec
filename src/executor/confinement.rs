//! What scripts may on this machine: whom they run as and under which limits, found and checked once at the start.

use rustix::process::geteuid;

use super::identity::{Credentials, Identity};
use super::limits::{self, Limited, Limits};
use super::places::{self, Places};
use super::sight;

/// Whom scripts run as, and under which limits. By default as the service and under its own.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    /// None: as the service.
    identity: Option<Identity>,
    limits: Limits,
}

impl Confinement {
    /// From the settings: user and group, and each limit by the last part of its name. The error is a line for people.
    pub fn find<'a>(
        run_as: Option<(&str, Option<&str>)>,
        limits: impl IntoIterator<Item = (&'a str, u64)>,
    ) -> Result<Self, String> {
        let identity = run_as.map(|(user, group)| Identity::find(user, group)).transpose()?;
        let limits = limits.into_iter().filter_map(|(name, value)| Some((Limited::of_name(name)?, value))).collect();
        Ok(Self { identity, limits })
    }

    /// Whether the service may do all that; the errors are lines for people.
    pub fn is_permitted(&self) -> Result<(), Vec<String>> {
        let mut faults = Vec::new();
        let credentials = self.credentials();
        if let Some(identity) = self.identity.as_ref().filter(|_| credentials.is_some()) {
            faults.extend(identity.is_permitted().err());
        }
        let root = credentials.map_or_else(|| geteuid().is_root(), |credentials| credentials.uid == 0);
        faults.extend(limits::faults(&self.limits, root));
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// Whether scripts come where they have to, can't change what the service relies on, and can be seen there. To be asked
    /// once it is permitted; the errors are lines for people.
    pub fn has_its_places(&self, places: Places<'_>) -> Result<(), Vec<String>> {
        let (Some(identity), Some(credentials)) = (&self.identity, self.credentials()) else { return Ok(()) };
        let mut faults: Vec<_> = sight::fault(credentials).into_iter().collect();
        if credentials.uid != 0 {
            faults.extend(places::faults(identity, places));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// What the variables that tell who one is are for scripts; an inner none: not to be inherited.
    pub fn variables(&self) -> Vec<(&'static str, Option<&str>)> {
        self.identity.iter().flat_map(Identity::variables).collect()
    }

    /// What a script's process becomes; none: it stays who the service is.
    pub fn credentials(&self) -> Option<&Credentials> {
        let credentials = self.identity.as_ref()?.credentials();
        // Who is that user already needs no right to become it.
        (geteuid().is_root() || !credentials.are_own()).then_some(credentials)
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}
