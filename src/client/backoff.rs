//! How long to pause between two attempts.

use std::time::Duration;

use tokio::time::{Sleep, sleep};
use tower::retry::backoff::{Backoff, MakeBackoff};

/// Exponential backoff with full jitter: before attempt 2 a random pause up to
/// `base`, before attempt 3 up to twice that, and so on, never above `cap`.
///
/// All of the pause is random, so that clients which failed together don't come
/// back together. tower's own `ExponentialBackoff` has a fixed part, and gives
/// each operation the same pauses.
#[derive(Clone, Debug)]
pub struct FullJitter {
    base: Duration,
    cap: Duration,
    /// How many pauses there were.
    made: u32,
}

impl FullJitter {
    /// With these for the longest first pause and the longest of all.
    #[must_use]
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, made: 0 }
    }

    /// The longest that the next pause can be.
    fn longest(&self) -> Duration {
        let factor = 2_u32.saturating_pow(self.made);
        self.base.saturating_mul(factor).min(self.cap)
    }
}

/// At most 200 ms first, and 20 s at most.
impl Default for FullJitter {
    fn default() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(20))
    }
}

impl MakeBackoff for FullJitter {
    type Backoff = Self;

    fn make_backoff(&mut self) -> Self {
        Self::new(self.base, self.cap)
    }
}

impl Backoff for FullJitter {
    type Future = Sleep;

    fn next_backoff(&mut self) -> Sleep {
        let pause = rand::random_range(Duration::ZERO..=self.longest());
        self.made = self.made.saturating_add(1);
        sleep(pause)
    }
}
