use std::net::SocketAddr;

use tokio::net::TcpSocket;

/// Returns an address where nobody listens. A socket that does not listen keeps the port until the
/// tests end: a free port could be given to the next server that starts.
pub(crate) fn nobody() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}
