//! What the sidecar promises: what the layer does, and what becomes of requests
//! on their way.

use crate::options::Settings;
use crate::problem::{
    BAD_METHOD, BAD_PATH, BROKEN, NO_AUTHORIZER, NOT_ALLOWED, Problem, TIMED_OUT, UNREACHED,
};
use tower_idempotency::IdempotencyLayer;
use tower_idempotency::contract::{Contract, GatewayError};
use tower_idempotency::for_sidecar::gateway_contract;

pub(crate) fn of(layer: &IdempotencyLayer, settings: &Settings) -> Contract {
    let again = "Send the same request again in a moment, with the same key.";
    let in_doubt = "Nobody knows whether the operation was executed. Send the same request again, with \
                    the same key.";
    let correct = "Correct the request.";
    let mut errors = vec![
        error(
            &UNREACHED,
            "The service was not reached. Nothing was executed.",
            again,
        ),
        error(
            &BROKEN,
            "The service broke off before it had answered.",
            in_doubt,
        ),
        error(&TIMED_OUT, "The service did not answer in time.", in_doubt),
        error(
            &BAD_PATH,
            "The path can be read in more than one way. Nothing was executed.",
            correct,
        ),
        error(
            &BAD_METHOD,
            "The method is not in upper case. Nothing was executed.",
            correct,
        ),
    ];
    let authorize = settings.authorize.as_ref();
    if authorize.is_some() {
        let denied = "The caller may not do this, with status 401 or 403. Nothing was executed or \
                      replayed.";
        errors.push(error(&NOT_ALLOWED, denied, "Authenticate the request."));
        let unknown = "Whether the caller may do this can't be told. Nothing was executed.";
        errors.push(error(&NO_AUTHORIZER, unknown, again));
    }
    let known = authorize.map_or(&[][..], |authorize| &authorize.headers);
    gateway_contract(layer.contract(), errors, known)
}

fn error(problem: &Problem, when: &str, advice: &str) -> GatewayError {
    GatewayError::new(problem.code, problem.status, when, advice)
}
