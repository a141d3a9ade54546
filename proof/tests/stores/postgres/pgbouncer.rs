//! A process of pgbouncer in front of the tests' server.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::options;
use crate::servers;

/// This process belongs to one test. It is killed when it is dropped.
pub(super) struct Pgbouncer {
    process: Child,
    directory: PathBuf,
    port: u16,
}

impl Pgbouncer {
    /// Starts pgbouncer in transaction mode. Few connections to the server make many clients share
    /// each of them.
    pub(super) fn start(setting: &str) -> Self {
        let directory = servers::fresh_directory("pgbouncer");
        fs::create_dir_all(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let port = port.unwrap().port();
        let (server, url) = (options(), super::url());
        let (_, password) = url.split_once("//").unwrap().1.split_once(':').unwrap();
        let (password, _) = password.split_once('@').unwrap();
        let users = directory.join("users");
        let name = server.get_username();
        fs::write(&users, format!("\"{name}\" \"{password}\"\n")).unwrap();
        let ini = directory.join("ini");
        let settings = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = plain\nauth_file = {}\n\
             pool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 200\n{setting}\n",
            server.get_host(),
            server.get_port(),
            users.display(),
        );
        fs::write(&ini, settings).unwrap();
        let path = env::var("PATH").unwrap_or_default();
        let mut command = Command::new("pgbouncer");
        // Debian installs the program where only the path of root leads.
        command.env("PATH", format!("{path}:/usr/sbin"));
        // The program refuses to run as root.
        if fs::metadata(&ini).unwrap().uid() == 0 {
            command.args(["-u", "nobody"]);
        }
        let process = command
            .arg(&ini)
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbouncer is installed: see scripts/test");
        let pgbouncer = Self {
            process,
            directory,
            port,
        };
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "pgbouncer does not come up");
            thread::sleep(Duration::from_millis(10));
        }
        pgbouncer
    }

    pub(super) fn url(&self) -> String {
        let (url, server) = (super::url(), options());
        let address = format!("@{}:{}/", server.get_host(), server.get_port());
        url.replace(&address, &format!("@127.0.0.1:{}/", self.port))
    }

    pub(super) fn options(&self) -> PgConnectOptions {
        let options = options().host("127.0.0.1").port(self.port);
        options.ssl_mode(PgSslMode::Disable)
    }
}

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
