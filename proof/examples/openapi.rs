//! This program serves an API whose OpenAPI document says what its idempotency
//! layer does.
//!
//! ```sh
//! cargo run --package proof --example openapi
//! curl http://127.0.0.1:3000/openapi.json       # utoipa's document with the layer's in it
//! curl http://127.0.0.1:3000/idempotency        # what the layer promises, as a page for people
//! ```

use axum::extract::Path;
use axum::http::{StatusCode, header::CONTENT_TYPE};
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use tower_idempotency::contract::Contract;
use tower_idempotency::options::{KeyFormat, Require};
use tower_idempotency::{ConfigError, IdempotencyLayer, MemoryStore, scope};
use utoipa::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{self, Components, Ref, RefOr};

/// utoipa reads this document off the handlers; it contains nothing about keys.
#[derive(OpenApi)]
#[openapi(
    info(title = "Orders", version = "1.0.0"),
    paths(create_order, capture_order, change_profile)
)]
struct Api;

/// Places an order.
#[utoipa::path(post, path = "/orders", responses((status = 201, description = "Placed.")))]
async fn create_order() -> (StatusCode, &'static str) {
    (StatusCode::CREATED, "order 1\n")
}

/// Takes the money for an order.
#[utoipa::path(
    post,
    path = "/orders/{id}/capture",
    params(("id" = String, Path, description = "The order.")),
    responses(
        (status = 200, description = "Captured."),
        (status = 409, description = "Captured before, or cancelled."),
    )
)]
async fn capture_order(Path(id): Path<String>) -> String {
    format!("captured {id}\n")
}

/// Changes the customer's profile.
#[utoipa::path(patch, path = "/profile", responses((status = 204, description = "Changed.")))]
async fn change_profile() -> StatusCode {
    StatusCode::NO_CONTENT
}

fn idempotency() -> Result<IdempotencyLayer, ConfigError> {
    IdempotencyLayer::builder(MemoryStore::new(), scope::header("x-api-key"))
        .docs_url("http://127.0.0.1:3000/idempotency")
        .route("POST /orders", |options| options.require(Require::Required))
        .route("POST /orders/{id}/capture", |options| {
            options
                .require(Require::Required)
                .key_format(KeyFormat::uuid())
        })
        .build()
}

/// Returns utoipa's document, completed with what the layer does.
fn document(contract: &Contract) -> serde_json::Result<openapi::OpenApi> {
    let mut document = Api::openapi();
    let mut layer: openapi::OpenApi = serde_json::from_value(contract.openapi())?;
    // utoipa's `merge` adds operations that are missing and does not change
    // operations that exist. This loop therefore completes the existing operations
    // first.
    for (path, item) in &mut document.paths.paths {
        let of_layer = layer.paths.paths.get(path).cloned().unwrap_or_default();
        for (own, of_layer) in [
            (&mut item.post, of_layer.post),
            (&mut item.put, of_layer.put),
            (&mut item.patch, of_layer.patch),
            (&mut item.delete, of_layer.delete),
        ] {
            if let (Some(own), Some(of_layer)) = (own, of_layer) {
                complete(own, of_layer);
            }
        }
        // What holds for every other endpoint is among the layer's components.
        if let Some(own) = &mut item.patch {
            let key = Ref::new("#/components/parameters/IdempotencyKey");
            own.parameters.get_or_insert_default().push(RefOr::Ref(key));
            for status in ["400", "408", "409", "413", "422", "503"] {
                let response = format!("#/components/responses/Idempotency{status}");
                let responses = &mut own.responses.responses;
                let new = || RefOr::Ref(Ref::new(response));
                responses.entry(status.to_owned()).or_insert_with(new);
            }
        }
    }
    // utoipa's `merge` does not merge parameters either.
    if let Some(of_layer) = &mut layer.components {
        let own = document.components.get_or_insert_with(Components::default);
        own.parameters.append(&mut of_layer.parameters);
    }
    document.merge(layer);
    Ok(document)
}

/// Adds the parameters and responses that the operation does not have yet.
fn complete(own: &mut Operation, of_layer: Operation) {
    let name = |parameter: &RefOr<_>| match parameter {
        RefOr::T(openapi::path::Parameter { name, .. }) => Some(name.clone()),
        RefOr::Ref(_) => None,
    };
    let parameters = own.parameters.get_or_insert_default();
    for parameter in of_layer.parameters.unwrap_or_default() {
        if !parameters.iter().any(|own| name(own) == name(&parameter)) {
            parameters.push(parameter);
        }
    }
    for (status, response) in of_layer.responses.responses {
        let responses = &mut own.responses.responses;
        responses.entry(status).or_insert(response);
    }
}

pub(crate) fn app() -> Result<Router, Box<dyn std::error::Error>> {
    let idempotency = idempotency()?;
    let contract = idempotency.contract();
    let document = document(&contract)?;
    let page = contract.markdown();
    let page = async move || ([(CONTENT_TYPE, "text/markdown; charset=utf-8")], page);
    Ok(Router::new()
        .route("/orders", post(create_order))
        .route("/orders/{id}/capture", post(capture_order))
        .route("/profile", patch(change_profile))
        .layer(idempotency)
        .route("/openapi.json", get(move || async { Json(document) }))
        .route("/idempotency", get(page)))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://{}/openapi.json", listener.local_addr()?);
    Ok(axum::serve(listener, app()?).await?)
}
