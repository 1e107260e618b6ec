//! The one place that asks the machine for the time and for randomness.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

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

/// Longer than any caller waits. Near the end of the clock's range even the rounding of a timer
/// overflows, so `checked_add` alone would not do.
const NEVER: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// When a wait that begins now is over; `None`: never. Anybody may ask for any wait.
pub fn deadline(wait: Duration) -> Option<Instant> {
    if wait < NEVER { Instant::now().checked_add(wait) } else { None }
}

/// So long before an instant, or the beginning of time.
pub fn before(then: Timestamp, ago: Duration) -> Timestamp {
    then.checked_sub(ago).unwrap_or(Timestamp::MIN)
}

/// How long from now until then; zero when it is past.
pub fn until(then: Timestamp) -> Duration {
    then.duration_since(now()).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_length_of_time_is_too_long() {
        assert!(deadline(Duration::from_secs(1)).is_some());
        for wait in [NEVER, Duration::from_secs(u64::MAX / 2), Duration::from_secs(u64::MAX), Duration::MAX] {
            assert_eq!(deadline(wait), None);
            assert_eq!(before(now(), wait.max(Duration::from_secs(20_000 * 31_557_600))), Timestamp::MIN);
        }
    }
}
