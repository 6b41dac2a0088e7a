//! The rewriter against what grpcio 1.85.1 (Python) really sends.

use proptest::prelude::*;

use super::*;

/// Captured from `grpc.insecure_channel("unix:/tmp/cap-test.sock")`: preface,
/// SETTINGS, WINDOW_UPDATE, SETTINGS acknowledgement, HEADERS, DATA, WINDOW_UPDATE.
const CAPTURE: &str = "\
    505249202a20485454502f322e300d0a0d0a534d0d0a0d0a0000240400000000000002000000000003000000000004\
    00400000000500400000000600004000fe0300000001000004080000000000003f000100000004010000000000010b\
    01040000000140053a70617468202f537069666665576f726b6c6f61644150492f4665746368583530395356494440\
    0a3a617574686f7269747913746d702532466361702d746573742e736f636b8386400c636f6e74656e742d74797065\
    106170706c69636174696f6e2f677270634002746508747261696c6572734014677270632d6163636570742d656e63\
    6f64696e67176964656e746974792c206465666c6174652c20677a6970400c677270632d74696d656f757402315340\
    0a757365722d6167656e7430677270632d707974686f6e2f312e38352e3120677270632d632f35382e302e3020286c\
    696e75783b20636874747032290012776f726b6c6f61642e7370696666652e696f0474727565000004080000000001\
    00000005000005000100000001000000000000040800000000000000000500000403000000000100000008";

fn capture() -> Vec<u8> {
    (0..CAPTURE.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&CAPTURE[at..at + 2], 16).unwrap())
        .collect()
}

/// The capture with the socket's path made acceptable, and nothing else changed.
fn expected() -> Vec<u8> {
    let (from, to) = (b"tmp%2Fcap-test.sock", b"tmp-2Fcap-test.sock");
    let mut bytes = capture();
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

fn rewritten(pieces: &[&[u8]]) -> Vec<u8> {
    let (mut rewriter, mut out) = (Rewriter::default(), Vec::new());
    for piece in pieces {
        rewriter.feed(piece, &mut out);
    }
    rewriter.finish(&mut out);
    out
}

/// A connection whose second frame is HEADERS with this block.
fn with_block(flags: u8, block: &[u8]) -> Vec<u8> {
    let len = u32::try_from(block.len()).unwrap().to_be_bytes();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    bytes.extend([len[1], len[2], len[3], TYPE_HEADERS, flags, 0, 0, 0, 1]);
    bytes.extend(block);
    bytes
}

fn check(flags: u8, block: &[u8], expected: &[u8]) {
    let out = rewritten(&[&with_block(flags, block)]);
    assert_eq!(out, with_block(flags, expected), "{block:x?}");
}

#[test]
fn grpcio_s_authority_is_rewritten_and_nothing_else() {
    assert_eq!(rewritten(&[&capture()]), expected());
}

#[test]
fn it_does_not_matter_where_reads_are_split() {
    let bytes = capture();
    for at in 0..=bytes.len() {
        let (a, b) = bytes.split_at(at);
        assert_eq!(rewritten(&[a, b]), expected(), "split at {at}");
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(rewritten(&single), expected());
}

#[test]
fn every_form_of_the_field_is_found() {
    // Static index 1: with indexing, without, never indexed.
    check(4, b"\x41\x03a%b", b"\x41\x03a-b");
    check(4, b"\x01\x03a/b", b"\x01\x03a-b");
    check(4, b"\x11\x03a@b", b"\x11\x03a-b");
    // Named, after a table size update and an indexed field, then another field.
    check(
        4,
        b"\x20\x82\x00\x0a:authority\x03%%%\x84",
        b"\x20\x82\x00\x0a:authority\x03---\x84",
    );
    // With padding and priority.
    check(0x0c, b"\x02\x41\x03a%b\0\0", b"\x02\x41\x03a-b\0\0");
    check(0x24, b"\0\0\0\0\x10\x41\x03a%b", b"\0\0\0\0\x10\x41\x03a-b");
    // A value whose length needs two bytes.
    let long = [b"\x41\x7f\x01".as_slice(), &[b'%'; 128]].concat();
    let fixed = [b"\x41\x7f\x01".as_slice(), &[b'-'; 128]].concat();
    check(4, &long, &fixed);
}

#[test]
fn everything_else_is_left_alone() {
    for block in [
        b"\x41\x09localhost".as_slice(),
        b"\x41\x0e127.0.0.1:8443".as_slice(),
        // Another field with such a value, and a Huffman-coded authority.
        b"\x44\x03a%b",
        b"\x00\x01x\x03a%b",
        b"\x41\x83\xff%\xff",
        // Blocks that end too soon.
        b"\x41",
        b"\x41\x7f\xff\xff\xff\xff\xff",
        b"\x41\x05a%b",
        b"",
    ] {
        check(4, block, block);
    }
    check(0x0c, b"\xffx", b"\xffx");
    check(0x24, b"\0\0", b"\0\0");
    let mut large = with_block(4, &[b'%'; FRAME_LEN_MAX + 1]);
    large.extend(b"tail");
    assert_eq!(rewritten(&[&large]), large);
}

#[test]
fn the_handshake_has_begun_after_the_preface() {
    let (mut rewriter, mut out) = (Rewriter::default(), Vec::new());
    rewriter.feed(&capture()[..PREFACE_LEN - 1], &mut out);
    assert!(!rewriter.has_begun());
    rewriter.feed(b"\n", &mut out);
    assert!(rewriter.has_begun());
}

proptest! {
    /// Whatever comes, as many bytes go on, and reads may be split anywhere.
    #[test]
    fn lengths_are_kept(block in proptest::collection::vec(any::<u8>(), 0..200), flags: u8, cut: prop::sample::Index) {
        let bytes = with_block(flags, &block);
        let whole = rewritten(&[&bytes]);
        prop_assert_eq!(whole.len(), bytes.len());
        let (a, b) = bytes.split_at(cut.index(bytes.len()));
        prop_assert_eq!(rewritten(&[a, b]), whole);
    }
}
