//! A Redis Cluster of three masters and three replicas moves slots from one master to another, and
//! then loses a master, while requests go on.

use std::process::Command;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use crate::admin::redis_at;
use crate::failover::until;
use crate::servers::Server;
use crate::traffic::{Traffic, connect};

/// No replica takes over from a master that is only slow, before a master is killed.
const NODE: &[&str] = &[
    "cluster-enabled yes",
    "cluster-node-timeout 1000",
    "cluster-replica-no-failover yes",
    "repl-diskless-sync-delay 0",
];
/// A master confirms writes before its replica has them. A replica that is not more than this behind
/// is promoted.
const BEHIND: Duration = Duration::from_secs(1);
const CALM_WITHIN: Duration = Duration::from_secs(40);

fn port(node: &Server) -> &str {
    let (_, port) = node.url().trim_end_matches('/').rsplit_once(':').unwrap();
    port
}

fn redis_cli(arguments: &[&str]) {
    let output = Command::new("redis-cli").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{arguments:?}: {said}");
}

async fn says(node: &Server, command: &[&str], what: &str) -> bool {
    redis_at(node.url(), command).await.contains(what)
}

async fn is_ready(node: &Server) -> bool {
    let replication = redis_at(node.url(), &["INFO", "replication"]).await;
    says(node, &["CLUSTER", "INFO"], "cluster_state:ok").await
        && says(node, &["CLUSTER", "INFO"], "cluster_known_nodes:6").await
        && (replication.contains("master_link_status:up")
            || replication.contains("connected_slaves:1"))
}

#[tokio::test(flavor = "multi_thread")]
async fn six_nodes_that_move_slots_and_lose_a_master_forget_only_what_was_not_replicated() {
    let nodes: Vec<_> = (0..6).map(|_| Server::start("redis", NODE)).collect();
    let addresses: Vec<_> = nodes
        .iter()
        .map(|node| format!("127.0.0.1:{}", port(node)))
        .collect();
    let mut create = vec!["--cluster", "create"];
    create.extend(addresses.iter().map(String::as_str));
    create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
    redis_cli(&create);
    for node in &nodes {
        until(async || is_ready(node).await).await;
    }
    let urls: Vec<_> = nodes.iter().map(Server::url).collect();
    let url = urls.join(",");
    let traffic = Traffic::start(connect(&url).await, connect(&url).await);
    traffic.is_calm(CALM_WITHIN).await;

    // The first master gives a third of its slots to the second.
    let from = redis_at(nodes[0].url(), &["CLUSTER", "MYID"]).await;
    let to = redis_at(nodes[1].url(), &["CLUSTER", "MYID"]).await;
    let any = addresses[2].clone();
    let moved = Instant::now();
    spawn_blocking(move || {
        let reshard = [
            "--cluster",
            "reshard",
            &any,
            "--cluster-from",
            &from,
            "--cluster-to",
            &to,
        ];
        redis_cli(&[&reshard[..], &["--cluster-slots", "1800", "--cluster-yes"]].concat());
    })
    .await
    .unwrap();
    println!("moved 1800 slots in {:.1?}", moved.elapsed());
    traffic.is_calm(CALM_WITHIN).await;

    let lost = &nodes[1];
    let mut replicas = Vec::new();
    for node in &nodes[3..] {
        let follows = format!("master_port:{}\r\n", port(lost));
        if says(node, &["INFO", "replication"], &follows).await {
            replicas.push(node);
        }
    }
    let [replica] = replicas[..] else {
        panic!("the master has {} replicas", replicas.len());
    };
    let allow = ["CONFIG", "SET", "cluster-replica-no-failover", "no"];
    redis_at(replica.url(), &allow).await;
    let killed = Instant::now();
    lost.kill();
    let ended = Instant::now();
    until(async || says(replica, &["INFO", "replication"], "role:master").await).await;
    println!("the replica took over after {:.1?}", killed.elapsed());
    traffic.is_calm(CALM_WITHIN).await;
    lost.restart();
    until(async || says(lost, &["INFO", "replication"], "master_link_status:up").await).await;
    traffic.is_calm(CALM_WITHIN).await;

    let behind = killed.checked_sub(BEHIND).unwrap();
    let found = traffic.stop_after_loss(behind..ended).await;
    println!("{found}");
    assert_eq!(found.violations, Vec::<String>::new());
    assert!(
        found.turned_away > 0,
        "the master that died had some of the keys"
    );
}
