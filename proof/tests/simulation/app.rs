//! The hosts of the apps run the layer: axum behind hyper, with one store for all
//! apps.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response};
use axum::routing::post;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rand::RngExt;
use tokio::time::sleep;
use tower_idempotency::options::{OnLapsedLease, Require};
use tower_idempotency::{IdempotencyContext, IdempotencyLayer, scope};
use turmoil::net::TcpListener;

use crate::log::{Log, What};
use crate::plan::{MAX_RECORDED_BODY, Plan, Sabotage, chance};
use crate::remote::Remote;

pub(crate) const PORT: u16 = 80;

#[derive(Clone)]
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) plan: Plan,
    /// The wall clock of this host is ahead of the others' clocks by this much.
    pub(crate) clock_ahead: Duration,
    pub(crate) log: Log,
}

impl App {
    /// Serves until the host crashes.
    pub(crate) async fn serve(self) -> turmoil::Result {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
        let router = self.router()?;
        loop {
            let (stream, _) = listener.accept().await?;
            let service = TowerToHyperService::new(router.clone());
            tokio::task::spawn_local(async move {
                let connection = http1::Builder::new()
                    .auto_date_header(false)
                    .serve_connection(TokioIo::new(stream), service);
                // The test does not need to know how a connection ended.
                let _ = connection.await;
            });
        }
    }

    fn router(self) -> turmoil::Result<Router> {
        let router = Router::new().route("/payments", post(pay));
        let plan = self.plan.clone();
        let layer = IdempotencyLayer::builder(
            Remote::new(&plan, self.clock_ahead),
            scope::header("x-api-key"),
        )
        .store_timeout(plan.store_timeout)
        .defaults(|options| {
            options
                .require(Require::Required)
                .lease(plan.lease)
                .max_operation(plan.max_operation)
                .max_recorded_body(MAX_RECORDED_BODY)
                .on_lapsed_lease(if plan.refuse {
                    OnLapsedLease::Refuse
                } else {
                    OnLapsedLease::Rerun
                })
        })
        .build()?;
        Ok(if plan.sabotage == Some(Sabotage::NoLayer) {
            router
        } else {
            router.layer(layer)
        }
        .with_state(self))
    }
}

/// This handler takes its time, and mostly ends well.
async fn pay(
    State(app): State<App>,
    context: Option<IdempotencyContext>,
    headers: HeaderMap,
    _: Bytes,
) -> Result<Response<Body>, Infallible> {
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    let execution = app.log.number();
    let mut chance = chance(app.plan.seed, 1000 + execution);
    let lasts = app.plan.handler_lasts(&mut chance);
    app.log.add(
        &app.name,
        What::Began {
            key: key.clone(),
            execution,
            token: context
                .as_ref()
                .map(|context| context.fencing_token().get()),
            attempt: context.as_ref().map_or(0, IdempotencyContext::attempt),
            lasts,
        },
    );
    sleep(lasts).await;
    let (status, length) = match chance.random_range(0..40) {
        0..28 => (Some(201), 0),
        28..31 => (Some(201), 2 * MAX_RECORDED_BODY),
        31..33 => (Some(422), 0),
        33..37 => (Some(503), 0),
        _ => (None, 0),
    };
    app.log.add(&app.name, What::Ended { execution, status });
    let Some(status) = status else {
        // This call skips the panic hook, which would print the panic.
        std::panic::resume_unwind(Box::new("as the seed wants it"));
    };
    let body = format!("execution {execution} of {key}");
    Ok(Response::builder()
        .status(status)
        .header("x-execution", execution)
        .body(Body::from(format!("{body:length$}")))
        .unwrap())
}
