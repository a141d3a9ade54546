//! A replay has members of its retry in it, from a record that is encrypted in a database: the options
//! `replay_json` and `event_streams`, as a file has them.

use std::sync::Arc;

use tokio::sync::Notify;
use tower_idempotency::store::AnyStore;

use crate::program::Written;
use crate::support::{File, Message, Step, Upstream, answer, within};

const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"n":1.50}}"#;
const NOTE: &str = "event: note\ndata: {\"n\":0}\n\n";

fn ask(key: &str, id: &str) -> String {
    let body = format!("{{\"id\":{id},\"n\":0,\"meta\":{{\"key\":\"{key}\"}}}}");
    let length = body.len();
    format!(
        "POST /rpc HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

async fn file(name: &str, upstream: &Upstream) -> (Written, File) {
    let database = Written::new(name, "");
    let store = format!("sqlite:{}", database.path());
    AnyStore::migrate(&store).await.unwrap();
    let file = File::new(upstream.address)
        .top(&format!("store = '{store}'"))
        .top("secrets = ['a secret of more than 16 bytes']")
        .idempotency("encryption = 'xchacha20-poly1305'")
        .idempotency("key_in_body = ['/meta/key']")
        .idempotency("event_streams = 'record'")
        .idempotency("fingerprint_body = { json = { exclude = ['/id'] } }")
        .idempotency("replay_json = { '/id' = 'request:/id', '/replayed' = true }");
    (database, file)
}

fn assert_replay(seen: &Message, body: &str) {
    assert_eq!(seen.status(), 200, "{seen:?}");
    assert_eq!(seen.field("idempotency-replayed"), Some("true"));
    assert_eq!(seen.text(), body);
    let length = body.len().to_string();
    assert_eq!(seen.field("content-length"), Some(&*length));
    assert_eq!(seen.field("etag"), None);
}

fn marked() -> String {
    let own = RESULT.replace("\"id\":1", "\"id\":\"b-2\"");
    own.replace("}}", "},\"replayed\":true}")
}

/// A retry reaches another sidecar than the first request did.
#[tokio::test]
async fn members_of_json_are_those_of_the_retry() {
    let fields = "Content-Type: application/json\r\nETag: \"a\"\r\n";
    let upstream = Upstream::start(move |_| answer("200 OK", fields, RESULT)).await;
    let (_database, file) = file("rewritten-json.db", &upstream).await;
    let first = file.start().await.exchange(&ask("k", "1")).await;
    assert_eq!((first.text(), first.field("etag")), (RESULT, Some("\"a\"")));
    let again = file.start().await.exchange(&ask("k", "\"b-2\"")).await;
    assert_replay(&again, &marked());
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn so_are_those_of_each_event_of_a_stream() {
    let go_on = Arc::new(Notify::new());
    let upstream = {
        let go_on = Arc::clone(&go_on);
        Upstream::start(move |_| {
            let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                        Transfer-Encoding: chunked\r\n\r\n";
            vec![
                Step::Write(head.to_owned() + &chunk(NOTE)),
                Step::Wait(Arc::clone(&go_on)),
                Step::Write(chunk(&format!("data: {RESULT}\n\n")) + "0\r\n\r\n"),
            ]
        })
        .await
    };
    let (_database, file) = file("rewritten-events.db", &upstream).await;
    let sidecar = file.start().await;
    let mut client = sidecar.client().await;
    client.send(&ask("k", "1")).await;
    let head = client.head().await;
    assert_eq!(head.field("content-type"), Some("text/event-stream"));
    // The first event does not wait for the next one.
    let mut seen = vec![0; NOTE.len() + 6];
    let read = tokio::io::AsyncReadExt::read_exact(&mut client.0, &mut seen);
    within(read).await.unwrap();
    assert!(std::str::from_utf8(&seen).unwrap().contains(NOTE));
    go_on.notify_one();
    let mut rest = Vec::new();
    while !rest.ends_with(b"0\r\n\r\n") {
        let read = tokio::io::AsyncReadExt::read_buf(&mut client.0, &mut rest);
        assert!(within(read).await.unwrap() > 0);
    }
    assert!(String::from_utf8(rest).unwrap().contains(RESULT));

    let again = file.start().await.exchange(&ask("k", "\"b-2\"")).await;
    let note = NOTE.replace('}', ",\"replayed\":true}");
    assert_replay(&again, &format!("{note}data: {}\n\n", marked()));
    assert_eq!(upstream.seen().len(), 1);
}
