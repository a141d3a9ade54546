//! What the desk shows and does, as a service.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use crate::support::{Layer, SECRET, Visitor, search};
use http::Method;
use tower_idempotency_desk::{Access, Desk};

/// A desk on a loopback address, whose visitor has a session, and that session's token of forms.
pub(crate) async fn here(layer: &Layer) -> (Visitor, String) {
    let mut visitor = layer.desk(Access::loopback());
    let csrf = visitor.arrive().await;
    (visitor, csrf)
}

/// The query of the record of this key.
pub(crate) async fn find(visitor: &Visitor, csrf: &str, key: &str) -> String {
    let page = visitor.post("search", &search(csrf, key)).await;
    assert_eq!(page.status, 303, "{}", page.text);
    let location = page.field("location").to_owned();
    assert!(
        !location.contains(key) && !location.contains("alice"),
        "{location}"
    );
    location
}

/// The fields of the form that the page of a record has for a decision.
pub(crate) async fn decision(
    visitor: &Visitor,
    record: &str,
    action: &str,
) -> Vec<(String, String)> {
    let page = visitor.get(record).await;
    let hidden = |name: &str| (name.to_owned(), page.hidden(name));
    let mut fields = ["csrf", "id", "seen"].map(hidden).to_vec();
    let own = [
        ("action", action),
        ("who", "Kim"),
        ("why", "the ledger has it"),
    ];
    fields.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    fields
}

pub(crate) fn of(fields: &[(String, String)]) -> Vec<(&str, &str)> {
    fields
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect()
}

#[tokio::test]
async fn each_page_has_the_fields_that_bind_a_browser() {
    let layer = Layer::new();
    layer.send("K", "pay").await.unwrap();
    let (visitor, csrf) = here(&layer).await;
    let record = find(&visitor, &csrf, "K").await;
    let mut pages = Vec::new();
    for query in [
        "",
        "?refresh=off",
        "?view=search",
        &record,
        "?view=style",
        "?view=nothing",
    ] {
        pages.push(visitor.get(query).await);
    }
    pages.push(visitor.post("search", &[]).await);
    pages.push(visitor.ask(Method::PUT, "/", "").await);
    pages.push(visitor.ask(Method::GET, "/other", "").await);
    pages.push(layer.desk(Access::token(SECRET).unwrap()).get("").await);
    for page in pages {
        let policy = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; \
                      base-uri 'none'";
        assert_eq!(page.field("content-security-policy"), policy);
        assert_eq!(page.field("x-content-type-options"), "nosniff");
        assert_eq!(page.field("referrer-policy"), "no-referrer");
        assert_eq!(page.field("cache-control"), "no-store");
        assert_eq!(page.field("cross-origin-resource-policy"), "same-origin");
        // Nothing is loaded or run from elsewhere, and every link leads to the desk's own address.
        assert!(
            !page.text.contains("<script") && !page.text.contains("style="),
            "{}",
            page.text
        );
        let links = page.text.split("href=\"").skip(1);
        for link in links.chain(page.text.split("action=\"").skip(1)) {
            let is_own = link.starts_with(['?', '#']);
            assert!(is_own, "{}", link.split('"').next().unwrap());
        }
    }
}

#[tokio::test]
async fn the_overview_tells_what_became_of_requests() {
    let layer = Layer::new();
    layer.send("1", "pay").await.unwrap();
    layer.send("1", "pay").await.unwrap();
    layer.send("1", "other").await.unwrap();
    layer.send("2", "fail").await.unwrap_err();
    let (visitor, _) = here(&layer).await;
    let page = visitor.get("").await;
    assert_eq!(page.status, 200);
    for said in [
        "<th scope=\"row\">Executed</th><td class=\"number\">2</td>",
        "<th scope=\"row\">Replayed</th><td class=\"number\">1</td>",
        "<th scope=\"row\">Outcome unknown</th><td class=\"number\">1</td>",
        "<code>key-reused</code></th><td class=\"number\">1</td>",
        "The store answers",
        "<code>max_in_flight_operations</code></th><td><meter min=\"0\" max=\"10000\" value=\"0\"",
        "The store has 2 records",
        "aria-label=\"Requests a second by outcome within the last minute, ",
        "http-equiv=\"refresh\"",
    ] {
        assert!(page.text.contains(said), "{said}: {}", page.text);
    }
    assert!(
        !visitor
            .get("?refresh=off")
            .await
            .text
            .contains("http-equiv")
    );
}

