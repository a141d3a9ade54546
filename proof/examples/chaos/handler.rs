//! This module is what the layer protects: a handler with one effect, which is an
//! entry in the ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::{Body as RequestBody, to_bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{Extensions, Request, StatusCode, header};
use serde_json::json;
use tokio::time::sleep;
use tower_idempotency::IdempotencyContext;
use tower_idempotency::store::{FencingToken, RecordId};

use super::history::Entry;
use super::journal::Journal;
use super::ledger::Ledger;
use super::plan::{Body, works_for};
use super::transaction::Claims;

#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) run: String,
    pub(crate) seed: u64,
    pub(crate) ledger: Ledger,
    pub(crate) journal: Arc<Journal>,
    /// The handler commits the entry and the response in one transaction.
    pub(crate) commits: bool,
    /// The handler makes the claim in its transaction.
    pub(crate) claims: Option<Claims>,
    /// A handler that learns that another owner has taken over gives up.
    pub(crate) fenced: bool,
    /// This counter names executions without the layer, because these executions
    /// have no token.
    pub(crate) unprotected: AtomicU64,
}

/// Everything that happens under one claim has the same execution name.
pub(crate) fn execution(id: &RecordId, token: FencingToken) -> String {
    format!("{}-{token}", &id.to_string()[..12])
}

pub(crate) async fn pay(State(shop): State<Arc<Shop>>, request: Request<RequestBody>) -> Response {
    let (parts, body) = request.into_parts();
    let asked = to_bytes(body, 1024).await.ok();
    let Some((operation, body)) = asked.and_then(|asked| read(&asked)) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    if let Some(claims) = &shop.claims {
        return shop.claim(&parts.extensions, claims, operation, body).await;
    }
    let (execution, token, attempt) = shop.name(&parts.extensions);
    shop.journal.began(&execution, operation, token, attempt);
    sleep(works_for(shop.seed, operation, attempt)).await;
    let entry = Entry {
        operation,
        body,
        execution,
    };
    if shop.commits {
        shop.commit(&parts.extensions, &entry).await
    } else {
        shop.write(&parts.extensions, &entry).await
    }
}

/// Reads from a request the number of its operation and which of the two bodies the
/// request has.
fn read(asked: &[u8]) -> Option<(u32, Body)> {
    let asked = std::str::from_utf8(asked).ok()?;
    let (operation, body) = asked.split_once(' ')?;
    Some((operation.parse().ok()?, Body::named(body)?))
}

impl Shop {
    fn name(&self, extensions: &Extensions) -> (String, u64, u64) {
        if let Some(context) = extensions.get::<IdempotencyContext>() {
            let token = context.fencing_token();
            let name = execution(&context.record_id(), token);
            return (name, token.get(), context.attempt());
        }
        let number = self.unprotected.fetch_add(1, Ordering::Relaxed);
        (
            format!("unprotected-{}-{number}", std::process::id()),
            number,
            number,
        )
    }

    /// Writes the ledger first. The layer records the response later; a crash in
    /// between leaves an effect without a record.
    async fn write(&self, extensions: &Extensions, entry: &Entry) -> Response {
        let layered = extensions.get::<IdempotencyContext>().is_some();
        if let Err(error) = self.ledger.write(&self.run, entry).await {
            self.journal.failed(&entry.execution, &error.to_string());
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        if !layered {
            self.journal.completed(&entry.execution);
        }
        answer(entry)
    }
}

/// The body names its execution, so no two executions give the same bytes.
pub(crate) fn answer(entry: &Entry) -> Response {
    let body = json!({
        "operation": entry.operation,
        "body": entry.body.name(),
        "entry": entry.execution,
        "says": "thanks ".repeat(entry.operation as usize % 40 + 1),
    });
    let json = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::CREATED, json, body.to_string()).into_response()
}
