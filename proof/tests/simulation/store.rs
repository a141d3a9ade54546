//! The store's host implements the contract of `Store` over a map. Each operation
//! is one step on the store's own clock, and a log says what the store did.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use turmoil::net::TcpListener;

use crate::log::{Log, What};
use crate::plan::{Plan, STORE, Sabotage};
use crate::wire::{Ask, Found, Kept, Told, frame, read};

pub(crate) const PORT: u16 = 7000;

/// Serves until the host crashes; the records outlive the crash.
pub(crate) async fn serve(records: Arc<Mutex<Records>>) -> turmoil::Result {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        let records = Arc::clone(&records);
        tokio::task::spawn_local(async move {
            while let Ok(ask) = read(&mut stream).await {
                let told = records.lock().unwrap().carry_out(ask);
                if stream.write_all(&frame(&told)).await.is_err() {
                    return;
                }
            }
        });
    }
}

pub(crate) struct Records {
    by_id: BTreeMap<String, Record>,
    last_token: u64,
    clock: u64,
    sabotage: Option<Sabotage>,
    log: Log,
}

struct Record {
    token: u64,
    attempt: u64,
    state: State,
}

enum State {
    InFlight {
        fingerprint: String,
        nonce: String,
        lapses_at: Duration,
    },
    Done {
        fingerprint: String,
        nonce: String,
        answer: Option<Kept>,
    },
    Released,
}

impl Records {
    pub(crate) fn new(plan: &Plan, log: Log) -> Self {
        Self {
            by_id: BTreeMap::new(),
            last_token: 0,
            clock: plan.store_clock,
            sabotage: plan.sabotage,
            log,
        }
    }

    /// Returns whether a lease lives at this time of the simulation.
    pub(crate) fn any_lives(&self, at: Duration) -> bool {
        let now = self.by_own_clock(at);
        self.by_id.values().any(
            |record| matches!(record.state, State::InFlight { lapses_at, .. } if lapses_at > now),
        )
    }

    fn by_own_clock(&self, at: Duration) -> Duration {
        at * u32::try_from(self.clock).unwrap() / 1000
    }

    /// Converts a time of the store's clock to the clock of the simulation.
    fn in_simulation(&self, at: Duration) -> Duration {
        at * 1000 / u32::try_from(self.clock).unwrap()
    }

    fn now(&self) -> Duration {
        self.by_own_clock(turmoil::sim_elapsed().expect("called on a host"))
    }

    fn is(&self, sabotage: Sabotage) -> bool {
        self.sabotage == Some(sabotage)
    }

    fn lapse_of(&self, lease_ms: u64) -> Duration {
        let length = Duration::from_millis(lease_ms);
        match self.sabotage {
            Some(Sabotage::LeasesNeverLapse) => self.now() + length * 1000,
            Some(Sabotage::ShortLeases) => self.now() + length / 4,
            _ => self.now() + length,
        }
    }

    fn log(&self, what: What) {
        self.log.add(STORE, what);
    }

    pub(crate) fn carry_out(&mut self, ask: Ask) -> Told {
        match ask {
            Ask::Claim {
                id,
                nonce,
                fingerprint,
                lease_ms,
                refuse,
            } => self.claim(&id, nonce, fingerprint, lease_ms, refuse),
            Ask::Renew {
                id,
                nonce,
                lease_ms,
            } => self.renew(&id, &nonce, lease_ms),
            Ask::Complete {
                id,
                nonce,
                fingerprint,
                token,
                attempt,
                answer,
            } => {
                let state = State::Done {
                    fingerprint,
                    nonce,
                    answer,
                };
                let done = Record {
                    token,
                    attempt,
                    state,
                };
                self.complete(id, done)
            }
            Ask::Release {
                id,
                nonce,
                may_run_again,
            } => self.release(&id, &nonce, may_run_again),
        }
    }

