//! A seed decides the options of the layer, how long handlers take, and what breaks
//! when.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) const APPS: u64 = 2;
pub(crate) const STORE: &str = "store";
/// A larger response is sealed.
pub(crate) const MAX_RECORDED_BODY: usize = 1024;

/// A sabotage is something wrong on purpose; the check must notice it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// The apps have no layer.
    NoLayer,
    /// The store gives away records whose lease lives.
    TakesLiveLeases,
    /// The store gives away records that are completed.
    ForgetsCompletions,
    /// The store lets any app complete a record.
    AnyoneCompletes,
    /// The store gives the next owner the same token.
    RepeatsTokens,
    /// The store keeps records in flight for ever.
    LeasesNeverLapse,
    /// The store ends leases after a quarter of the requested time.
    ShortLeases,
    /// The apps behave as if a completion was stored that was not.
    StoresNothing,
    /// The apps behave as if a lease was renewed that was not.
    RenewsNothing,
    /// The apps release a record that they should have completed.
    ReleasesInstead,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// If this is true, nothing breaks.
    pub(crate) calm: bool,
    /// If this is true, `on_lapsed_lease` is `refuse`; otherwise it is `rerun`.
    pub(crate) refuse: bool,
    pub(crate) lease: Duration,
    pub(crate) store_timeout: Duration,
    pub(crate) max_operation: Duration,
    /// This is the speed of the store's clock, in thousandths of the speed of the
    /// apps' clocks.
    pub(crate) store_clock: u64,
    /// The store's client sends a request again if there was no reply after this
    /// time.
    pub(crate) resends_after: Option<Duration>,
    pub(crate) clients: u64,
    pub(crate) keys: u64,
    pub(crate) faults: Vec<Fault>,
    /// From this time on nothing is broken.
    pub(crate) healed_at: Duration,
    pub(crate) sabotage: Option<Sabotage>,
}

#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) at: Duration,
    pub(crate) what: Break,
}

#[derive(Clone, Debug)]
pub(crate) enum Break {
    /// Nothing passes in either direction, and messages under way are lost.
    Cut(String, String),
    /// Nothing passes in one direction, so that for example the reply to a call is
    /// lost.
    CutOneWay(String, String),
    /// Messages wait, and all arrive at once in the end.
    Hold(String, String),
    /// One of this many messages is lost.
    Lossy(String, String, u32),
    /// Messages take up to this long.
    Slow(String, String, Duration),
    Mend(String, String),
    Crash(String),
    Restart(String),
}

pub(crate) fn app(number: u64) -> String {
    format!("app-{number}")
}

pub(crate) fn client(number: u64) -> String {
    format!("client-{number}")
}

/// Returns random draws of their own for each purpose, so that one more draw for
/// one purpose does not change the draws for another.
pub(crate) fn chance(seed: u64, purpose: u64) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ purpose)
}

fn millis(chance: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(chance.random_range(from..=to))
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut chance = chance(seed, 0);
        let lease = millis(&mut chance, 1000, 3000);
        // The app releases a claim whose reply came after the lease had lapsed. The
        // app measures that by its own clock, so the store's clock must not be
        // faster in this case.
        let patient = chance.random_ratio(1, 3);
        let (store_timeout, store_clock) = if patient {
            (
                lease * chance.random_range(8..=20) / 10,
                chance.random_range(700..=1000),
            )
        } else {
            (
                millis(&mut chance, 300, 600),
                chance.random_range(850..=1200),
            )
        };
        let calm = chance.random_ratio(1, 8);
        let mut plan = Self {
            seed,
            calm,
            refuse: chance.random_ratio(1, 3),
            lease,
            store_timeout,
            max_operation: lease * 4,
            store_clock,
            resends_after: chance.random_ratio(1, 4).then(|| store_timeout / 2),
            clients: chance.random_range(3..=4),
            keys: chance.random_range(3..=5),
            faults: Vec::new(),
            healed_at: millis(&mut chance, 5000, 11_000),
            sabotage: None,
        };
        if !calm {
            plan.break_things(&mut chance);
        }
        plan
    }

    pub(crate) fn with(mut self, sabotage: Sabotage) -> Self {
        self.sabotage = Some(sabotage);
        self
    }

    /// Returns how long a handler takes: mostly a short time, sometimes longer than
    /// its lease, rarely longer than the layer renews the lease.
    pub(crate) fn handler_lasts(&self, chance: &mut StdRng) -> Duration {
        match chance.random_range(0..20) {
            0..12 => millis(chance, 0, 300),
            12..19 => self.lease * chance.random_range(8..=30) / 10,
            _ if self.calm => self.lease,
            _ => self.max_operation + self.lease * chance.random_range(1..=20) / 10,
        }
    }

    fn break_things(&mut self, chance: &mut StdRng) {
        for number in 0..APPS {
            self.break_link(chance, &app(number), STORE);
            for other in 0..self.clients {
                if chance.random_ratio(1, 2) {
                    self.break_link(chance, &client(other), &app(number));
                }
            }
            if chance.random_ratio(1, 2) {
                self.crash(chance, &app(number));
            }
        }
        if chance.random_ratio(1, 4) {
            self.crash(chance, STORE);
        }
        self.faults.sort_by_key(|fault| fault.at);
    }

    /// Breaks a link in one way after another, because the network can break a link
    /// in one way only.
    fn break_link(&mut self, chance: &mut StdRng, a: &str, b: &str) {
        let mut at = millis(chance, 0, 3000);
        while at < self.healed_at {
            let until = at + millis(chance, 100, 4000);
            let (from, to) = if chance.random() {
                (a.to_owned(), b.to_owned())
            } else {
                (b.to_owned(), a.to_owned())
            };
            let what = match chance.random_range(0..6) {
                0 => Break::Cut(from, to),
                1 | 2 => Break::CutOneWay(from, to),
                3 => Break::Hold(from, to),
                4 => Break::Lossy(from, to, chance.random_range(3..=20)),
                _ => Break::Slow(from, to, millis(chance, 300, 3000)),
            };
            self.faults.push(Fault { at, what });
            let what = Break::Mend(a.to_owned(), b.to_owned());
            self.faults.push(Fault { at: until, what });
            at = until + millis(chance, 100, 4000);
        }
    }

    fn crash(&mut self, chance: &mut StdRng, host: &str) {
        let mut at = millis(chance, 200, 6000);
        while at < self.healed_at {
            let what = Break::Crash(host.to_owned());
            self.faults.push(Fault { at, what });
            at += millis(chance, 50, 3000);
            let what = Break::Restart(host.to_owned());
            self.faults.push(Fault { at, what });
            at += millis(chance, 1000, 8000);
        }
    }
}
