//! The files of certificates and keys: what is wrong with them, and how they are replaced.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower_idempotency::config::Config;
use tower_idempotency_sidecar::Sidecar;

use crate::certificates::{Authority, Folder, Issued, TlsClient, Valid};
use crate::program::{Serving, Written, program, said};
use crate::support::{File, Upstream, get, nobody, ok, post, within};

/// Returns why the sidecar does not start.
async fn refused(file: &File) -> String {
    let config = Config::from_toml(&file.text()).unwrap();
    let checked = Sidecar::contract(&config).unwrap_err().to_string();
    let started = Sidecar::new(&config).await.unwrap_err().to_string();
    assert_eq!(checked, started);
    started
}

#[tokio::test]
async fn a_certificate_that_can_t_be_used_ends_the_start_with_its_file_and_the_reason() {
    let authority = Authority::new();
    let right = authority.issue("localhost", Valid::Now);
    let other = authority.issue("localhost", Valid::Now);
    let expired = authority.issue("localhost", Valid::Until2020);
    let early = authority.issue("localhost", Valid::From2090);
    let secret = "MHcCAQEEIsecret";
    let broken = format!("-----BEGIN PRIVATE KEY-----\n{secret}!\n-----END PRIVATE KEY-----\n");
    let unparsed = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let with_password =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let both = format!("{}{}", right.pem(), expired.pem());
    for (certificate, key, entry, says) in [
        (
            right.pem(),
            other.key_pem(),
            "key",
            "is not the key of the certificate in",
        ),
        (
            expired.pem(),
            expired.key_pem(),
            "certificate",
            "has expired: it was valid until Wed, 01 Jan 2020",
        ),
        (both, right.key_pem(), "certificate", "has expired"),
        (
            early.pem(),
            early.key_pem(),
            "certificate",
            "is not valid yet: it is from Sun, 01 Jan 2090",
        ),
        (
            String::new(),
            right.key_pem(),
            "certificate",
            "has no certificate in PEM",
        ),
        (
            right.key_pem(),
            right.key_pem(),
            "certificate",
            "has no certificate in PEM",
        ),
        (
            not_der.to_owned(),
            right.key_pem(),
            "certificate",
            "has a certificate that can't be used",
        ),
        (right.pem(), right.pem(), "key", "has no private key in PEM"),
        (
            right.pem(),
            with_password.to_owned(),
            "key",
            "has no private key in PEM, or one with a password",
        ),
        (right.pem(), broken, "key", "is not PEM"),
        (
            right.pem(),
            unparsed.to_owned(),
            "key",
            "has a key that can't be used",
        ),
    ] {
        let folder = Folder::new();
        folder.write("cert.pem", &certificate);
        folder.write("key.pem", &key);
        for table in ["tls", "metrics_tls"] {
            let file = File::new(nobody()).top("metrics = '127.0.0.1:0'");
            let error = refused(&file.top(&folder.entry(table, ""))).await;
            let name = if entry == "key" {
                "key.pem"
            } else {
                "cert.pem"
            };
            let path = folder.path().join(name);
            let begin = format!("`{table}.{entry}` names {}, which ", path.display());
            assert!(error.contains(&begin) && error.contains(says), "{error}");
            assert!(
                !error.contains(secret) && !error.contains("BEGIN"),
                "{error}"
            );
        }
    }
    let folder = Folder::new();
    folder.issue(&right);
    for (more, says) in [
        (
            ", client_ca = '/no/such/file'",
            "`tls.client_ca` names /no/such/file, which can't be read: No such file",
        ),
        (
            ", client_ca = '/dev/null'",
            "`tls.client_ca` names /dev/null, which has no certificate in PEM",
        ),
    ] {
        let error = refused(&File::new(nobody()).top(&folder.entry("tls", more))).await;
        assert!(error.contains(says), "{error}");
    }
}

