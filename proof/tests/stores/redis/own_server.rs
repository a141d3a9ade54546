//! This server belongs to one test, which can configure it, kill it and read its
//! counts.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tower_idempotency::RedisStore;

pub(super) struct OwnServer {
    child: Child,
    dir: PathBuf,
    options: Vec<String>,
}

impl OwnServer {
    /// Starts a server that listens only on a socket of its own, with these
    /// options.
    pub(super) fn start(options: &[&str]) -> Self {
        let dir = std::env::temp_dir().join(format!("idempotency-{:x}", rand::random::<u64>()));
        fs::create_dir(&dir).unwrap();
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let child = spawn(&dir, &options);
        let server = Self {
            child,
            dir,
            options,
        };
        server.wait();
        server
    }

    pub(super) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    pub(super) async fn open(&self) -> RedisStore {
        RedisStore::connect(&self.url()).await.unwrap()
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(super) fn start_again(&mut self) {
        let _ = fs::remove_file(self.socket());
        self.child = spawn(&self.dir, &self.options);
        self.wait();
    }

    /// Returns a command's reply as text, with one line for each element of a list.
    pub(super) fn run(&self, command: &str) -> String {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        String::from_utf8_lossy(&self.run_raw(&words)).into_owned()
    }

    pub(super) fn run_raw(&self, words: &[&[u8]]) -> Vec<u8> {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            write!(request, "${}\r\n", word.len()).unwrap();
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        stream.write_all(&request).unwrap();
        read(&mut BufReader::new(stream))
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    fn wait(&self) {
        for _ in 0..500 {
            if UnixStream::connect(self.socket()).is_ok() {
                let answer = self.run("PING");
                if answer == "PONG" || answer.contains("NOAUTH") {
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("redis-server does not start in {}", self.dir.display());
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn spawn(dir: &PathBuf, options: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--unixsocket"])
        .arg(dir.join("socket"))
        .arg("--dir")
        .arg(dir)
        .args(options)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server has to be installed: `apt-get install redis-server`")
}

fn read(stream: &mut impl BufRead) -> Vec<u8> {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let (kind, rest) = line.trim_end().split_at(1);
    let length = rest.parse::<i64>().unwrap_or(0);
    match (kind, usize::try_from(length)) {
        ("$", Ok(length)) => {
            let mut bytes = vec![0; length + 2];
            stream.read_exact(&mut bytes).unwrap();
            bytes.truncate(length);
            bytes
        }
        ("*", Ok(length)) => {
            let lines: Vec<Vec<u8>> = (0..length).map(|_| read(stream)).collect();
            lines.join(&b'\n')
        }
        _ => rest.as_bytes().to_vec(),
    }
}
