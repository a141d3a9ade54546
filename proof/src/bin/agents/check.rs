//! Compares what the agents were told with the orders.

use std::collections::HashMap;

use super::agent::Bought;
use super::ledger::Order;

/// What is wrong, in numbers and with the first purchases of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Purchases with more than one order.
    pub(crate) double: Vec<String>,
    /// Orders beyond the first of each purchase.
    pub(crate) orders_too_many: usize,
    /// Purchases without an order although the agent knows one, and purchases whose agent ended
    /// without an order.
    pub(crate) lost: Vec<String>,
    /// Purchases whose agent was told the number of an order that is not the purchase's first.
    pub(crate) told_another: Vec<String>,
}

impl Verdict {
    pub(crate) fn of(bought: &[Bought], orders: &[Order]) -> Self {
        let mut placed: HashMap<&str, Vec<i64>> = HashMap::new();
        for order in orders {
            placed
                .entry(&order.purchase)
                .or_default()
                .push(order.number);
        }
        let mut verdict = Self::default();
        for Bought { purchase, order } in bought {
            let placed = placed.remove(&**purchase).unwrap_or_default();
            if placed.len() > 1 {
                verdict.double.push(purchase.clone());
                verdict.orders_too_many += placed.len() - 1;
            }
            match order {
                Err(why) => verdict.lost.push(format!("{purchase}: {why}")),
                Ok(_) if placed.is_empty() => verdict.lost.push(purchase.clone()),
                Ok(told) if placed[0] != *told => verdict.told_another.push(purchase.clone()),
                Ok(_) => {}
            }
        }
        // Nobody asked for what is left.
        for (purchase, numbers) in placed {
            verdict.orders_too_many += numbers.len();
            verdict.double.push(format!("{purchase}: not asked for"));
        }
        verdict
    }

    pub(crate) fn holds(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bought(purchase: &str, order: Result<i64, &str>) -> Bought {
        Bought {
            purchase: purchase.to_owned(),
            order: order.map_err(str::to_owned),
        }
    }

    fn orders(all: &[(i64, &str)]) -> Vec<Order> {
        let order = |(number, purchase): &(i64, &str)| Order {
            number: *number,
            purchase: (*purchase).to_owned(),
        };
        all.iter().map(order).collect()
    }

    #[test]
    fn one_order_for_each_purchase_holds() {
        let bought = [bought("a", Ok(1)), bought("b", Ok(2))];
        assert!(Verdict::of(&bought, &orders(&[(1, "a"), (2, "b")])).holds());
    }

    #[test]
    fn each_kind_of_fault_is_found() {
        let bought = [
            bought("twice", Ok(1)),
            bought("never", Ok(7)),
            bought("gave-up", Err("no answer")),
            bought("another", Ok(9)),
        ];
        let orders = orders(&[
            (1, "twice"),
            (2, "twice"),
            (3, "gave-up"),
            (4, "another"),
            (5, "x"),
        ]);
        let verdict = Verdict::of(&bought, &orders);
        assert!(!verdict.holds());
        assert_eq!(verdict.double, ["twice", "x: not asked for"]);
        assert_eq!(verdict.orders_too_many, 2);
        assert_eq!(verdict.lost, ["never", "gave-up: no answer"]);
        assert_eq!(verdict.told_another, ["another"]);
    }
}
