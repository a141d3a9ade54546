//! JSON bodies whose canonical form costs the most.

use std::fmt::Write;
use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt;

use super::connection::{Attacker, CALLER};
use crate::wire;

const CONNECTIONS: u32 = 8;
const LENGTH: usize = (1 << 20) - 256;

static BODIES: LazyLock<[String; 4]> =
    LazyLock::new(|| [numbers(), members(), nested(), escapes()]);

pub(super) async fn bodies(attacker: Attacker) {
    attacker.many(CONNECTIONS, requests).await;
}

async fn requests(attacker: Attacker) -> io::Result<()> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let mut connection = attacker.connect().await?;
    loop {
        let body = &BODIES[NEXT.fetch_add(1, Ordering::Relaxed) % BODIES.len()];
        let head = wire::head("POST /json", CALLER, Some(&attacker.key()), body.len());
        connection.write_all(head.as_bytes()).await?;
        connection.write_all(body.as_bytes()).await?;
        let response = wire::response(&mut connection).await?;
        if response.closes {
            return Ok(());
        }
    }
}

/// Returns `open`, as many items as there is room for, and `close`.
fn filled(open: &str, close: &str, mut item: impl FnMut(&mut String, u32)) -> String {
    let mut text = open.to_owned();
    let mut number = 0;
    while text.len() < LENGTH {
        if number > 0 {
            text.push(',');
        }
        item(&mut text, number);
        number += 1;
    }
    text + close
}

/// Numbers that are long to print.
fn numbers() -> String {
    filled("[", "]", |text, number| {
        let _ = write!(
            text,
            "{}.{:05}e-{}",
            number % 9 + 1,
            number % 99_999,
            number % 200
        );
    })
}

/// Members in the order that is longest to sort.
fn members() -> String {
    filled("{", "}", |text, number| {
        let mixed = number.wrapping_mul(2_654_435_761);
        let _ = write!(text, "\"{mixed:08x}\":0");
    })
}

/// Lists in lists.
fn nested() -> String {
    filled("[", "]", |text, _| {
        text.push_str(&"[".repeat(100));
        text.push_str(&"]".repeat(100));
    })
}

/// Strings of escapes only.
fn escapes() -> String {
    filled("[", "]", |text, _| {
        text.push_str(r#""\u00e9\u0001\ud83d\ude00""#);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_body_is_json_of_the_largest_size() {
        for body in BODIES.iter() {
            assert!((LENGTH..=1 << 20).contains(&body.len()), "{}", body.len());
            let read: Result<serde_json::Value, _> = serde_json::from_str(body);
            read.unwrap();
        }
    }
}
