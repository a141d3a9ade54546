use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::mysql::{MySqlPoolOptions, MySqlSslMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_idempotency::store::{ForgetMode, RecordedStep, Release, Store};

use super::{Place, another, body, claim, paid, url};

const QUIT: u8 = 0x01;
const PING: u8 = 0x0e;
const EXECUTE: u8 = 0x17;

/// `Commands` holds the first byte of each command that a client sent to the
/// server.
#[derive(Clone, Default)]
struct Commands(Arc<Mutex<Vec<u8>>>);

impl Commands {
    fn take(&self) -> Vec<u8> {
        let mut commands = std::mem::take(&mut *self.0.lock().unwrap());
        commands.retain(|command| *command != PING && *command != QUIT);
        commands
    }
}

/// Passes bytes on, and notes commands. A command is a packet with the number 0 in
/// its exchange.
async fn wire(commands: Commands) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let address = format!("{}:{}", url().get_host(), url().get_port());
            let server = TcpStream::connect(address);
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.await.unwrap().into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            let commands = commands.clone();
            tokio::spawn(async move {
                let mut packets = Vec::new();
                let mut bytes = vec![0; 1 << 16];
                while let Ok(length @ 1..) = from_client.read(&mut bytes).await {
                    packets.extend_from_slice(&bytes[..length]);
                    while packets.len() > 4 {
                        let [one, two, three, number, command] = packets[..5] else {
                            unreachable!()
                        };
                        let whole = 4 + u32::from_le_bytes([one, two, three, 0]) as usize;
                        if packets.len() < whole {
                            break;
                        }
                        if number == 0 {
                            commands.0.lock().unwrap().push(command);
                        }
                        packets.drain(..whole);
                    }
                    to_server.write_all(&bytes[..length]).await.unwrap();
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn each_operation_is_one_round_trip() {
    let commands = Commands::default();
    let port = wire(commands.clone()).await;
    let options = url()
        .host("127.0.0.1")
        .port(port)
        .ssl_mode(MySqlSslMode::Disabled);
    let pool = MySqlPoolOptions::new().max_connections(1);
    let place = Place::on(pool.connect_with(options).await.unwrap()).await;
    let store = &place.store;
    // In the first round the connection prepares each call.
    for id in [1, 2] {
        let warm = id == 2;
        let one_trip = |what| {
            let commands = commands.take();
            assert!(!warm || commands == [EXECUTE], "{what}: {commands:x?}");
        };
        commands.take();
        let lease = place.acquire(&claim(id)).await;
        one_trip("claim");
        store.claim(&another(&claim(id))).await.unwrap();
        one_trip("claim in flight");
        store.renew(&lease).await.unwrap();
        one_trip("renew");
        let step = RecordedStep::new("charge", "1");
        store.record_step(&lease, &step).await.unwrap();
        one_trip("record a step");
        let release = store.release(&lease.claim.id, &lease.claim.nonce, Release::MayRunAgain);
        release.await.unwrap();
        one_trip("release");
        let lease = place.acquire(&another(&claim(id))).await;
        one_trip("claim of a tombstone");
        assert_eq!(lease.steps, [step]);
        let answer = vec![7; 1 << 20];
        store.complete(&lease, &paid(answer.clone())).await.unwrap();
        one_trip("complete");
        let replay = store.claim(&another(&claim(id))).await.unwrap();
        one_trip("replay");
        assert_eq!(body(replay), answer);
        store.look_up(&lease.claim.id).await.unwrap();
        one_trip("look up");
        store
            .forget(&lease.claim.id, ForgetMode::UnlessAlive)
            .await
            .unwrap();
        one_trip("forget");
        store.purge().await.unwrap();
        one_trip("purge");
    }
}

/// Returns what this session has written to tables, and how many transactions
/// wrote.
async fn written(place: &Place) -> Vec<(String, String)> {
    let query = "SHOW SESSION STATUS WHERE variable_name IN ('Handler_write', 'Handler_update', \
                 'Handler_delete', 'Handler_prepare', 'Binlog_bytes_written')";
    let rows = sqlx::query_as(query).fetch_all(&place.pool).await;
    rows.unwrap()
}

#[tokio::test]
async fn a_claim_that_finds_something_writes_nothing_and_locks_nothing() {
    let place = Place::new(1).await;
    let lease = place.acquire(&claim(1)).await;
    place.store.complete(&lease, &paid("done")).await.unwrap();
    place.acquire(&claim(2)).await;
    written(&place).await;
    let before = written(&place).await;
    for _ in 0..10 {
        place.store.claim(&another(&claim(1))).await.unwrap();
        place.store.claim(&another(&claim(2))).await.unwrap();
    }
    assert_eq!(written(&place).await, before);

    // A replay does not wait either while another session has the whole table
    // locked.
    let others = MySqlPoolOptions::new().connect_with(url()).await.unwrap();
    let mut locker = others.begin().await.unwrap();
    let lock = place.sql("SELECT 1 FROM {t} FOR UPDATE");
    sqlx::query(sqlx::AssertSqlSafe(lock))
        .fetch_all(&mut *locker)
        .await
        .unwrap();
    let replayed = another(&claim(1));
    let replay = place.store.claim(&replayed);
    let replay = tokio::time::timeout(Duration::from_secs(10), replay).await;
    assert_eq!(body(replay.expect("no wait").unwrap()), "done");
}
