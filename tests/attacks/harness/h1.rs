//! HTTP/1.1 as bytes.

use std::io::{Read, Write};

use super::{Reply, wire::Wire};

/// Sends `bytes` as they are and reads until the proxy closes; every answer.
pub(crate) fn exchange(wire: &mut Wire, bytes: &[u8]) -> Vec<Reply> {
    // The proxy may have heard enough before the end of it.
    let _ = wire.write_all(bytes);
    let _ = wire.flush();
    let (received, closed) = wire.read_to_close();
    assert!(
        closed,
        "the connection stays open after {}",
        String::from_utf8_lossy(&received)
    );
    replies(&received)
}

/// Reads until `wanted` has come; what came until then.
pub(crate) fn read_to(wire: &mut Wire, wanted: &[u8]) -> Vec<u8> {
    let mut received = Vec::new();
    while find(&received, wanted).is_none() {
        let mut chunk = [0; 4096];
        let n = wire.read(&mut chunk).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&chunk[..n]);
    }
    received
}

/// Every answer in `bytes`.
pub(crate) fn replies(bytes: &[u8]) -> Vec<Reply> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some((reply, left)) = reply(rest) {
        found.push(reply);
        rest = left;
    }
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(rest));
    found
}

fn reply(bytes: &[u8]) -> Option<(Reply, &[u8])> {
    let end = find(bytes, b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
    let field = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_ascii_lowercase(), value.trim().to_owned())
    };
    let mut reply = Reply {
        status,
        fields: lines.map(field).collect(),
        ..Reply::default()
    };
    let (body, left) = body(&bytes[end + 4..], |name| {
        reply.field(name).map(str::to_owned)
    });
    reply.body = body;
    Some((reply, left))
}

/// Splits `bytes` into the body that its head announced and what follows it.
fn body(bytes: &[u8], field: impl Fn(&str) -> Option<String>) -> (Vec<u8>, &[u8]) {
    if field("transfer-encoding").is_some() {
        let mut body = Vec::new();
        let mut rest = bytes;
        while let Some(line) = find(rest, b"\r\n") {
            let size = std::str::from_utf8(&rest[..line]).unwrap();
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            rest = &rest[line + 2..];
            if size == 0 {
                // Trailers, if any, up to an empty line.
                let end = match rest.starts_with(b"\r\n") {
                    true => 2,
                    false => find(rest, b"\r\n\r\n").map_or(rest.len(), |at| at + 4),
                };
                rest = &rest[end..];
                break;
            }
            if rest.len() < size + 2 {
                break;
            }
            body.extend_from_slice(&rest[..size]);
            rest = &rest[size + 2..];
        }
        return (body, rest);
    }
    let length = field("content-length").map_or(0, |l| l.parse().unwrap());
    let length = usize::min(length, bytes.len());
    (bytes[..length].to_vec(), &bytes[length..])
}

/// Where `wanted` begins.
pub(crate) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|w| w == wanted)
}
