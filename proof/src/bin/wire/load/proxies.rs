//! This module measures the processor's time that the sidecar takes for a request, next to
//! nginx as a plain reverse proxy. Both stand in front of the same bare application, and
//! upstream, proxies and client share one processor. Rounds alternate; a ratio is taken within
//! one round.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Load, SERVERS, Sample, cpu, on_processor, wrk};
use crate::BoxError;
use crate::client::{Connection, Kind, Protocol};
use crate::process::Server;

const SIDECAR: &str = "tower-idempotency-sidecar";
const COMES_UP_WITHIN: Duration = Duration::from_secs(30);

const ROWS: [(&str, Kind); 4] = [
    ("nginx", Kind::Bare),
    ("sidecar, no key", Kind::NotProtected),
    ("sidecar, first", Kind::First),
    ("sidecar, replay", Kind::Replay),
];
const NGINX: usize = 0;
const NO_KEY: usize = 1;

type Round = [Sample; ROWS.len()];

/// Measures all rows, and returns the table of them.
pub(crate) fn measure(load: Load) -> Result<String, BoxError> {
    let app = std::env::current_exe()?;
    let mut upstream = on_processor(SERVERS);
    upstream.arg(app).args(["serve", "axum-bare"]);
    upstream.env("WIRE_RESPONSE_BYTES", load.response_bytes.to_string());
    let upstream = Server::start(&mut upstream)?;
    let service = upstream.address("axum-bare")?;
    let folder = Folder::new()?;
    let nginx = Proxy::nginx(service, &folder.0)?;
    let sidecar = Proxy::sidecar(service, &folder.0)?;
    let mut filling = Connection::open(Protocol::Http1, sidecar.address)?;
    filling.exchange(Kind::Replay, 0)?;
    for number in 0..load.records {
        filling.exchange(Kind::First, number)?;
    }
    let mut rounds: Vec<Round> = Vec::new();
    // The first round warms up, and does not count.
    for round in 0..=load.rounds {
        let mut samples = Round::default();
        for at in 0..ROWS.len() {
            // Each round begins with another row, so that no row always runs first.
            let row = (at + round) % ROWS.len();
            let proxy = if row == NGINX { &nginx } else { &sidecar };
            let begun = cpu::of(proxy.child.id())?;
            let keys = wrk::Keys::of_round(round);
            let sent = wrk::send(SERVERS, proxy.address, ROWS[row].1, keys, load.connections)?;
            samples[row] = cpu::of(proxy.child.id())?.since(&begun, &sent);
        }
        if round > 0 {
            rounds.push(samples);
        }
    }
    table(load, &rounds)
}

fn table(load: Load, rounds: &[Round]) -> Result<String, BoxError> {
    let mut text = format!(
        "{} rounds, {} connections, {} records at first, {} B of response, all on one processor, medians:\n\n\
         {:18} {:>6} {:>6} {:>8} {:>6} {:>8} {:>9}\n",
        load.rounds,
        load.connections,
        load.records,
        load.response_bytes,
        "",
        "CPU us",
        "25 %",
        "to nginx",
        "75 %",
        "per s",
        "to no key",
    );
    for (row, (name, _)) in ROWS.iter().enumerate() {
        let quartiles = |of: &dyn Fn(&Round) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            let last = values.len() - 1;
            [values[last / 4], values[last / 2], values[last * 3 / 4]]
        };
        let [low, middle, high] = quartiles(&|round| round[row].micros / round[NGINX].micros);
        writeln!(
            text,
            "{name:18} {:>6.2} {low:>6.3} {middle:>8.3} {high:>6.3} {:>8.0} {:>9.3}",
            quartiles(&|round| round[row].micros)[1],
            quartiles(&|round| round[row].per_second)[1],
            quartiles(&|round| round[row].per_second / round[NO_KEY].per_second)[1],
        )?;
    }
    Ok(text)
}

/// A proxy in a process of its own, which is ended when this is dropped.
struct Proxy {
    child: Child,
    address: SocketAddr,
}

impl Proxy {
    /// One worker, no log of requests, and connections that are kept on both sides.
    fn nginx(upstream: SocketAddr, folder: &Path) -> Result<Self, BoxError> {
        let address = free_address()?;
        let file = folder.join("nginx.conf");
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {}/{name};\n", folder.display()))
            .concat();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nevents {{}}\nhttp {{\n\
             access_log off;\n{temporary}keepalive_requests 1000000000;\n\
             upstream service {{\nserver {upstream};\nkeepalive 64;\nkeepalive_requests 1000000000;\n}}\n\
             server {{\nlisten {address};\nlocation / {{\nproxy_pass http://service;\n\
             proxy_http_version 1.1;\nproxy_set_header Connection \"\";\n}}\n}}\n}}\n",
            folder = folder.display(),
        );
        fs::write(&file, text)?;
        let mut command = on_processor(SERVERS);
        command.arg("/usr/sbin/nginx").arg("-c").arg(file);
        Self::start(command, address)
    }

    /// The program with one worker, and a store with room for all requests of a run.
    fn sidecar(upstream: SocketAddr, folder: &Path) -> Result<Self, BoxError> {
        let address = free_address()?;
        let file = folder.join("sidecar.toml");
        let text = format!(
            "listen = '{address}'\nupstream = 'http://{upstream}'\n\
             store = 'memory:?max_records=10000000&max_bytes=8589934592'\n\
             [idempotency]\nscope = ['header:x-api-key']\n"
        );
        fs::write(&file, text)?;
        let mut command = on_processor(SERVERS);
        command.arg(program()?).arg("--config").arg(file);
        command.env("TOKIO_WORKER_THREADS", "1");
        // As the unit and the image of `scripts/package` have it.
        command.env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=127");
        Self::start(command, address)
    }

    fn start(mut command: Command, address: SocketAddr) -> Result<Self, BoxError> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let mut proxy = Self { child, address };
        let until = Instant::now() + COMES_UP_WITHIN;
        while TcpStream::connect(address).is_err() {
            if Instant::now() > until || proxy.child.try_wait()?.is_some() {
                let program = command.get_program().display();
                return Err(format!("what {program} runs does not listen on {address}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(proxy)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The files of a run, which are removed when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, BoxError> {
        let folder = std::env::temp_dir().join(format!("wire-proxies-{}", std::process::id()));
        fs::create_dir(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An address on which nothing listens at this moment.
fn free_address() -> Result<SocketAddr, BoxError> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Returns the path of the sidecar's program, which cargo builds where it runs this program.
fn program() -> Result<PathBuf, BoxError> {
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args([
            "build",
            "--quiet",
            "--profile",
            "bench",
            "--package",
            SIDECAR,
        ]);
        if !build.status()?.success() {
            return Err("the sidecar cannot be built".into());
        }
    }
    let program = std::env::current_exe()?.with_file_name(SIDECAR);
    if !program.exists() {
        return Err(format!("{} is missing", program.display()).into());
    }
    Ok(program)
}
