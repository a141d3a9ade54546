//! From a layer's options to its contract.

use crate::contract::{Contract, Endpoint, HeaderChoice, Refusal, Terms, refusals};
use crate::layer::Shared;
use crate::options::fingerprint::FingerprintBody;
use crate::options::route::Listed;
use crate::options::{KeysPer, OnMismatch, Require, SkipHeader};
use crate::rejection::RejectionCode;
use crate::store::OnLapsedLease;

impl Contract {
    pub(crate) fn of(layer: &Shared) -> Self {
        let docs_url = layer.rejections.docs_url.as_deref().map(str::to_owned);
        let endpoints = layer.routes.listed().iter();
        Self {
            endpoints: endpoints
                .map(|listed| Endpoint::of(layer, listed))
                .collect(),
            docs_url,
            gateway: Vec::new(),
        }
    }
}

impl Endpoint {
    fn of(layer: &Shared, listed: &Listed) -> Self {
        let ignored = listed.policy.require == Require::Ignored;
        Self {
            methods: listed.methods.clone(),
            path: listed.path.clone(),
            terms: (!ignored).then(|| Terms::of(layer, listed)),
        }
    }
}

impl Terms {
    fn of(layer: &Shared, listed: &Listed) -> Self {
        let policy = &*listed.policy;
        let scope = policy.scope.as_ref().unwrap_or(&layer.scope);
        let headers = policy.record_headers.names.clone();
        let mut terms = Self {
            key_required: policy.require == Require::Required,
            header: policy.keys.headers.clone(),
            key_syntax: policy.keys.syntax,
            key_length: policy.keys.length.clone(),
            key_format: policy.keys.format.name().map(str::to_owned),
            scope: scope.describe().into_owned(),
            scope_always_finds: scope.always_finds(),
            keys_per: policy.keys_per,
            fingerprint_body: policy.fingerprint.body.clone(),
            fingerprint_query: policy.fingerprint.query,
            fingerprint_headers: policy.fingerprint.headers.clone(),
            on_mismatch: policy.on_mismatch,
            max_request_body: policy.max_request_body,
            body_timeout: policy.body_timeout,
            max_recorded_body: policy.max_recorded_body,
            oversize: policy.oversize,
            record: policy.record.describe().into_owned(),
            skip_types: policy.skip_types.clone(),
            skip_headers: policy
                .skip_headers
                .iter()
                .map(SkipHeader::to_string)
                .collect(),
            record_headers: if policy.record_headers.allow {
                HeaderChoice::Only(headers)
            } else {
                HeaderChoice::AllBut(headers)
            },
            on_in_flight: policy.on_in_flight,
            on_lapsed_lease: policy.on_lapsed_lease,
            on_disconnect: policy.on_disconnect,
            on_store_error: policy.on_store_error,
            lease: policy.lease,
            max_operation: policy.max_operation,
            retention: policy.retention,
            replayed_header: policy.replayed_header.clone(),
            created_at_header: policy.created_at_header.clone(),
            expires_at_header: policy.expires_at_header.clone(),
            echo_key: policy.echo_key,
            replay_status: policy.replay_status.clone(),
            forwarded: false,
            refusals: Vec::new(),
        };
        let codes = RejectionCode::ALL.iter().copied();
        terms.refusals = codes
            .filter(|code| terms.may_refuse(*code))
            .map(|code| refusals::refusal(layer, listed, code))
            .collect();
        terms
    }

    fn may_refuse(&self, code: RejectionCode) -> bool {
        match code {
            RejectionCode::KeyRequired => self.key_required,
            // One without any characters is `key-invalid`.
            RejectionCode::KeyTooShort => *self.key_length.start() > 1,
            RejectionCode::ScopeMissing => !self.scope_always_finds,
            RejectionCode::KeyReused => {
                self.on_mismatch == OnMismatch::Reject && self.can_mismatch()
            }
            RejectionCode::OutcomeUnknown => self.on_lapsed_lease == OnLapsedLease::Refuse,
            RejectionCode::KeyInvalid
            | RejectionCode::KeyTooLong
            | RejectionCode::BodyTooLarge
            | RejectionCode::BodyTimeout
            | RejectionCode::BodyUnreadable
            | RejectionCode::InFlight
            | RejectionCode::ResponseUnavailable
            | RejectionCode::StoreUnavailable
            | RejectionCode::OverCapacity => true,
        }
    }

    /// Whether two requests with one key can differ in what is compared.
    pub(super) fn can_mismatch(&self) -> bool {
        self.keys_per == KeysPer::Scope
            || self.fingerprint_query
            || !self.fingerprint_headers.is_empty()
            || !matches!(self.fingerprint_body, FingerprintBody::None)
    }

    pub(super) fn refusal(&self, code: RejectionCode) -> Option<&Refusal> {
        self.refusals.iter().find(|refusal| refusal.code == code)
    }
}
