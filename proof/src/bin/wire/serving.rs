//! This module is the part that all measured servers share: the application, the
//! runtime and how a server tells its addresses. The package in `proof/peers/`
//! compiles this file as well.

use std::hint::black_box;
use std::io::{self, Write};

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// How many bytes the response's body has, unless `WIRE_RESPONSE_BYTES` says otherwise.
pub(crate) const BODY_OUT: usize = 256;

/// Whether the program was asked for this app; without a name it is asked for all.
pub(crate) fn is_asked(app: &str) -> bool {
    let mut names = std::env::args()
        .skip(1)
        .filter(|name| name != "serve")
        .peekable();
    names.peek().is_none() || names.any(|name| name == app)
}

/// The application: one route that reads the body and responds with a body of its own, as
/// long as every other. A store that keeps a part of a response keeps memory of its own.
pub(crate) fn app() -> Router {
    let length = std::env::var("WIRE_RESPONSE_BYTES").ok();
    let length = length.and_then(|length| length.parse().ok());
    let length = length.unwrap_or(BODY_OUT);
    let pay = async move |_body: Bytes| Bytes::from(vec![b'y'; length]);
    Router::new().route("/payments", post(pay))
}

/// Starts the servers that `start` lists, on one thread, and runs them until standard
/// input ends: then the program that has started this one has ended.
pub(crate) fn serve_until_input_ends(start: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        start().await;
        let marks = listen("mark").await;
        tokio::spawn(answer_marks(marks));
        println!("ready");
        io::stdout().flush().expect("standard output is a pipe");
        let mut rest = Vec::new();
        let _ = tokio::io::stdin().read_to_end(&mut rest).await;
    });
    // The thread that read standard input is not waited for.
    runtime.shutdown_background();
}

/// Serves `app` as most programs do, over HTTP/1.1 and HTTP/2.
pub(crate) async fn serve_axum(name: &str, app: Router) {
    if !is_asked(name) {
        return;
    }
    let listener = listen(name).await;
    tokio::spawn(async move { axum::serve(listener, app).await });
}

/// Listens on a free port and prints the address after `name`.
pub(crate) async fn listen(name: &str) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!("{name} {}", listener.local_addr().expect("an address"));
    listener
}

/// Responds to each byte with one byte, after a call that callgrind looks for.
async fn answer_marks(listener: TcpListener) {
    while let Ok((mut connection, _)) = listener.accept().await {
        let mut byte = [0];
        while connection.read_exact(&mut byte).await.is_ok() {
            instructions_are_counted_until_here(byte[0]);
            if connection.write_all(&byte).await.is_err() {
                break;
            }
        }
    }
}

/// Callgrind writes a file and sets its counters to zero before each call of this
/// function, so the function must not be inlined.
#[inline(never)]
fn instructions_are_counted_until_here(byte: u8) {
    black_box(byte);
}
