//! The library's example `payments` runs twice on one store: the second process
//! replays what the first process did.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use crate::servers;

/// `cargo test --workspace` has built the example already; `cargo test -p proof`
/// has not.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    // This is `target/PROFILE/deps/stores-HASH`.
    let this = std::env::current_exe().unwrap();
    let profile = this.parent().and_then(Path::parent).unwrap();
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let status = Command::new(env!("CARGO"))
        .args(["build", "--workspace", "--all-features"])
        .args(["--example", "payments", "--profile", name, "--target-dir"])
        .arg(profile.parent().unwrap())
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()
        .unwrap();
    assert!(status.success(), "the example does not build");
    profile.join(format!("examples/payments{}", std::env::consts::EXE_SUFFIX))
});

fn run(arguments: &[&str]) -> Output {
    Command::new(&*PROGRAM).args(arguments).output().unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// Each payment is made once, whichever process made the payment.
fn two_processes_pay_once(store: &str) {
    let tell = || {
        let output = run(&["--exit", "--store", store]);
        let stdout = text(output.stdout);
        assert!(output.status.success(), "{stdout}{}", text(output.stderr));
        let rows: Vec<Vec<String>> = stdout
            .lines()
            .filter(|line| line.contains(" 201 "))
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect();
        (stdout, rows)
    };
    let (first, made) = tell();
    let (second, replayed) = tell();
    assert!(
        first.contains("by this process: 3, by an earlier one: 0. Charges here: 3."),
        "{first}"
    );
    assert!(
        second.contains("by this process: 0, by an earlier one: 3. Charges here: 0."),
        "{second}"
    );
    assert_eq!((made.len(), replayed.len()), (3, 3));
    for (made, replayed) in made.iter().zip(&replayed) {
        // These are the key, the status and the id of the payment.
        assert_eq!(made[..3], replayed[..3]);
    }
}

#[test]
fn a_second_process_replays_what_the_first_one_did() {
    let directory = std::env::temp_dir().join(format!("payments-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    two_processes_pay_once(&format!("sqlite:{}", directory.join("a.db").display()));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn so_it_does_on_every_server() {
    for (name, own) in [
        ("TEST_REDIS_URL", "prefix"),
        ("TEST_REDIS_CLUSTER_URL", "prefix"),
        ("TEST_POSTGRES_URL", "table"),
        ("TEST_MYSQL_URL", "table"),
    ] {
        let url = servers::url(name);
        two_processes_pay_once(&format!("{url}?{own}=payments_{:x}", rand::random::<u64>()));
    }
}
