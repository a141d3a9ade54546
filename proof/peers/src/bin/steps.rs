//! This program measures a step of this crate beside a step of DBOS, a library for durable execution,
//! and beside the server's own `INSERT`, on one PostgreSQL.
//!
//! The three take turns, each with [`TURN`] calls one after the other. A step's result has 256 B, and
//! so has the row. The claim of an operation and the start of a workflow are not measured.
//!
//! ```text
//! eval "$(scripts/servers start postgres)"
//! cargo run --manifest-path proof/peers/Cargo.toml --release --ignore-rust-version --features steps --bin steps -- [TURNS]
//! scripts/servers stop
//! ```

use std::convert::Infallible;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use dbos::{Config, DBOS};
use http::{Request, Response};
use sqlx::postgres::PgPoolOptions;
use tower::{Layer, ServiceExt, service_fn};
use tower_idempotency::{IdempotencyContext, IdempotencyLayer, PostgresStore, scope};

const TURN: u32 = 16;

fn result() -> String {
    "x".repeat(256)
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6 / f64::from(TURN)
}

/// The microseconds of a step of DBOS.
async fn workflow(_: u32) -> dbos::Result<f64> {
    let start = Instant::now();
    for number in 0..TURN {
        dbos::step(&format!("step-{number}"), || async { Ok(result()) }).await?;
    }
    Ok(micros(start))
}

/// The microseconds of a step of this crate, as a response.
async fn operation(request: Request<Body>) -> Result<Response<Body>, axum::BoxError> {
    let context = request.extensions().get::<IdempotencyContext>();
    let context = context.ok_or("not protected")?;
    let start = Instant::now();
    for number in 0..TURN {
        let name = format!("step-{number}");
        let step = context.step(&name, async |_| Ok::<_, Infallible>(result()));
        step.await?;
    }
    Ok(Response::new(Body::from(micros(start).to_string())))
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    [values[last / 4], values[last / 2], values[last * 3 / 4]]
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), axum::BoxError> {
    let url = std::env::var("TEST_POSTGRES_URL").map_err(|_| "TEST_POSTGRES_URL is not set")?;
    let turns = std::env::args()
        .nth(1)
        .map_or(Ok(60), |turns| turns.parse())?;

    let pool = PgPoolOptions::new()
        .test_before_acquire(false)
        .connect(&url)
        .await?;
    for statement in [
        "DROP TABLE IF EXISTS peers_rows",
        "CREATE TABLE peers_rows (id bytea PRIMARY KEY, content bytea)",
    ] {
        sqlx::raw_sql(statement).execute(&pool).await?;
    }
    let insert = async |turn: u32| {
        let start = Instant::now();
        for number in 0..TURN {
            let id = format!("{turn:016}{number:016}").into_bytes();
            let insert = sqlx::query("INSERT INTO peers_rows VALUES ($1, $2)").bind(id);
            insert.bind(result().into_bytes()).execute(&pool).await?;
        }
        Ok::<_, axum::BoxError>(micros(start))
    };

    let store = PostgresStore::builder(pool.clone()).table("peers_records");
    store.migrate().await?;
    let layer = IdempotencyLayer::builder(store.open().await?, scope::shared())
        .defaults(|options| options.steps(true))
        .build()?;
    let till = layer.layer(service_fn(operation));
    let steps = async || {
        let key = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let request = Request::post("/")
            .header("idempotency-key", key.to_string())
            .body(Body::empty())?;
        let response = till.clone().oneshot(request).await?.map(Body::new);
        let micros = axum::body::to_bytes(response.into_body(), 1 << 10).await?;
        Ok::<f64, axum::BoxError>(std::str::from_utf8(&micros)?.parse()?)
    };

    let config = Config {
        app_version: Some("1".to_owned()),
        ..Config::new("steps", url.clone())
    };
    let dbos = DBOS::new(config);
    let workflow = dbos.register_workflow("steps", workflow)?;
    dbos.launch().await?;

    let mut taken = [const { Vec::new() }; 3];
    // In the first turn the connections prepare their statements.
    for turn in 0..=turns {
        let times = [
            insert(turn).await?,
            steps().await?,
            workflow.run(turn).await?,
        ];
        if turn > 0 {
            for (taken, time) in taken.iter_mut().zip(times) {
                taken.push(time);
            }
        }
    }
    dbos.shutdown().await;
    println!("{turns} turns of {TURN} calls each, one at a time:");
    println!(
        "{:<20} {:>9} {:>8} {:>8} {:>8}",
        "", "us", "25 %", "to INSERT", "75 %"
    );
    for (name, times) in ["INSERT", "step", "step of DBOS"].into_iter().zip(&taken) {
        let of_insert = times
            .iter()
            .zip(&taken[0])
            .map(|(time, insert)| time / insert);
        let [low, middle, high] = quartiles(of_insert.collect());
        let micros = quartiles(times.clone())[1];
        println!("{name:<20} {micros:>9.1} {low:>8.2} {middle:>9.2} {high:>8.2}");
    }
    Ok(())
}
