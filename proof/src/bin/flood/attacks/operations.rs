//! Operations that fill places and the store.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::connection::{Attacker, CALLER};
use crate::wire;

const WAITERS: u32 = 500;
/// How many bytes the body of a waiter has.
const WAITERS_BODY: usize = 16 << 10;
/// A client rests between two operations, so that the attack is on the store and not on
/// the processor.
const REST: Duration = Duration::from_millis(2);
const REST_OF_LARGE: Duration = Duration::from_millis(50);

pub(super) async fn waiters(attacker: Attacker) {
    attacker.many(WAITERS, waiter).await;
}

async fn waiter(attacker: Attacker) -> io::Result<()> {
    let mut connection = attacker.connect().await?;
    let body = [b'x'; WAITERS_BODY];
    let request = wire::request("POST /wait", CALLER, Some("one-slow-operation"), &body);
    connection.write_all(&request).await?;
    connection.read_u8().await?;
    Ok(())
}

pub(super) async fn large(attacker: Attacker) {
    attacker
        .many(4, |own| operations(own, "POST /large", REST_OF_LARGE))
        .await;
}

pub(super) async fn tombstones(attacker: Attacker) {
    attacker
        .many(8, |own| operations(own, "POST /later", REST))
        .await;
}

pub(super) async fn doubt(attacker: Attacker) {
    attacker
        .many(8, |own| operations(own, "POST /doubt", REST))
        .await;
}

/// Sends one operation after the other over one connection.
async fn operations(attacker: Attacker, target: &str, rest: Duration) -> io::Result<()> {
    let mut connection = attacker.connect().await?;
    loop {
        let request = wire::request(target, CALLER, Some(&attacker.key()), b"{}");
        connection.write_all(&request).await?;
        let response = wire::response(&mut connection).await?;
        if response.closes {
            return Ok(());
        }
        sleep(rest).await;
    }
}
