//! Signed notes (C2SP signed-note) with Ed25519 keys.
//!
//! The log's key is its own, apart from the CA, so that whoever holds the CA
//! cannot rewrite what was recorded about it.

#[cfg(feature = "pkcs11")]
use std::path::PathBuf;
use std::{fs, io, path::Path, time::Duration};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use crate::{files, merkle::sha256};

#[cfg(feature = "pkcs11")]
mod device;

#[cfg(feature = "pkcs11")]
pub use device::{DeviceKey, SIGN_WAIT};
/// Longest wait for a signature.
#[cfg(not(feature = "pkcs11"))]
pub const SIGN_WAIT: Duration = Duration::ZERO;

/// Algorithm byte, in key ids and keys, of Ed25519 over a note's text.
const ED25519_TYPE: u8 = 1;

/// The same of Ed25519 over a time and a checkpoint (C2SP tlog-cosignature).
pub(crate) const COSIGNATURE_TYPE: u8 = 4;

/// Longest note accepted, in bytes.
pub const NOTE_LEN_MAX: usize = 16 * 1024;

/// Most signature lines looked at in one note.
pub const SIGNATURES_MAX: usize = 64;

/// Why a note or a key is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The text is no signed note.
    #[error("not a signed note: {0}")]
    Malformed(&'static str),
    /// No signature line is by the expected key.
    #[error("no signature by `{0}`")]
    Unsigned(String),
    /// A line claims the expected key and does not verify.
    #[error("signature by `{0}` does not verify")]
    Forged(String),
    /// The text is no verifier key.
    #[error("not a verifier key: {0}")]
    Key(&'static str),
}

/// Signs notes under a name.
pub struct Signer {
    key: Key,
    verifier: Verifier,
}

/// Who signs.
enum Key {
    Pair(Ed25519KeyPair),
    #[cfg(feature = "pkcs11")]
    Device(device::Device),
}

impl Key {
    fn sign(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Pair(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            #[cfg(feature = "pkcs11")]
            Self::Device(device) => {
                let signature = device.begin(message)?.wait(SIGN_WAIT)?;
                device.checked(message, signature)
            }
        }
    }
}

/// A signed note, or what a device is still to sign.
pub(crate) enum Begun {
    Done(String),
    #[cfg(feature = "pkcs11")]
    Waits(device::Signing),
}

impl Begun {
    /// Whether it takes longer than anybody waits who can do nothing else.
    pub(crate) fn is_late(&self) -> bool {
        match self {
            Self::Done(_) => false,
            #[cfg(feature = "pkcs11")]
            Self::Waits(signing) => signing.elapsed() > SIGN_WAIT,
        }
    }
}

/// Checks notes of one key; its text form is `NAME+HASH+KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    name: String,
    kind: u8,
    id: [u8; 4],
    key: [u8; 32],
}

impl Signer {
    /// Loads the key at `path`, 32 bytes of seed; with `create`, makes it when absent.
    ///
    /// # Errors
    /// Those of the file system; `InvalidData` for a file that holds no key.
    pub fn load(path: &Path, name: &str, create: bool) -> io::Result<Self> {
        Self::load_as(ED25519_TYPE, path, name, create)
    }

