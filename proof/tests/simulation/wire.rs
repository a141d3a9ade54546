//! The apps and the store exchange JSON that is preceded by its length.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    Claim {
        id: String,
        nonce: String,
        fingerprint: String,
        lease_ms: u64,
        refuse: bool,
    },
    Renew {
        id: String,
        nonce: String,
        lease_ms: u64,
    },
    Complete {
        id: String,
        nonce: String,
        fingerprint: String,
        token: u64,
        attempt: u64,
        /// `None` means that the record is sealed.
        answer: Option<Kept>,
    },
    Release {
        id: String,
        nonce: String,
        may_run_again: bool,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Told {
    Acquired {
        token: u64,
        attempt: u64,
    },
    Found {
        token: u64,
        attempt: u64,
        fingerprint: String,
        state: Found,
    },
    Held,
    Lost,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Found {
    InFlight {
        lapses_in_ms: u64,
    },
    Lapsed,
    /// `None` means that the record is sealed.
    Done(Option<Kept>),
}

/// `Kept` is a recorded response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// This is in microseconds since 1970, by the clock of the app that wrote it.
    pub(crate) began_at: u64,
    pub(crate) completed_at: u64,
    pub(crate) retention_ms: u64,
}

pub(crate) fn frame(message: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_vec(message).unwrap();
    let length = u32::try_from(json.len()).unwrap();
    [&length.to_be_bytes()[..], &json].concat()
}

pub(crate) async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<T> {
    let length = from.read_u32().await?;
    let mut json = vec![0; length as usize];
    from.read_exact(&mut json).await?;
    Ok(serde_json::from_slice(&json)?)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

pub(crate) fn unhex<const N: usize>(hex: &str) -> [u8; N] {
    std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
}
