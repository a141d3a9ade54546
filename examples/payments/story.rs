//! The story: what the client sends, what the API promises, and what the client
//! receives.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, response};
use http_body_util::BodyExt;
use hyper_util::client::legacy::{Client as HttpClient, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use tower_idempotency::store::AnyStore;

use super::{BoxError, FARE_RETENTION, Shop, app, idempotency};

/// Plays the story and returns whether every line came out as promised. The
/// story has a server of its own on a free port, so that no other client adds
/// to the ledger.
pub(crate) async fn tell() -> Result<bool, BoxError> {
    let shop = Arc::<Shop>::default();
    let store = AnyStore::connect("memory:").await?;
    let router = app(Arc::clone(&shop), idempotency(store)?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let client = Client::new(listener.local_addr()?);
    let server = tokio::spawn(async { axum::serve(listener, router).await });
    let mut table = Table::begin(client.clone());

    let line = "First call: the payment is made, and the answer recorded.";
    let shoes = Call::new("alice", "/payments", "shoes-1", 4200);
    let promised = (201, "pay_1", "", 1);
    table.play(line, shoes, promised).await?;

    let line = "Retry: the same answer again, and no second charge.";
    let promised = (201, "pay_1", "Idempotency-Replayed: true", 1);
    table.play(line, shoes, promised).await?;

    let line = "Changed body: not a retry of that payment, so it is refused.";
    let changed = Call::new("alice", "/payments", "shoes-1", 9900);
    let promised = (422, "", "code: key-reused", 1);
    table.play(line, changed, promised).await?;

    // The second call is sent after the first one has reached the card
    // processor, and the processor continues only after the second call has its
    // response. So the two calls overlap on every machine.
    let hat = Call::new("alice", "/payments", "hat-1", 1990);
    let (begun, has_begun) = oneshot::channel();
    let (go_on, may_go_on) = oneshot::channel();
    shop.processor.arrange(Mishap::Slow(begun, may_go_on));
    let first = tokio::spawn(async move { client.post(hat).await });
    let begun = in_time(has_begun).await;
    begun.map_err(|_| "a payment never reached the card processor")??;
    let line = "Two at once: while the first is being paid, the second is told to wait.";
    let promised = (409, "", "code: in-flight, Retry-After: 1", 1);
    table.play(line, hat, promised).await?;

    let line = "Two at once: the first is paid as if it were alone.";
    go_on.send(()).ok();
    let answer = first.await??;
    let promised = (201, "pay_2", "", 2);
    table.row(line, hat, &answer, promised).await?;

    let line = "Two at once: the second asks again, and gets the answer of the first.";
    let promised = (201, "pay_2", "Idempotency-Replayed: true", 2);
    table.play(line, hat, promised).await?;

    let line = "Key missing, where it is required: refused, and nothing runs.";
    let missing = Call { key: None, ..shoes };
    let promised = (400, "", "code: key-required", 2);
    table.play(line, missing, promised).await?;

    let line = "Key malformed, its quotation mark is never closed: refused, and nothing runs.";
    let malformed = Call::new("alice", "/payments", "\"shoes-1", 4200);
    let promised = (400, "", "code: key-invalid", 2);
    table.play(line, malformed, promised).await?;

    let line = "Another customer with the same key: a payment of their own.";
    let bobs = Call::new("bob", "/payments", "shoes-1", 4200);
    let promised = (201, "pay_3", "", 3);
    table.play(line, bobs, promised).await?;

    let line = "The card processor is down: a 503 settles nothing, so it is not recorded ...";
    let bag = Call::new("alice", "/payments", "bag-1", 6500);
    shop.processor.arrange(Mishap::Down);
    let promised = (503, "", "Retry-After: 1", 3);
    table.play(line, bag, promised).await?;

    let line = "... and a retry tries again: now the payment is made.";
    let promised = (201, "pay_4", "attempt: 2", 4);
    table.play(line, bag, promised).await?;

    let kept = FARE_RETENTION.as_millis();
    let line = format!("A fare, where keys are kept for {kept} ms (for payments it is a day) ...");
    let ride = Call::new("alice", "/fares", "gate-7", 280);
    let promised = (201, "pay_5", "", 5);
    table.play(&line, ride, promised).await?;

    // The retention began before the response arrived, so this pause is always
    // long enough.
    tokio::time::sleep(FARE_RETENTION).await;
    let line = format!("... and {kept} ms later the key has expired: a new ride, a new charge.");
    let promised = (201, "pay_6", "", 6);
    table.play(&line, ride, promised).await?;

    server.abort();
    Ok(table.end())
}

/// Stands for a company that charges cards. The story can let the next charge
/// fail or wait.
#[derive(Default)]
pub(crate) struct CardProcessor {
    next: Mutex<Option<Mishap>>,
    takes: Duration,
}

enum Mishap {
    Down,
    /// The processor reports on the first channel that the charge has begun,
    /// and waits for a message on the second channel before it continues.
    Slow(oneshot::Sender<()>, oneshot::Receiver<()>),
}

impl CardProcessor {
    pub(crate) fn that_takes(time: Duration) -> Self {
        Self {
            takes: time,
            ..Self::default()
        }
    }

    /// Charges the card and returns whether that succeeded.
    pub(crate) async fn charge(&self) -> bool {
        tokio::time::sleep(self.takes).await;
        let mishap = self.next.lock().expect("no holder panics").take();
        match mishap {
            None => true,
            Some(Mishap::Down) => false,
            Some(Mishap::Slow(begun, may_go_on)) => {
                begun.send(()).ok();
                may_go_on.await.is_ok()
            }
        }
    }

    /// Lets this mishap happen to the next charge.
    fn arrange(&self, mishap: Mishap) {
        *self.next.lock().expect("no holder panics") = Some(mishap);
    }
}

/// A POST request that pays an amount of euro cents.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    caller: &'static str,
    path: &'static str,
    key: Option<&'static str>,
    amount: u64,
}

impl Call {
    pub(crate) fn new(
        caller: &'static str,
        path: &'static str,
        key: &'static str,
        amount: u64,
    ) -> Self {
        Self {
            caller,
            path,
            key: Some(key),
            amount,
        }
    }
}

/// What a client can see of a response.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The id of the payment; it is empty if the response has none.
    pub(crate) payment: String,
    /// What the headers and the JSON members of the response say about the
    /// operation.
    pub(crate) markers: String,
}

