//! These functions do what an operator does to a server, over a connection of their
//! own.

use sqlx::{Connection, PgConnection};

use crate::servers::Server;

pub(crate) async fn redis(server: &Server, command: &[&str]) -> String {
    redis_at(server.url(), command).await
}

/// Sends a command to one node of a cluster.
pub(crate) async fn redis_at(url: &str, command: &[&str]) -> String {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut asked = redis::cmd(command[0]);
    for word in &command[1..] {
        asked.arg(*word);
    }
    let answer: redis::Value = asked.query_async(&mut connection).await.unwrap();
    redis::from_redis_value(answer.clone()).unwrap_or_else(|_| format!("{answer:?}"))
}

/// Runs each statement on its own, outside of a transaction.
pub(crate) async fn postgres(server: &Server, statements: &[&'static str]) {
    let mut connection = PgConnection::connect(server.url()).await.unwrap();
    for statement in statements {
        sqlx::query(*statement)
            .execute(&mut connection)
            .await
            .unwrap();
    }
    connection.close().await.unwrap();
}

/// Cuts all connections but the one that cuts the others.
pub(crate) async fn cut_connections(server: &Server) {
    if server.url().starts_with("redis") {
        redis(server, &["CLIENT", "KILL", "TYPE", "normal"]).await;
        redis(server, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    } else {
        let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                      WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        postgres(server, &[others]).await;
    }
}

/// Returns the number of connections, without the one that counts them.
pub(crate) async fn connections(server: &Server) -> usize {
    if server.url().starts_with("redis") {
        let info = redis(server, &["INFO", "clients"]).await;
        let count = info.split("connected_clients:").nth(1).unwrap();
        let count: usize = count.lines().next().unwrap().trim().parse().unwrap();
        return count - 1;
    }
    let mut connection = PgConnection::connect(server.url()).await.unwrap();
    let others = "SELECT count(*) FROM pg_stat_activity \
                  WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let count: i64 = sqlx::query_scalar(others)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    usize::try_from(count).unwrap()
}
