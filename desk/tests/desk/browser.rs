//! The desk in Chromium, nested in an axum application.
//!
//! `UPDATE=1` keeps the screenshots in `docs/desk`.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::RawQuery;
use axum::response::Html;
use axum::routing::get;
use fantoccini::Locator;
use fantoccini::key::Key;
use tokio::net::TcpListener;
use tower_idempotency_desk::{Access, Desk};

use crate::chromium::{Browser, chromium, driver};
use crate::support::{Layer, SECRET};

/// A page whose form posts its query to the desk.
fn evil(port: u16, query: &str) -> Html<String> {
    let fields = form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| format!("<input name='{name}' value='{value}'>"));
    let fields: Vec<_> = fields.collect();
    let fields = fields.join("");
    let desk = format!("http://127.0.0.1:{port}/ops/desk?view=apply");
    Html(format!(
        "<form method=post action='{desk}'>{fields}<button>Win</button></form>"
    ))
}

async fn serve(layer: &Layer) -> SocketAddr {
    let access = Access::token(SECRET).unwrap();
    let desk = Desk::builder(&layer.own, access)
        .observer(layer.observer.clone())
        .show_bodies(true)
        .build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let evil = move |RawQuery(query): RawQuery| async move {
        evil(address.port(), &query.unwrap_or_default())
    };
    let app = Router::new()
        .route("/evil", get(evil))
        .nest_service("/ops/desk", desk);
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_logs_in_finds_a_record_and_decides() {
    let layer = Layer::new();
    for key in ["A", "B", "C"] {
        layer.send(key, "fail").await.unwrap_err();
    }
    layer.plant(7, "POST /refunds/{id}").await;
    layer.send("paid", "pay").await.unwrap();
    layer.send("paid", "pay").await.unwrap();
    let address = serve(&layer).await;
    let (_driver, port) = driver().await;
    let (client, _profile) = chromium(port).await;
    // Without a slash at the end: all links have to stay below the prefix.
    let base = format!("http://{address}/ops/desk");
    let browser = Browser { client, base };
    log_in(&browser).await;
    look_around(&browser).await;
    it_happened(&browser).await;
    it_happened_with_a_response(&browser, &layer).await;
    it_did_not_happen(&browser, &layer).await;
    foreign_forms(&browser, &layer, address.port()).await;
    browser.open("").await;
    browser.click("button.link").await;
    browser.is_at("Log in").await;
    browser.open("").await;
    browser.is_at("Log in").await;
    browser.client.close().await.unwrap();
}

async fn log_in(browser: &Browser) {
    browser.open("").await;
    browser.is_at("Log in").await;
    browser.look("login").await;
    browser.write("input[name=token]", "not the token").await;
    browser.click("button").await;
    browser.is_at("The desk does not know you").await;
    browser.look("refused").await;
    browser.link("Log in").await;
    browser.is_at("Log in").await;
    browser.write("input[name=token]", SECRET).await;
    browser.click("button").await;
    browser.is_at("Overview").await;
}

async fn find(browser: &Browser, key: &str) {
    browser.link("Find a record").await;
    browser.is_at("Find a record").await;
    browser.write("input[name=path]", "/payments").await;
    browser.write("input[name=key]", key).await;
    browser.write("textarea[name=caller]", "alice").await;
    browser.click("form[action='?view=search'] button").await;
    browser.is_at("Record").await;
}

/// Fills in the form of the decision with this number, by the mouse.
async fn decide(browser: &Browser, number: usize, who: &str) {
    browser
        .click(&format!("section details:nth-of-type({number}) summary"))
        .await;
    browser.write("details[open] input[name=who]", who).await;
    browser
        .write("details[open] input[name=why]", "the ledger says so")
        .await;
    browser.click("details[open] button").await;
    browser.is_at("Confirm").await;
}

async fn look_around(browser: &Browser) {
    browser.link("Pause").await;
    browser.look("overview").await;
    browser.link("Work list").await;
    browser.is_at("Outcome unknown").await;
    assert!(browser.text().await.contains("POST /refunds/{id}"));
    browser.look("list").await;
    browser.link("Find a record").await;
    browser.is_at("Find a record").await;
    browser.look("search").await;
    find(browser, "paid").await;
    assert!(browser.text().await.contains("<b>3</b>"));
    browser.look("completed").await;
}

async fn it_happened(browser: &Browser) {
    find(browser, "A").await;
    browser.look("unknown").await;
    decide(browser, 1, "Kim <script>").await;
    assert!(browser.text().await.contains("Kim <script>"));
    browser.look("confirm").await;
    browser.click("button.grave").await;
    browser.is_at("Done").await;
    browser.look("done").await;
    browser.link("Look at the record").await;
    browser.is_at("Record").await;
    assert!(browser.text().await.contains("Sealed"));
}

/// By the keyboard alone, from the top of the page on.
async fn it_happened_with_a_response(browser: &Browser, layer: &Layer) {
    find(browser, "B").await;
    let (tab, enter) = (Key::Tab.to_string(), Key::Enter.to_string());
    let body = browser.client.find(Locator::Css("body")).await.unwrap();
    body.send_keys(&tab).await.unwrap();
    // The first stop skips what stands before the content.
    assert_eq!(browser.focused().await.as_deref(), Some("skip"));
    // Over the first decision to the second, which opens.
    for key in [&enter, &tab, &tab, &enter, &tab] {
        browser.keys(key).await;
    }
    // The keyboard selects what stands in a field that it comes to.
    for text in ["202", "text/plain", "paid late", "Kim"] {
        browser.keys(&format!("{text}{tab}")).await;
    }
    browser.keys(&format!("the bank called{enter}")).await;
    browser.is_at("Confirm").await;
    browser.look("confirm-response").await;
    while browser.focused().await.as_deref() != Some("grave") {
        browser.keys(&tab).await;
    }
    browser.keys(&enter).await;
    browser.is_at("Done").await;
    let (status, text) = layer.send("B", "fail").await.unwrap();
    assert_eq!((status.as_u16(), &*text), (202, "paid late"));
}

/// While the person thinks about it, the record is freed, and a retry of the operation fails again.
async fn it_did_not_happen(browser: &Browser, layer: &Layer) {
    find(browser, "C").await;
    let record = browser.client.current_url().await.unwrap();
    let id = record.as_str().rsplit_once("id=").unwrap().1;
    decide(browser, 3, "Kim").await;
    layer.forget(id).await;
    layer.send("C", "fail").await.unwrap_err();
    browser.click("button.grave").await;
    browser
        .is_at("The record has moved on since it was shown")
        .await;
    browser.look("moved").await;
    browser.link("Look at the record again").await;
    browser.is_at("Record").await;
    decide(browser, 3, "Kim").await;
    browser.click("button.grave").await;
    browser.is_at("Done").await;
    let before = layer.runs.load(Ordering::SeqCst);
    layer.send("C", "pay").await.unwrap();
    assert_eq!(layer.runs.load(Ordering::SeqCst), before + 1);
}

/// A page that the desk has not served posts to it: of the same origin, and of another.
async fn foreign_forms(browser: &Browser, layer: &Layer, port: u16) {
    find(browser, "paid").await;
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs([("action", "forget"), ("who", "Mallory"), ("why", "because")]);
    for name in ["id", "seen"] {
        let css = format!("input[name={name}]");
        let field = browser.client.find(Locator::Css(&css)).await.unwrap();
        form.append_pair(name, &field.attr("value").await.unwrap().unwrap());
    }
    let form = form.finish();
    let before = layer.runs.load(Ordering::SeqCst);
    for (host, said) in [
        ("127.0.0.1", "The form is not from this session of the desk"),
        ("localhost", "The desk does not know you"),
    ] {
        let page = format!("http://{host}:{port}/evil?{form}");
        browser.client.goto(&page).await.unwrap();
        browser.click("button").await;
        browser.is_at(said).await;
    }
    layer.send("paid", "pay").await.unwrap();
    assert_eq!(layer.runs.load(Ordering::SeqCst), before);
}
