//! In these tests the store is there, but not for this program: the program ends at its
//! start and says what to do. Servers come from `scripts/servers`.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::program::{Serving, Written, run, said};
use crate::servers::{fresh_directory, url};
use crate::support::{File, nobody};

const SECRET: &str = "hunter2";

/// Checks that the program ends with 1, with each of `words` and without the password.
async fn ends(store: &str, words: &[&str]) {
    let file = File::new(nobody()).top(&format!("store = '{store}'"));
    let file = Written::new(&fresh("store"), &file.text());
    let output = run(&["--config", file.path()]).await;
    let stderr = said(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{store}: {stderr}");
    let last = stderr.trim_end().lines().last().unwrap();
    assert!(
        last.starts_with("error: the store can't be used: "),
        "{stderr}"
    );
    for word in words {
        assert!(last.contains(word), "{store}: no `{word}` in {stderr}");
    }
    assert!(!stderr.contains(SECRET), "{stderr}");
}

async fn migrate(store: &str) {
    let file = File::new(nobody()).top(&format!("store = '{store}'"));
    let file = Written::new(&fresh("migrate"), &file.text());
    let output = run(&["--config", file.path(), "--migrate"]).await;
    assert!(output.status.success(), "{}", said(&output.stderr));
}

fn fresh(prefix: &str) -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}_{}_{number}", std::process::id())
}

/// A URL of a server, in parts: its scheme, its host with the port, and its path.
struct Server {
    url: String,
    scheme: String,
    host: String,
}

impl Server {
    fn of(name: &str) -> Self {
        let url = url(name);
        let (scheme, rest) = url.split_once("://").unwrap();
        let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        let host = rest.split('/').next().unwrap().to_owned();
        Self {
            scheme: scheme.to_owned(),
            host,
            url,
        }
    }

    fn store(&self, user: &str, path: &str) -> String {
        format!("{}://{user}:{SECRET}@{}/{path}", self.scheme, self.host)
    }
}

fn done(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output.stderr));
}

#[tokio::test]
async fn a_postgres_that_refuses_ends_the_program() {
    let server = Server::of("TEST_POSTGRES_URL");
    let sql = |statement: &str| {
        let quiet = [
            "--quiet",
            "--no-psqlrc",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            statement,
        ];
        done(Command::new("psql").arg(&server.url).args(quiet));
    };
    let (role, closed, table) = (fresh("role"), fresh("closed"), fresh("records"));
    sql(&format!("CREATE ROLE {role} LOGIN PASSWORD '{SECRET}'"));
    sql(&format!("CREATE DATABASE {closed}"));
    sql(&format!("REVOKE CONNECT ON DATABASE {closed} FROM PUBLIC"));
    migrate(&format!("{}?table={table}", server.url)).await;

    let password = "mend the role or its password";
    ends(&server.store("test", "postgres"), &[password]).await;
    ends(&server.store("nobody_knows", "postgres"), &[password]).await;
    let missing = ["no_such_database", "create the database"];
    ends(&server.store(&role, "no_such_database"), &missing).await;
    let forbidden = [&*closed, "grant the role the rights"];
    ends(&server.store(&role, &closed), &forbidden).await;
    let no_table = server.store(&role, &format!("postgres?table={}", fresh("none")));
    ends(&no_table, &["call `migrate()`"]).await;
    let no_right = server.store(&role, &format!("postgres?table={table}"));
    ends(&no_right, &["INSERT on ", "grant it"]).await;
    // The server has no TLS.
    let secure = format!("{}?sslmode=require", server.url);
    ends(&secure, &["turn on TLS at the server"]).await;
    let no_file = format!("{}?sslrootcert=/no/such/ca.pem", server.url);
    let named = ["/no/such/ca.pem of `sslrootcert`", "No such file"];
    ends(&no_file, &named).await;

    sql(&format!("DROP DATABASE {closed}"));
    sql(&format!("DROP ROLE {role}"));
}

#[tokio::test]
async fn a_mariadb_that_refuses_ends_the_program() {
    let server = Server::of("TEST_MYSQL_URL");
    let (_, rest) = server.url.split_once("://").unwrap();
    let (user, password) = rest.split_once('@').unwrap().0.split_once(':').unwrap();
    let (host, port) = server.host.split_once(':').unwrap();
    let sql = |statement: &str| {
        let to = ["--no-defaults", "--protocol=tcp", "-h", host, "-P", port];
        let client = &mut Command::new("mariadb");
        let client = client.env("MYSQL_PWD", password).args(to);
        done(client.args(["-u", user, "-e", statement]));
    };
    let (reader, table) = (fresh("reader"), fresh("records"));
    sql(&format!("CREATE USER {reader} IDENTIFIED BY '{SECRET}'"));
    let database = server.url.rsplit('/').next().unwrap();
    sql(&format!(
        "GRANT SELECT, EXECUTE ON {database}.* TO {reader}"
    ));
    migrate(&format!("{}?table={table}", server.url)).await;

    let user = "mend user and password";
    ends(&server.store("test", database), &[user]).await;
    ends(&server.store("nobody_knows", database), &[user]).await;
    let missing = server.url.strip_suffix(database).unwrap();
    let missing = format!("{missing}no_such_database");
    ends(&missing, &["no_such_database", "create the database"]).await;
    ends(&server.store(&reader, "mysql"), &["grant the rights"]).await;
    let no_table = format!("{database}?table={}", fresh("none"));
    ends(&server.store(&reader, &no_table), &["call `migrate()`"]).await;
    let no_right = format!("{database}?table={table}");
    ends(
        &server.store(&reader, &no_right),
        &["denied", "grant the rights"],
    )
    .await;

    sql(&format!("DROP USER {reader}"));
}

#[tokio::test]
async fn a_redis_that_refuses_ends_the_program() {
    let server = Server::of("TEST_REDIS_URL");
    ends(&server.store("nobody", ""), &["user and password"]).await;
    let no_file = format!("rediss://:{SECRET}@{}?ssl-ca=/no/such/ca.pem", server.host);
    ends(&no_file, &["/no/such/ca.pem of `ssl-ca`", "No such file"]).await;
}

#[tokio::test]
async fn a_sqlite_file_that_can_not_be_opened_ends_the_program() {
    let directory = fresh_directory("sidecar");
    std::fs::create_dir_all(&directory).unwrap();
    let text = directory.join("notes.txt");
    std::fs::write(
        &text,
        "not a database, but longer than its header ".repeat(99),
    )
    .unwrap();
    for (file, remedy) in [
        (directory.clone(), "the path is that of a file"),
        (
            directory.join("none/records.db"),
            "a directory which is there",
        ),
        (text, "name another file"),
    ] {
        let file = file.to_str().unwrap();
        ends(&format!("sqlite:{file}"), &[file, remedy]).await;
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

/// A server that does not run may run later.
#[tokio::test]
async fn a_server_that_can_not_be_reached_does_not_end_the_program() {
    let starts = async |scheme| {
        let store = format!("store = '{scheme}://a:{SECRET}@{}/b'", nobody());
        let file = File::new(nobody()).top(&store);
        let mut serving = Serving::start(&fresh(scheme), &file).await;
        serving.says("the store still can't be used").await;
    };
    tokio::join!(starts("postgres"), starts("mysql"));
}
