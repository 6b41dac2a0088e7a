//! One request, one answer, one connection: HTTP/1.1 as little as a test needs.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// How long a server may take for its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    /// Value of a header field, if it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut named = fields.filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Sends a request over `stream` and reads until the server closes.
pub fn exchange(
    stream: &mut (impl Read + Write),
    method: &str,
    host: &str,
    path: &str,
    body: &str,
) -> io::Result<Reply> {
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
}

/// A GET over a unix socket.
pub fn over_unix(socket: &std::path::Path, path: &str) -> io::Result<Reply> {
    let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    exchange(&mut stream, "GET", "localhost", path, "")
}

pub fn parse(answer: &[u8]) -> Option<Reply> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some(Reply {
        status: head.split(' ').nth(1)?.parse().ok()?,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

/// A connection with a bound on every read.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(stream)
}

/// Sends a request in clear text.
pub fn send(
    address: SocketAddr,
    method: &str,
    host: &str,
    path: &str,
    body: &str,
) -> io::Result<Reply> {
    exchange(&mut connect(address)?, method, host, path, body)
}
