//! `MemoryStore` and responses whose memory belongs to other code: dropping
//! such a body may run any code.

use std::sync::{Arc, mpsc};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use tokio::time::sleep;
use tower_idempotency::MemoryStore;
use tower_idempotency::store::{Claim, Claimed, ForgetMode, Outcome, Store};
use tower_idempotency::store::{Completion, Fingerprint, RecordId, ScopeDigest};

use crate::support::Runs;

const ID: RecordId = RecordId::from_bytes([1; 32]);
const LENGTH: usize = 100_000;

/// A body that looks its record up in the store when it is dropped.
struct Nosy(MemoryStore, Runs, Vec<u8>);

impl AsRef<[u8]> for Nosy {
    fn as_ref(&self) -> &[u8] {
        &self.2
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let look_up = Box::pin(self.0.look_up(&ID)).as_mut().poll(&mut context);
        assert!(look_up.is_ready());
        self.1.begin();
    }
}

fn claim(id: RecordId) -> Claim {
    let (scope, fingerprint) = ([2; 32], [3; 32]);
    Claim::new(
        id,
        ScopeDigest::from_bytes(scope),
        Fingerprint::from_bytes(fingerprint),
    )
}

async fn complete(store: &MemoryStore, id: RecordId, body: Bytes) {
    let Ok(Claimed::Acquired(lease)) = store.claim(&claim(id)).await else {
        panic!("not acquired");
    };
    let completion = Completion::new(StatusCode::OK, body, SystemTime::now());
    let outcome = Outcome::Completed(Arc::new(completion));
    store.complete(&lease, &outcome).await.unwrap();
}

/// An earlier version of the store dropped the body while it held the lock of
/// its map. The body looked into that map, and the thread waited for itself for
/// ever.
#[test]
fn an_answer_that_looks_into_the_store_when_it_is_let_go_does_not_lock_it_up() {
    let (ended, end) = mpsc::channel();
    let test = thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            for way in ["retention", "forgotten", "room"] {
                let builder = MemoryStore::builder().max_bytes(LENGTH * 3 / 2);
                let (store, drops) = (builder.build().unwrap(), Runs::default());
                let nosy = Nosy(store.clone(), drops.clone(), vec![b'x'; LENGTH]);
                complete(&store, ID, Bytes::from_owner(nosy)).await;
                assert_eq!(drops.count(), 0);
                match way {
                    "retention" => {
                        sleep(Duration::from_secs(25 * 60 * 60)).await;
                        store.claim(&claim(ID)).await.map(|_| ()).unwrap();
                    }
                    "forgotten" => {
                        store.forget(&ID, ForgetMode::Forced).await.unwrap();
                    }
                    _ => {
                        let other = RecordId::from_bytes([4; 32]);
                        complete(&store, other, vec![b'y'; LENGTH].into()).await;
                    }
                }
                assert_eq!(drops.count(), 1, "{way}");
            }
        });
        ended.send(()).unwrap();
    });
    match end.recv_timeout(Duration::from_secs(30)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        _ => test.join().unwrap(),
    }
}
