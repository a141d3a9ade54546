//! Step 5, while secrets are rotated: records that were made under an old secret.

use http::request::Parts;
use tracing::warn;

use crate::error::cause;
use crate::rejection::Rejection;
use crate::request::content::Content;
use crate::request::operation::Operation;
use crate::request::stop::Stop;
use crate::store::{Claim, Record, RecordState};

impl Operation {
    /// Looks for a record of this request under each old secret: such a record
    /// still counts. The claim under the current secret is made first: of two
    /// processes that list the secrets in either order, each then sees what the
    /// other claimed.
    pub(super) async fn look_under_old_secrets(
        &self,
        parts: &Parts,
        content: &Content,
    ) -> Result<(), Stop> {
        if self.core.rules.old_digests.is_empty() {
            return Ok(());
        }
        // Boxed, so that the future of most requests has no room for it.
        Box::pin(self.look_under_each(parts, content)).await
    }

    async fn look_under_each(&self, parts: &Parts, content: &Content) -> Result<(), Stop> {
        for (at, old) in self.old_claims(parts, content)?.into_iter().enumerate() {
            let found = self.core.leases.store.look_up(&old.id).await;
            match found.and_then(|record| record.map(Record::readable).transpose()) {
                Ok(None) => {}
                Ok(Some(record)) => match &record.state {
                    RecordState::Released => {
                        self.found_under_old_secret(at, &old);
                        self.take_old_steps(&old).await?;
                    }
                    RecordState::Lapsed { fingerprint }
                        if old.takes_over(record.version(), fingerprint) =>
                    {
                        self.found_under_old_secret(at, &old);
                        self.take_old_steps(&old).await?;
                    }
                    _ => {
                        return Err(match self.found(&old, record) {
                            // A request can't wait for a record under an old secret:
                            // its own claim is given back now, and that would wake
                            // those who wait for the claim's record.
                            Stop::InFlight(_) => Rejection::in_flight().into(),
                            stop => stop,
                        });
                    }
                },
                Err(error) => {
                    let error = cause(&error);
                    warn!(id = ?old.id, error, "look-up under an old secret failed");
                    return Err(Rejection::store_unavailable().into());
                }
            }
        }
        Ok(())
    }

    /// The claims of this request under each old secret.
    pub(super) fn old_claims(&self, parts: &Parts, content: &Content) -> Result<Vec<Claim>, Stop> {
        let rules = &self.core.rules;
        if rules.old_digests.is_empty() {
            return Ok(Vec::new());
        }
        let options = &self.options;
        let caller = rules.caller(options, parts);
        let caller = caller.ok_or_else(|| rules.without_caller(options, parts))?;
        let digests = rules.old_digests.iter().enumerate();
        let claims = digests.map(|(at, digests)| {
            let scope = caller.digest(digests, &rules.namespace);
            let fingerprint = content.fingerprint(self, at + 1, parts);
            self.claim_under(at + 1, scope, parts, fingerprint)
        });
        Ok(claims.collect())
    }

    /// Keeps which record the first attempt had, for `derive_key`. The secrets are
    /// listed newest first, so the first record found is of the latest attempt.
    fn found_under_old_secret(&self, at: usize, old: &Claim) {
        self.first_attempt.get_or_init(|| (at, old.id));
    }
}
