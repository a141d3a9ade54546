//! This module runs a sidecar in the test's process, with an upstream and a client
//! that see every byte.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tower_idempotency::config::Config;
use tower_idempotency_sidecar::Sidecar;

/// Nothing in these tests takes longer than this.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// `File` is the text of a configuration file, to which tests add entries in the
/// right places.
#[derive(Clone)]
pub(crate) struct File {
    top: String,
    idempotency: String,
    routes: String,
}

impl File {
    pub(crate) fn new(upstream: SocketAddr) -> Self {
        Self {
            top: format!(
                "listen = '127.0.0.1:0'\nupstream = 'http://{upstream}'\nstore = 'memory:'\n"
            ),
            idempotency: "scope = ['shared']\n".to_owned(),
            routes: String::new(),
        }
    }

    pub(crate) fn top(mut self, line: &str) -> Self {
        let name = line.split(' ').next().unwrap();
        let other = |own: &&str| own.split(' ').next() != Some(name);
        let kept: Vec<_> = self.top.lines().filter(other).collect();
        self.top = format!("{}\n{line}\n", kept.join("\n"));
        self
    }

    pub(crate) fn idempotency(mut self, line: &str) -> Self {
        let name = line.split(' ').next().unwrap();
        let other = |own: &&str| own.split(' ').next() != Some(name);
        let kept: Vec<_> = self.idempotency.lines().filter(other).collect();
        self.idempotency = format!("{}\n{line}\n", kept.join("\n"));
        self
    }

    pub(crate) fn route(mut self, pattern: &str, line: &str) -> Self {
        let Self { routes, .. } = &self;
        self.routes = format!("{routes}[[route]]\nmatch = '{pattern}'\n{line}\n");
        self
    }

    pub(crate) fn text(&self) -> String {
        let Self {
            top,
            idempotency,
            routes,
        } = self;
        format!("{top}\n[idempotency]\n{idempotency}\n{routes}")
    }

    pub(crate) async fn start(&self) -> Running {
        Running::start(&self.text()).await
    }
}

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Running {
    /// Starts a sidecar with this configuration file.
    pub(crate) async fn start(text: &str) -> Self {
        let config = Config::from_toml(text).unwrap();
        Self::serve(Sidecar::new(&config).await.unwrap())
    }

    fn serve(sidecar: Sidecar) -> Self {
        let address = sidecar.local_addr().unwrap();
        let metrics = sidecar.metrics_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(async move {
            sidecar
                .serve(async {
                    let _ = stopped.await;
                })
                .await;
        });
        Self {
            address,
            metrics,
            stop,
            ended,
        }
    }

    /// Returns the value of a sample in `/metrics`.
    pub(crate) async fn number(&self, sample: &str) -> u64 {
        let mut client = Client::connect(self.metrics.unwrap()).await;
        client.send(&get("/metrics")).await;
        let text = client.answer().await;
        let mut lines = text.text().lines();
        let value = lines.find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.expect(sample).parse().unwrap()
    }

    /// Returns how often this limit has refused something.
    pub(crate) async fn refusals(&self, limit: &str) -> u64 {
        let sample = format!("idempotency_sidecar_refusals_total{{limit=\"{limit}\"}}");
        self.number(&sample).await
    }

    /// Begins to shut down. The returned handle ends when the sidecar has ended.
    pub(crate) fn stop(self) -> JoinHandle<()> {
        self.stop.send(()).unwrap();
        self.ended
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Sends one request on a connection of its own, and returns the response.
    pub(crate) async fn exchange(&self, request: &str) -> Message {
        let mut client = self.client().await;
        client.send(request).await;
        client.answer().await
    }
}

/// `Message` is a head, and what came after the head.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// This is the first line.
    pub(crate) start: String,
    /// The fields are in the order in which they came, with their names as they
    /// were written.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Message {
    pub(crate) fn status(&self) -> u16 {
        self.start.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut all = self.fields.iter();
        let found = all.find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Returns all fields by name. The values of one name are joined.
    pub(crate) fn named(&self) -> BTreeMap<String, String> {
        let mut named = BTreeMap::<String, String>::new();
        for (name, value) in &self.fields {
            let all = named.entry(name.to_ascii_lowercase()).or_default();
            if !all.is_empty() {
                all.push_str(", ");
            }
            all.push_str(value);
        }
        named
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Returns the code of a problem document.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.field("content-type"), Some("application/problem+json"));
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        problem["code"].as_str().unwrap().to_owned()
    }
}

/// Reads the head of one HTTP/1.1 message. Returns `None` if there is none.
async fn read_head(from: &mut (impl AsyncRead + AsyncBufReadExt + Unpin)) -> Option<Message> {
    let start = line(from).await?;
    let fields = fields(from).await?;
    Some(Message {
        start,
        fields,
        body: Vec::new(),
        trailers: Vec::new(),
    })
}

async fn line(from: &mut (impl AsyncBufReadExt + Unpin)) -> Option<String> {
    let mut line = String::new();
    from.read_line(&mut line).await.ok()?;
    Some(line.strip_suffix("\r\n")?.to_owned())
}

