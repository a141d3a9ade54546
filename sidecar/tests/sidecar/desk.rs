//! The desk on the listener of `/metrics`.

use crate::support::{Client, File, Message, Step, Upstream, get, nobody, ok, post};

const TOKEN: &str = "0123456789abcdef0123";

/// A response on the listener of `/metrics`.
async fn ask(sidecar: &crate::support::Running, request: &str) -> Message {
    let mut client = Client::connect(sidecar.metrics.unwrap()).await;
    client.send(request).await;
    client.answer().await
}

fn page(target: &str, more: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n")
}

fn form(view: &str, cookie: &str, body: &str) -> String {
    format!(
        "POST /desk?view={view} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The value of the first hidden field of this name.
fn hidden<'a>(page: &'a Message, name: &str) -> &'a str {
    let (_, rest) = page
        .text()
        .split_once(&format!("name=\"{name}\" value=\""))
        .unwrap();
    rest.split_once('"').unwrap().0
}

#[tokio::test]
async fn it_shows_a_record_and_forgets_it_where_only_this_machine_asks() {
    let upstream = Upstream::start(|_| ok("paid")).await;
    let file = File::new(upstream.address)
        .top("metrics = '127.0.0.1:0'")
        .top("desk = { show_bodies = true }");
    let sidecar = file.start().await;
    assert_eq!(
        sidecar.exchange(&post("/pay", "K", "{}")).await.text(),
        "paid"
    );
    for target in ["/desk", "/desk/", "/desk/?refresh=off"] {
        assert_eq!(
            ask(&sidecar, &page(target, "")).await.status(),
            200,
            "{target}"
        );
    }
    // Another name for this address is that of a page that wants to read the desk.
    assert_eq!(ask(&sidecar, &get("/desk")).await.status(), 421);
    assert_eq!(ask(&sidecar, &page("/desks", "")).await.status(), 404);
    assert!(
        ask(&sidecar, &page("/metrics", ""))
            .await
            .text()
            .contains("idempotency_")
    );
    let search = ask(&sidecar, &page("/desk?view=search", "")).await;
    let cookie = search
        .field("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap();
    let csrf = hidden(&search, "csrf");
    let fields = format!("csrf={csrf}&method=POST&path=/pay&key=K&caller=all");
    let found = ask(&sidecar, &form("search", cookie, &fields)).await;
    let record = format!("/desk{}", found.field("location").unwrap());
    let shown = ask(&sidecar, &page(&record, "")).await;
    assert!(
        shown.text().contains("Completed") && shown.text().contains("paid"),
        "{}",
        shown.text()
    );
    let [id, seen] = ["id", "seen"].map(|name| hidden(&shown, name));
    let fields = format!("csrf={csrf}&id={id}&seen={seen}&action=forget&who=Kim&why=a+test");
    assert_eq!(
        ask(&sidecar, &form("apply", cookie, &fields))
            .await
            .status(),
        200
    );
    sidecar.exchange(&post("/pay", "K", "{}")).await;
    assert_eq!(upstream.seen().len(), 2);
}

#[tokio::test]
async fn it_lets_in_whoever_has_its_token_and_nobody_on_the_address_of_clients() {
    let upstream = Upstream::start(|_| vec![Step::Close]).await;
    let file = File::new(upstream.address)
        .top("metrics = '127.0.0.1:0'")
        .top(&format!("desk = {{ token = '{TOKEN}' }}"));
    let sidecar = file.start().await;
    for target in ["/desk", "/desk?view=search", "/desk/records/1"] {
        let away = ask(&sidecar, &page(target, "")).await;
        assert_eq!(
            (away.status(), away.field("location")),
            (303, Some("?view=login"))
        );
        // Clients get what the service says.
        assert_eq!(sidecar.exchange(&get(target)).await.status(), 502);
    }
    let bearer = |token: &str| page("/desk", &format!("Authorization: Bearer {token}\r\n"));
    assert_eq!(ask(&sidecar, &bearer(TOKEN)).await.status(), 200);
    assert_eq!(
        ask(&sidecar, &bearer("0123456789abcdef0124"))
            .await
            .status(),
        401
    );
    let login = ask(&sidecar, &form("login", "", &format!("token={TOKEN}"))).await;
    let cookie = login
        .field("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap();
    let shown = ask(&sidecar, &page("/desk", &format!("Cookie: {cookie}\r\n"))).await;
    assert_eq!(shown.status(), 200);
    // Probes and metrics need no token, as before.
    assert_eq!(ask(&sidecar, &get("/livez")).await.status(), 200);
}

#[tokio::test]
async fn there_is_none_unless_the_file_has_it() {
    let sidecar = File::new(nobody())
        .top("metrics = '127.0.0.1:0'")
        .start()
        .await;
    assert_eq!(ask(&sidecar, &page("/desk", "")).await.status(), 404);
}

/// Also on another address than that of this machine.
#[cfg(feature = "tls")]
#[tokio::test]
async fn it_lets_in_whoever_shows_a_certificate_where_one_is_required() {
    use crate::certificates::{Authority, Folder, Valid};

    let (authority, of_operators) = (Authority::new(), Authority::new());
    let folder = Folder::new();
    let ca = folder.write("operators.pem", &of_operators.pem());
    folder.issue(&authority.issue("localhost", Valid::Now));
    let file = File::new(nobody())
        .top("metrics = '0.0.0.0:0'")
        .top(&folder.entry("metrics_tls", &format!(", client_ca = '{ca}'")))
        .top("desk = {}");
    let sidecar = file.start().await;
    let metrics = ([127, 0, 0, 1], sidecar.metrics.unwrap().port()).into();
    let known = of_operators.issue("operator", Valid::Now);
    for (client, is_served) in [
        (authority.client_with(&[], &known), true),
        (authority.client(&[]), false),
    ] {
        let mut client = Client::connect(client.bridge(metrics).await).await;
        client.send(&get("/desk")).await;
        let response = client.try_answer().await;
        assert_eq!(response.is_some_and(|own| own.status() == 200), is_served);
    }
}
