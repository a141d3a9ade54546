//! What a row of the table must show.

use std::fmt;
use std::time::{Duration, Instant};

use crate::good::{End, IN_TIME, Kind, Sample};

/// What the good caller got of the requests that it sent in one period.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Period {
    /// Right responses that came in time, in a second.
    pub(crate) rate: f64,
    /// Of the requests that have a response. `None`: there is no response.
    pub(crate) p99: Option<Duration>,
    /// First requests that were refused, and requests without a key.
    pub(crate) refused: usize,
    /// Requests without a whole response.
    pub(crate) failed: usize,
    /// Replays that were refused, that have no response, or another than the recorded one.
    pub(crate) lost_replays: usize,
}

/// How one attack went.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) attack: &'static str,
    /// The attack takes the processor's time.
    pub(crate) cpu: bool,
    /// Bytes that the attack sent.
    pub(crate) sent: u64,
    /// Memory of the sidecar before the attack, at its highest, and what the limits allow.
    pub(crate) rss: u64,
    pub(crate) peak: u64,
    pub(crate) sum: u64,
    /// The sidecar still ran at the end.
    pub(crate) is_alive: bool,
    pub(crate) before: Period,
    pub(crate) during: Period,
    pub(crate) after: Period,
}

/// Why a row fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The good caller had too little of its rate during the attack.
    RateDuring,
    /// Or after it.
    RateAfter,
    /// Some replays were not the recorded response.
    Replays,
    /// The memory was more than the limits allow.
    Memory,
    /// The sidecar has ended.
    Ended,
}

impl Period {
    /// Judges the samples of the requests that were sent in this time.
    pub(crate) fn of(samples: &[Sample], from: Instant, to: Instant) -> Self {
        let own = samples.iter().filter(|own| (from..to).contains(&own.at));
        let mut period = Self::default();
        let mut took = Vec::new();
        let mut right = 0_u32;
        for sample in own {
            match sample.end {
                End::Right if sample.took <= IN_TIME => right += 1,
                End::Refused(_) if sample.kind != Kind::Replay => period.refused += 1,
                End::Failed => period.failed += 1,
                End::Right | End::Wrong | End::Refused(_) => {}
            }
            period.lost_replays +=
                usize::from(sample.kind == Kind::Replay && sample.end != End::Right);
            if sample.end != End::Failed {
                took.push(sample.took);
            }
        }
        took.sort_unstable();
        let at = took.len().saturating_sub(1) * 99 / 100;
        period.p99 = took.get(at).copied();
        period.rate = f64::from(right) / (to - from).as_secs_f64();
        period
    }
}

impl Row {
    /// How much of its rate the good caller has to keep.
    pub(crate) fn least(&self) -> f64 {
        if self.cpu { 0.5 } else { 0.8 }
    }

    /// The memory that the process may use: what it used before, and the limits and a fifth.
    pub(crate) fn allowed(&self) -> u64 {
        self.rss + self.sum + self.sum / 5
    }

    pub(crate) fn faults(&self) -> Vec<Fault> {
        let keeps = |period: &Period| period.rate >= self.before.rate * self.least();
        let lost = [&self.before, &self.during, &self.after];
        let lost: usize = lost.iter().map(|own| own.lost_replays).sum();
        let found = [
            (
                self.before.rate <= 0.0 || !keeps(&self.during),
                Fault::RateDuring,
            ),
            (!keeps(&self.after), Fault::RateAfter),
            (lost > 0, Fault::Replays),
            (self.peak > self.allowed(), Fault::Memory),
            (!self.is_alive, Fault::Ended),
        ];
        found
            .into_iter()
            .filter_map(|(is_so, fault)| is_so.then_some(fault))
            .collect()
    }

    /// Only rates failed, which a busy machine can cause too.
    pub(crate) fn may_be_the_machine(&self) -> bool {
        let faults = self.faults();
        let is_rate = |own: &Fault| matches!(own, Fault::RateDuring | Fault::RateAfter);
        !faults.is_empty() && faults.iter().all(is_rate)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RateDuring => "rate during",
            Self::RateAfter => "rate after",
            Self::Replays => "replays",
            Self::Memory => "memory",
            Self::Ended => "ended",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(rate: f64) -> Period {
        Period {
            rate,
            ..Period::default()
        }
    }

    fn row() -> Row {
        Row {
            attack: "rain",
            cpu: false,
            sent: 1,
            rss: 10,
            peak: 130,
            sum: 100,
            is_alive: true,
            before: period(100.0),
            during: period(80.0),
            after: period(80.0),
        }
    }

    #[test]
    fn a_row_holds_at_its_bounds_and_fails_beyond_them() {
        assert_eq!(row().faults(), []);
        let lost = Period {
            lost_replays: 1,
            ..period(100.0)
        };
        for (wrong, fault) in [
            (
                Row {
                    during: period(79.0),
                    ..row()
                },
                Fault::RateDuring,
            ),
            (
                Row {
                    after: period(79.0),
                    ..row()
                },
                Fault::RateAfter,
            ),
            (
                Row {
                    during: lost.clone(),
                    ..row()
                },
                Fault::Replays,
            ),
            (
                Row {
                    after: lost,
                    ..row()
                },
                Fault::Replays,
            ),
            (Row { peak: 131, ..row() }, Fault::Memory),
            (
                Row {
                    is_alive: false,
                    ..row()
                },
                Fault::Ended,
            ),
        ] {
            assert_eq!(wrong.faults(), [fault]);
            let is_rate = matches!(fault, Fault::RateDuring | Fault::RateAfter);
            assert_eq!(wrong.may_be_the_machine(), is_rate, "{fault}");
        }
        assert!(!row().may_be_the_machine());
        // A caller that got nothing before keeps all of that, and shows nothing.
        let idle = Row {
            before: period(0.0),
            ..row()
        };
        assert_eq!(idle.faults(), [Fault::RateDuring]);
    }

    #[test]
    fn half_the_rate_is_enough_where_the_attack_takes_the_processor() {
        let half = Row {
            during: period(50.0),
            ..row()
        };
        assert_eq!(half.faults(), [Fault::RateDuring]);
        assert_eq!(Row { cpu: true, ..half }.faults(), []);
    }

    #[test]
    fn a_period_counts_what_was_sent_in_it() {
        let from = Instant::now();
        let sample = |at: u64, kind, took: u64, end| Sample {
            at: from + Duration::from_millis(at),
            kind,
            took: Duration::from_millis(took),
            end,
        };
        let samples = [
            sample(0, Kind::First, 3, End::Right),
            sample(1, Kind::Replay, 1000, End::Right),
            sample(2, Kind::First, 1001, End::Right),
            sample(3, Kind::First, 1, End::Refused(503)),
            sample(4, Kind::Replay, 1, End::Refused(503)),
            sample(5, Kind::Replay, 1, End::Wrong),
            sample(6, Kind::Plain, 10_000, End::Failed),
            sample(7, Kind::Replay, 10_000, End::Failed),
            sample(2000, Kind::First, 3, End::Right),
        ];
        let counted = Period::of(&samples, from, from + Duration::from_secs(2));
        let expected = Period {
            rate: 1.0,
            p99: Some(Duration::from_secs(1)),
            refused: 1,
            failed: 2,
            lost_replays: 3,
        };
        assert_eq!(counted, expected);
        assert_eq!(
            Period::of(&[], from, from + Duration::from_secs(1)),
            Period::default()
        );
    }
}
