//! Where clients connect.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, lookup_host};
use tower_idempotency::for_sidecar::Listen;

use crate::stream::Stream;
use crate::tls::Acceptor;

/// A listener, and the TLS that its connections begin with.
pub(crate) struct Listener {
    socket: Socket,
    pub(crate) tls: Option<Acceptor>,
}

enum Socket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(unix::Own),
}

/// The peer of a connection on a Unix socket: a process of this machine.
#[cfg(unix)]
const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl Listener {
    pub(crate) async fn bind(on: &Listen, tls: Option<Acceptor>) -> io::Result<Self> {
        let socket = match on {
            Listen::Tcp(host, port) => {
                // Clients that know one version of IP use version 4.
                let mut addresses: Vec<_> = lookup_host((&**host, *port)).await?.collect();
                addresses.sort_by_key(|own| !own.is_ipv4());
                Socket::Tcp(TcpListener::bind(&*addresses).await?)
            }
            #[cfg(unix)]
            Listen::Unix(path) => Socket::Unix(unix::Own::bind(path)?),
            #[cfg(unix)]
            Listen::Descriptor(number) => unix::passed(*number)?,
            #[cfg(not(unix))]
            Listen::Unix(_) | Listen::Descriptor(_) => {
                return Err(io::Error::from(io::ErrorKind::Unsupported));
            }
        };
        Ok(Self { socket, tls })
    }

    pub(crate) async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match &self.socket {
            Socket::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                Ok((stream.into(), peer))
            }
            #[cfg(unix)]
            Socket::Unix(own) => Ok((Stream::Unix(own.socket.accept().await?.0), HERE)),
        }
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        match &self.socket {
            Socket::Tcp(socket) => socket.local_addr(),
            #[cfg(unix)]
            Socket::Unix(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a Unix socket has no address of IP",
            )),
        }
    }
}

/// The address as the configuration writes it.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Socket::Tcp(socket) => match socket.local_addr() {
                Ok(address) => address.fmt(f),
                Err(error) => error.fmt(f),
            },
            #[cfg(unix)]
            Socket::Unix(own) => own.fmt(f),
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::fmt;
    use std::fs;
    use std::io;
    use std::os::unix::fs::FileTypeExt as _;
    use std::path::{Path, PathBuf};
    use std::sync::{LazyLock, Mutex, PoisonError};

    use listenfd::ListenFd;
    use tokio::net::{TcpListener, UnixListener};

    use super::Socket;

    /// The first descriptor that a service manager passes (`sd_listen_fds(3)`).
    const FIRST: usize = 3;
    /// What was passed and is not taken yet. The variables that tell of it are removed at the first look.
    static PASSED: LazyLock<Mutex<ListenFd>> = LazyLock::new(|| Mutex::new(ListenFd::from_env()));

    pub(super) struct Own {
        pub(super) socket: UnixListener,
        /// The file of the socket, if this process has made it.
        file: Option<PathBuf>,
    }

    impl Own {
        /// Takes the place of a socket that a process has left behind.
        pub(super) fn bind(path: &Path) -> io::Result<Self> {
            let is_socket = fs::symlink_metadata(path).is_ok_and(|own| own.file_type().is_socket());
            if is_socket {
                let answer = std::os::unix::net::UnixStream::connect(path);
                if answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                    fs::remove_file(path)?;
                }
            }
            Ok(Self {
                socket: UnixListener::bind(path)?,
                file: Some(path.to_path_buf()),
            })
        }
    }

    impl Drop for Own {
        fn drop(&mut self) {
            if let Some(file) = &self.file {
                let _ = fs::remove_file(file);
            }
        }
    }

    impl fmt::Display for Own {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let address = self.socket.local_addr().ok();
            match address.as_ref().and_then(|own| own.as_pathname()) {
                Some(path) => write!(f, "unix:{}", path.display()),
                None => f.write_str("unix:"),
            }
        }
    }

    /// The listener that a service manager has opened.
    pub(super) fn passed(number: u32) -> io::Result<Socket> {
        let index = usize::try_from(number).unwrap_or(usize::MAX) - FIRST;
        let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
        // A listener that is not one of TCP stays where it is.
        if let Ok(Some(socket)) = passed.take_tcp_listener(index) {
            socket.set_nonblocking(true)?;
            return Ok(Socket::Tcp(TcpListener::from_std(socket)?));
        }
        let Some(socket) = passed.take_unix_listener(index)? else {
            let none = "no such descriptor was passed (LISTEN_FDS and LISTEN_PID)";
            return Err(io::Error::new(io::ErrorKind::NotFound, none));
        };
        socket.set_nonblocking(true)?;
        Ok(Socket::Unix(Own {
            socket: UnixListener::from_std(socket)?,
            file: None,
        }))
    }
}
