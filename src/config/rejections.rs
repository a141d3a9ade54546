//! What rejections are answered with.

use schemars::JsonSchema;
use serde::Deserialize;

use super::field::AnswerStatus;
use crate::rejection::RejectionCode;

/// One table for each code.
macro_rules! rejections {
    ($($field:ident => $code:ident),+ $(,)?) => {
        /// By the rejection's code.
        #[derive(Clone, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        #[schemars(inline)]
        pub(super) struct Rejections {
            $($field: Option<Rejection>,)+
        }

        impl Rejections {
            pub(super) fn listed(&self) -> impl Iterator<Item = (RejectionCode, &Rejection)> {
                [$((RejectionCode::$code, &self.$field)),+]
                    .into_iter()
                    .filter_map(|(code, entry)| Some((code, entry.as_ref()?)))
            }
        }
    };
}

rejections! {
    key_required => KeyRequired,
    key_invalid => KeyInvalid,
    key_too_short => KeyTooShort,
    key_too_long => KeyTooLong,
    scope_missing => ScopeMissing,
    body_too_large => BodyTooLarge,
    body_timeout => BodyTimeout,
    body_unreadable => BodyUnreadable,
    key_reused => KeyReused,
    in_flight => InFlight,
    outcome_unknown => OutcomeUnknown,
    response_unavailable => ResponseUnavailable,
    store_unavailable => StoreUnavailable,
    over_capacity => OverCapacity,
}

/// What one rejection is answered with.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rejection {
    /// Another status.
    pub(super) status: Option<AnswerStatus>,
    /// The type of `body`.
    pub(super) content_type: Option<String>,
    /// The body, in which `{code}`, `{title}`, `{detail}`, `{status}`, `{retry}`, `{docs_url}` and
    /// `{request_id}` are filled in; in anything but JSON only `{code}`, `{status}`, `{retry}` and
    /// `{request_id}` can stand.
    pub(super) body: Option<String>,
}
