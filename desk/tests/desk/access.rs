//! Who gets in, and whose forms are taken.

use crate::support::{Layer, SECRET, search};
use http::Method;
use tower_idempotency_desk::Access;

const VIEWS: [&str; 8] = [
    "/",
    "/?view=search",
    "/?view=record&id=0000000000000000000000000000000000000000000000000000000000000000",
    "/?view=record&id=x",
    "/?view=nothing",
    "/records/1",
    "/?refresh=off",
    "/?view=apply",
];

#[tokio::test]
async fn without_the_token_every_path_leads_to_the_login_alike() {
    let layer = Layer::new();
    layer.send("K", "fail").await.unwrap_err();
    let mut known = layer.desk(Access::token(SECRET).unwrap());
    let csrf = known.log_in().await;
    let page = known.post("search", &search(&csrf, "K")).await;
    let record = format!("/{}", page.field("location"));
    let visitor = layer.desk(Access::token(SECRET).unwrap());
    let forged = visitor.with(
        "cookie",
        &format!("__Host-idempotency-desk={}", "0".repeat(64)),
    );
    for visitor in [visitor, forged] {
        let mut shown = Vec::new();
        for target in VIEWS.into_iter().chain([&*record]) {
            let page = visitor.ask(Method::GET, target, "").await;
            assert_eq!(
                (page.status.as_u16(), page.field("location")),
                (303, "?view=login"),
                "{target}"
            );
            shown.push(page.text);
            let form = visitor.with("content-type", "application/x-www-form-urlencoded");
            let page = form.ask(Method::POST, target, format!("csrf={csrf}")).await;
            assert_eq!(
                (page.status.as_u16(), page.field("www-authenticate")),
                (401, "Bearer"),
                "{target}"
            );
        }
        shown.dedup();
        assert_eq!(shown.len(), 1);
    }
    assert_eq!(known.ask(Method::GET, &record, "").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn wrong_tokens_are_refused_slowly_and_not_faster_by_trying_many_at_once() {
    let layer = Layer::new();
    let visitor = layer.desk(Access::token(SECRET).unwrap());
    let begin = tokio::time::Instant::now();
    for token in ["", "x", &SECRET[1..], &format!("{SECRET}x")] {
        let page = visitor.post("login", &[("token", token)]).await;
        assert_eq!(page.status, 401, "{}", page.text);
        let bearer = visitor.with("authorization", &format!("Bearer {token}"));
        assert_eq!(bearer.get("").await.status, 401);
    }
    assert!(begin.elapsed().as_secs() >= 8, "{:?}", begin.elapsed());
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let visitor = visitor.clone();
        tries.spawn(async move { visitor.post("login", &[("token", "guess")]).await });
    }
    let tries = tries.join_all().await;
    let compared = tries.iter().filter(|page| page.status == 401).count();
    let turned_away = tries.iter().filter(|page| page.status == 429).count();
    assert_eq!((compared, turned_away), (8, 12));
    // Whoever has a session, or comes a second later, is let in.
    let mut known = visitor.clone();
    known.log_in().await;
    let bearer = visitor.with("authorization", &format!("bearer {SECRET}"));
    assert_eq!(bearer.get("").await.status, 200);
}

#[tokio::test]
async fn a_session_has_a_cookie_that_no_script_and_no_other_site_gets_and_ends_with_the_logout() {
    let layer = Layer::new();
    let mut visitor = layer.desk(Access::token(SECRET).unwrap());
    let page = visitor.post("login", &[("token", SECRET)]).await;
    let cookie = page.field("set-cookie");
    assert!(cookie.starts_with("__Host-idempotency-desk="), "{cookie}");
    assert!(
        cookie.ends_with("; Path=/; Secure; HttpOnly; SameSite=Strict"),
        "{cookie}"
    );
    let csrf = visitor.log_in().await;
    // A foreign page can't end the session either.
    assert_eq!(visitor.post("logout", &[]).await.status, 403);
    assert_eq!(visitor.get("").await.status, 200);
    let page = visitor.post("logout", &[("csrf", &csrf)]).await;
    assert_eq!(page.field("location"), "?view=login");
    assert!(page.field("set-cookie").contains("Max-Age=0"));
    assert_eq!(visitor.get("").await.status, 303);
}

#[tokio::test]
async fn a_form_without_the_token_of_its_session_is_refused() {
    let layer = Layer::new();
    layer.send("K", "fail").await.unwrap_err();
    for access in [
        Access::loopback(),
        Access::verified(),
        Access::token(SECRET).unwrap(),
    ] {
        let mut visitor = layer.desk(access.clone());
        let mut other = visitor.clone();
        let (csrf, of_other) = if format!("{access:?}").contains("token") {
            (visitor.log_in().await, other.log_in().await)
        } else {
            (visitor.arrive().await, other.arrive().await)
        };
        assert_eq!(
            visitor.post("search", &search(&csrf, "K")).await.status,
            303
        );
        for wrong in ["", "0", &of_other] {
            let page = visitor.post("search", &search(wrong, "K")).await;
            assert_eq!(page.status, 403, "{access:?} {wrong}");
            assert!(page.text.contains("Nothing was changed"), "{}", page.text);
        }
        // The browser of another person sends that person's cookie with the form.
        assert_eq!(other.post("search", &search(&csrf, "K")).await.status, 403);
        let mut without = visitor.clone();
        without.headers.remove("cookie");
        let status = without.post("search", &search(&csrf, "K")).await.status;
        assert!(matches!(status.as_u16(), 401 | 403), "{access:?}");
    }
}

#[tokio::test]
async fn a_form_of_another_site_is_refused_also_with_the_token_of_the_session() {
    let layer = Layer::new();
    layer.send("K", "fail").await.unwrap_err();
    let mut visitor = layer
        .desk(Access::verified())
        .with("host", "ops.example:9464");
    let csrf = visitor.arrive().await;
    for (name, value, is_taken) in [
        ("sec-fetch-site", "same-origin", true),
        ("sec-fetch-site", "same-site", false),
        ("sec-fetch-site", "cross-site", false),
        ("sec-fetch-site", "none", false),
        ("origin", "https://ops.example:9464", true),
        ("origin", "https://ops.example", false),
        ("origin", "https://evil.example", false),
        ("origin", "null", false),
    ] {
        let page = visitor
            .with(name, value)
            .post("search", &search(&csrf, "K"))
            .await;
        assert_eq!(
            page.status == 303,
            is_taken,
            "{name}: {value}: {}",
            page.status
        );
        assert!(is_taken || page.status == 403);
    }
    // Under `no-referrer` a browser writes `null`, and tells by the other field.
    let browser = visitor
        .with("origin", "null")
        .with("sec-fetch-site", "same-origin");
    assert_eq!(
        browser.post("search", &search(&csrf, "K")).await.status,
        303
    );
    let login = layer
        .desk(Access::token(SECRET).unwrap())
        .with("origin", "null");
    assert_eq!(login.post("login", &[("token", SECRET)]).await.status, 403);
}

#[tokio::test]
async fn a_desk_without_a_token_is_served_under_the_names_of_this_machine_alone() {
    let layer = Layer::new();
    let visitor = layer.desk(Access::loopback());
    for host in [
        "127.0.0.1:9464",
        "localhost",
        "LOCALHOST:1",
        "[::1]:9464",
        "127.0.0.2",
    ] {
        assert_eq!(
            visitor.with("host", host).get("").await.status,
            200,
            "{host}"
        );
    }
    for host in [
        "evil.example:9464",
        "localhost.evil.example",
        "10.0.0.1",
        "127.0.0.1.evil.example",
        "",
    ] {
        for method in [Method::GET, Method::POST] {
            let page = visitor.with("host", host).ask(method, "/", "").await;
            assert_eq!(page.status, 421, "{host}");
            assert!(page.headers.get("set-cookie").is_none());
        }
    }
    // Also if the target names another host than the field (HTTP/2).
    assert_eq!(
        visitor
            .ask(Method::GET, "http://evil.example/", "")
            .await
            .status,
        421
    );
    let mut without = visitor.clone();
    without.headers.remove("host");
    assert_eq!(without.get("").await.status, 421);
}

#[test]
fn a_token_that_could_be_guessed_is_refused() {
    for weak in [
        "",
        "short",
        "fifteen letters",
        "sixteen letters\n",
        "ä234567890123456",
    ] {
        let error = Access::token(weak).unwrap_err().to_string();
        assert_eq!(
            error,
            "the desk's token needs 16 to 1024 visible ASCII characters"
        );
    }
    assert_eq!(
        format!("{:?}", Access::token(SECRET).unwrap()),
        "Access::token(..)"
    );
}
