//! What is wrong with a request, and a store that is down.

use http::{Method, StatusCode};
use tower_idempotency::store::{
    Claim, Claimed, Lease, Nonce, Outcome, Ownership, Record, RecordId, Release, Store, StoreError,
    StoreErrorKind,
};
use tower_idempotency::{IdempotencyLayer, scope};
use tower_idempotency_desk::{Access, Desk};

use crate::support::{Layer, Visitor, search};
use crate::views::{decision, find, here, of};

#[tokio::test]
async fn malformed_requests_get_a_page_that_says_what_to_do() {
    let layer = Layer::new();
    layer.send("K", "fail").await.unwrap_err();
    let (visitor, csrf) = here(&layer).await;
    let record = find(&visitor, &csrf, "K").await;
    let mut good = decision(&visitor, &record, "answer").await;
    good.push(("status".to_owned(), "200".to_owned()));
    let with = |name: &str, value: &str| {
        let mut fields = good.clone();
        fields.retain(|(own, _)| own != name);
        fields.push((name.to_owned(), value.to_owned()));
        fields
    };
    for (fields, status, said) in [
        (with("who", " "), 400, "`who` is missing"),
        (with("who", &"x".repeat(201)), 400, "and 200 are the most"),
        (with("why", &"x".repeat(1001)), 400, "and 1000 are the most"),
        (with("action", "destroy"), 400, "No decision was chosen"),
        (with("seen", "9007199254740992.1"), 400, "which version"),
        (with("seen", "1.-1"), 400, "which version"),
        (with("seen", ""), 400, "which version"),
        (with("id", "../../etc/passwd"), 400, "no id of a record"),
        (with("status", "101"), 400, "The status is none"),
        (with("status", "20x"), 400, "The status is none"),
        (
            with("body", &"x".repeat(65 << 10)),
            413,
            "The form is too large",
        ),
    ] {
        for view in ["confirm", "apply"] {
            let page = visitor.post(view, &of(&fields)).await;
            assert_eq!(
                (page.status.as_u16(), page.text.contains(said)),
                (status, true),
                "{}",
                page.text
            );
            assert!(page.text.contains("role=\"alert\""));
        }
    }
    let many: Vec<_> = (0..40).map(|_| ("a", "b")).collect();
    assert_eq!(visitor.post("apply", &many).await.status, 400);
    let json = visitor.with("content-type", "application/json");
    assert_eq!(
        json.ask(Method::POST, "/?view=apply", "{}").await.status,
        415
    );
    let long = format!("?view={}", "x".repeat(5000));
    assert_eq!(visitor.get(&long).await.status, StatusCode::URI_TOO_LONG);
    for query in [
        "?view=record",
        "?view=record&id=%00",
        "?view=record&id=%ff%fe",
    ] {
        assert_eq!(visitor.get(query).await.status, 400);
    }
    assert_eq!(
        visitor.ask(Method::DELETE, "/", "").await.field("allow"),
        "GET, HEAD, POST"
    );
    for (name, value) in [
        ("method", "P ST"),
        ("path", "payments"),
        ("path", "/ä b"),
        ("path", "/ignored?a b"),
        ("method", "GET"),
        ("key", "ä\u{7f}"),
        ("key", ""),
        ("caller", "a\u{0}b"),
        // The route's caller can't be told.
        ("caller", ""),
    ] {
        let mut fields = search(&csrf, "K");
        fields.iter_mut().find(|(own, _)| *own == name).unwrap().1 = value;
        let page = visitor.post("search", &fields).await;
        assert_eq!(
            (page.status.as_u16(), page.text.contains("role=\"alert\"")),
            (400, true),
            "{name} {value}"
        );
    }
    assert!(
        visitor
            .get(&record)
            .await
            .text
            .contains("<strong>Outcome unknown</strong>")
    );
}

/// A store that can't be reached.
struct Down;

fn down<T>() -> Result<T, StoreError> {
    Err(StoreError::new(StoreErrorKind::NotSent, "<b>no route</b>"))
}

impl Store for Down {
    async fn claim(&self, _: &Claim) -> Result<Claimed, StoreError> {
        down()
    }

    async fn renew(&self, _: &Lease) -> Result<Ownership, StoreError> {
        down()
    }

    async fn complete(&self, _: &Lease, _: &Outcome) -> Result<Ownership, StoreError> {
        down()
    }

    async fn release(&self, _: &RecordId, _: &Nonce, _: Release) -> Result<Ownership, StoreError> {
        down()
    }

    async fn look_up(&self, _: &RecordId) -> Result<Option<Record>, StoreError> {
        down()
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_told_and_nothing_of_its_error_is_shown() {
    let layer = IdempotencyLayer::new(Down, scope::header("x-api-key")).unwrap();
    let mut visitor = Visitor::new(Desk::builder(&layer, Access::loopback()).build());
    let csrf = visitor.arrive().await;
    let overview = visitor.get("").await;
    assert_eq!(overview.status, 200);
    assert!(
        overview.text.contains("The store gives no usable answer"),
        "{}",
        overview.text
    );
    let record = format!("?view=record&id={}", "07".repeat(32));
    for page in [
        visitor.get(&record).await,
        visitor.post("search", &search(&csrf, "K")).await,
    ] {
        assert_eq!(page.status, 503);
        assert!(
            page.text.contains("See the log of this process"),
            "{}",
            page.text
        );
        assert!(!page.text.contains("no route"), "{}", page.text);
    }
    // This store has no lists, which is told apart.
    assert_eq!(visitor.get("?view=list").await.status, 501);
}
