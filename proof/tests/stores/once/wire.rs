//! This wire can be cut at a `COMMIT`.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};

/// `Cut` says what happens to the next `COMMIT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The server gets the `COMMIT`, and its result is lost with the connection.
    AfterIt,
    /// The `COMMIT` is lost with the connection.
    BeforeIt,
    /// The client's connection is cut. Until the wire is mended, the server learns
    /// neither of the cut nor of the `COMMIT`.
    Silently,
    /// The connection is cut in the same way, but the server gets the `COMMIT` when
    /// the wire is mended.
    Late,
    /// The server gets the `COMMIT`, and the client waits for the result.
    Unanswered,
}

#[derive(Clone)]
pub(super) struct Wire {
    pub(super) port: u16,
    next: Arc<Mutex<Option<Cut>>>,
    mended: Arc<Notify>,
}

impl Wire {
    pub(super) async fn to(server: String, commit: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self {
            port: listener.local_addr().unwrap().port(),
            next: Arc::default(),
            mended: Arc::default(),
        };
        let accepts = wire.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(accepts.clone().carry(client, server, commit));
            }
        });
        wire
    }

    pub(super) fn cut(&self, next: Cut) {
        *self.next.lock().unwrap() = Some(next);
    }

    /// Returns whether a `COMMIT` came since the last call of `cut`.
    pub(super) fn was_cut(&self) -> bool {
        self.next.lock().unwrap().is_none()
    }

    pub(super) fn mend(&self) {
        self.mended.notify_one();
    }

    async fn carry(self, client: TcpStream, server: TcpStream, commit: &'static [u8]) {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let (close, closed) = oneshot::channel::<()>();
        let back = tokio::spawn(async move {
            tokio::select! {
                _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
                _ = closed => {}
            }
            from_server
        });
        let mut bytes = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from_client.read(&mut bytes).await {
            let sent = &bytes[..length];
            let cut = sent
                .ends_with(commit)
                .then(|| self.next.lock().unwrap().take());
            let Some(cut) = cut.flatten() else {
                if to_server.write_all(sent).await.is_err() {
                    return;
                }
                continue;
            };
            if cut == Cut::Unanswered {
                to_server.write_all(sent).await.unwrap();
                self.mended.notified().await;
                return;
            }
            close.send(()).unwrap();
            let mut from_server = back.await.unwrap();
            drop(from_client);
            match cut {
                Cut::BeforeIt => {}
                Cut::AfterIt => {
                    to_server.write_all(sent).await.unwrap();
                    // The server must have responded before the connection closes,
                    // because a close might overtake the `COMMIT`.
                    let _ = from_server.read(&mut [0]).await;
                }
                Cut::Silently => self.mended.notified().await,
                Cut::Late | Cut::Unanswered => {
                    self.mended.notified().await;
                    to_server.write_all(sent).await.unwrap();
                    let _ = from_server.read(&mut [0]).await;
                }
            }
            return;
        }
    }
}
