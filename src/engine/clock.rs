//! The one place that asks the machine for the time and for randomness.

use jiff::Timestamp;

use crate::domain::ids::Mint;

/// The time, in whole milliseconds: what the ledger keeps.
#[expect(clippy::disallowed_methods, reason = "this is the clock that everyone else is handed")]
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// A mint for the ids of one decision.
pub fn mint(now: Timestamp) -> Mint {
    Mint::new(now, u128::from(random()) << 64 | u128::from(random()))
}

fn random() -> u64 {
    // Without randomness from the system the ids of one millisecond could collide, and then the
    // ledger would refuse the second: no harm beyond a failed call.
    getrandom::u64().unwrap_or_default()
}

/// How long from now until then; zero when it is past.
pub fn until(then: Timestamp) -> std::time::Duration {
    then.duration_since(now()).try_into().unwrap_or_default()
}
