//! Files that a URL names. No server is asked where a file is wrong.

use std::fs;

use crate::certificates::Authority;
use crate::{PASSWORD, refuses};

/// A URL of each engine with these parameters, for a server that does not exist.
fn urls(parameters: &str) -> [String; 5] {
    [
        format!("postgres://app:{PASSWORD}@db.invalid/app?{parameters}"),
        format!("mysql://app:{PASSWORD}@db.invalid/app?{parameters}"),
        format!("rediss://app:{PASSWORD}@db.invalid/?{parameters}"),
        format!("rediss+cluster://app:{PASSWORD}@db.invalid,db2.invalid?{parameters}"),
        format!("valkeys+sentinel://app:{PASSWORD}@db.invalid,db2.invalid/main?{parameters}"),
    ]
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_with_the_reason() {
    let ca = Authority::new();
    let (one, two) = (ca.issue("one"), ca.issue("two"));
    let expired = ca.issue_expired("expired");
    let missing = ca.path("missing file.pem");
    let encoded = missing.replace(' ', "%20");
    let empty = ca.path("empty.pem");
    fs::write(&empty, "").unwrap();
    let garbage = ca.path("garbage.pem");
    let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(&garbage, text).unwrap();
    let directory = ca.path("");
    for (parameters, why) in [
        (format!("ssl-ca={encoded}"), [&*missing, "No such file"]),
        (format!("ssl-ca={directory}"), [&*directory, "directory"]),
        (
            format!("ssl-ca={empty}"),
            [&*empty, "no certificate in PEM"],
        ),
        (
            format!("ssl-ca={garbage}"),
            [&*garbage, "unusable certificate"],
        ),
        (
            format!("ssl-cert={}", one.certificate),
            ["`ssl-cert`", "needs `ssl-key`"],
        ),
        (
            format!("ssl-key={}", one.key),
            ["`ssl-key`", "needs `ssl-cert`"],
        ),
        (
            format!("ssl-cert={}&ssl-key={missing}", one.certificate),
            [&*missing, "No such file"],
        ),
        (
            format!("ssl-cert={}&ssl-key={}", one.certificate, one.certificate),
            [&*one.certificate, "no key in PEM"],
        ),
        (
            format!("ssl-cert={}&ssl-key={}", one.certificate, two.key),
            [
                &*two.key,
                &*format!("is not the key of the file {}", one.certificate),
            ],
        ),
        (
            format!("ssl-cert={}&ssl-key={}", expired.certificate, expired.key),
            [&*expired.certificate, "expired"],
        ),
    ] {
        for url in urls(&parameters) {
            refuses(&url, &why).await;
        }
    }
}

#[tokio::test]
async fn a_url_that_names_a_ca_but_asks_for_no_tls_is_refused() {
    let ca = Authority::new();
    let url = format!("redis://app:{PASSWORD}@db.invalid/?ssl-ca={}", ca.file());
    refuses(&url, &["asks for no TLS", "rediss"]).await;
}

#[tokio::test]
async fn a_server_is_never_taken_on_trust() {
    let url = format!("rediss://app:{PASSWORD}@db.invalid/#insecure");
    refuses(&url, &["`#insecure`", "ssl-ca"]).await;
}