/// What a line of the story promises: the status, payment and markers of the
/// response, and then the number of charges in the ledger.
type Promise = (u16, &'static str, &'static str, u64);

#[derive(Clone)]
pub(crate) struct Client {
    http: HttpClient<HttpConnector, Body>,
    server: SocketAddr,
}

impl Client {
    pub(crate) fn new(server: SocketAddr) -> Self {
        let http = HttpClient::builder(TokioExecutor::new()).build_http();
        Self { http, server }
    }

    pub(crate) async fn post(&self, call: Call) -> Result<Answer, BoxError> {
        let order = json!({ "amount": call.amount, "currency": "EUR" });
        let mut request = Request::post(format!("http://{}{}", self.server, call.path))
            .header("content-type", "application/json")
            .header("x-api-key", call.caller);
        if let Some(key) = call.key {
            request = request.header("idempotency-key", key);
        }
        let (head, body) = self.send(request.body(order.to_string().into())?).await?;

        let mut markers = Vec::new();
        if let Some(code) = body["code"].as_str() {
            markers.push(format!("code: {code}"));
        }
        if let Some(attempt) = body["attempt"].as_u64().filter(|attempt| *attempt > 1) {
            markers.push(format!("attempt: {attempt}"));
        }
        for name in ["Idempotency-Replayed", "Idempotency-Status", "Retry-After"] {
            if let Some(value) = head.headers.get(name) {
                markers.push(format!("{name}: {}", value.to_str()?));
            }
        }
        Ok(Answer {
            status: head.status.as_u16(),
            payment: body["id"].as_str().unwrap_or_default().to_owned(),
            markers: markers.join(", "),
        })
    }

