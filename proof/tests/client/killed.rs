//! A process that sends a batch of orders is killed and started again.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::client_hyper::{OrderClient, batch::Batch, shop::Shop};

const ORDERS: u64 = 1_500;

/// This variable tells [`the_process`] where to send its orders.
const SHOP: &str = "TEST_CLIENT_SHOP";

/// This is no test but the process that the tests kill. The process sends the batch
/// from its beginning, and knows nothing of earlier processes.
#[tokio::test]
#[ignore = "the tests below start it"]
async fn the_process() {
    let Ok(url) = std::env::var(SHOP) else { return };
    let batch = Batch::new(ORDERS, url);
    let client = OrderClient::new(&batch.url).unwrap();
    let create = move |number| {
        let client = client.clone();
        async move { client.create_order(number).await.map(drop) }
    };
    batch.send(create).await.unwrap();
}

/// `Process` kills its child when it is dropped, so the child never outlives the
/// test.
struct Process(Child);

impl Process {
    fn start(url: &str) -> Self {
        let this = std::env::current_exe().unwrap();
        let process = Command::new(this)
            .args(["--exact", "killed::the_process", "--ignored"])
            .env(SHOP, url)
            .stdout(Stdio::null())
            .spawn();
        Self(process.unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_killed_again_and_again_is_finished_with_no_order_twice() {
    use std::os::unix::process::ExitStatusExt;

    let shop = Shop::new().unwrap();
    let url = format!("http://{}", shop.open().await.unwrap());
    for orders in [1, 200, 500, 800, 1_100] {
        let mut process = Process::start(&url);
        let made = tokio::time::timeout(Duration::from_secs(60), shop.has_made(orders));
        made.await.expect("too slow");
        process.0.kill().unwrap();
        let ended = process.0.wait().unwrap();
        assert_eq!(ended.signal(), Some(9), "it was not killed: {ended}");
        assert!(shop.count().0 < usize::try_from(ORDERS).unwrap());
    }
    let mut last = Process::start(&url);
    let ended = tokio::task::spawn_blocking(move || last.0.wait().unwrap());
    let ended = tokio::time::timeout(Duration::from_secs(120), ended).await;
    assert!(ended.expect("too slow").unwrap().success());
    assert_eq!(shop.count(), (1_500, 0));
}
