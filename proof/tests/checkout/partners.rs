//! Partners that know their keys, and a ledger of what they did.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::checkout::{Down, Order, Partners, Receipt, STEPS};
use crate::point::Point;

/// What each partner did, and how often it was asked.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<HashMap<(u64, usize), Entry>>>);

#[derive(Default)]
struct Entry {
    /// The keys under which the thing was done. More than one: it was done more than once.
    keys: Vec<String>,
    calls: usize,
}

/// The number of a thing tells of its order and of its step.
fn number(order: u64, step: usize) -> u64 {
    order * 10 + u64::try_from(step).unwrap()
}

pub(crate) fn order_of(number: u64) -> u64 {
    number / 10
}

impl Ledger {
    pub(crate) fn call(&self, what: &str, order: u64, key: &str) -> u64 {
        let step = STEPS.iter().position(|step| *step == what).unwrap();
        let mut ledger = self.0.lock().unwrap();
        let entry = ledger.entry((order, step)).or_default();
        entry.calls += 1;
        if !entry.keys.iter().any(|known| known == key) {
            entry.keys.push(key.to_owned());
        }
        number(order, step)
    }

    /// Whether the ledger and the receipt say that each thing was done once, and that no step whose
    /// result was recorded has run again.
    pub(crate) fn check(&self, order: u64, receipt: &Receipt) -> Result<(), String> {
        let ledger = self.0.lock().unwrap();
        let point = Point::of(order);
        for (step, name) in STEPS.iter().enumerate() {
            let entry = ledger.get(&(order, step));
            let (done, calls) = entry.map_or((0, 0), |entry| (entry.keys.len(), entry.calls));
            if (done, calls) != (1, point.calls(step)) {
                return Err(format!(
                    "order {order}, which ended at {point:?}: {name} was done {done} times, in \
                     {calls} calls"
                ));
            }
        }
        let told = [
            receipt.reservation,
            receipt.charge,
            receipt.parcel,
            receipt.mail,
        ];
        let expected: Vec<_> = (0..STEPS.len()).map(|step| number(order, step)).collect();
        if told[..] != expected {
            return Err(format!("order {order}: the client was told {told:?}"));
        }
        Ok(())
    }
}

impl Partners for Ledger {
    async fn call(&self, what: &'static str, order: &Order, key: &str) -> Result<u64, Down> {
        Ok(Ledger::call(self, what, order.number, key))
    }
}

/// The check finds a thing that was done twice, and a step that ran again.
#[test]
fn what_is_done_twice_is_found() {
    let receipt = |order| Receipt {
        reservation: number(order, 0),
        charge: number(order, 1),
        parcel: number(order, 2),
        mail: number(order, 3),
    };
    let all = |ledger: &Ledger, order| {
        for step in STEPS {
            ledger.call(step, order, step);
        }
    };
    // Order 4 ends during its charge, which is called for twice then; order 5 after it.
    for (order, call, key, is_right) in [
        (4, "charge", "charge", true),
        (4, "charge", "another", false),
        (4, "ship", "ship", false),
        (5, "charge", "charge", false),
    ] {
        let ledger = Ledger::default();
        all(&ledger, order);
        ledger.call(call, order, key);
        let checked = ledger.check(order, &receipt(order));
        assert_eq!(checked.is_ok(), is_right, "{order} {call} {checked:?}");
    }
    let ledger = Ledger::default();
    all(&ledger, 5);
    assert!(ledger.check(5, &receipt(5)).is_ok());
    assert!(ledger.check(5, &receipt(6)).is_err());
}
