//! Files in one: a tar archive (POSIX ustar) in a zstd frame, the same bytes for the same
//! files.
//!
//! Nothing of a file but its name and content is kept. What is read has to be exactly what
//! is written here, so there are no links, no folders, no second file of a name, and
//! nothing after the end of the archive, nor of the frame. Whoever reads says of each file
//! how long it may be, before it is unpacked, and whether to go on, after.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
};

use palisade_mesh::diagnostic::Diagnostic;

/// Files by name, in the order in which they are written.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// Longest name of a file, in bytes.
pub const NAME_LEN_MAX: usize = 99;
/// Most files.
pub const FILES_MAX: usize = 512;
/// Bytes of all files together.
pub const PACKAGE_BYTES_MAX: u64 = 2 << 30;

const BLOCK: usize = 512;
/// How hard zstd tries: proofs of neighbours share most of their hashes.
const LEVEL: i32 = 9;

/// Why something is no package.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("it cannot be unpacked: {0}")]
    Io(#[from] io::Error),
    #[error("`{0}` does not stand in it as a file of a package does")]
    Member(String),
    #[error("it goes on after its end")]
    Trailing,
    #[error("it ends too early")]
    Truncated,
    #[error("it has more than {FILES_MAX} files")]
    TooMany,
    #[error("its files have more than {0} bytes")]
    TooLarge(u64),
    #[error("`{0}` is longer than such a file may be")]
    TooLong(String),
    #[error("{}", .0.message)]
    Refused(Box<Diagnostic>),
}

/// Looks at files while they are read, in the order of their names.
pub(super) trait Gate {
    /// How many bytes the file may have.
    fn room(&self, name: &str) -> u64;

    /// Looks at a file.
    ///
    /// # Errors
    /// When nothing more is to be read.
    fn pass(&mut self, name: &str, content: &[u8]) -> Result<(), Diagnostic>;
}

/// Writes `files`, which have names that [`is_name`] takes.
///
/// # Errors
/// When `out` does not take them.
pub(super) fn write(files: &Files, out: impl Write) -> io::Result<()> {
    let mut out = zstd::stream::write::Encoder::new(out, LEVEL)?;
    for (name, content) in files {
        let head = head(name, content.len()).ok_or_else(|| io::Error::other(name.clone()))?;
        out.write_all(&head)?;
        out.write_all(content)?;
        out.write_all(zeros(padding(content.len())))?;
    }
    out.write_all(zeros(2 * BLOCK))?;
    out.finish()?;
    Ok(())
}

/// Reads the files of a package past `gate`, `len_max` bytes of content at most.
///
/// # Errors
/// [`Fault`] for whatever [`write`] does not write, and for what `gate` refuses.
pub(super) fn read(bytes: &[u8], len_max: u64, gate: &mut impl Gate) -> Result<Files, Fault> {
    let mut input = zstd::stream::read::Decoder::with_buffer(bytes)?.single_frame();
    let mut files = Files::new();
    let mut left = len_max;
    loop {
        let mut block = [0; BLOCK];
        whole(&mut input, &mut block)?;
        if block.iter().all(|b| *b == 0) {
            break;
        }
        let (name, len) = understood(&block)?;
        let follows = files.last_key_value().is_none_or(|(last, _)| *last < name);
        if !follows {
            return Err(Fault::Member(name));
        }
        let wide = u64::try_from(len).unwrap_or(u64::MAX);
        left = left.checked_sub(wide).ok_or(Fault::TooLarge(len_max))?;
        if wide > gate.room(&name) {
            return Err(Fault::TooLong(name));
        }
        if files.len() >= FILES_MAX {
            return Err(Fault::TooMany);
        }
        let mut content = Vec::new();
        input.by_ref().take(wide).read_to_end(&mut content)?;
        if content.len() < len {
            return Err(Fault::Truncated);
        }
        let mut pad = [0; BLOCK];
        let pad = pad.get_mut(..padding(len)).unwrap_or_default();
        whole(&mut input, pad)?;
        if pad.iter().any(|b| *b != 0) {
            return Err(Fault::Member(name));
        }
        gate.pass(&name, &content)
            .map_err(|told| Fault::Refused(Box::new(told)))?;
        files.insert(name, content);
    }
    let mut end = [0; BLOCK];
    whole(&mut input, &mut end)?;
    // Neither more of the frame, nor another one, be it one that decoders skip.
    let more = input.read(&mut [0; 1])? > 0 || !input.finish().is_empty();
    match more || end.iter().any(|b| *b != 0) {
        true => Err(Fault::Trailing),
        false => Ok(files),
    }
}

/// Whether a file of a package can have this name: parts of letters, digits, `.`, `-` and
/// `_`, none of which begins with a dot.
pub(super) fn is_name(name: &str) -> bool {
    let is_part = |part: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain)
    };
    name.len() <= NAME_LEN_MAX && name.split('/').all(is_part)
}

/// Name and length of the file whose head this is.
fn understood(block: &[u8; BLOCK]) -> Result<(String, usize), Fault> {
    let field = |from: usize, to: usize| {
        let field = block.get(from..to).unwrap_or_default();
        let text = field.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    };
    let name = field(0, 100);
    let len = usize::from_str_radix(&field(124, 136), 8).ok();
    let len = len.filter(|len| head(&name, *len).is_some_and(|head| head == *block));
    len.map(|len| (name.clone(), len))
        .ok_or(Fault::Member(name))
}