/// The program runs as the user `nobody` here, if the test runs as root.
#[tokio::test]
async fn a_file_that_only_root_may_read_is_named() {
    let authority = Authority::new();
    let folder = Folder::new();
    folder.issue(&authority.issue("localhost", Valid::Now));
    let key = folder.path().join("key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o000)).unwrap();
    let is_root = std::fs::read(&key).is_ok();
    let file = File::new(nobody()).top(&folder.entry("tls", ""));
    let written = Written::new("root-only.toml", &file.text());
    // The program stands in a folder that its user may read.
    let copy = folder.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_tower-idempotency-sidecar"), &copy).unwrap();
    let mut program = tokio::process::Command::new(&copy);
    program
        .args(["--config", written.path()])
        .kill_on_drop(true);
    if is_root {
        program.uid(65534).gid(65534);
    }
    let output = within(program.output()).await.unwrap();
    let error = said(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let named = format!(
        "`tls.key` names {}, which can't be read: Permission denied",
        key.display()
    );
    assert!(error.contains(&named), "{error}");
    assert!(error.contains("with the mode 0000"), "{error}");
    if is_root {
        assert!(
            error.contains("only root may read it: it belongs to user 0"),
            "{error}"
        );
        assert!(error.contains("this process runs as user 65534"), "{error}");
    }
}

/// The certificate that a sidecar shows.
async fn shown(client: &TlsClient, address: std::net::SocketAddr) -> Vec<u8> {
    let stream = client.connect(address).await.unwrap();
    let certificates = stream.get_ref().1.peer_certificates().unwrap();
    certificates[0].to_vec()
}

async fn shows(client: &TlsClient, address: std::net::SocketAddr, issued: &Issued) {
    crate::support::until(async || shown(client, address).await == issued.der().to_vec()).await;
}

/// Requests follow each other, on connections that are kept and on new ones, while the certificate is
/// replaced twice.
#[tokio::test]
async fn a_certificate_is_replaced_under_load_without_a_failed_request() {
    let authority = Authority::new();
    let folder = Folder::new();
    folder.issue(&authority.issue("localhost", Valid::Now));
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address)
        .top(&folder.entry("tls", ""))
        .start()
        .await;
    let ended = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let load: Vec<_> = (0..8)
        .map(|number| {
            let client = authority.client(&["http/1.1"]);
            let (ended, served) = (Arc::clone(&ended), Arc::clone(&served));
            let address = sidecar.address;
            tokio::spawn(async move {
                let mut count = 0;
                while !ended.load(Ordering::Relaxed) {
                    let mut stream = client.connect(address).await.unwrap();
                    // Half of the clients keep their connections over all that happens.
                    while !ended.load(Ordering::Relaxed) {
                        count += 1;
                        let request = post("/a", &format!("{number}-{count}"), "{}");
                        stream.write_all(request.as_bytes()).await.unwrap();
                        let mut read = [0; 512];
                        let length = within(stream.read(&mut read)).await.unwrap();
                        assert!(read[..length].starts_with(b"HTTP/1.1 200 OK\r\n"));
                        served.fetch_add(1, Ordering::Relaxed);
                        if number % 2 == 0 {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    let client = authority.client(&["http/1.1"]);
    for _ in 0..2 {
        let next = authority.issue("localhost", Valid::Now);
        let before = served.load(Ordering::Relaxed);
        folder.issue(&next);
        shows(&client, sidecar.address, &next).await;
        assert!(served.load(Ordering::Relaxed) > before);
    }
    ended.store(true, Ordering::Relaxed);
    for load in load {
        load.await.unwrap();
    }
}

#[tokio::test]
async fn sighup_reads_the_files_again_and_what_is_wrong_leaves_the_old_ones() {
    let authority = Authority::new();
    let folder = Folder::new();
    let first = authority.issue("localhost", Valid::Now);
    folder.issue(&first);
    let upstream = Upstream::start(|_| ok("done")).await;
    let file = File::new(upstream.address).top(&folder.entry("tls", ""));
    let mut serving = Serving::run(program(), "sighup.toml", &file).await;
    let client = authority.client(&[]);
    let mut kept = client.connect(serving.address).await.unwrap();
    let expired = authority.issue("localhost", Valid::Until2020);
    for (certificate, key, says) in [
        (first.pem(), expired.key_pem(), "`tls.key` names"),
        (expired.pem(), expired.key_pem(), "`tls.certificate` names"),
        (String::new(), expired.key_pem(), "`tls.certificate` names"),
    ] {
        folder.write("cert.pem", &certificate);
        folder.write("key.pem", &key);
        serving.signal("-HUP").await;
        let line = serving
            .says_line("the certificates that were read before stay in use")
            .await;
        assert!(line.contains("WARN") && line.contains(says), "{line}");
        assert_eq!(shown(&client, serving.address).await, first.der().to_vec());
    }
    let next = authority.issue("localhost", Valid::Now);
    folder.issue(&next);
    serving.signal("-HUP").await;
    serving.says("the certificates are read again").await;
    assert_eq!(shown(&client, serving.address).await, next.der().to_vec());
    // A connection from before is served on.
    kept.write_all(get("/").as_bytes()).await.unwrap();
    let mut read = [0; 512];
    let length = tokio::time::timeout(Duration::from_secs(5), kept.read(&mut read)).await;
    assert!(read[..length.unwrap().unwrap()].starts_with(b"HTTP/1.1 200 OK\r\n"));
}
