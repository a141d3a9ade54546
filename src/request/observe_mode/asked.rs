//! The body of an observed request, digested while it passes.

use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;
use http_body::Body;

use crate::limits::{Full, Holding, Resource};
use crate::message::body::BodyBuffer;
use crate::message::watched_body::{Passed, Watch};
use crate::observer::Would;
use crate::options::fingerprint::{BegunFingerprint, BodyDigest};
use crate::rejection::RejectionCode;
use crate::request::content::promised;
use crate::request::observe_mode::observation::Observation;
use crate::runtime::Instant;
use crate::store::Claim;

/// The fingerprint of an observed request, while the body passes.
pub(super) struct Asked {
    observation: Arc<Observation>,
    claim: Claim,
    digest: Digest,
    bytes: usize,
    began: Instant,
}

enum Digest {
    /// A body of a known length is kept nowhere.
    InPieces(BodyDigest),
    /// A body that is compared as JSON, or whose length is digested before it, and its room.
    Whole(Box<(BegunFingerprint, BodyBuffer, Holding)>),
    Over,
}

impl Asked {
    pub(super) fn new(
        observation: &Arc<Observation>,
        claim: Claim,
        parts: &Parts,
        body: &impl Body,
    ) -> Result<Self, Full> {
        let request = &observation.request;
        let rules = &request.core.rules;
        let fingerprint = &request.options.fingerprint;
        let (digests, sent) = (&rules.digests, rules.routes.sent(parts));
        let length = promised(body);
        let in_pieces =
            length.and_then(|length| fingerprint.of_body_in_pieces(digests, parts, sent, length));
        let digest = if let Some(digest) = in_pieces {
            Digest::InPieces(digest)
        } else {
            let begun = fingerprint.begin(digests, parts, sent);
            let mut room = request.account().nothing(Resource::RequestBytes);
            room.grow(length.unwrap_or(0))?;
            Digest::Whole(Box::new((begun, BodyBuffer::of_length(length), room)))
        };
        Ok(Self {
            observation: Arc::clone(observation),
            claim,
            digest,
            bytes: 0,
            began: Instant::now(),
        })
    }

    fn reject(&mut self, code: RejectionCode) {
        self.digest = Digest::Over;
        self.observation.decided(Would::Reject(code));
    }

    fn whole(&self, whole: (BegunFingerprint, BodyBuffer, Holding)) {
        let (begun, read, room) = whole;
        let data = read.joined().data;
        let (claim, options) = (
            self.claim.clone(),
            Arc::clone(&self.observation.request.options),
        );
        let takes_long = begun.takes_long(data.len());
        let digest = move || options.fingerprint.end(begun.clone(), &data);
        if !takes_long {
            return self.observation.claim_while_running(claim, digest());
        }
        // Another thread digests it, in turns with other callers (G11).
        self.observation.in_background(async move |own| {
            let request = &own.request;
            let caller = request.account().caller();
            let digested = request.core.turns.run(caller, digest.clone()).await;
            let fingerprint = digested.unwrap_or_else(digest);
            drop(room);
            own.claim_while_running(claim, fingerprint);
        });
    }
}

impl Watch for Asked {
    fn data(&mut self, data: &Bytes) {
        self.bytes = self.bytes.saturating_add(data.len());
        if self.bytes > self.observation.request.options.max_request_body {
            return self.reject(RejectionCode::BodyTooLarge);
        }
        match &mut self.digest {
            Digest::InPieces(digest) => digest.add(data),
            Digest::Whole(whole) => {
                let (_, read, room) = &mut **whole;
                let more = self.bytes.saturating_sub(room.amount());
                if room.grow(more).is_err() {
                    self.digest = Digest::Over;
                    return self.observation.give_up();
                }
                read.push(data.clone());
            }
            Digest::Over => {}
        }
    }

    fn trailers(&mut self, _: &HeaderMap) {}

    fn ended(&mut self, how: Passed) {
        let digest = mem::replace(&mut self.digest, Digest::Over);
        let timeout = self.observation.request.options.body_timeout;
        match (how, digest) {
            (_, Digest::Over) => {}
            (Passed::Part, _) => self.observation.give_up(),
            (Passed::Broken, _) => self.reject(RejectionCode::BodyUnreadable),
            (Passed::Whole, _) if self.began.elapsed() > timeout => {
                self.reject(RejectionCode::BodyTimeout);
            }
            (Passed::Whole, Digest::InPieces(digest)) => {
                let claim = self.claim.clone();
                let fingerprint = digest.finish();
                self.observation.claim_while_running(claim, fingerprint);
            }
            (Passed::Whole, Digest::Whole(whole)) => self.whole(*whole),
        }
    }
}