async fn fields(from: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let line = line(from).await?;
        if line.is_empty() {
            return Some(fields);
        }
        let (name, value) = line.split_once(':').unwrap();
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// Reads the body. Returns `false` if the body broke off.
async fn read_body(message: &mut Message, from: &mut BufReader<TcpStream>) -> bool {
    if message.field("transfer-encoding") == Some("chunked") {
        loop {
            let Some(size) = line(from).await else {
                return false;
            };
            let size = usize::from_str_radix(&size, 16).unwrap();
            if size == 0 {
                message.trailers = fields(from).await.unwrap_or_default();
                return true;
            }
            let mut chunk = vec![0; size + 2];
            if from.read_exact(&mut chunk).await.is_err() {
                return false;
            }
            message.body.extend_from_slice(&chunk[..size]);
        }
    }
    let length = message
        .field("content-length")
        .map_or(0, |length| length.parse().unwrap());
    message.body = vec![0; length];
    from.read_exact(&mut message.body).await.is_ok()
}

/// This client writes what a test gives it.
pub(crate) struct Client(pub(crate) BufReader<TcpStream>);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.unwrap()))
    }

    /// Connects from this address. All of `127.0.0.0/8` is this machine.
    pub(crate) async fn connect_from(own: [u8; 4], address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((own, 0).into()).unwrap();
        Self(BufReader::new(socket.connect(address).await.unwrap()))
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    pub(crate) async fn head(&mut self) -> Message {
        within(read_head(&mut self.0)).await.expect("an answer")
    }

    pub(crate) async fn answer(&mut self) -> Message {
        self.try_answer().await.expect("a whole answer")
    }

    /// Reads a response. Returns `None` if the response broke off.
    pub(crate) async fn try_answer(&mut self) -> Option<Message> {
        let mut head = within(read_head(&mut self.0)).await?;
        let whole = within(read_body(&mut head, &mut self.0)).await;
        whole.then_some(head)
    }

    /// Closes the connection so that the sidecar notices at once. Otherwise the client could as well
    /// have closed its sending half.
    pub(crate) fn reset(self) {
        self.0.get_ref().set_zero_linger().unwrap();
    }

    pub(crate) async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        matches!(within(self.0.read(&mut byte)).await, Ok(0) | Err(_))
    }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future)
        .await
        .expect("it takes too long")
}

/// An upstream carries out these steps once it has a request.
#[derive(Clone)]
pub(crate) enum Step {
    Write(String),
    Wait(Arc<Notify>),
    /// The upstream closes the connection.
    Close,
    Hang,
}

/// Returns the steps of a response with a `Content-Length`.
pub(crate) fn answer(status: &str, fields: &str, body: &str) -> Vec<Step> {
    vec![Step::Write(format!(
        "HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    ))]
}

pub(crate) fn ok(body: &str) -> Vec<Step> {
    answer("200 OK", "", body)
}

/// This server keeps the requests that it received.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
    connections: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
}

impl Upstream {
    pub(crate) async fn start(
        script: impl Fn(&Message) -> Vec<Step> + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    pub(crate) fn listen(
        listener: TcpListener,
        script: impl Fn(&Message) -> Vec<Step> + Clone + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Message>>>::default();
        let connections = Arc::<AtomicUsize>::default();
        let closed = Arc::<AtomicUsize>::default();
        {
            let (seen, connections) = (Arc::clone(&seen), Arc::clone(&connections));
            let closed = Arc::clone(&closed);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    connections.fetch_add(1, Ordering::SeqCst);
                    let (seen, script) = (Arc::clone(&seen), script.clone());
                    let closed = Arc::clone(&closed);
                    tokio::spawn(async move {
                        let mut stream = BufReader::new(stream);
                        while let Some(mut message) = read_head(&mut stream).await {
                            if !read_body(&mut message, &mut stream).await {
                                break;
                            }
                            seen.lock().unwrap().push(message.clone());
                            for step in script(&message) {
                                match step {
                                    Step::Write(text) => {
                                        if stream.write_all(text.as_bytes()).await.is_err() {
                                            return;
                                        }
                                    }
                                    Step::Wait(until) => until.notified().await,
                                    Step::Close => return,
                                    Step::Hang => std::future::pending().await,
                                }
                            }
                        }
                        closed.fetch_add(1, Ordering::SeqCst);
                    });
                }
            });
        }
        Self {
            address,
            seen,
            connections,
            closed,
        }
    }

    /// Returns the requests that arrived completely.
    pub(crate) fn seen(&self) -> Vec<Message> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }

    pub(crate) fn last(&self) -> Message {
        self.seen().pop().expect("a request")
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Returns how many connections the sidecar has closed.
    pub(crate) fn closed(&self) -> usize {
        self.closed.load(Ordering::SeqCst)
    }
}

/// Returns an address where nobody listens. A socket that does not listen keeps the port until the
/// tests end: a free port could be given to the next listener, such as the sidecar under test.
pub(crate) fn nobody() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}

/// Returns an address for a program that opens its own socket, another one each time. The kernel
/// gives no port below 32768 to a listener that asks for any.
pub(crate) fn free_port() -> SocketAddr {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Two processes that run these tests begin at different ports.
    let first = std::process::id() as usize * 97;
    loop {
        let next = first + NEXT.fetch_add(1, Ordering::SeqCst);
        let port = u16::try_from(20_000 + next % 12_000).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Returns a POST request with a key.
pub(crate) fn post(path: &str, key: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: shop.example\r\nIdempotency-Key: {key}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n")
}

/// Waits until the condition holds. The test fails if the condition does not hold
/// in time.
pub(crate) async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    within(async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
