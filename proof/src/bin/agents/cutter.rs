//! The network between the agents and one server. It cuts answers at random bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// So long is an answer, until the cutter has seen one.
const USUAL_LENGTH: usize = 400;

#[derive(Debug)]
pub(crate) struct Cutter {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _connections: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    /// The port of the server, or 0 while it is down.
    port: AtomicU16,
    /// How many of 100 answers are cut.
    cuts: u32,
    answers: AtomicU64,
    cut: AtomicU64,
    /// How long the last whole answer was.
    length: AtomicUsize,
}

impl Cutter {
    pub(crate) async fn start(cuts: u32, seed: u64, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            port: AtomicU16::new(port),
            cuts,
            answers: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            length: AtomicUsize::new(USUAL_LENGTH),
        });
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, Arc::clone(&shared), seed));
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

    /// How many answers the servers began, and how many of them were cut.
    pub(crate) fn answers(&self) -> (u64, u64) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (count(&self.shared.answers), count(&self.shared.cut))
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, seed: u64) {
    let mut open = JoinSet::new();
    let mut seeds = StdRng::seed_from_u64(seed);
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        while open.try_join_next().is_some() {}
        let draws = StdRng::seed_from_u64(seeds.random());
        let shared = Arc::clone(&shared);
        open.spawn(async move {
            // Both sides see for themselves how the connection ended.
            let _ = carry(client, &shared, draws).await;
        });
    }
}

/// Carries one connection. A client sends its next request after the whole answer, so the first
/// piece from the client after a piece from the server begins a request.
async fn carry(mut client: TcpStream, shared: &Shared, mut draws: StdRng) -> io::Result<()> {
    client.set_nodelay(true)?;
    client.set_zero_linger()?;
    let port = shared.port.load(Ordering::SeqCst);
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    server.set_nodelay(true)?;
    server.set_zero_linger()?;
    let (mut asked, mut told) = ([0; 4096], [0; 4096]);
    // How many bytes of the answer pass before the cut, and how many have passed.
    let (mut pass, mut passed) = (None, 0);
    let mut answers = false;
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let request = &asked[..read?];
                if request.is_empty() {
                    return Ok(());
                }
                if answers {
                    shared.length.store(passed.max(1), Ordering::Relaxed);
                }
                (answers, passed) = (false, 0);
                server.write_all(request).await?;
            }
            read = server.read(&mut told) => {
                let piece = &told[..read?];
                if piece.is_empty() {
                    return Ok(());
                }
                if !answers {
                    answers = true;
                    shared.answers.fetch_add(1, Ordering::Relaxed);
                    let length = shared.length.load(Ordering::Relaxed);
                    let is_cut = draws.random_range(0..100) < shared.cuts;
                    pass = is_cut.then(|| draws.random_range(0..length));
                }
                match pass {
                    Some(pass) if passed + piece.len() > pass => {
                        client.write_all(&piece[..pass - passed]).await?;
                        shared.cut.fetch_add(1, Ordering::Relaxed);
                        // Without this pause the reset could overtake the bytes.
                        sleep(Duration::from_millis(2)).await;
                        return Ok(());
                    }
                    _ => client.write_all(piece).await?,
                }
                passed += piece.len();
            }
        }
    }
}
