//! Some headers come from the layer alone, and neither side can forge them.

use crate::support::{File, Upstream, answer, get, ok, post};

#[tokio::test]
async fn the_upstream_is_told_attempt_and_token_by_nobody_else() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    let lies = "Idempotency-Attempt: 7\r\nIdempotency_Attempt: 7\r\n\
                Idempotency-Fencing-Token: 7\r\nIdempotency_Fencing_Token: 7\r\n";
    let protected = post("/a", "k", "{}").replacen("\r\n", &format!("\r\n{lies}"), 1);
    sidecar.exchange(&protected).await;
    let seen = upstream.last();
    assert_eq!(seen.field("idempotency-attempt"), Some("1"));
    let token = seen.field("idempotency-fencing-token").unwrap();
    assert!(token.parse::<u64>().unwrap() > 1_000_000, "{token}");
    assert_eq!(seen.field("idempotency_attempt"), None);
    assert_eq!(seen.field("idempotency_fencing_token"), None);
    let without_key = protected.replace("Idempotency-Key: k\r\n", "");
    for request in [
        without_key,
        get("/").replacen("\r\n", &format!("\r\n{lies}"), 1),
    ] {
        sidecar.exchange(&request).await;
        let told = |name: &str| name.contains("attempt") || name.contains("token");
        assert!(!upstream.last().named().keys().any(|name| told(name)));
    }
    assert_eq!(upstream.seen().len(), 3);
}

#[tokio::test]
async fn an_upstream_says_nothing_of_replays() {
    let upstream = Upstream::start(|_| {
        let lies = "Idempotency-Replayed: true\r\nIdempotency-Status: unrecorded\r\n\
                    Idempotency-Key: other\r\nIdempotent-Replayed: true\r\n\
                    X-Created: now\r\nX-Expires: never\r\nX-Own: 1\r\n";
        answer("200 OK", lies, "done")
    })
    .await;
    let sidecar = File::new(upstream.address)
        .route("POST /a", "replayed_header = 'Idempotent-Replayed'")
        .route(
            "POST /b",
            "created_at_header = 'X-Created'\nexpires_at_header = 'X-Expires'",
        )
        .start()
        .await;
    for request in [get("/a"), post("/c", "k", "{}"), post("/a", "a", "{}")] {
        let answer = sidecar.exchange(&request).await;
        let names: Vec<_> = answer.named().into_keys().collect();
        assert_eq!(names, ["content-length", "date", "x-own"], "{request}");
    }
    let replayed = sidecar.exchange(&post("/a", "a", "{}")).await;
    assert_eq!(replayed.field("idempotent-replayed"), Some("true"));
    assert_eq!(replayed.field("idempotency-replayed"), None);
    let dated = sidecar.exchange(&post("/b", "b", "{}")).await;
    assert!(dated.field("x-created").unwrap().starts_with("20"));
    assert!(dated.field("x-expires").unwrap().starts_with("20"));
}
