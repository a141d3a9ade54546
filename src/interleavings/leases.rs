//! Leases that lapse and are renewed, on a store that answers late.

use std::sync::Mutex;

use super::*;
use crate::record::{Nonce, RecordId};
use crate::store::{
    Claim, Claimed, Lease, OnLapsedLease, Outcome, Ownership, Release, StoreError, StoreErrorKind,
    Subscription,
};

/// A store as if on another machine: other tasks run before it carries out an
/// operation, and before its answer arrives.
#[derive(Clone)]
struct Elsewhere {
    records: MemoryStore,
    /// Whether leases live as long as their owners, as in the memory store.
    guards: bool,
    /// How many of the next completions fail.
    failures: Arc<AtomicUsize>,
    /// The highest token that was given out.
    last_token: Arc<Mutex<u64>>,
    renewals: Arc<AtomicUsize>,
}

impl Elsewhere {
    fn new() -> Self {
        Self {
            records: MemoryStore::new(),
            guards: false,
            failures: Arc::default(),
            last_token: Arc::default(),
            renewals: Arc::default(),
        }
    }

    fn bench(
        &self,
        handler: fn(usize) -> Script,
        options: fn(RouteOptions) -> RouteOptions,
    ) -> Arc<Bench> {
        Bench::on(self.clone(), self.records.clone(), handler, options)
    }
}

/// A time in which a lease can lapse.
fn slow(run: usize) -> Script {
    Script {
        pauses: 5,
        ..created(run)
    }
}

async fn on_the_way<T>(call: impl Future<Output = T>) -> T {
    yield_now().await;
    let answer = call.await;
    yield_now().await;
    answer
}

impl Store for Elsewhere {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        on_the_way(async {
            let mut claimed = self.records.claim(claim).await;
            if let Ok(Claimed::Acquired(lease)) = &mut claimed {
                let mut last = self.last_token.lock().unwrap();
                *last = lease.token.get().max(*last);
                drop(last);
                if !self.guards {
                    drop(lease.take_guard());
                }
            }
            claimed
        })
        .await
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        on_the_way(async {
            self.renewals.fetch_add(1, Ordering::SeqCst);
            self.records.renew(lease).await
        })
        .await
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        on_the_way(async {
            let fail = |left: usize| left.checked_sub(1);
            let failing = (self.failures).fetch_update(Ordering::SeqCst, Ordering::SeqCst, fail);
            if failing.is_ok() {
                return Err(StoreError::new(StoreErrorKind::NotSent, "not now"));
            }
            self.records.complete(lease, outcome).await
        })
        .await
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        on_the_way(self.records.release(id, nonce, how)).await
    }

    async fn subscribe(&self, id: &RecordId) -> Result<Subscription, StoreError> {
        on_the_way(self.records.subscribe(id)).await
    }
}

/// No handler begins for a client that has left, and a retry need not wait until the
/// lease lapses: no time passes.
#[test]
fn a_claim_is_given_back_if_its_client_leaves_before_the_handler_begins() {
    explore(|| {
        let store = Elsewhere::new();
        let bench = store.bench(created, |options| options);
        let client = Arc::clone(&bench);
        let leaves = spawn(async move {
            let mut asking = Box::pin(client.ask("K"));
            leave_after(thread_rng().gen_range(0..8), asking.as_mut()).await;
            let begun = client.runs();
            drop(asking);
            begun
        });
        let begun = block_on(leaves).unwrap();
        block_on(bench.layer.drain(LONG));
        assert_eq!(bench.runs(), begun);
        block_on(bench.insist("K")).unwrap();
        bench.settled("K");
        assert_eq!(bench.runs(), 1);
    });
}

/// G1 and G5 under `rerun`: an owner may be overtaken at any moment. Then neither its
/// response nor its release counts.
#[test]
fn the_answer_of_the_last_owner_is_the_one_that_stands() {
    explore(|| {
        let store = Elsewhere::new();
        let bench = store.bench(slow, |options| options);
        let clients = [(); 2].map(|()| bench.insist("K"));
        let leaves = bench.ask_and_leave("K");
        bench.as_time_passes(3, async {
            leaves.await.unwrap();
            for client in clients {
                client.await.unwrap();
            }
        });
        let answer = bench.settled("K");
        let last = format!(" under {} ", store.last_token.lock().unwrap());
        assert!(answer.ends_with(last.as_bytes()), "{answer:?}: {last:?}");
    });
}

/// The same for responses whose heads have left before the owner is overtaken.
#[test]
fn a_streamed_answer_that_was_overtaken_is_cut_off() {
    explore(|| {
        let store = Elsewhere::new();
        let streamed = |run| Script {
            frames: vec![Bytes::from_static(b"and more")],
            length: false,
            ..slow(run)
        };
        let bench = store.bench(streamed, |options| options);
        let clients = [(); 2].map(|()| bench.insist("K"));
        bench.as_time_passes(3, async {
            for client in clients {
                client.await.unwrap();
            }
        });
        let answer = bench.settled("K");
        let last = format!(" under {} and more", store.last_token.lock().unwrap());
        assert!(answer.ends_with(last.as_bytes()), "{answer:?}: {last:?}");
    });
}

/// G1 under `refuse`: one execution, whichever lease lapses and whichever client
/// leaves.
#[test]
fn nothing_runs_twice_where_a_lapse_is_refused() {
    explore(|| {
        let store = Elsewhere::new();
        let bench = store.bench(slow, |options| {
            options.on_lapsed_lease(OnLapsedLease::Refuse)
        });
        let leaves = bench.ask_and_leave("K");
        let clients = [(); 2].map(|()| spawn(bench.ask("K")));
        bench.as_time_passes(3, async {
            leaves.await.unwrap();
            for client in clients {
                client.await.unwrap();
            }
        });
        bench.come_to_rest();
        block_on(bench.ask("K"));
        assert!(bench.runs() <= 1, "{} runs", bench.runs());
    });
}

/// A finished operation is never released: a background task completes it, and its key
/// is in flight until then.
#[test]
fn a_completion_that_fails_is_made_up_for_before_a_retry_runs() {
    explore(|| {
        let store = Elsewhere {
            guards: true,
            ..Elsewhere::new()
        };
        store.failures.store(2, Ordering::SeqCst);
        let bench = store.bench(created, |options| options);
        let leaves = bench.ask_and_leave("K");
        let retries = bench.insist("K");
        bench.as_time_passes(0, async {
            leaves.await.unwrap();
            retries.await.unwrap();
        });
        bench.settled("K");
        assert_eq!(bench.runs(), 1);
    });
}

/// The last watched operation ends, and the renewer's task with it, just as another
/// operation begins.
#[test]
fn whoever_begins_while_the_renewer_ends_is_renewed() {
    explore(|| {
        let store = Elsewhere::new();
        let bench = store.bench(created, |options| options);
        let clients = ["K", "L"].map(|key| bench.insist(key));
        bench.as_time_passes(0, async {
            for client in clients {
                client.await.unwrap();
            }
        });
        bench.come_to_rest();
    });
}