#[tokio::test]
async fn the_work_list_has_each_unknown_outcome_on_one_page() {
    let layer = Layer::new();
    layer.send("done", "pay").await.unwrap();
    let hostile = "POST /<script>alert('x')</script>/{id}";
    for number in 1..=120 {
        layer.plant(number, hostile).await;
    }
    let (visitor, _) = here(&layer).await;
    let overview = visitor.get("").await;
    assert!(
        overview
            .text
            .contains("At least <a href=\"?view=list\">100 operations"),
        "{}",
        overview.text
    );
    let mut seen = BTreeSet::new();
    let mut query = "?view=list".to_owned();
    loop {
        let page = visitor.get(&query).await;
        assert_eq!(page.status, 200, "{}", page.text);
        assert!(!page.text.contains("<script"), "{}", page.text);
        for (at, link) in page.text.split("?view=record&amp;id=").enumerate().skip(1) {
            assert!(at <= 50 && seen.insert(link[..64].to_owned()), "{link}");
        }
        for said in [
            "&lt;script&gt;",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ">1</td>",
        ] {
            assert!(page.text.contains(said), "{said}: {}", page.text);
        }
        let Some((_, next)) = page.text.split_once("rel=\"next\" href=\"") else {
            break;
        };
        query = next.split('"').next().unwrap().replace("&amp;", "&");
    }
    assert_eq!(seen.len(), 120);
    let record = visitor
        .get(&format!("?view=record&id={}", "07".repeat(32)))
        .await;
    assert!(record.text.contains("&lt;script&gt;") && !record.text.contains("<script"));
    for (query, count) in [
        ("&state=completed", 1),
        ("&state=sealed", 0),
        ("&state=unknown&older=1", 0),
        ("&state=lapsed", 0),
    ] {
        let page = visitor.get(&format!("?view=list{query}")).await;
        assert_eq!(page.text.matches("?view=record").count(), count, "{query}");
    }
    for query in [
        "&state=odd",
        "&older=-1",
        "&older=99999999999",
        "&cursor=x",
        "&cursor=00",
    ] {
        let page = visitor.get(&format!("?view=list{query}")).await;
        assert_eq!(
            (page.status.as_u16(), page.text.contains("To the list")),
            (400, true),
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_record_is_found_by_its_caller_and_key_and_its_body_shown_if_that_is_allowed() {
    let layer = Layer::new();
    layer.send("K", "pay").await.unwrap();
    let (visitor, csrf) = here(&layer).await;
    let record = find(&visitor, &csrf, "K").await;
    let page = visitor.get(&record).await;
    assert!(page.text.contains("<strong>Completed</strong>") && page.text.contains("<dd>201</dd>"));
    assert!(
        !page.text.contains("note") && page.text.contains("show_bodies"),
        "{}",
        page.text
    );
    let desk = Desk::builder(&layer.own, Access::loopback())
        .show_bodies(true)
        .build();
    let page = Visitor::new(desk).get(&record).await;
    assert!(page.text.contains("&lt;b&gt;3&lt;/b&gt;") && page.text.contains("&lt;i&gt;note"));
    assert!(
        !page.text.contains("<b>") && !page.text.contains("<i>"),
        "{}",
        page.text
    );
    let page = visitor.post("search", &search(&csrf, "L")).await;
    assert_eq!(page.status, 404);
    assert!(page.text.contains("There is no such record"));
}

#[tokio::test]
async fn an_unknown_outcome_is_sealed_answered_or_freed_after_a_page_that_says_what_will_happen() {
    for (action, more, told, then) in [
        (
            "seal",
            vec![],
            "<code>response-unavailable</code>",
            (409, 1),
        ),
        (
            "answer",
            vec![
                ("status", "202"),
                ("content_type", "text/plain"),
                ("body", "paid\r\n<late>"),
            ],
            "<dd>202</dd>",
            (202, 1),
        ),
        ("free", vec![], "executes the operation", (201, 2)),
    ] {
        let layer = Layer::new();
        layer.send("K", "fail").await.unwrap_err();
        let (visitor, csrf) = here(&layer).await;
        let record = find(&visitor, &csrf, "K").await;
        assert!(
            visitor
                .get(&record)
                .await
                .text
                .contains("<strong>Outcome unknown</strong>")
        );
        let mut fields = decision(&visitor, &record, action).await;
        fields.extend(
            more.into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let page = visitor.post("confirm", &of(&fields)).await;
        assert_eq!(page.status, 200, "{}", page.text);
        for said in [
            told,
            "Kim",
            "the ledger has it",
            "Nothing has been changed yet",
        ] {
            assert!(page.text.contains(said), "{said}: {}", page.text);
        }
        assert!(
            visitor
                .get(&record)
                .await
                .text
                .contains("<strong>Outcome unknown</strong>")
        );
        let page = visitor.post("apply", &of(&fields)).await;
        assert_eq!(page.status, 200, "{}", page.text);
        // The same form once more meets a record that has moved on, or none.
        let again = visitor.post("apply", &of(&fields)).await.status;
        let gone = if action == "free" { 404 } else { 409 };
        assert_eq!(again, gone);
        let body = if action == "free" { "pay" } else { "fail" };
        let (status, text) = layer.send("K", body).await.unwrap();
        let runs = layer.runs.load(Ordering::SeqCst);
        assert_eq!((status.as_u16(), runs), then, "{action}");
        assert!(action != "answer" || text == "paid\r\n<late>", "{text:?}");
    }
}

#[tokio::test]
async fn a_record_that_has_moved_on_is_left_alone() {
    let layer = Layer::new();
    layer.send("K", "fail").await.unwrap_err();
    let (visitor, csrf) = here(&layer).await;
    let record = find(&visitor, &csrf, "K").await;
    let shown = decision(&visitor, &record, "seal").await;
    // Somebody else frees the record, and a retry ends in an unknown way once more.
    let other = decision(&visitor, &record, "free").await;
    assert_eq!(visitor.post("apply", &of(&other)).await.status, 200);
    layer.send("K", "fail").await.unwrap_err();
    for view in ["confirm", "apply"] {
        let page = visitor.post(view, &of(&shown)).await;
        assert_eq!(page.status, 409, "{}", page.text);
        assert!(
            page.text
                .contains("The record has moved on since it was shown")
        );
        assert!(page.text.contains("Look at the record again"));
    }
    assert!(
        visitor
            .get(&record)
            .await
            .text
            .contains("<strong>Outcome unknown</strong>")
    );
}

#[tokio::test]
async fn an_operation_in_flight_is_forgotten_by_force_alone() {
    let layer = Layer::new();
    let running = layer.clone();
    let running = tokio::spawn(async move { running.send("K", "hang").await });
    while layer.runs.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let (visitor, csrf) = here(&layer).await;
    let record = find(&visitor, &csrf, "K").await;
    let page = visitor.get(&record).await;
    assert!(
        page.text.contains("<strong>In flight</strong>"),
        "{}",
        page.text
    );
    for action in ["forget", "free", "seal"] {
        let fields = decision(&visitor, &record, action).await;
        for view in ["confirm", "apply"] {
            assert_eq!(
                visitor.post(view, &of(&fields)).await.status,
                409,
                "{action} {view}"
            );
        }
    }
    let fields = decision(&visitor, &record, "force").await;
    let page = visitor.post("confirm", &of(&fields)).await;
    assert!(
        page.text.contains("executes the operation beside it"),
        "{}",
        page.text
    );
    assert_eq!(visitor.post("apply", &of(&fields)).await.status, 200);
    assert_eq!(visitor.get(&record).await.status, 404);
    running.abort();
}

#[tokio::test]
async fn what_a_person_writes_is_escaped() {
    let layer = Layer::new();
    layer.send("K", "fail").await.unwrap_err();
    let (visitor, csrf) = here(&layer).await;
    let record = find(&visitor, &csrf, "K").await;
    let hostile = "\"><script>alert(1)</script><a b='";
    let mut fields = decision(&visitor, &record, "answer").await;
    for field in &mut fields {
        if matches!(&*field.0, "who" | "why") {
            hostile.clone_into(&mut field.1);
        }
    }
    for name in ["content_type", "body"] {
        fields.push((name.to_owned(), hostile.to_owned()));
    }
    fields.push(("status".to_owned(), "200".to_owned()));
    let page = visitor.post("confirm", &of(&fields)).await;
    assert_eq!(page.status, 200, "{}", page.text);
    assert_eq!(
        page.text.matches("&lt;script&gt;").count(),
        8,
        "{}",
        page.text
    );
    assert!(
        !page.text.contains("<script") && !page.text.contains("\"\">"),
        "{}",
        page.text
    );
    // What was written comes back as it was, from the page's hidden fields.
    assert_eq!(
        page.hidden("why"),
        hostile
            .replace('&', "&amp;")
            .replace('"', "&quot;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
    );
}
