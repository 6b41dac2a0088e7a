//! Ed25519 keys (RFC 8032): PEM of PKCS#8 for the private ones (RFC 8410), one line
//! `ed25519:BASE64` for the public ones.

use std::{fmt, io, path::Path, str::FromStr};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use palisade_mesh::{snapshot::Digest, wire::policy::Signature};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use zeroize::Zeroizing;

use super::read_bounded;

/// What a public key begins with when it is written down.
const SCHEME: &str = "ed25519:";
/// Bytes of a public key.
const KEY_LEN: usize = 32;
/// Most bytes of a file with a private key.
pub const PEM_LEN_MAX: usize = 16 << 10;

/// A public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_LEN]);

/// A private key; shown to nobody.
pub struct SigningKey(Ed25519KeyPair);

/// Why something is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The system gives no random bytes.
    #[error("no key can be made: the system gives no random numbers")]
    Random,
    /// Not PEM with an Ed25519 key in PKCS#8.
    #[error("not PEM with an Ed25519 key in PKCS#8")]
    Private,
    /// Not `ed25519:` and base64 of 32 bytes.
    #[error("not `ed25519:` followed by the base64 of 32 bytes")]
    Public,
}

/// Reads a file with a private key.
///
/// # Errors
/// When it cannot be read; of the kind `InvalidData` when it is no such file.
pub fn read(path: &Path) -> io::Result<SigningKey> {
    let pem = Zeroizing::new(read_bounded(path, PEM_LEN_MAX)?);
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    SigningKey::from_pem(&pem).map_err(invalid)
}

impl PublicKey {
    /// From its 32 bytes; anything else is `None`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// A short name: the first eight hexadecimal digits of its SHA-256.
    pub fn id(&self) -> String {
        Digest::of(&self.0).short()
    }

    /// Whether `signature` is this key's over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, self.0);
        key.verify(message, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let encoded = text.strip_prefix(SCHEME).ok_or(KeyError::Public)?;
        let bytes = BASE64.decode(encoded).map_err(|_| KeyError::Public)?;
        Self::from_slice(&bytes).ok_or(KeyError::Public)
    }
}

impl SigningKey {
    /// Makes one, and gives its PEM to be kept.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate() -> Result<(Self, Zeroizing<String>), KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Random)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| KeyError::Random)?;
        let encoded = Zeroizing::new(BASE64.encode(pkcs8.as_ref()));
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            *encoded
        );
        Ok((Self(pair), Zeroizing::new(pem)))
    }

    /// From PEM, as [`SigningKey::generate`] or `openssl genpkey` writes it.
    ///
    /// # Errors
    /// [`KeyError::Private`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| KeyError::Private)?;
        Ed25519KeyPair::from_pkcs8(pkcs8.secret_pkcs8_der())
            .map(Self)
            .map_err(|_| KeyError::Private)
    }

    /// What others verify its signatures by.
    pub fn public(&self) -> PublicKey {
        PublicKey::from_slice(self.0.public_key().as_ref()).expect("Ed25519 keys have 32 bytes")
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature {
            key: self.public().0.to_vec(),
            signature: self.0.sign(message).as_ref().to_vec(),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout`.
    const OPENSSL: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
        -----END PRIVATE KEY-----\n";
    /// RFC 8032 section 7.1, test 1: its secret key is the seed above.
    const PUBLIC: &str = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    #[test]
    fn keys_are_read_as_openssl_writes_them() {
        let key = SigningKey::from_pem(OPENSSL.as_bytes()).unwrap();
        assert_eq!(key.public().to_string(), PUBLIC);
        assert_eq!(PUBLIC.parse::<PublicKey>(), Ok(key.public()));
        let empty = key.sign(b"");
        assert_eq!(&empty.signature[..4], [0xe5, 0x56, 0x43, 0x00]);
    }

    #[test]
    fn a_made_key_is_read_again_and_signs_for_itself_alone() {
        let (key, pem) = SigningKey::generate().unwrap();
        let read = SigningKey::from_pem(pem.as_bytes()).unwrap();
        assert_eq!(read.public(), key.public());
        let signature = read.sign(b"a");
        assert!(key.public().verifies(b"a", &signature.signature));
        assert!(!key.public().verifies(b"b", &signature.signature));
        let (other, _) = SigningKey::generate().unwrap();
        assert!(!other.public().verifies(b"a", &signature.signature));
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "ed25519:", "ed25519:AAAA", "rsa:AAAA", &PUBLIC[8..]] {
            assert_eq!(text.parse::<PublicKey>(), Err(KeyError::Public), "{text}");
        }
        let cut = &OPENSSL[..60];
        for pem in ["", "-----BEGIN PRIVATE KEY-----\n", cut] {
            assert!(SigningKey::from_pem(pem.as_bytes()).is_err(), "{pem}");
        }
    }
}