    /// As [`Signer::load`], for signatures of another kind.
    pub(crate) fn load_as(kind: u8, path: &Path, name: &str, create: bool) -> io::Result<Self> {
        let seed = match fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && create => {
                let mut seed = vec![0; 32];
                aws_lc_rs::rand::fill(&mut seed).map_err(io::Error::other)?;
                files::replace(path, &seed, files::Sync::Yes)?;
                seed
            }
            other => other?,
        };
        let invalid = |_| io::Error::new(io::ErrorKind::InvalidData, "not an Ed25519 seed");
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(invalid)?;
        let mut key = [0; 32];
        key.copy_from_slice(pair.public_key().as_ref());
        Ok(Self {
            key: Key::Pair(pair),
            verifier: Verifier::new(kind, name, key),
        })
    }

    /// Finds a key on a device, which makes none. One that is `known` may be away: it is
    /// looked for when it is to sign. That a PIN was refused is noted in `notes`.
    ///
    /// # Errors
    /// What the device says, or that there is not one such key.
    #[cfg(feature = "pkcs11")]
    pub(crate) fn on_device(
        place: &DeviceKey,
        name: &str,
        notes: PathBuf,
        known: Option<&Verifier>,
    ) -> io::Result<Self> {
        let device = device::Device::open(place, notes, known.map(|verifier| verifier.key))?;
        Ok(Self {
            verifier: Verifier::new(ED25519_TYPE, name, device.public),
            key: Key::Device(device),
        })
    }

    /// The public half.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Signs `text`, as [`Signer::sign`] does, without waiting for a device.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub(crate) fn begin(&self, text: &str) -> io::Result<Begun> {
        match &self.key {
            Key::Pair(_) => self.sign(text).map(Begun::Done),
            #[cfg(feature = "pkcs11")]
            Key::Device(device) => device.begin(text.as_bytes()).map(Begun::Waits),
        }
    }

    /// The signed note, or what was begun where it has not come after `wait` in all.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    #[cfg_attr(
        not(feature = "pkcs11"),
        expect(unused_variables, reason = "only devices are waited for")
    )]
    pub(crate) fn end(
        &self,
        text: &str,
        begun: Begun,
        wait: Duration,
    ) -> io::Result<Result<String, Begun>> {
        match begun {
            Begun::Done(note) => Ok(Ok(note)),
            #[cfg(feature = "pkcs11")]
            Begun::Waits(signing) if wait.is_zero() && !signing.is_done() => {
                Ok(Err(Begun::Waits(signing)))
            }
            #[cfg(feature = "pkcs11")]
            Begun::Waits(signing) => {
                let signature = signing.wait(wait)?;
                let signature = match &self.key {
                    Key::Device(device) => device.checked(text.as_bytes(), signature)?,
                    Key::Pair(_) => signature,
                };
                Ok(Ok(format!("{text}\n{}", self.signed_line(&[], &signature))))
            }
        }
    }

    /// Signs `text`, which ends in a newline.
    ///
    /// # Errors
    /// Those of the device that has the key; where we have it there is none.
    pub fn sign(&self, text: &str) -> io::Result<String> {
        Ok(format!("{text}\n{}", self.line(&[], text)?))
    }

    /// A signature line over `message`; `before` stands before the signature.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub(crate) fn line(&self, before: &[u8], message: &str) -> io::Result<String> {
        let signature = self.key.sign(message.as_bytes())?;
        Ok(self.signed_line(before, &signature))
    }

    fn signed_line(&self, before: &[u8], signature: &[u8]) -> String {
        let blob = [&self.verifier.id, before, signature].concat();
        let name = &self.verifier.name;
        format!("\u{2014} {name} {}\n", BASE64.encode(blob))
    }
}

impl Verifier {
    fn new(kind: u8, name: &str, key: [u8; 32]) -> Self {
        let mut input = name.as_bytes().to_vec();
        input.extend_from_slice(&[b'\n', kind]);
        input.extend_from_slice(&key);
        let [a, b, c, d, ..] = sha256(&input);
        Self {
            name: name.into(),
            kind,
            id: [a, b, c, d],
            key,
        }
    }

    /// Reads `NAME+HASH+KEY`.
    ///
    /// # Errors
    /// [`NoteError::Key`] for anything else, or a hash that is not the key's.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        Self::parse_as(ED25519_TYPE, text)
    }

    /// As [`Verifier::parse`], of a key for signatures of another kind.
    pub(crate) fn parse_as(kind: u8, text: &str) -> Result<Self, NoteError> {
        let mut parts = text.trim_end().splitn(3, '+');
        let (Some(name), Some(hash), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key("expected `NAME+HASH+KEY`"));
        };
        let key = BASE64
            .decode(key)
            .map_err(|_| NoteError::Key("key is not base64"))?;
        let Some((found, key)) = key.split_first() else {
            return Err(NoteError::Key("key is empty"));
        };
        if *found != kind {
            return Err(NoteError::Key(match kind {
                COSIGNATURE_TYPE => "not the Ed25519 key of a witness (type 4)",
                _ => "not the Ed25519 key of a log (type 1)",
            }));
        }
        let key = key
            .try_into()
            .map_err(|_| NoteError::Key("an Ed25519 key has 32 bytes"))?;
        let verifier = Self::new(kind, name, key);
        if name.is_empty() || name.contains(char::is_whitespace) || verifier.hash() != hash {
            return Err(NoteError::Key("name and hash do not belong to the key"));
        }
        Ok(verifier)
    }

    /// Name of the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the text form; identifies a log.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        sha256(self.to_string().as_bytes())
    }

    fn hash(&self) -> String {
        format!("{:08x}", u32::from_be_bytes(self.id))
    }

    /// Gives the signed text of `note` once a signature by this key verifies.
    ///
    /// # Errors
    /// [`NoteError`] when it is no note or not signed by this key.
    pub fn open<'a>(&self, note: &'a str) -> Result<&'a str, NoteError> {
        let (text, lines) = parts(note)?;
        let Some(line) = lines.iter().find(|line| self.is_of(line)) else {
            return Err(NoteError::Unsigned(self.name.clone()));
        };
        self.check(text, &line.signature).map(|()| text)
    }

    /// Whether a signature line claims to be by this key.
    pub(crate) fn is_of(&self, line: &SignatureLine<'_>) -> bool {
        line.name == self.name && line.id == self.id
    }

    /// Checks a signature over `message`.
    pub(crate) fn check(&self, message: &str, signature: &[u8]) -> Result<(), NoteError> {
        UnparsedPublicKey::new(&ED25519, &self.key)
            .verify(message.as_bytes(), signature)
            .map_err(|_| NoteError::Forged(self.name.clone()))
    }
}