    pub(crate) async fn charges(&self) -> Result<u64, BoxError> {
        let request = Request::get(format!("http://{}/ledger", self.server));
        let (_, ledger) = self.send(request.body(Body::empty())?).await?;
        let charges = ledger["charges"].as_u64();
        charges.ok_or_else(|| "the ledger can't be read".into())
    }

    /// Sends a request and returns the head of the response and its JSON body.
    /// A body that is not JSON becomes `null`.
    async fn send(&self, request: Request<Body>) -> Result<(response::Parts, Value), BoxError> {
        let (head, body) = in_time(self.http.request(request)).await??.into_parts();
        let body = in_time(body.collect()).await??.to_bytes();
        Ok((head, serde_json::from_slice(&body).unwrap_or_default()))
    }
}

/// Fails if `step` takes 30 s: no step of the story takes long, so the server
/// must be broken then.
async fn in_time<T>(step: impl Future<Output = T>) -> Result<T, &'static str> {
    let limit = Duration::from_secs(30);
    let timely = tokio::time::timeout(limit, step).await;
    timely.map_err(|_| "the server took longer than 30 s")
}

/// Prints each line of the story as it happens.
struct Table {
    client: Client,
    rows: usize,
    failed: usize,
}

impl Table {
    fn begin(client: Client) -> Self {
        println!(
            "A client sends payments to a server, over TCP. Its x-api-key says who is calling, \
             its Idempotency-Key\nwhich operation is meant. \"charges\" is what the server's \
             ledger holds after each line.\n"
        );
        let sent = sent("caller", "POST", "key", "amount");
        let seen = seen("status", "payment", "markers", "charges");
        println!("    {sent}  {seen}\n{}", "-".repeat(109));
        Self {
            client,
            rows: 0,
            failed: 0,
        }
    }

    async fn play(&mut self, line: &str, call: Call, promised: Promise) -> Result<(), BoxError> {
        let answer = self.client.post(call).await?;
        self.row(line, call, &answer, promised).await
    }

    async fn row(
        &mut self,
        line: &str,
        call: Call,
        answer: &Answer,
        promised: Promise,
    ) -> Result<(), BoxError> {
        let charges = self.client.charges().await?;
        let (status, payment, markers) = (answer.status, &*answer.payment, &*answer.markers);
        let kept = promised == (status, payment, markers, charges);
        self.rows += 1;
        self.failed += usize::from(!kept);

        let key = call.key.unwrap_or("(none)");
        let amount = format!("{}.{:02} EUR", call.amount / 100, call.amount % 100);
        let sent = sent(call.caller, call.path, key, &amount);
        let seen_now = seen(status, payment, markers, charges);
        let mark = if kept { "ok" } else { "FAILED" };
        println!("{:>2}  {line}\n    {sent}  {seen_now}  {mark}", self.rows);
        if !kept {
            let (status, payment, markers, charges) = promised;
            let promised = seen(status, payment, markers, charges);
            println!("{:>42}  {promised}", "promised:");
        }
        Ok(())
    }

    /// Prints the summary and returns whether all lines came out as promised.
    fn end(self) -> bool {
        let Self { rows, failed, .. } = self;
        match failed {
            0 => println!("\nAll {rows} came out as promised."),
            _ => println!("\n{failed} of {rows} did NOT come out as promised."),
        }
        failed == 0
    }
}

fn sent(caller: &str, path: &str, key: &str, amount: &str) -> String {
    format!("{caller:<6}  {path:<9}  {key:<8}  {amount:>9}")
}

fn seen<N: Display, M: Display>(status: N, payment: &str, markers: &str, charges: M) -> String {
    format!("{status:<6}  {payment:<7}  {markers:<31}  {charges:>7}")
}
