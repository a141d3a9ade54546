//! From a layer's options to its contract.

use crate::contract::{Contract, Endpoint, HeaderChoice, RejectionExample, Terms, refusals};
use crate::options::fingerprint::FingerprintBody;
use crate::options::route::Listed;
use crate::options::{KeysPer, OnMismatch, Require, SkipHeader};
use crate::rejection::RejectionCode;
use crate::request::core::Core;
use crate::store::OnLapsedLease;

impl Contract {
    pub(crate) fn of(layer: &Core) -> Self {
        let docs_url = layer
            .rules
            .rejections
            .docs_url
            .as_deref()
            .map(str::to_owned);
        let endpoints = layer.rules.routes.listed().iter();
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
    fn of(layer: &Core, listed: &Listed) -> Self {
        let ignored = listed.options.require == Require::Ignored;
        Self {
            methods: listed.methods.clone(),
            path: listed.path.clone(),
            terms: (!ignored).then(|| Terms::of(layer, listed)),
        }
    }
}

impl Terms {
    fn of(layer: &Core, listed: &Listed) -> Self {
        let options = &*listed.options;
        let scope = options.scope.as_ref().unwrap_or(&layer.rules.scope);
        let headers = options.record_headers.names.clone();
        let mut terms = Self {
            key_required: options.require == Require::Required,
            header: options.keys.headers.clone(),
            key_syntax: options.keys.syntax,
            key_length: options.keys.length.clone(),
            key_format: options.keys.format.name().map(str::to_owned),
            scope: scope.describe().into_owned(),
            scope_always_finds: scope.always_finds(),
            keys_per: options.keys_per,
            fingerprint_body: options.fingerprint.body.clone(),
            fingerprint_query: options.fingerprint.query,
            fingerprint_headers: options.fingerprint.headers.clone(),
            on_mismatch: options.on_mismatch,
            max_request_body: options.max_request_body,
            body_timeout: options.body_timeout,
            max_recorded_body: options.max_recorded_body,
            oversize: options.oversize,
            record: options.record.describe().into_owned(),
            skip_types: options.skip_types.clone(),
            skip_headers: options
                .skip_headers
                .iter()
                .map(SkipHeader::to_string)
                .collect(),
            record_headers: if options.record_headers.allow {
                HeaderChoice::Only(headers)
            } else {
                HeaderChoice::AllBut(headers)
            },
            on_in_flight: options.on_in_flight,
            on_lapsed_lease: options.on_lapsed_lease,
            on_disconnect: options.on_disconnect,
            on_store_error: options.on_store_error,
            lease: options.lease,
            max_operation: options.max_operation,
            retention: options.retention,
            replayed_header: options.replayed_header.clone(),
            created_at_header: options.created_at_header.clone(),
            expires_at_header: options.expires_at_header.clone(),
            echo_key: options.echo_key,
            replay_status: options.replay_status.clone(),
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

    pub(super) fn refusal(&self, code: RejectionCode) -> Option<&RejectionExample> {
        self.refusals.iter().find(|refusal| refusal.code == code)
    }
}
