//! The application behind the proxy: keeps every byte, answers as it is told.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::h1::find;

/// The answer to most requests.
pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// What a request is answered with; `None` leaves it without an answer.
pub(crate) type Script = Arc<dyn Fn(&Seen) -> Option<Vec<u8>> + Send + Sync>;

/// One request as it arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The request line.
    pub(crate) line: String,
    /// Name in lower case, and value.
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    /// The body, framing included.
    pub(crate) body: Vec<u8>,
    /// Whether the body ended as it was announced.
    pub(crate) complete: bool,
    /// Bytes that came after it, before it was answered.
    pub(crate) behind: Vec<u8>,
}

impl Seen {
    /// The target of the request line.
    pub(crate) fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap()
    }

    /// Every value of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&[u8]> {
        let named = self.fields.iter().filter(|(n, _)| n == name);
        named.map(|(_, v)| v.as_slice()).collect()
    }

    /// The only value of a field that is text.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} is repeated: {self:?}");
        all.first().map(|v| std::str::from_utf8(v).unwrap())
    }

    /// Names of all fields, sorted.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.fields.iter().map(|(n, _)| n.as_str()).collect();
        names.sort_unstable();
        names
    }
}

/// A listener that answers every request.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Upstream {
    pub(crate) fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let kept = seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, script) = (seen.clone(), script.clone());
                thread::spawn(move || serve(stream, &seen, &script));
            }
        });
        Self {
            address,
            seen: kept,
        }
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Every request since the last time.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Seen>>, script: &Script) {
    let mut bytes = Vec::new();
    while let Some(request) = read(&mut stream, &mut bytes) {
        let complete = request.complete;
        seen.lock().unwrap().push(request.clone());
        match script(&request).filter(|_| complete) {
            Some(answer) if stream.write_all(&answer).is_ok() => {}
            // Kept open: whether it ends is the proxy's affair.
            None if complete => drop(stream.read(&mut [0])),
            _ => return,
        }
    }
}

/// Reads one request; what follows it stays in `bytes`.
fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Seen> {
    let mut more = |bytes: &mut Vec<u8>| {
        let mut chunk = [0; 16 * 1024];
        let n = stream.read(&mut chunk).unwrap_or(0);
        bytes.extend_from_slice(&chunk[..n]);
        n > 0
    };
    let end = loop {
        if let Some(end) = find(bytes, b"\r\n\r\n") {
            break end;
        }
        if !more(bytes) {
            return None;
        }
    };
    let mut seen = head(&bytes[..end]);
    bytes.drain(..end + 4);
    let length = loop {
        match body_length(&seen, bytes) {
            Some(length) => break length,
            None if !more(bytes) => {
                seen.body = std::mem::take(bytes);
                return Some(seen);
            }
            None => {}
        }
    };
    seen.complete = true;
    seen.body = bytes.drain(..length).collect();
    seen.behind.clone_from(bytes);
    Some(seen)
}

fn head(bytes: &[u8]) -> Seen {
    let mut lines = bytes.split(|b| *b == b'\n').map(|l| l.trim_ascii_end());
    let line = String::from_utf8_lossy(lines.next().unwrap()).into_owned();
    let field = |line: &[u8]| {
        let colon = find(line, b":").unwrap();
        let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
        (name, line[colon + 1..].trim_ascii().to_vec())
    };
    Seen {
        line,
        fields: lines.map(field).collect(),
        ..Seen::default()
    }
}

/// Bytes of the body once it is all there; of chunks, up to the end of trailers.
fn body_length(seen: &Seen, bytes: &[u8]) -> Option<usize> {
    if seen.field("transfer-encoding").is_some() {
        let last = if bytes.starts_with(b"0\r\n") {
            0
        } else {
            find(bytes, b"\r\n0\r\n")? + 2
        };
        return Some(last + find(&bytes[last..], b"\r\n\r\n")? + 4);
    }
    let length = seen
        .field("content-length")
        .map_or(0, |l| l.parse().unwrap());
    (bytes.len() >= length).then_some(length)
}
