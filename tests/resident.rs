//! What the process keeps of a full memory store is what the store's `max_bytes` promises, within
//! a tenth: by the pages of a process of its own, which Linux tells.

#![cfg(all(feature = "memory", target_os = "linux"))]

use std::convert::Infallible;
use std::process::{Command, Stdio};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, service_fn};
use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};

/// Names the load for the process of its own.
const LOAD: &str = "RESIDENT_LOAD";

/// What fills the store.
struct Load {
    name: &'static str,
    max_bytes: usize,
    status: u16,
    /// How long a body is.
    body: fn(usize) -> usize,
    /// How many records one caller has.
    per_caller: usize,
    /// About how many records fill the store.
    records: usize,
}

const LOADS: [Load; 5] = [
    Load {
        name: "small responses",
        max_bytes: 64 << 20,
        status: 201,
        body: |_| 256,
        per_caller: 500,
        records: 100_000,
    },
    Load {
        name: "large responses",
        max_bytes: 64 << 20,
        status: 201,
        body: |_| 1 << 20,
        per_caller: 4,
        records: 64,
    },
    Load {
        name: "responses of all sizes",
        max_bytes: 64 << 20,
        status: 200,
        body: |key| key * 7919 % 60_000,
        per_caller: 100,
        records: 2200,
    },
    Load {
        name: "tombstones",
        max_bytes: 16 << 20,
        status: 503,
        body: |_| 0,
        per_caller: 1000,
        records: 73_000,
    },
    Load {
        name: "tombstones of a caller each",
        max_bytes: 16 << 20,
        status: 503,
        body: |_| 0,
        per_caller: 1,
        records: 39_000,
    },
];

fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let resident = pages.split(' ').nth(1).unwrap();
    resident.parse::<usize>().unwrap() * 4096
}

/// Sends first requests until the store is full, and then many more.
async fn fill(load: &Load) {
    let most = load.max_bytes;
    let store = MemoryStore::builder().max_bytes(most).build().unwrap();
    let layer = IdempotencyLayer::new(store.clone(), scope::header("x-api-key")).unwrap();
    let (status, length) = (load.status, load.body);
    let mut app = layer.layer(service_fn(move |request: Request<Full<Bytes>>| {
        let key = request.headers()["idempotency-key"].to_str().unwrap();
        let body = vec![b'x'; length(key.parse().unwrap())];
        let response = Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .header("location", format!("/payments/{key}"))
            .header(
                "x-request-id",
                format!("01890a5d-ac96-774b-bcce-{key:>012}"),
            )
            .body(Full::new(Bytes::from(body)));
        std::future::ready(Ok::<_, Infallible>(response.unwrap()))
    }));
    let mut send = async |key: usize| {
        let request = Request::post("/payments")
            .header("idempotency-key", key.to_string())
            .header("x-api-key", (key / load.per_caller).to_string())
            .body(Full::default());
        let response = app.call(request.unwrap()).await.unwrap();
        drop(response.into_body().collect().await.unwrap());
    };
    let before = resident();
    let mut highest = 0;
    for round in 0..3 {
        for key in round * load.records..(round + 1) * load.records {
            send(key).await;
            // Some are replayed.
            if key % 4 == 0 && status < 500 {
                send(key).await;
            }
        }
        let grown = resident() - before;
        highest = grown.max(highest);
        let stats = store.stats();
        println!("round {round}: {} %, {stats:?}", 100 * grown / most);
    }
    assert!(store.stats().bytes > most - most / 20, "it is full");
    assert!(highest < most + most / 10, "{highest} bytes for {most}");
    assert!(highest > most - most / 10, "{highest} bytes for {most}");
}

#[test]
fn a_full_store_takes_the_memory_that_its_limit_says() {
    const NAME: &str = "a_full_store_takes_the_memory_that_its_limit_says";
    if let Ok(name) = std::env::var(LOAD) {
        let load = LOADS.iter().find(|load| load.name == name).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        return runtime.unwrap().block_on(fill(load));
    }
    let this = std::env::current_exe().unwrap();
    let runs = LOADS.each_ref().map(|load| {
        let mut run = Command::new(&this);
        run.args(["--exact", NAME, "--nocapture"])
            .env(LOAD, load.name);
        run.stdout(Stdio::piped()).stderr(Stdio::piped());
        (load.name, run.spawn().unwrap())
    });
    for (name, run) in runs {
        let run = run.wait_with_output().unwrap();
        let [said, failed] = [run.stdout, run.stderr].map(|text| String::from_utf8(text).unwrap());
        println!("{name}\n{said}");
        assert!(run.status.success(), "{name}: {said}{failed}");
    }
}
