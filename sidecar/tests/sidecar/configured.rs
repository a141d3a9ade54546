//! The program's configuration by variables, and what it prints of it.

use crate::program::{Written, program, said};
use crate::support::{File, nobody, within};

/// Runs the program with these variables alone.
async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut program = program();
    program.args(arguments).envs(variables.iter().copied());
    let output = within(program.output()).await.unwrap();
    let text = |bytes: &[u8]| said(bytes).to_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

const ALL: [(&str, &str); 5] = [
    ("IDEMPOTENCY_LISTEN", "127.0.0.1:0"),
    ("IDEMPOTENCY_UPSTREAM", "http://127.0.0.1:9000"),
    ("IDEMPOTENCY_STORE", "memory:"),
    ("IDEMPOTENCY_IDEMPOTENCY__SCOPE", "header:x-api-key"),
    ("IDEMPOTENCY_ROUTE__0__MATCH", "POST /orders"),
];

#[tokio::test]
async fn variables_alone_are_a_configuration() {
    let (code, page, error) = run(&["--check"], &ALL).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(page.contains("| `/orders` | POST |"), "{page}");
    let (code, _, error) = run(&["--check"], &ALL[1..]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("`listen` is missing"), "{error}");
}

#[tokio::test]
async fn it_prints_what_is_in_force_and_where_it_comes_from() {
    let file = File::new(nobody()).top("store = 'redis://:hunter2@cache'");
    let file = Written::new("print.toml", &file.text());
    let arguments = ["--config", file.path(), "--print-config"];
    let (code, page, error) = run(&arguments, &ALL[..2]).await;
    assert_eq!(code, Some(0), "{error}");
    let lines: Vec<_> = page
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    for line in [
        "listen = \"127.0.0.1:0\" # IDEMPOTENCY_LISTEN".to_owned(),
        "connect_timeout = \"5s\" # default".to_owned(),
        format!("scope = [\"shared\"] # {}:6", file.path()),
        format!("store = \"redis://***@cache\" # {}:3", file.path()),
    ] {
        assert!(lines.contains(&line), "{line}: {page}");
    }
    assert!(!page.contains("hunter2"), "{page}");
}

#[tokio::test]
async fn a_variable_or_a_file_that_is_wrong_is_told_with_all_else_that_is() {
    let text = File::new(nobody()).idempotency("lese = '3s'").text();
    let text = text.replace("upstream = 'http", "upstream = 'ftp");
    let file = Written::new("several.toml", &text);
    let variables = [
        ("IDEMPOTENCY_LISTN", "127.0.0.1:0"),
        ("IDEMPOTENCY_LIMITS__KEEP_ALIVE", "1"),
    ];
    let (code, _, error) = run(&["--config", file.path(), "--check"], &variables).await;
    assert_eq!(code, Some(1));
    for says in [
        format!("{}:2:1: `upstream` must be a URL", file.path()),
        format!(
            "{}:7:1: `idempotency.lese` is not an option: did you mean `lease`?",
            file.path()
        ),
        "IDEMPOTENCY_LISTN: `listn` is not an option: did you mean `listen`?".to_owned(),
        "IDEMPOTENCY_LIMITS__KEEP_ALIVE: `limits.keep_alive` must be a duration".to_owned(),
    ] {
        assert!(error.contains(&says), "{says}: {error}");
    }
    // What only the sidecar requires is told at once, too.
    let file = Written::new("nothing.toml", "");
    let (_, _, error) = run(&["--config", file.path(), "--check"], &[]).await;
    for entry in ["listen", "upstream", "store"] {
        assert!(error.contains(&format!("`{entry}` is missing")), "{error}");
    }
}

#[tokio::test]
async fn what_can_not_work_in_a_proxy_is_told_in_one_run_with_certificates_that_are_not_there() {
    let file = Written::new(
        "all-wrong.toml",
        "listen = '127.0.0.1:0'\nupstream = 'http://127.0.0.1:9000'\nupstream_timeout = '60s'\nstore = 'memory:'\n\
         tls = { certificate = '/nowhere/own.pem', key = '/nowhere/own.key' }\n\
         metrics = '127.0.0.1:9'\n\
         metrics_tls = { certificate = '/nowhere/metrics.pem', key = '/nowhere/metrics.key' }\n\
         [idempotency]\nscope = ['shared']\nmax_operation = '40s'\n\
         [[route]]\nmatch = 'POST /orders/'\non_disconnect = 'cancel'\n",
    );
    let (code, _, error) = run(&["--config", file.path(), "--check"], &[]).await;
    assert_eq!(code, Some(1));
    let mistakes = [
        "/nowhere/own.pem",
        "/nowhere/metrics.pem",
        "`idempotency.max_operation` must not be shorter",
        "can't be `cancel` here",
        "ends in a slash",
    ];
    for mistake in mistakes {
        assert!(error.contains(mistake), "{mistake}: {error}");
    }
}
