//! Compares the store with a simple model: random operations at random times must have the same
//! results on both.

#![expect(
    clippy::too_many_lines,
    reason = "a model reads best as one list of cases"
)]

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use super::*;
use crate::store::RecordedStep;
use crate::store::memory::slot::State;
use crate::store::memory::steps::weight;

#[derive(Clone, Debug)]
enum Step {
    Claim {
        id: u8,
        fingerprint: u8,
        refuse: bool,
        lease: u64,
        retention: u64,
    },
    /// Sends the same claim again, with the same nonce.
    ClaimAgain {
        lease: usize,
    },
    Renew {
        lease: usize,
    },
    /// Records the result of a step of the operation.
    Record {
        lease: usize,
        name: u8,
        result: u8,
    },
    Complete {
        lease: usize,
    },
    Seal {
        lease: usize,
    },
    Release {
        lease: usize,
        unknown: bool,
    },
    DropGuard {
        lease: usize,
    },
    Forget {
        id: u8,
        mode: ForgetMode,
    },
    LookUp {
        id: u8,
    },
    Advance {
        millis: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let lease = 0..12_usize;
    prop_oneof![
        5 => (0..3_u8, 0..2_u8, any::<bool>(), 1..40_u64, 1..80_u64).prop_map(
            |(id, fingerprint, refuse, lease, retention)| Step::Claim {
                id, fingerprint, refuse, lease, retention,
            }
        ),
        1 => lease.clone().prop_map(|lease| Step::ClaimAgain { lease }),
        1 => lease.clone().prop_map(|lease| Step::Renew { lease }),
        3 => (lease.clone(), 0..3_u8, any::<u8>()).prop_map(
            |(lease, name, result)| Step::Record { lease, name, result }
        ),
        2 => lease.clone().prop_map(|lease| Step::Complete { lease }),
        1 => lease.clone().prop_map(|lease| Step::Seal { lease }),
        2 => (lease.clone(), any::<bool>()).prop_map(|(lease, unknown)| Step::Release { lease, unknown }),
        2 => lease.prop_map(|lease| Step::DropGuard { lease }),
        1 => (0..3_u8, any::<bool>()).prop_map(|(id, force)| Step::Forget {
            id,
            mode: if force { ForgetMode::Forced } else { ForgetMode::UnlessAlive },
        }),
        1 => (0..3_u8).prop_map(|id| Step::LookUp { id }),
        3 => (0..60_u64).prop_map(|millis| Step::Advance { millis }),
    ]
}

/// A record of the model.
#[derive(Clone, Debug)]
struct Plain {
    token: u64,
    attempt: u64,
    fingerprint: u8,
    nonce: Nonce,
    what: What,
    steps: Vec<RecordedStep>,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    InFlight {
        lapses: u64,
        refuse: bool,
        retention: u64,
        /// Whether the owner released the record as unknown.
        unknown: bool,
    },
    Completed {
        until: u64,
    },
    Sealed {
        until: u64,
    },
    Released {
        until: u64,
    },
}

#[derive(Default)]
struct Model {
    records: HashMap<u8, Plain>,
    /// The nonces of leases whose guard lives.
    guarded: Vec<Nonce>,
    now: u64,
}

impl Model {
    fn lapsed(&self, record: &Plain) -> bool {
        matches!(record.what, What::InFlight { lapses, .. } if lapses <= self.now)
            && !self.guarded.contains(&record.nonce)
    }

    /// Returns the record, unless it has expired.
    fn get(&self, id: u8) -> Option<&Plain> {
        let record = self.records.get(&id)?;
        let over = match record.what {
            What::Completed { until } | What::Sealed { until } | What::Released { until } => {
                until <= self.now
            }
            What::InFlight {
                lapses,
                refuse,
                retention,
                ..
            } => !refuse && self.lapsed(record) && lapses + retention <= self.now,
        };
        (!over).then_some(record)
    }

