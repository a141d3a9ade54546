//! The texts of the responses that the sidecar writes itself. Errors of the layer are its rejections.

use tower_idempotency::for_sidecar::{GatewayCode, Refusal};
use tower_idempotency::rejection::Retry;

/// The refusal with this code, in the words that most requests get.
pub(crate) const fn usual(code: GatewayCode) -> Refusal<'static> {
    let detail = match code {
        GatewayCode::UpstreamUnreachable => {
            "The service behind this address can't be reached. Nothing was executed; send the same \
             request again in a moment."
        }
        GatewayCode::UpstreamBroken | GatewayCode::UpstreamTimeout => {
            "Nobody knows whether the operation was executed; it may still be running. Send the \
             same request again with the same key, in a while: until the lease of this attempt has \
             lapsed it is not executed again."
        }
        GatewayCode::OverCapacity => {
            "The service has as many requests as it may have. Nothing was executed; send the same \
             request again in a moment."
        }
        GatewayCode::BodyUnreadable => "The request's body broke off before its end.",
        GatewayCode::PathAmbiguous => {
            "The path can be read in more than one way. Nothing was executed; send the request to \
             the path as it is documented."
        }
        GatewayCode::MethodInvalid => "Methods are written in upper case.",
        GatewayCode::HostInvalid => "A request is for one host.",
        GatewayCode::RequestMalformed => "The request can't be read in one way only.",
        GatewayCode::TransferCodingUnknown => "The only transfer coding here is `chunked`.",
        GatewayCode::ConnectRefused => "This is no proxy for other addresses.",
        GatewayCode::NotAuthorized => {
            "The caller may not do this. Nothing was executed, and nothing replayed."
        }
        GatewayCode::AuthorizerUnavailable => {
            "Whether the caller may do this can't be told right now. Nothing was executed; send the \
             same request again in a moment."
        }
    };
    Refusal::new(code, detail)
}

/// The refusal of a request whose caller has its share of the places at the upstream.
pub(crate) const fn share_used_up() -> Refusal<'static> {
    Refusal {
        detail: "Your share of the requests that the service may have is used up. Nothing was executed; \
                 send the same request again in a moment.",
        ..usual(GatewayCode::OverCapacity)
    }
}

/// The refusal of a request that was not protected, and that the upstream may have executed.
pub(crate) const fn in_doubt_without_key(code: GatewayCode) -> Refusal<'static> {
    Refusal {
        retry: None,
        detail: "Nobody knows whether the request was executed. Find out before you send it again.",
        ..usual(code)
    }
}

/// The refusal of a protected request that the upstream has executed, but whose response can't be
/// read.
pub(crate) const fn unreadable() -> Refusal<'static> {
    Refusal {
        retry: Some(Retry::Never),
        detail: "The service has responded, but its response can't be read. The operation counts as \
                 executed: it is not executed again with this key.",
        ..usual(GatewayCode::UpstreamBroken)
    }
}