/// The head of a file; none for what has no place in it.
fn head(name: &str, len: usize) -> Option<[u8; BLOCK]> {
    let mut head = [0; BLOCK];
    let size = format!("{len:011o}\0");
    if !is_name(name) || size.len() > 12 {
        return None;
    }
    let mut put = |at: usize, text: &str| {
        if let Some(place) = head.get_mut(at..at + text.len()) {
            place.copy_from_slice(text.as_bytes());
        }
    };
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &size);
    // The beginning of time: when a file was written says nothing about the evidence.
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
    let sum = format!("{sum:06o}\0 ");
    head.get_mut(148..156)?.copy_from_slice(sum.as_bytes());
    Some(head)
}

fn padding(len: usize) -> usize {
    len.next_multiple_of(BLOCK) - len
}

fn zeros(len: usize) -> &'static [u8] {
    static ZEROS: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
    ZEROS.get(..len).unwrap_or(&ZEROS)
}

fn whole(input: &mut impl Read, block: &mut [u8]) -> Result<(), Fault> {
    input.read_exact(block).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => Fault::Truncated,
        _ => Fault::Io(e),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lets everything through of which `room` bytes are enough.
    struct Open(u64);

    impl Gate for Open {
        fn room(&self, _: &str) -> u64 {
            self.0
        }

        fn pass(&mut self, name: &str, _: &[u8]) -> Result<(), Diagnostic> {
            match name {
                "refused" => Err(Diagnostic::error(7822, "no")),
                _ => Ok(()),
            }
        }
    }

    fn read(bytes: &[u8], len_max: u64) -> Result<Files, Fault> {
        super::read(bytes, len_max, &mut Open(u64::MAX))
    }

    fn packed(files: &Files) -> Vec<u8> {
        let mut out = Vec::new();
        write(files, &mut out).unwrap();
        out
    }

    fn files(all: &[(&str, &[u8])]) -> Files {
        let files = all.iter();
        files.map(|(n, c)| ((*n).to_owned(), c.to_vec())).collect()
    }

    /// The same archive with one member's head or content changed after the fact.
    fn repacked(files: &Files, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut tar = zstd::decode_all(packed(files).as_slice()).unwrap();
        change(&mut tar);
        zstd::encode_all(tar.as_slice(), 1).unwrap()
    }

    #[test]
    fn files_come_back_and_are_the_same_bytes_each_time() {
        let all = files(&[("a/b.txt", b"hello"), ("c", &[7; 1024]), ("empty", b"")]);
        let one = packed(&all);
        assert_eq!(one, packed(&all));
        assert_eq!(read(one.as_slice(), 1029).unwrap(), all);
        assert!(matches!(
            read(one.as_slice(), 1028),
            Err(Fault::TooLarge(1028))
        ));
    }

    #[test]
    fn what_a_package_does_not_write_is_not_read() {
        let all = files(&[("a", b"x"), ("b", b"y")]);
        let as_link = repacked(&all, |tar| tar[156] = b'2');
        assert!(matches!(read(as_link.as_slice(), 99), Err(Fault::Member(n)) if n == "a"));
        let dated = repacked(&all, |tar| tar[140] = b'1');
        assert!(matches!(read(dated.as_slice(), 99), Err(Fault::Member(_))));
        let padded = repacked(&all, |tar| tar[513] = 1);
        assert!(matches!(read(padded.as_slice(), 99), Err(Fault::Member(_))));
        let twice = repacked(&all, |tar| {
            let first = tar[..1024].to_vec();
            tar.splice(0..0, first);
        });
        assert!(matches!(read(twice.as_slice(), 99), Err(Fault::Member(n)) if n == "a"));
        let cut = repacked(&all, |tar| tar.truncate(1500));
        assert!(matches!(read(cut.as_slice(), 99), Err(Fault::Truncated)));
        let more = repacked(&all, |tar| tar.push(0));
        assert!(matches!(read(more.as_slice(), 99), Err(Fault::Trailing)));
        let mut frames = packed(&all);
        frames.extend(packed(&all));
        assert!(matches!(read(frames.as_slice(), 99), Err(Fault::Trailing)));
        // A frame that decoders skip (RFC 8878, section 3.1.2), after and before.
        let skipped = [b"\x50\x2a\x4d\x18\x04\x00\x00\x00".as_slice(), b"hide"].concat();
        let tail = [packed(&all), skipped.clone()].concat();
        assert!(matches!(read(&tail, 99), Err(Fault::Trailing)));
        assert!(read(&[skipped, packed(&all)].concat(), 99).is_err());
    }

    #[test]
    fn a_file_is_refused_before_it_is_unpacked_and_after() {
        let all = packed(&files(&[("a", b"xyz"), ("refused", b"")]));
        let gated = |room| super::read(&all, 99, &mut Open(room));
        assert!(matches!(gated(2), Err(Fault::TooLong(name)) if name == "a"));
        assert!(matches!(gated(3), Err(Fault::Refused(_))));
    }

    #[test]
    fn names_lead_nowhere_else() {
        for name in [
            "a",
            "report/report.json",
            "a-b_c.d",
            &"x".repeat(NAME_LEN_MAX),
        ] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "/a", "a/", "../a", "a/../b", ".a", "a b", "a\n", "ä"] {
            assert!(!is_name(name), "{name}");
        }
        assert!(!is_name(&"x".repeat(NAME_LEN_MAX + 1)));
    }

    #[test]
    fn files_are_counted() {
        let numbered =
            |n: usize| -> Files { (0..n).map(|i| (format!("{i:05}"), Vec::new())).collect() };
        assert!(read(packed(&numbered(FILES_MAX)).as_slice(), 9).is_ok());
        let more = packed(&numbered(FILES_MAX + 1));
        assert!(matches!(read(more.as_slice(), 9), Err(Fault::TooMany)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            let _ = read(bytes.as_slice(), 4096);
            let framed = zstd::encode_all(bytes.as_slice(), 1).unwrap();
            let _ = read(framed.as_slice(), 4096);
        }
    }
}