    fn state(&self, id: u8) -> String {
        match self.get(id) {
            None => "absent".to_owned(),
            Some(record) if self.lapsed(record) => format!("lapsed {}", record.fingerprint),
            Some(record) => match record.what {
                What::InFlight { .. } => format!("in flight {}", record.fingerprint),
                What::Completed { .. } => format!("completed {}", record.fingerprint),
                What::Sealed { .. } => format!("sealed {}", record.fingerprint),
                What::Released { .. } => "released".to_owned(),
            },
        }
    }

    /// Returns the attempt, and the steps of earlier ones, if the claim acquires the record.
    fn claims(&self, id: u8, fingerprint: u8, refuse: bool) -> Option<(u64, Vec<RecordedStep>)> {
        let Some(record) = self.get(id) else {
            return Some((1, Vec::new()));
        };
        let taken = matches!(record.what, What::Released { .. })
            || self.lapsed(record) && !refuse && record.fingerprint == fingerprint;
        taken.then(|| (record.attempt + 1, record.steps.clone()))
    }
}

fn said(state: &RecordState) -> String {
    let own = |fingerprint: &Fingerprint| fingerprint.as_bytes()[0];
    match state {
        RecordState::InFlight { fingerprint, .. } => format!("in flight {}", own(fingerprint)),
        RecordState::Lapsed { fingerprint } => format!("lapsed {}", own(fingerprint)),
        RecordState::Completed { fingerprint, .. } => format!("completed {}", own(fingerprint)),
        RecordState::Sealed { fingerprint } => format!("sealed {}", own(fingerprint)),
        RecordState::Released => "released".to_owned(),
    }
}

/// A lease that the store gave, and its guard until a step drops the guard.
struct Given {
    id: u8,
    bare: Lease,
    guard: Option<Lease>,
}

fn check(steps: &[Step]) -> Result<(), TestCaseError> {
    const KEPT: u64 = 50;
    let bench = Bench::new();
    let mut model = Model::default();
    let mut leases: Vec<Given> = Vec::new();
    let mut last_token = 0;
    for step in steps {
        match *step {
            Step::Claim {
                id,
                fingerprint,
                refuse,
                lease,
                retention,
            } => {
                let asked = Claim {
                    fingerprint: Fingerprint::from_bytes([fingerprint; 32]),
                    lease: Duration::from_millis(lease),
                    retention: Duration::from_millis(retention),
                    on_lapsed_lease: if refuse {
                        OnLapsedLease::Refuse
                    } else {
                        OnLapsedLease::Rerun
                    },
                    ..claim(id)
                };
                let expected = model.claims(id, fingerprint, refuse);
                match bench.claim(&asked) {
                    Claimed::Acquired(given) => {
                        let steps = given.steps.clone();
                        prop_assert_eq!(Some((given.attempt, steps.clone())), expected);
                        prop_assert!(given.token.get() > last_token);
                        last_token = given.token.get();
                        let lapses = model.now + lease;
                        model.guarded.push(asked.nonce);
                        model.records.insert(
                            id,
                            Plain {
                                token: last_token,
                                attempt: given.attempt,
                                fingerprint,
                                nonce: asked.nonce,
                                what: What::InFlight {
                                    lapses,
                                    refuse,
                                    retention,
                                    unknown: false,
                                },
                                steps,
                            },
                        );
                        leases.push(Given {
                            id,
                            bare: given.clone().without_guard(),
                            guard: Some(given),
                        });
                    }
                    Claimed::Found(record) => {
                        prop_assert_eq!(None, expected);
                        prop_assert_eq!(said(&record.state), model.state(id));
                    }
                    full => prop_assert!(false, "there is room: {full:?}"),
                }
            }
            Step::Advance { millis } => {
                model.now += millis;
                bench.advance(Duration::from_millis(millis));
            }
            Step::Forget { id, mode } => {
                let expected = match model.get(id) {
                    None => Forgotten::Absent,
                    Some(record)
                        if matches!(record.what, What::InFlight { .. })
                            && !model.lapsed(record)
                            && mode == ForgetMode::UnlessAlive =>
                    {
                        Forgotten::InFlight
                    }
                    Some(_) => Forgotten::Gone,
                };
                prop_assert_eq!(bench.records.forget(&claim(id).id, mode), expected);
                if expected != Forgotten::InFlight {
                    model.records.remove(&id);
                }
            }
            Step::LookUp { id } => {
                let found = bench.records.look_up(&claim(id).id);
                let shown = found
                    .as_ref()
                    .map_or("absent".to_owned(), |record| said(&record.state));
                prop_assert_eq!(shown, model.state(id));
            }
            Step::ClaimAgain { lease }
            | Step::Renew { lease }
            | Step::Record { lease, .. }
            | Step::Complete { lease }
            | Step::Seal { lease }
            | Step::Release { lease, .. }
            | Step::DropGuard { lease } => {
                let Some(given) = leases.get_mut(lease) else {
                    continue;
                };
                by_lease(step, given, &bench, &mut model, KEPT)?;
            }
        }
        prop_assert_eq!(bench.records.queued().0, bench.ending());
        let counted = bench.records.counts.unevictable_bytes();
        prop_assert_eq!(counted, in_flight_bytes(&bench));
    }
    Ok(())
}

/// What the records in flight and their steps take.
fn in_flight_bytes(bench: &Bench) -> usize {
    let bytes = AtomicU64::new(0);
    bench.records.slots.count(|slot| {
        if let State::InFlight { steps, .. } = &slot.state {
            let own: usize = steps.to_vec().iter().map(weight).sum();
            bytes.fetch_add((RECORD_BYTES + own) as u64, Ordering::Relaxed);
        }
        false
    });
    usize::try_from(bytes.into_inner()).unwrap()
}

fn by_lease(
    step: &Step,
    given: &mut Given,
    bench: &Bench,
    model: &mut Model,
    kept: u64,
) -> Result<(), TestCaseError> {
    let (id, nonce, token) = (given.id, given.bare.claim.nonce, given.bare.token.get());
    let now = model.now;
    let current = model.get(id).cloned();
    let owns = current.as_ref().is_some_and(|record| record.nonce == nonce);
    let what = current.as_ref().map(|record| record.what.clone());
    let in_flight = owns && matches!(what, Some(What::InFlight { .. }));
    let renewable = owns && matches!(what, Some(What::InFlight { unknown: false, .. }));
    let done = owns && matches!(what, Some(What::Completed { .. } | What::Sealed { .. }));
    match *step {
        Step::DropGuard { .. } => {
            let guarded = model.guarded.contains(&nonce);
            given.guard = None;
            model.guarded.retain(|own| *own != nonce);
            // The lease could not lapse while its guard lived.
            if let Some(record) = model.records.get_mut(&id)
                && record.nonce == nonce
                && let What::InFlight { lapses, .. } = &mut record.what
                && guarded
            {
                *lapses = now.max(*lapses);
            }
        }
        Step::ClaimAgain { .. } => {
            // While the record is in flight under this nonce, the same claim gets the same lease
            // again.
            if renewable {
                let Claimed::Acquired(again) = bench.claim(&given.bare.claim) else {
                    return Err(TestCaseError::fail("its own record was not given back"));
                };
                prop_assert_eq!(
                    (again.token, again.attempt),
                    (given.bare.token, given.bare.attempt)
                );
                let steps = current.as_ref().map(|record| &record.steps);
                prop_assert_eq!(Some(&again.steps), steps);
                given.guard = Some(again);
                if !model.guarded.contains(&nonce) {
                    model.guarded.push(nonce);
                }
                renewed(model, id, &given.bare);
            } else if done {
                let Claimed::Found(record) = bench.claim(&given.bare.claim) else {
                    return Err(TestCaseError::fail("a completion was claimed"));
                };
                prop_assert_eq!(said(&record.state), model.state(id));
            }
        }
        Step::Renew { .. } => {
            let expected = if renewable || done {
                Ownership::Held
            } else {
                Ownership::Lost
            };
            prop_assert_eq!(bench.records.renew(&given.bare), expected);
            if renewable {
                renewed(model, id, &given.bare);
            }
        }
        Step::Record { name, result, .. } => {
            let expected = if renewable {
                Ownership::Held
            } else {
                Ownership::Lost
            };
            let recorded = RecordedStep::new(format!("step {name}"), vec![result; 100]);
            let answered = bench.records.record_step(&given.bare, &recorded).unwrap();
            prop_assert_eq!(answered, expected);
            if renewable && let Some(record) = model.records.get_mut(&id) {
                // The first result of a name stays.
                if record.steps.iter().all(|step| step.name != recorded.name) {
                    record.steps.push(recorded);
                }
            }
        }
        Step::Complete { .. } | Step::Seal { .. } => {
            let seal = matches!(step, Step::Seal { .. });
            let outcome = outcome(seal, kept);
            // The store may still have an expired record, with its token.
            let known = model.records.get(&id);
            let stores = in_flight
                || match (&current, known) {
                    (None, known) => known.is_none_or(|record| record.token <= token),
                    (Some(record), _) => {
                        matches!(record.what, What::Released { .. }) && record.token <= token
                    }
                };
            let expected = if stores || done {
                Ownership::Held
            } else {
                Ownership::Lost
            };
            let answered = bench.end(&given.bare, &outcome);
            // The store may have removed an expired record during another operation. Both results
            // are right then.
            let either = current.is_none() && !stores;
            prop_assert!(
                answered == expected || either,
                "{answered:?}, not {expected:?}"
            );
            if answered == Ownership::Held && !done {
                let until = now + kept;
                model.records.insert(
                    id,
                    Plain {
                        token,
                        attempt: given.bare.attempt,
                        fingerprint: given.bare.claim.fingerprint.as_bytes()[0],
                        nonce,
                        what: if seal {
                            What::Sealed { until }
                        } else {
                            What::Completed { until }
                        },
                        steps: Vec::new(),
                    },
                );
            }
        }
        Step::Release { unknown, .. } => {
            let how = if unknown {
                Release::OutcomeUnknown
            } else {
                Release::MayRunAgain
            };
            let answered = bench.records.release(&given.bare.claim.id, &nonce, how);
            let expected = if in_flight {
                Ownership::Held
            } else {
                Ownership::Lost
            };
            prop_assert_eq!(answered, expected);
            if in_flight && let Some(record) = model.records.get_mut(&id) {
                match &mut record.what {
                    What::InFlight {
                        lapses,
                        unknown: released,
                        ..
                    } if unknown => {
                        *lapses = now;
                        *released = true;
                        model.guarded.retain(|own| *own != nonce);
                    }
                    What::InFlight { retention, .. } => {
                        record.what = What::Released {
                            until: now + *retention,
                        };
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn renewed(model: &mut Model, id: u8, lease: &Lease) {
    let length = u64::try_from(lease.claim.lease.as_millis()).unwrap();
    if let Some(Plain {
        what: What::InFlight { lapses, .. },
        ..
    }) = model.records.get_mut(&id)
    {
        *lapses = model.now + length;
    }
}

fn outcome(seal: bool, kept: u64) -> Outcome {
    let retention = Duration::from_millis(kept);
    if seal {
        return Outcome::Sealed { retention };
    }
    let mut completion = Completion::new(StatusCode::OK, "", SystemTime::UNIX_EPOCH);
    completion.retention = retention;
    Outcome::Completed(Arc::new(completion))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/proptest-regressions/memory_store.txt"
        )))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_store_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..60)) {
        check(&steps)?;
    }
}
