//! Header blocks (RFC 7541): any bytes out, what a well-behaved encoder sends in.

/// Lengths of the Huffman codes of all octets (RFC 7541, appendix B). The code is
/// canonical, so the codes follow from the lengths.
const HUFFMAN_LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// The static table (RFC 7541, appendix A).
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// A literal without indexing, both strings as they are.
pub(crate) fn literal(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0);
    for text in [name, value] {
        integer(block, 0, 7, text.len());
        block.extend_from_slice(text);
    }
}

/// A literal with incremental indexing: it enters the peer's dynamic table.
pub(crate) fn indexed_literal(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0x40);
    for text in [name, value] {
        integer(block, 0, 7, text.len());
        block.extend_from_slice(text);
    }
}

/// A reference to an entry of the static or dynamic table.
pub(crate) fn indexed(block: &mut Vec<u8>, index: usize) {
    integer(block, 0x80, 7, index);
}

/// An integer with a prefix of `bits` (RFC 7541 section 5.1).
fn integer(block: &mut Vec<u8>, flags: u8, bits: u32, value: usize) {
    let max = (1 << bits) - 1;
    if value < max {
        block.push(flags | u8::try_from(value).unwrap());
        return;
    }
    block.push(flags | u8::try_from(max).unwrap());
    let mut left = value - max;
    while left >= 128 {
        block.push(u8::try_from(left % 128).unwrap() | 0x80);
        left /= 128;
    }
    block.push(u8::try_from(left).unwrap());
}

/// Reads a block of a peer whose dynamic table was set to nothing.
pub(crate) fn decode(block: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut at = block.iter().copied();
    while let Some(first) = at.next() {
        if first & 0x80 != 0 {
            let (name, value) = STATIC[read_integer(&mut at, first, 7) - 1];
            fields.push((name.to_owned(), value.to_owned()));
            continue;
        }
        if first & 0xe0 == 0x20 {
            assert_eq!(read_integer(&mut at, first, 5), 0, "table size");
            continue;
        }
        let bits = if first & 0x40 != 0 { 6 } else { 4 };
        let name = match read_integer(&mut at, first, bits) {
            0 => read_text(&mut at),
            index => STATIC[index - 1].0.to_owned(),
        };
        fields.push((name, read_text(&mut at)));
    }
    fields
}

fn read_integer(at: &mut impl Iterator<Item = u8>, first: u8, bits: u32) -> usize {
    let max = (1usize << bits) - 1;
    let mut value = usize::from(first) & max;
    let mut shift = 0;
    while value >= max {
        let byte = at.next().unwrap();
        value += usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn read_text(at: &mut impl Iterator<Item = u8>) -> String {
    let first = at.next().unwrap();
    let length = read_integer(at, first, 7);
    let bytes: Vec<u8> = at.take(length).collect();
    let text = if first & 0x80 != 0 {
        unhuffman(&bytes)
    } else {
        bytes
    };
    String::from_utf8_lossy(&text).into_owned()
}

fn unhuffman(bytes: &[u8]) -> Vec<u8> {
    let mut order: Vec<u8> = (0..=255).collect();
    order.sort_by_key(|octet| (HUFFMAN_LENGTHS[usize::from(*octet)], *octet));
    let mut codes = std::collections::HashMap::new();
    let (mut code, mut length) = (0u32, HUFFMAN_LENGTHS[usize::from(order[0])]);
    for octet in order {
        let next = HUFFMAN_LENGTHS[usize::from(octet)];
        code <<= next - length;
        length = next;
        codes.insert((length, code), octet);
        code += 1;
    }
    let (mut out, mut code, mut length) = (Vec::new(), 0u32, 0u8);
    for bit in bytes
        .iter()
        .flat_map(|b| (0..8).rev().map(move |i| b >> i & 1))
    {
        code = code << 1 | u32::from(bit);
        length += 1;
        if let Some(octet) = codes.get(&(length, code)) {
            out.push(*octet);
            (code, length) = (0, 0);
        }
    }
    out
}

/// The example of RFC 7541, appendix C.4.1.
#[test]
fn huffman_texts_are_read() {
    let text = [
        0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
    ];
    assert_eq!(unhuffman(&text), b"www.example.com");
}
