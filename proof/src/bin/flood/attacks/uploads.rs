//! Uploads that stop one byte before their end.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connection::{Attacker, CALLER};
use crate::wire;

const UPLOADS: u32 = 300;
/// How long after the one before an upload begins.
const STEP: Duration = Duration::from_millis(4);
const LENGTH: usize = 1 << 20;

pub(super) async fn silent(attacker: Attacker) {
    // One after the other, so that the first have all that there is, and the others find it full.
    attacker.many_by(STEP, UPLOADS, upload).await;
}

async fn upload(attacker: Attacker) -> io::Result<()> {
    let mut connection = attacker.connect().await?;
    let head = wire::head("POST /upload", CALLER, Some(&attacker.key()), LENGTH);
    connection.write_all(head.as_bytes()).await?;
    let piece = [b'x'; 16 << 10];
    let mut left = LENGTH - 1;
    while left > 0 {
        let some = left.min(piece.len());
        connection.write_all(&piece[..some]).await?;
        left -= some;
    }
    // The connection stays until the server gives it up.
    connection.read_u8().await?;
    Ok(())
}
