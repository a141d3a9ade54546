//! This module runs a server as a process of its own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::BoxError;

/// A server, and the addresses that it has printed. The process is ended when this is dropped.
pub(crate) struct Server {
    child: Child,
    addresses: HashMap<String, SocketAddr>,
    marks: TcpStream,
}

impl Server {
    pub(crate) fn start(command: &mut Command) -> Result<Self, BoxError> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let mut addresses = HashMap::new();
        let output = child.stdout.take().expect("the output is a pipe");
        for line in BufReader::new(output).lines() {
            let line = line?;
            let Some((name, address)) = line.split_once(' ') else {
                break;
            };
            addresses.insert(name.to_owned(), address.parse()?);
        }
        let marks = addresses.get("mark").ok_or("a server did not start")?;
        let marks = TcpStream::connect(marks)?;
        Ok(Self {
            child,
            addresses,
            marks,
        })
    }

    pub(crate) fn address(&self, name: &str) -> Result<SocketAddr, BoxError> {
        let address = self.addresses.get(name).copied();
        address.ok_or_else(|| format!("the server has no {name}").into())
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Makes the server call the function before which callgrind writes a file.
    pub(crate) fn mark(&mut self) -> Result<(), BoxError> {
        self.marks.write_all(&[0])?;
        self.marks.read_exact(&mut [0])?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
