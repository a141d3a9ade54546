//! A proxy stands in front of each server and cuts connections: before a request,
//! inside a request, before the response, or inside the response.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::plan::draws;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    BeforeTheRequest,
    InTheRequest,
    /// The connection is cut this long after the request has arrived.
    WhileItRuns(Duration),
    BeforeTheAnswer,
    InTheAnswer,
}

#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _connections: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    seed: u64,
    number: u64,
    /// This is the port of the server behind the proxy; the port changes with each
    /// start.
    port: AtomicU16,
    cuts: AtomicU64,
}

impl Proxy {
    pub(crate) async fn start(seed: u64, number: usize, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            seed,
            number: number as u64,
            port: AtomicU16::new(port),
            cuts: AtomicU64::new(0),
        });
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            _connections: connections,
        })
    }

    pub(crate) fn lead_to(&self, port: u16) {
        self.shared.port.store(port, Ordering::SeqCst);
    }

    pub(crate) fn lead_nowhere(&self) {
        self.lead_to(0);
    }

    /// Returns how many connections the proxy has cut.
    pub(crate) fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut open = JoinSet::new();
    for connection in 0.. {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        while open.try_join_next().is_some() {}
        let draws = draws(shared.seed, b'p', shared.number, connection);
        let shared = Arc::clone(&shared);
        open.spawn(async move {
            // The client and the server see for themselves how the connection
            // ended.
            let _ = carry(client, &shared, draws).await;
        });
    }
}

/// Carries one connection. A client sends a request in one piece, and sends the
/// next request only after the response, so each piece that comes from a client is
/// one request.
async fn carry(mut client: TcpStream, shared: &Shared, mut draws: StdRng) -> io::Result<()> {
    client.set_nodelay(true)?;
    client.set_zero_linger()?;
    let port = shared.port.load(Ordering::SeqCst);
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    server.set_nodelay(true)?;
    server.set_zero_linger()?;
    let (mut asked, mut told) = ([0; 4096], [0; 4096]);
    let mut cut = None;
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let request = &asked[..read?];
                cut = draw(&mut draws);
                if request.is_empty() || cut == Some(Cut::BeforeTheRequest) {
                    break;
                }
                if cut == Some(Cut::InTheRequest) {
                    server.write_all(&request[..draws.random_range(1..=request.len()) - 1]).await?;
                    break;
                }
                server.write_all(request).await?;
                if let Some(Cut::WhileItRuns(time)) = cut {
                    if timeout(time, server.peek(&mut [0])).await.is_err() {
                        break;
                    }
                    // The response came before the planned cut.
                    cut = None;
                }
            }
            read = server.read(&mut told) => {
                let answer = &told[..read?];
                if answer.is_empty() || cut == Some(Cut::BeforeTheAnswer) {
                    break;
                }
                if cut == Some(Cut::InTheAnswer) {
                    client.write_all(&answer[..draws.random_range(1..=answer.len()) - 1]).await?;
                    // Without this pause the reset could overtake the bytes that
                    // were just sent.
                    sleep(Duration::from_millis(2)).await;
                    break;
                }
                client.write_all(answer).await?;
            }
        }
    }
    if cut.is_some() {
        shared.cuts.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Six of a hundred requests are cut.
fn draw(draws: &mut StdRng) -> Option<Cut> {
    let place = draws.random_range(0..100);
    let time = Duration::from_millis(draws.random_range(0..40));
    Some(match place {
        0 => Cut::BeforeTheRequest,
        1 => Cut::InTheRequest,
        2 | 3 => Cut::WhileItRuns(time),
        4 => Cut::BeforeTheAnswer,
        5 => Cut::InTheAnswer,
        _ => return None,
    })
}
