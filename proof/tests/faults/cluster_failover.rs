//! A node of a Redis Cluster hands its slots to its replica. Connections to the node stay
//! open.

use std::sync::Arc;
use std::time::Instant;

use crate::admin::redis_at;
use crate::failover::{BOUND, all, keys, until};
use crate::servers::Server;
use crate::traffic::{Book, connect, service};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_node_becomes_a_replica_is_followed() {
    let cluster = Server::start("redis-cluster", &[]);
    let joins = ["cluster-enabled yes", "repl-diskless-sync-delay 0"];
    let replica = Server::start("redis", &joins);
    let node = cluster.url().split(',').next().unwrap();
    let (_, port) = node.trim_end_matches('/').rsplit_once(':').unwrap();
    redis_at(replica.url(), &["CLUSTER", "MEET", "127.0.0.1", port]).await;
    let replica_says =
        async |command: &[&str], what: &str| redis_at(replica.url(), command).await.contains(what);
    let info = ["CLUSTER", "INFO"];
    until(async || replica_says(&info, "cluster_known_nodes:4").await).await;
    until(async || replica_says(&info, "cluster_state:ok").await).await;
    let id = redis_at(node, &["CLUSTER", "MYID"]).await;
    redis_at(replica.url(), &["CLUSTER", "REPLICATE", &id]).await;
    let replication = ["INFO", "replication"];
    until(async || replica_says(&replication, "master_link_status:up").await).await;

    let book = Arc::new(Book::default());
    let service = service(connect(cluster.url()).await, &book);
    let old: Vec<String> = (0..4)
        .flat_map(|number| keys(&format!("old-{number}")))
        .collect();
    all(&book, &service, &old).await;
    // The node stops its clients until the replica has all that the node has.
    redis_at(replica.url(), &["CLUSTER", "FAILOVER"]).await;
    until(async || replica_says(&replication, "role:master").await).await;

    let moved = Instant::now();
    let new: Vec<String> = (0..4)
        .flat_map(|number| keys(&format!("new-{number}")))
        .collect();
    all(&book, &service, &new).await;
    println!("followed after {:.2?}", moved.elapsed());
    assert!(moved.elapsed() < BOUND, "{:?}", moved.elapsed());
    let all_keys = [old, new].concat();
    all(&book, &service, &all_keys).await;
    for key in &all_keys {
        assert_eq!(book.executions_of(key), 1, "{key}");
    }
    assert_eq!(book.violations(), Vec::<String>::new());
}
