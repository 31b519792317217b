//! When a request is repeated at once, as Stripe's own libraries do it (Stripe, error handling; stripe-node).

use std::time::Duration;

/// Stripe's libraries begin with this pause.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// And end with this one, ten times the first.
const LONGEST: u32 = 10;

/// How often a request is repeated.
pub(super) const REPEATS: u32 = 2;

/// The pause before repeat number `attempt`, counted from 0: doubling, and drawn from its upper half by `dice`, from 0 to 1,
/// so that those who failed together do not come back together.
pub(super) fn pause(attempt: u32, first: Duration, dice: f64) -> Duration {
    let whole = first.saturating_mul(2_u32.saturating_pow(attempt).min(LONGEST));
    whole.mul_f64(f64::midpoint(1.0, dice.clamp(0.0, 1.0)))
}

/// Whether an answer asks to be asked for again: Stripe's own word goes before the status.
///
/// 429 is not on the list: to ask again at once is what it complains about.
pub(super) fn repeats(status: u16, should_retry: Option<bool>) -> bool {
    should_retry.unwrap_or(status == 409 || status >= 500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_ten_times_the_first() {
        let pauses = |dice| (0..7).map(|n| pause(n, FIRST_PAUSE, dice).as_millis()).collect::<Vec<_>>();
        assert_eq!(pauses(1.0), [500, 1000, 2000, 4000, 5000, 5000, 5000]);
        assert_eq!(pauses(0.0), [250, 500, 1000, 2000, 2500, 2500, 2500]);
        assert_eq!(pause(u32::MAX, FIRST_PAUSE, 1.0), Duration::from_secs(5));
    }

    #[test]
    fn stripes_word_goes_before_the_status() {
        for (status, word, expected) in [
            (500, None, true),
            (503, None, true),
            (409, None, true),
            (429, None, false),
            (400, None, false),
            (404, None, false),
            (429, Some(true), true),
            (500, Some(false), false),
        ] {
            assert_eq!(repeats(status, word), expected, "{status} {word:?}");
        }
    }
}
