//! This `Store` keeps its records on another host.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tower_idempotency::store::{
    Claim, Claimed, Lease, OnLapsedLease, Outcome, Ownership, Record, RecordState, Release, Store,
    StoreError, StoreErrorKind,
};
use tower_idempotency::store::{Completion, FencingToken, Fingerprint, Nonce, RecordId};
use turmoil::net::TcpStream;

use crate::plan::{Plan, STORE, Sabotage};
use crate::store::PORT;
use crate::wire::{Ask, Found, Kept, Told, frame, hex, read, unhex};

/// This client behaves as a database driver does: it has a pool of connections with
/// one call at a time on each, and it may send a call a second time.
pub(crate) struct Remote {
    idle: Mutex<Vec<TcpStream>>,
    resends_after: Option<Duration>,
    /// The wall clock of this host is ahead of the others' clocks by this much.
    clock_ahead: Duration,
    sabotage: Option<Sabotage>,
}

impl Remote {
    pub(crate) fn new(plan: &Plan, clock_ahead: Duration) -> Self {
        Self {
            idle: Mutex::default(),
            resends_after: plan.resends_after,
            clock_ahead,
            sabotage: plan.sabotage,
        }
    }

    async fn ask(&self, ask: Ask) -> Result<Told, StoreError> {
        let frame = frame(&ask);
        let Some(patience) = self.resends_after else {
            return self.exchange(&frame).await;
        };
        if let Ok(Ok(told)) = timeout(patience, self.exchange(&frame)).await {
            return Ok(told);
        }
        // The store may still carry out the first request, so an error now means
        // that the outcome is unknown.
        let again = self.exchange(&frame).await;
        again.map_err(|error| StoreError::new(StoreErrorKind::Unknown, error))
    }

    async fn exchange(&self, frame: &[u8]) -> Result<Told, StoreError> {
        let not_sent = |error| StoreError::new(StoreErrorKind::NotSent, error);
        let idle = self.idle.lock().unwrap().pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => TcpStream::connect((STORE, PORT)).await.map_err(not_sent)?,
        };
        // The frame fits into one segment, so a write that fails has sent nothing.
        stream.write_all(frame).await.map_err(not_sent)?;
        let told = read(&mut stream)
            .await
            .map_err(|error| StoreError::new(StoreErrorKind::Unknown, error))?;
        self.idle.lock().unwrap().push(stream);
        Ok(told)
    }

    fn kept(&self, completion: &Completion) -> Kept {
        let by_this_clock = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).unwrap() + self.clock_ahead;
            u64::try_from(since.as_micros()).unwrap()
        };
        Kept {
            status: completion.status.as_u16(),
            headers: completion
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                .collect(),
            body: String::from_utf8(completion.body.to_vec()).unwrap(),
            began_at: by_this_clock(completion.began_at),
            completed_at: by_this_clock(completion.completed_at),
            retention_ms: completion.retention.as_millis().try_into().unwrap(),
        }
    }
}

fn completion(kept: Kept) -> Completion {
    let status = StatusCode::from_u16(kept.status).unwrap();
    let time = |micros| UNIX_EPOCH + Duration::from_micros(micros);
    let mut completion = Completion::new(status, kept.body, time(kept.completed_at));
    completion.began_at = time(kept.began_at);
    completion.retention = Duration::from_millis(kept.retention_ms);
    for (name, value) in kept.headers {
        let name: HeaderName = name.parse().unwrap();
        completion
            .headers
            .append(name, HeaderValue::try_from(value).unwrap());
    }
    completion
}

fn tenure(told: &Told) -> Ownership {
    match told {
        Told::Held => Ownership::Held,
        _ => Ownership::Lost,
    }
}

fn millis(length: Duration) -> u64 {
    length.as_millis().try_into().unwrap()
}

impl Store for Remote {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let told = self.ask(Ask::Claim {
            id: hex(claim.id.as_bytes()),
            nonce: hex(claim.nonce.as_bytes()),
            fingerprint: hex(claim.fingerprint.as_bytes()),
            lease_ms: millis(claim.lease),
            refuse: claim.on_lapsed_lease == OnLapsedLease::Refuse,
        });
        let (token, attempt, fingerprint, state) = match told.await? {
            Told::Acquired { token, attempt } => {
                let token = FencingToken::new(token).unwrap();
                return Ok(Claimed::Acquired(Lease::new(claim, token, attempt)));
            }
            Told::Found {
                token,
                attempt,
                fingerprint,
                state,
            } => (token, attempt, fingerprint, state),
            Told::Held | Told::Lost => unreachable!("no answer to a claim"),
        };
        let fingerprint = Fingerprint::from_bytes(unhex(&fingerprint));
        let state = match state {
            Found::InFlight { lapses_in_ms } => RecordState::InFlight {
                fingerprint,
                lapses_in: Duration::from_millis(lapses_in_ms),
            },
            Found::Lapsed => RecordState::Lapsed { fingerprint },
            Found::Done(Some(answer)) => RecordState::Completed {
                fingerprint,
                completion: Arc::new(completion(answer)),
            },
            Found::Done(None) => RecordState::Sealed { fingerprint },
        };
        let token = FencingToken::new(token).unwrap();
        Ok(Claimed::Found(Record::new(token, attempt, state)))
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        if self.sabotage == Some(Sabotage::RenewsNothing) {
            return Ok(Ownership::Held);
        }
        let told = self.ask(Ask::Renew {
            id: hex(lease.claim.id.as_bytes()),
            nonce: hex(lease.claim.nonce.as_bytes()),
            lease_ms: millis(lease.claim.lease),
        });
        Ok(tenure(&told.await?))
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        match self.sabotage {
            Some(Sabotage::StoresNothing) => return Ok(Ownership::Held),
            Some(Sabotage::ReleasesInstead) => {
                let Claim { id, nonce, .. } = &lease.claim;
                return self.release(id, nonce, Release::MayRunAgain).await;
            }
            _ => {}
        }
        let told = self.ask(Ask::Complete {
            id: hex(lease.claim.id.as_bytes()),
            nonce: hex(lease.claim.nonce.as_bytes()),
            fingerprint: hex(lease.claim.fingerprint.as_bytes()),
            token: lease.token.get(),
            attempt: lease.attempt,
            answer: match outcome {
                Outcome::Completed(completion) => Some(self.kept(completion)),
                _ => None,
            },
        });
        Ok(tenure(&told.await?))
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        let told = self.ask(Ask::Release {
            id: hex(id.as_bytes()),
            nonce: hex(nonce.as_bytes()),
            may_run_again: how == Release::MayRunAgain,
        });
        Ok(tenure(&told.await?))
    }
}
