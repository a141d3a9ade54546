//! These tests run the program in an environment that its file does not quite describe: variables that
//! end in a newline, and a proxy that is not listed.

use crate::program::Serving;
#[cfg(feature = "sqlite")]
use crate::program::{Written, program, said};
use crate::support::{Client, File, Upstream, ok, post, within};

/// A file that is mounted as a variable, and `$(cat FILE)` of some shells, end in a newline.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_newline_at_the_end_of_a_variable_is_no_part_of_its_value() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let database = Written::new("newline.db", "");
    let file = File::new(upstream.address)
        .top("store = 'env:STORE'")
        .top("secrets = ['env:SECRET']");
    let url = format!("sqlite:{}", database.path());
    let written = Written::new("newline-migrate.toml", &file.text());
    let mut migrate = program();
    migrate
        .env("STORE", format!("{url}\n"))
        .env("SECRET", "sixteen bytes or more");
    let migrated = within(
        migrate
            .args(["--config", written.path(), "--migrate"])
            .output(),
    );
    let migrated = migrated.await.unwrap();
    assert_eq!(
        migrated.status.code(),
        Some(0),
        "{}",
        said(&migrated.stderr)
    );
    for (end, replayed) in [("", None), ("\n", Some("true")), ("\r\n", Some("true"))] {
        let mut program = program();
        program
            .env("STORE", format!("{url}{end}"))
            .env("SECRET", format!("sixteen bytes or more{end}"));
        let serving = Serving::run(program, "newline.toml", &file).await;
        let mut client = Client::connect(serving.address).await;
        client.send(&post("/a", "k", "{}")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status(), 200, "{end:?}");
        assert_eq!(answer.field("idempotency-replayed"), replayed, "{end:?}");
    }
    // Only one newline is taken off, and a value needs something else.
    for (value, says) in [
        ("\n", "`SECRET`, which is empty"),
        ("fifteen bytes..\n", "must have at least 16 bytes"),
    ] {
        let mut program = program();
        program.env("STORE", &url).env("SECRET", value);
        let checked = within(
            program
                .args(["--config", written.path(), "--check"])
                .output(),
        );
        let checked = checked.await.unwrap();
        assert_eq!(checked.status.code(), Some(1), "{value:?}");
        assert!(
            said(&checked.stderr).contains(says),
            "{}",
            said(&checked.stderr)
        );
    }
}

/// Behind a proxy that the file does not list, all clients are one caller.
#[tokio::test]
async fn a_proxy_that_is_not_listed_is_told_once_where_callers_are_addresses() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let by_proxy = "scope = [{ forwarded_ip = 'x-forwarded-for', trusted = ['10.0.0.1'] }]";
    for (scope, trusted, sent, warnings) in [
        (
            "scope = ['peer-ip']",
            "[]",
            "X-Forwarded-For: 192.0.2.1\r\n",
            1,
        ),
        (
            "scope = ['peer-ip']",
            "[]",
            "Forwarded: for=192.0.2.1\r\n",
            1,
        ),
        (
            "scope = ['header:x-a', 'peer-ip']",
            "[]",
            "X-Forwarded-For: 192.0.2.1\r\n",
            1,
        ),
        (
            by_proxy,
            "['10.0.0.1']",
            "X-Forwarded-For: 192.0.2.1\r\n",
            1,
        ),
        ("scope = ['peer-ip']", "[]", "", 0),
        (
            "scope = ['header:host']",
            "[]",
            "X-Forwarded-For: 192.0.2.1\r\n",
            0,
        ),
    ] {
        let file = File::new(upstream.address)
            .idempotency(scope)
            .top(&format!("trusted_proxies = {trusted}"));
        let mut serving = Serving::start("unlisted.toml", &file).await;
        let mut client = Client::connect(serving.address).await;
        for key in ["k1", "k2"] {
            let request = post("/a", key, "{}").replacen("\r\n", &format!("\r\n{sent}"), 1);
            client.send(&request).await;
            assert_eq!(client.answer().await.status(), 200, "{scope}");
        }
        drop(client);
        serving.signal("-TERM").await;
        let mut log = String::new();
        while let Some(line) = within(serving.log.next_line()).await.unwrap() {
            log += &line;
            log.push('\n');
        }
        let told = log.matches("WARN").count();
        assert_eq!(told, warnings, "{scope} {sent}: {log}");
        assert_eq!(log.matches("`trusted_proxies`").count(), warnings, "{log}");
        assert!(
            !log.contains("192.0.2.1") && !log.contains("127.0.0.1"),
            "{log}"
        );
    }
}
