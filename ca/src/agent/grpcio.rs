//! Makes HTTP/2 requests of gRPC's C core acceptable: its `:authority`.
//!
//! On a unix socket grpcio (Python, Ruby, …) sends the percent-encoded socket path
//! as `:authority`. The `http` crate takes no `%` there, so h2 resets the stream and
//! those clients get nothing. This rewriter follows the frames of a connection and
//! replaces the bytes that are illegal in an authority by `-`, one for one, so that
//! lengths and HPACK tables stay in step (RFC 9113 section 4.1, RFC 7541 section
//! 6). The authority means nothing on a unix socket.
//!
//! Left as they are: Huffman-coded values, header blocks that go on in
//! CONTINUATION frames, and frames that h2 refuses anyway.

/// The client's connection preface (RFC 9113 section 3.4).
pub(super) const PREFACE_LEN: usize = 24;
const FRAME_HEADER_LEN: usize = 9;
/// Largest frame held back for rewriting: our advertised maximum.
const FRAME_LEN_MAX: usize = 16 * 1024;
const TYPE_HEADERS: u8 = 0x1;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;

/// Rewrites one direction of one connection.
#[derive(Debug)]
pub(super) struct Rewriter {
    /// Bytes of a frame that is not complete yet.
    held: Vec<u8>,
    /// Bytes to pass on unseen: the preface, then frames other than HEADERS.
    pass: usize,
    preface: usize,
}

impl Default for Rewriter {
    fn default() -> Self {
        Self {
            held: Vec::new(),
            pass: PREFACE_LEN,
            preface: PREFACE_LEN,
        }
    }
}

impl Rewriter {
    /// Takes what was read and appends to `out` what may go on.
    pub(super) fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        self.preface = self.preface.saturating_sub(bytes.len());
        while !bytes.is_empty() {
            if self.pass > 0 {
                let (now, rest) = bytes.split_at(self.pass.min(bytes.len()));
                out.extend_from_slice(now);
                self.pass -= now.len();
                bytes = rest;
                continue;
            }
            let want = self.wanted().saturating_sub(self.held.len());
            let (now, rest) = bytes.split_at(want.min(bytes.len()));
            self.held.extend_from_slice(now);
            bytes = rest;
            self.release(out);
        }
    }

    /// Gives up what is held: the connection ends within a frame.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
    }

    /// Whether the client has spoken HTTP/2's first words.
    pub(super) fn has_begun(&self) -> bool {
        self.preface == 0
    }

    /// Length up to which the present frame is held.
    fn wanted(&self) -> usize {
        match header_of(&self.held) {
            Some(header) => FRAME_HEADER_LEN + header.len,
            None => FRAME_HEADER_LEN,
        }
    }

    /// Lets the held frame go once it is known what it is, and complete if it
    /// matters.
    fn release(&mut self, out: &mut Vec<u8>) {
        let Some(header) = header_of(&self.held) else {
            return;
        };
        if header.kind != TYPE_HEADERS || header.len > FRAME_LEN_MAX {
            self.pass = header.len;
        } else if self.held.len() < FRAME_HEADER_LEN + header.len {
            return;
        } else {
            // A block that cannot be read goes on as it is; h2 will refuse it.
            let _ = rewrite_headers(&mut self.held, header.flags);
        }
        out.append(&mut self.held);
    }
}

struct FrameHeader {
    len: usize,
    kind: u8,
    flags: u8,
}

fn header_of(held: &[u8]) -> Option<FrameHeader> {
    let &[a, b, c, kind, flags, ..] = held.first_chunk::<FRAME_HEADER_LEN>()?;
    Some(FrameHeader {
        len: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
        kind,
        flags,
    })
}

/// Rewrites the header block of a whole HEADERS frame.
fn rewrite_headers(frame: &mut [u8], flags: u8) -> Option<()> {
    let mut start = FRAME_HEADER_LEN;
    let mut end = frame.len();
    if flags & FLAG_PADDED != 0 {
        end = end.checked_sub(usize::from(*frame.get(start)?))?;
        start += 1;
    }
    if flags & FLAG_PRIORITY != 0 {
        start += 5;
    }
    Block {
        bytes: frame.get_mut(start..end)?,
        at: 0,
    }
    .rewrite()
}

/// An HPACK header block being walked.
struct Block<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

/// A string literal's place.
struct Literal {
    start: usize,
    end: usize,
    huffman: bool,
}

impl Block<'_> {
    fn rewrite(&mut self) -> Option<()> {
        while let Some(&first) = self.bytes.get(self.at) {
            match first {
                // Indexed field, and dynamic table size update.
                0x80.. => drop(self.integer(7)?),
                0x20..=0x3f => drop(self.integer(5)?),
                // Literal with indexing; without, and never indexed.
                0x40..=0x7f => self.field(6)?,
                0x00..=0x1f => self.field(4)?,
            }
        }
        Some(())
    }

    fn field(&mut self, prefix_bits: u32) -> Option<()> {
        // Index 1 of the static table is `:authority`; 0 says the name follows.
        let authority = match self.integer(prefix_bits)? {
            0 => {
                let name = self.literal()?;
                !name.huffman && self.bytes.get(name.start..name.end)? == b":authority"
            }
            index => index == 1,
        };
        let value = self.literal()?;
        if authority && !value.huffman {
            let bytes = self.bytes.get_mut(value.start..value.end)?;
            bytes
                .iter_mut()
                .filter(|b| !is_authority_byte(**b))
                .for_each(|b| *b = b'-');
        }
        Some(())
    }

    fn literal(&mut self) -> Option<Literal> {
        let huffman = self.bytes.get(self.at)? & 0x80 != 0;
        let len = self.integer(7)?;
        let start = self.at;
        let end = start.checked_add(len).filter(|e| *e <= self.bytes.len())?;
        self.at = end;
        Some(Literal {
            start,
            end,
            huffman,
        })
    }

    /// An integer with an `n`-bit prefix (RFC 7541 section 5.1), small enough for
    /// any frame.
    fn integer(&mut self, prefix_bits: u32) -> Option<usize> {
        let mask = (1usize << prefix_bits) - 1;
        let mut value = usize::from(self.next()?) & mask;
        if value < mask {
            return Some(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.next()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn next(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }
}

fn is_authority_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':')
}

#[cfg(test)]
mod tests;