/// A signature line of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SignatureLine<'a> {
    /// Name of the key that it claims.
    pub(crate) name: &'a str,
    /// Id of that key.
    pub(crate) id: [u8; 4],
    /// What follows the id.
    pub(crate) signature: Vec<u8>,
}

/// Takes a note apart: its text, and the first [`SIGNATURES_MAX`] signature lines.
pub(crate) fn parts(note: &str) -> Result<(&str, Vec<SignatureLine<'_>>), NoteError> {
    if note.len() > NOTE_LEN_MAX {
        return Err(NoteError::Malformed("too long"));
    }
    if note.chars().any(|c| c.is_ascii_control() && c != '\n') {
        return Err(NoteError::Malformed("control character"));
    }
    let end = note
        .rfind("\n\n")
        .ok_or(NoteError::Malformed("no blank line before the signatures"))?;
    let (text, signatures) = note
        .split_at_checked(end + 1)
        .ok_or(NoteError::Malformed("no text"))?;
    if !signatures.ends_with('\n') || signatures.len() < 2 {
        return Err(NoteError::Malformed("signature line does not end"));
    }
    let lines = signatures.lines().skip(1).take(SIGNATURES_MAX);
    Ok((text, lines.map(signature_line).collect::<Result<_, _>>()?))
}

fn signature_line(line: &str) -> Result<SignatureLine<'_>, NoteError> {
    let Some((name, blob)) = line
        .strip_prefix("\u{2014} ")
        .and_then(|rest| rest.split_once(' '))
    else {
        return Err(NoteError::Malformed("not a signature line"));
    };
    let blob = BASE64
        .decode(blob)
        .map_err(|_| NoteError::Malformed("signature is not base64"))?;
    let Some((id, signature)) = blob.split_first_chunk::<4>() else {
        return Err(NoteError::Malformed("signature is too short"));
    };
    Ok(SignatureLine {
        name,
        id: *id,
        signature: signature.into(),
    })
}

impl std::fmt::Display for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut key = vec![self.kind];
        key.extend_from_slice(&self.key);
        write!(f, "{}+{}+{}", self.name, self.hash(), BASE64.encode(key))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    fn signer() -> (tempfile::TempDir, Signer) {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::load(&dir.path().join("key"), "palisade/acme.test", true).unwrap();
        (dir, signer)
    }

    /// The example key and note of golang.org/x/mod/sumdb/note, which the
    /// signed-note specification was written after.
    #[test]
    fn the_reference_implementation_s_note_opens() {
        let key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let note = "If you think cryptography is the answer to your problem,\n\
            then you don't know what your problem is.\n\
            \n\
            \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        let verifier = Verifier::parse(key).unwrap();
        assert_eq!(verifier.to_string(), key);
        assert!(verifier.open(note).unwrap().ends_with("problem is.\n"));
        assert_eq!(
            verifier.open(&note.replace("answer", "cause")),
            Err(NoteError::Forged("PeterNeumann".into()))
        );
    }

    #[test]
    fn a_signed_note_opens_with_the_text_form_of_its_key() {
        let (dir, signer) = signer();
        let verifier = Verifier::parse(&signer.verifier().to_string()).unwrap();
        assert_eq!(
            verifier.open(&signer.sign("hello\n").unwrap()),
            Ok("hello\n")
        );
        let path = dir.path().join("key");
        let again = Signer::load(&path, "palisade/acme.test", false).unwrap();
        assert_eq!(again.verifier(), &verifier);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn another_key_s_note_is_unsigned_for_us() {
        let ((_a, ours), (_b, theirs)) = (signer(), signer());
        let note = theirs.sign("hello\n").unwrap();
        let refused = ours.verifier().open(&note);
        assert!(
            matches!(refused, Err(NoteError::Unsigned(_))),
            "{refused:?}"
        );
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_refused(at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let (_dir, signer) = signer();
            let note = signer.sign("palisade/acme.test\n12\nAAAA\n").unwrap();
            let mut bytes = note.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(text) = String::from_utf8(bytes) {
                prop_assert!(signer.verifier().open(&text).is_err(), "byte {at}: {text}");
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC*(\n\n)?(\u{2014} )?\\PC*\n?") {
            let (_dir, signer) = signer();
            prop_assert!(signer.verifier().open(&text).is_err());
            let _ = Verifier::parse(&text);
        }
    }
}
