//! How long the client pauses between two attempts.

use std::time::Duration;

use tokio::time::{Sleep, sleep};
use tower::retry::backoff::{Backoff, MakeBackoff};

/// Exponential backoff with full jitter: before attempt 2 a random pause between
/// zero and `base`, before attempt 3 between zero and twice `base`, and so on,
/// never above `cap`.
///
/// The whole pause is random, so that clients which failed at the same moment
/// don't all return at the same moment. tower's `ExponentialBackoff` has a fixed
/// part and gives each operation the same pauses.
#[derive(Clone, Debug)]
pub struct FullJitter {
    base: Duration,
    cap: Duration,
    /// The number of pauses so far.
    made: u32,
}

impl FullJitter {
    /// `base` bounds the first pause, `cap` every pause.
    #[must_use]
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, made: 0 }
    }
}

/// The first pause is at most 200 ms, and no pause is longer than 20 s.
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
        let factor = 2_u32.saturating_pow(self.made);
        let longest = self.base.saturating_mul(factor).min(self.cap);
        self.made = self.made.saturating_add(1);
        sleep(rand::random_range(Duration::ZERO..=longest))
    }
}
