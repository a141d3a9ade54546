//! A runtime that is shut down while operations run.

use std::convert::Infallible;
use std::future::pending;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{ServiceBuilder, ServiceExt};
use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};

/// An earlier version spawned the renewer's task under a lock that is also taken
/// when the task is dropped. A runtime that is shutting down drops a task as soon
/// as it is spawned, so the thread waited for itself.
#[test]
fn a_runtime_can_be_dropped_while_a_handler_begins() {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        for _ in 0..10 {
            drop_while_a_handler_begins();
        }
        done.send(()).unwrap();
    });
    ended
        .recv_timeout(Duration::from_secs(30))
        .expect("the runtime did not shut down");
}

fn drop_while_a_handler_begins() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    let (begun, waits) = mpsc::channel();
    let (go_on, blocks) = mpsc::channel::<()>();
    let blocks = std::sync::Arc::new(std::sync::Mutex::new(blocks));
    let service = ServiceBuilder::new()
        .layer(IdempotencyLayer::new(MemoryStore::new(), scope::shared()).unwrap())
        .service_fn(move |_: Request<Full<Bytes>>| {
            let (begun, blocks) = (begun.clone(), std::sync::Arc::clone(&blocks));
            async move {
                begun.send(()).unwrap();
                // This blocks the thread until the runtime is being dropped.
                let _ = blocks.lock().unwrap().recv();
                pending::<Result<Response<Full<Bytes>>, Infallible>>().await
            }
        });
    let request = Request::post("/")
        .header("idempotency-key", "k")
        .body(Full::default())
        .unwrap();
    runtime.spawn(service.oneshot(request));
    waits.recv().unwrap();
    let dropping = thread::spawn(move || drop(runtime));
    // Nothing tells when a runtime begins to shut down. If the pause is too
    // short, the test does not fail, but it does not test the fault either.
    thread::sleep(Duration::from_millis(20));
    drop(go_on);
    dropping.join().unwrap();
}
