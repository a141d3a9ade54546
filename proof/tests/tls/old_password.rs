//! The plugin `caching_sha2_password` of MySQL, which MariaDB does not have: a server that knows the
//! beginning of MySQL's protocol and nothing else.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::certificates::{Authority, Issued};
use crate::{PASSWORD, refuses};

const PROTOCOL_41_AND_PLUGINS: u32 = 0x0008_A208;
const TLS: u32 = 0x0800;
const UNKNOWN_DATABASE: &[u8] = b"\xff\x19\x04#42000Unknown database 'app'";

fn handshake(capabilities: u32) -> Vec<u8> {
    let [a, b, c, d] = capabilities.to_le_bytes();
    let (low, high) = ([a, b], [c, d]);
    let parts: [&[u8]; 10] = [
        b"\x0a8.4.0\0\x01\0\0\0",
        b"nonce678\0",
        &low,
        b"\x2d\x02\0",
        &high,
        b"\x15",
        &[0; 10],
        b"nonce6789012\0",
        b"caching_sha2_password",
        b"\0",
    ];
    parts.concat()
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), number: u8, payload: &[u8]) {
    let length = u8::try_from(payload.len()).unwrap();
    let packet = [&[length, 0, 0, number], payload].concat();
    stream.write_all(&packet).await.unwrap();
    stream.flush().await.unwrap();
}

async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> (u8, Vec<u8>) {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.unwrap();
    let mut payload = vec![0; usize::from(head[0]) + 256 * usize::from(head[1])];
    stream.read_exact(&mut payload).await.unwrap();
    (head[3], payload)
}

/// Goes through the login of one client, whose password the server has not in its cache. Returns what
/// the client sends as its password.
async fn log_in(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Vec<u8> {
    let (number, _) = receive(stream).await;
    send(stream, number + 1, b"\x01\x04").await;
    let (number, password) = receive(stream).await;
    let reply = if password == b"\x02" {
        &b"\x01the server's public key"[..]
    } else {
        UNKNOWN_DATABASE
    };
    send(stream, number + 1, reply).await;
    password
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, format!("mysql://app:{PASSWORD}@{address}/app"))
}

#[tokio::test]
async fn caching_sha2_password_in_plain_text_is_an_error_that_says_what_to_set() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        send(&mut stream, 0, &handshake(PROTOCOL_41_AND_PLUGINS)).await;
        log_in(&mut stream).await
    });
    refuses(
        &url,
        &["caching_sha2_password", "TLS", "`ssl-mode=VERIFY_IDENTITY`"],
    )
    .await;
    assert_eq!(server.await.unwrap(), b"\x02", "the password was sent");
}

#[tokio::test]
async fn caching_sha2_password_logs_in_over_tls() {
    let ca = Authority::new();
    let Issued { certificate, key } = ca.issue("server");
    let chain = CertificateDer::pem_file_iter(certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    let (listener, url) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        send(&mut stream, 0, &handshake(PROTOCOL_41_AND_PLUGINS | TLS)).await;
        receive(&mut stream).await;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        log_in(&mut acceptor.accept(stream).await.unwrap()).await
    });
    // The login has succeeded where the server looks for the database.
    let url = format!("{url}?ssl-ca={}", ca.file());
    refuses(&url, &["Unknown database", "create the database"]).await;
    assert_eq!(server.await.unwrap(), format!("{PASSWORD}\0").as_bytes());
}
