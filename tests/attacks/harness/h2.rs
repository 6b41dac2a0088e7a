//! HTTP/2 as frames (RFC 9113), also those that no library would send.

use std::{
    io::{Read, Write},
    time::Duration,
};

use super::{PATIENCE, Reply, hpack, wire};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const COMPRESSION_ERROR: u32 = 9;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS_HEADER_TABLE_SIZE: u16 = 1;
pub(crate) const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A client's end.
pub(crate) struct Connection {
    pub(crate) wire: wire::Wire,
    received: Vec<u8>,
    goaway: Option<u32>,
}

impl Connection {
    /// Sends the preface, and forbids the peer a dynamic table.
    pub(crate) fn open(wire: wire::Wire) -> Self {
        Self::open_with(wire, &[])
    }

    /// As [`Connection::open`], with more settings.
    pub(crate) fn open_with(wire: wire::Wire, settings: &[(u16, u32)]) -> Self {
        let mut connection = Self {
            wire,
            received: Vec::new(),
            goaway: None,
        };
        let mut payload = Vec::new();
        for (id, value) in [(SETTINGS_HEADER_TABLE_SIZE, 0)].iter().chain(settings) {
            payload.extend_from_slice(&id.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        let mut first = PREFACE.to_vec();
        first.extend_from_slice(&frame(SETTINGS, 0, 0, &payload));
        connection.send(&first);
        connection
    }

    /// Sends bytes as they are. Whether the peer still listens is not its concern.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.wire.write_all(bytes).is_ok() && self.wire.flush().is_ok()
    }

    /// Sends the head of a request.
    pub(crate) fn request(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) {
        let block = block(fields);
        self.head(stream, &block, end);
    }

    /// Sends a header block, in as many frames as it needs.
    pub(crate) fn head(&mut self, stream: u32, block: &[u8], end: bool) {
        self.send(&head(stream, block, end));
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn ask(&mut self, stream: u32, fields: &[(&str, &str)], body: &[u8]) -> Reply {
        self.request(stream, fields, body.is_empty());
        if !body.is_empty() {
            for piece in body.chunks(16 * 1024) {
                self.send(&frame(DATA, 0, stream, piece));
            }
            self.send(&frame(DATA, END_STREAM, stream, b""));
        }
        self.reply(stream)
    }

    /// The next frame; `None` when the peer has closed. Settings are acknowledged.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.take()?;
            if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                self.send(&self::frame(SETTINGS, ACK, 0, b""));
                continue;
            }
            if frame.kind == GOAWAY {
                self.goaway = Some(u32_at(&frame.payload, 4));
            }
            return Some(frame);
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(frame) = split(&mut self.received) {
                return Some(frame);
            }
            match self.wire.read(&mut chunk) {
                Ok(0) => return None,
                Ok(n) => self.received.extend_from_slice(&chunk[..n]),
                Err(e) if wire::is_timeout(&e) => panic!("no frame in time"),
                Err(_) => return None,
            }
        }
    }

    /// The answer on `stream`; frames of others are dropped.
    pub(crate) fn reply(&mut self, stream: u32) -> Reply {
        let mut reply = Reply::default();
        let mut block = Vec::new();
        while let Some(frame) = self.next() {
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                HEADERS | CONTINUATION => {
                    block.extend_from_slice(&frame.payload);
                    if frame.flags & END_HEADERS != 0 {
                        reply.take_fields(hpack::decode(&block));
                        block.clear();
                    }
                }
                DATA => reply.body.extend_from_slice(&frame.payload),
                RST_STREAM => {
                    reply.reset = Some(u32_at(&frame.payload, 0));
                    return reply;
                }
                _ => {}
            }
            if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                return reply;
            }
        }
        reply.goaway = self.goaway;
        reply
    }

    /// Sends pieces, each after a look at what the peer says, until there are no more or
    /// it ends the connection; then as [`Connection::farewell`].
    pub(crate) fn flood(&mut self, pieces: impl Iterator<Item = Vec<u8>>) -> Option<u32> {
        self.wire.patience(Duration::from_millis(2));
        for piece in pieces {
            if !self.send(&piece) || !self.listen() {
                break;
            }
        }
        self.wire.patience(PATIENCE);
        self.farewell()
    }

    /// Takes what has arrived; false once the connection has ended.
    fn listen(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.wire.read(&mut chunk) {
            Ok(0) => return false,
            Ok(n) => self.received.extend_from_slice(&chunk[..n]),
            Err(e) => return wire::is_timeout(&e),
        }
        while let Some(frame) = split(&mut self.received) {
            if frame.kind == GOAWAY {
                self.goaway = Some(u32_at(&frame.payload, 4));
                return false;
            }
        }
        true
    }

    /// Reads until the peer closes; the error code of its GOAWAY, if it sent one.
    pub(crate) fn farewell(&mut self) -> Option<u32> {
        while self.next().is_some() {}
        self.goaway
    }
}

impl Reply {
    fn take_fields(&mut self, fields: Vec<(String, String)>) {
        if self.status >= 200 {
            self.trailers = fields;
            return;
        }
        for (name, value) in fields {
            if name == ":status" {
                self.status = value.parse().unwrap();
            } else {
                self.fields.push((name, value));
            }
        }
    }
}

/// A frame as bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// HEADERS, with CONTINUATION where the block is larger than a frame.
pub(crate) fn head(stream: u32, block: &[u8], end: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut pieces = block.chunks(16 * 1024).peekable();
    let mut kind = HEADERS;
    let mut flags = if end { END_STREAM } else { 0 };
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            flags |= END_HEADERS;
        }
        bytes.extend_from_slice(&frame(kind, flags, stream, piece));
        (kind, flags) = (CONTINUATION, 0);
    }
    bytes
}

/// A header block of literals.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        hpack::literal(&mut block, name.as_bytes(), value.as_bytes());
    }
    block
}

/// The pseudo-header fields of a request to the service under attack.
pub(crate) fn pseudo<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", method),
        (":scheme", "https"),
        (":authority", "orders"),
        (":path", path),
    ]
}

fn split(bytes: &mut Vec<u8>) -> Option<Frame> {
    let length = u32::from_be_bytes([0, *bytes.first()?, *bytes.get(1)?, *bytes.get(2)?]);
    let end = 9 + length as usize;
    if bytes.len() < end {
        return None;
    }
    let frame = Frame {
        kind: bytes[3],
        flags: bytes[4],
        stream: u32_at(bytes, 5) & 0x7fff_ffff,
        payload: bytes[9..end].to_vec(),
    };
    bytes.drain(..end);
    Some(frame)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}
