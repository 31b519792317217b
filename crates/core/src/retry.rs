//! From the class of a failure and the count of tries to the time until the next one.

use std::time::Duration;

use crate::port::Class;

/// How long to wait after the `tries`-th failure in a row (the first is 1), without the server's own wish.
///
/// Ends at 60 s: an outage of hours must not add more than a minute to its own length.
pub fn delay(class: Class, tries: u32) -> Duration {
    let doubled =
        |first: u64| Duration::from_secs(first.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(60));
    match class {
        Class::Transient | Class::OutcomeUnknown => doubled(1),
        Class::RateLimited => doubled(2),
        Class::CreditsExhausted | Class::Unauthorized | Class::Rejected | Class::Refused | Class::Gone => {
            doubled(15)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute() {
        let secs = |class| (1..=8).map(|tries| delay(class, tries).as_secs()).collect::<Vec<_>>();
        assert_eq!(secs(Class::Transient), [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(secs(Class::Unauthorized), [15, 30, 60, 60, 60, 60, 60, 60]);
        assert_eq!(delay(Class::RateLimited, u32::MAX).as_secs(), 60);
    }
}
