//! The machine's clocks, behind core's port.

use std::time::Duration;

use grantsmith_core::port::{Clock, Moment, Now};
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// The real clocks: the wall, and one that runs while the machine sleeps or the process is stopped.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let boot = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(boot.tv_sec).unwrap_or_default();
        let nanos = u32::try_from(boot.tv_nsec).unwrap_or_default();
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
        let wall = Timestamp::now();
        Now { wall, moment: Moment(Duration::new(seconds, nanos)) }
    }
}