    fn claim(&mut self, id: &str, by: String, asked: String, lease_ms: u64, refuse: bool) -> Told {
        let (now, until) = (self.now(), self.lapse_of(lease_ms));
        let mut attempt = 1;
        let mut takes_over = false;
        if let Some(record) = self.by_id.get_mut(id) {
            attempt = record.attempt + 1;
            let (token, attempt) = (record.token, record.attempt);
            let found = |fingerprint: &String, state| Told::Found {
                token,
                attempt,
                fingerprint: fingerprint.clone(),
                state,
            };
            match &mut record.state {
                State::Released => {}
                State::InFlight {
                    nonce, lapses_at, ..
                } if *nonce == by => {
                    *lapses_at = until;
                    self.log(What::Renewed {
                        record: short(id),
                        token,
                        until: self.in_simulation(until),
                    });
                    return Told::Acquired { token, attempt };
                }
                State::InFlight {
                    fingerprint,
                    lapses_at,
                    ..
                } => {
                    let lives =
                        *lapses_at > now && self.sabotage != Some(Sabotage::TakesLiveLeases);
                    if lives {
                        let left = lapses_at.saturating_sub(now).as_millis();
                        let lapses_in_ms = left.try_into().unwrap();
                        return found(fingerprint, Found::InFlight { lapses_in_ms });
                    }
                    if refuse || *fingerprint != asked {
                        return found(fingerprint, Found::Lapsed);
                    }
                    takes_over = true;
                }
                State::Done { .. } if self.sabotage == Some(Sabotage::ForgetsCompletions) => {}
                State::Done {
                    fingerprint,
                    answer,
                    ..
                } => {
                    return found(fingerprint, Found::Done(answer.clone()));
                }
            }
        }
        let micros = u64::try_from(now.as_micros()).unwrap();
        if !(takes_over && self.is(Sabotage::RepeatsTokens)) {
            // The token is larger than the tokens of all records, so that a token
            // names its record.
            self.last_token = micros.max(self.last_token + 1);
        }
        let token = self.last_token;
        self.log(What::Acquired {
            record: short(id),
            token,
            attempt,
            until: self.in_simulation(until),
            takes_over,
        });
        let state = State::InFlight {
            fingerprint: asked,
            nonce: by,
            lapses_at: until,
        };
        let record = Record {
            token,
            attempt,
            state,
        };
        self.by_id.insert(id.to_owned(), record);
        Told::Acquired { token, attempt }
    }

    fn renew(&mut self, id: &str, by: &str, lease_ms: u64) -> Told {
        let until = self.lapse_of(lease_ms);
        match self.by_id.get_mut(id) {
            Some(Record {
                token,
                state: State::InFlight {
                    nonce, lapses_at, ..
                },
                ..
            }) if nonce == by => {
                *lapses_at = until;
                let token = *token;
                self.log(What::Renewed {
                    record: short(id),
                    token,
                    until: self.in_simulation(until),
                });
                Told::Held
            }
            Some(Record {
                state: State::Done { nonce, .. },
                ..
            }) if nonce == by => Told::Held,
            _ => self.lost(id, "renew"),
        }
    }

    fn complete(&mut self, id: String, done: Record) -> Told {
        let State::Done {
            nonce: by, answer, ..
        } = &done.state
        else {
            unreachable!("only outcomes get here");
        };
        match self.by_id.get(&id) {
            None => {}
            Some(_) if self.is(Sabotage::AnyoneCompletes) => {}
            Some(Record { token, state, .. }) => match state {
                State::InFlight { nonce, .. } if nonce == by => {}
                State::Released if *token <= done.token => {}
                State::Done { nonce, .. } if nonce == by => return Told::Held,
                _ => return self.lost(&id, "complete"),
            },
        }
        let outcome = match answer {
            Some(answer) => format!("{} {}", answer.status, answer.body),
            None => "sealed".to_owned(),
        };
        self.log(What::Completed {
            record: short(&id),
            token: done.token,
            outcome,
        });
        self.by_id.insert(id, done);
        Told::Held
    }

    fn release(&mut self, id: &str, by: &str, may_run_again: bool) -> Told {
        let now = self.now();
        let Some(record) = self.by_id.get_mut(id) else {
            return self.lost(id, "release");
        };
        match &mut record.state {
            State::InFlight {
                nonce, lapses_at, ..
            } if nonce == by => {
                if may_run_again {
                    record.state = State::Released;
                } else {
                    *lapses_at = now;
                }
            }
            _ => return self.lost(id, "release"),
        }
        let token = record.token;
        self.log(What::Released {
            record: short(id),
            token,
            may_run_again,
        });
        Told::Held
    }

    fn lost(&self, id: &str, asked: &'static str) -> Told {
        self.log(What::Lost {
            record: short(id),
            asked,
        });
        Told::Lost
    }
}

fn short(id: &str) -> String {
    id[..6].to_owned()
}
