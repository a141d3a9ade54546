//! The clients in other languages of `docs/client.md` run exactly as the page shows
//! them, against the shop that drops connections. The tests need curl, Python and
//! Node.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use crate::client_hyper::shop::Shop;

const DOCS: &str = include_str!("../../../docs/client.md");

/// Returns the code that follows `<!-- name -->` on the page.
fn snippet(name: &str) -> &'static str {
    let (_, after) = DOCS.split_once(&format!("<!-- {name} -->\n```")).unwrap();
    let (_, code) = after.split_once('\n').unwrap();
    code.split_once("\n```").unwrap().0
}

/// The directory is removed when `Directory` is dropped.
struct Directory(PathBuf);

impl Directory {
    fn with(files: [(&str, &str); 2]) -> Self {
        let name = format!("client-{:x}", rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        for (name, content) in files {
            std::fs::write(path.join(name), content).unwrap();
        }
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Lets `program` run `main`, which sends the orders 1 to 60 and expects each order
/// to be created. Then `main` sends one of the orders again with other bytes.
async fn sends_orders(program: &'static str, send: (&str, &str), main: (&'static str, &str)) {
    let shop = Shop::new().unwrap();
    let url = format!("http://{}/orders", shop.open().await.unwrap());
    let directory = Directory::with([send, main]);
    let mut command = Command::new(program);
    command.arg(main.0).arg(url).current_dir(&directory.0);
    let run = tokio::task::spawn_blocking(move || command.output());
    let run = tokio::time::timeout(Duration::from_secs(120), run).await;
    let run = run.expect("too slow").unwrap();
    let Output {
        status,
        stdout,
        stderr,
    } = run.unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(status.success(), "{}{}", text(&stdout), text(&stderr));
    assert_eq!(text(&stdout).lines().last(), Some("422 key-reused"));
    assert_eq!(shop.count(), (60, 0));
    assert!(shop.mishaps().iter().map(|(_, times)| times).sum::<usize>() > 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_for_curl_creates_each_order_once() {
    let main = r#"
. ./send.sh
sent() {
  printf '{"number":%d}' "$2" > "$2.json"
  send "$1" "order-$2" "$2.json" --max-time 1 --header 'x-api-key: alice' > "$2.answer" ||
    echo "$2: $?" >> failed
}
number=1
while [ $number -le 60 ]; do
  sent "$1" $number &
  number=$((number + 1))
done
wait
[ ! -e failed ] || { cat failed; exit 1; }
grep -L '"id":"ord_' ./*.answer | grep . && exit 1
echo '{"number":0}' > 0.json
send "$1" order-7 0.json --header 'x-api-key: alice' > answer && exit 1
[ $? = 1 ] && grep -q '"code":"key-reused"' answer && echo '422 key-reused'
"#;
    sends_orders("sh", ("send.sh", snippet("send.sh")), ("main.sh", main)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_for_python_creates_each_order_once() {
    let main = r#"
import concurrent.futures, json, sys
from send import key_for, send

assert key_for("order", 4711) == "144a3676def4a265e86bdda61913dfb8"
alice = {"x-api-key": "alice"}

def create(number, key):
    body = json.dumps({"number": number}).encode()
    return send(sys.argv[1], key_for("order", key), body, alice, timeout=1)

with concurrent.futures.ThreadPoolExecutor(20) as pool:
    for status, _, content in pool.map(create, range(1, 61), range(1, 61)):
        assert status == 201 and json.loads(content)["id"].startswith("ord_"), content
status, _, content = create(0, 7)
print(status, json.loads(content)["code"])
"#;
    let send = ("send.py", snippet("send.py"));
    sends_orders("python3", send, ("main.py", main)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_for_javascript_creates_each_order_once() {
    let main = r#"
import { strict as assert } from "node:assert";
import { keyFor, send } from "./send.mjs";

assert.equal(keyFor("order", 4711), "144a3676def4a265e86bdda61913dfb8");
const options = { headers: { "x-api-key": "alice" }, timeout: 1000 };
const create = (number, key) =>
  send(process.argv[2], keyFor("order", key), JSON.stringify({ number }), options);
const numbers = Array.from({ length: 60 }, (_, index) => index + 1);
for (const { status, content } of await Promise.all(numbers.map((n) => create(n, n)))) {
  assert.equal(status, 201);
  assert.match(JSON.parse(content).id, /^ord_/);
}
const { status, content } = await create(0, 7);
console.log(status, JSON.parse(content).code);
"#;
    let send = ("send.mjs", snippet("send.mjs"));
    sends_orders("node", send, ("main.mjs", main)).await;
}
