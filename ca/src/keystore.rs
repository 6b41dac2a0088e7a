//! The authorities' private keys, sealed at rest.
//!
//! A key-encryption key lives in a file of its own, so that the database alone,
//! in a backup for instance, gives no signing key away. From it come two keys
//! (HKDF-SHA-256): one seals private keys (AES-256-GCM, bound to the authority's
//! key id, so that sealed keys cannot be swapped), one chains the journal.
//!
//! Buffers are wiped after use. aws-lc keeps its own copy of a key in use, so
//! wiping is best effort.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    hkdf, hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use zeroize::Zeroizing;

use crate::{authority::KeyId, random};

/// Length of the key-encryption key, in bytes.
pub(crate) const KEK_LEN: usize = 32;
/// Format of a sealed key: this byte, nonce, ciphertext with tag.
const SEAL_VERSION: u8 = 1;
const NONCE_LEN: usize = 12;
const SEAL_DOMAIN: &[u8] = b"palisade/ca/seal/v1";
const FINGERPRINT_DOMAIN: &[u8] = b"palisade/ca/kek-fingerprint/v1";
/// Length of a key-encryption key's fingerprint, in bytes.
const FINGERPRINT_LEN: usize = 8;
const JOURNAL_DOMAIN: &[u8] = b"palisade/ca/journal/v1";

/// Seals and opens private keys.
pub(crate) struct Keystore {
    seal: RandomizedNonceKey,
    journal: hmac::Key,
}

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    /// The cryptographic library failed.
    #[error("bug: cryptographic operation failed")]
    Crypto,
    /// The file cannot be read or made.
    #[error("key-encryption key `{path}` cannot be used: {source}")]
    Io {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not 32 bytes.
    #[error("key-encryption key `{0}` is not a file of exactly 32 bytes")]
    Length(PathBuf),
    /// Others may read it.
    #[error("key-encryption key `{path}` has mode {mode:04o} and owner {owner}")]
    Loose {
        /// Where it is.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner's uid.
        owner: u32,
    },
    /// Sealed keys exist, but the key to open them does not.
    #[error("key-encryption key `{0}` is missing, though keys sealed with it exist")]
    Missing(PathBuf),
    /// Sealed with another key, or damaged.
    #[error("private key of authority `{0}` cannot be unsealed")]
    Sealed(KeyId),
}

impl Keystore {
    /// Reads the key-encryption key; makes one if there is none and `create`.
    pub(crate) fn open(path: &Path, create: bool) -> Result<Self, KeystoreError> {
        let io = |source| KeystoreError::Io {
            path: path.to_owned(),
            source,
        };
        match File::open(path) {
            Ok(file) => Self::read(path, file),
            Err(e) if e.kind() == io::ErrorKind::NotFound && create => {
                make(path).map_err(io)?;
                Self::read(path, File::open(path).map_err(io)?)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(KeystoreError::Missing(path.to_owned()))
            }
            Err(e) => Err(io(e)),
        }
    }

    fn read(path: &Path, mut file: File) -> Result<Self, KeystoreError> {
        let io = |source| KeystoreError::Io {
            path: path.to_owned(),
            source,
        };
        let meta = file.metadata().map_err(io)?;
        let folder = std::env::var_os("CREDENTIALS_DIRECTORY");
        let credential = is_credential(path, folder.as_deref());
        if !is_private(meta.uid(), meta.mode(), credential) {
            return Err(KeystoreError::Loose {
                path: path.to_owned(),
                mode: meta.mode() & 0o7777,
                owner: meta.uid(),
            });
        }
        if !meta.is_file() || meta.len() != KEK_LEN as u64 {
            return Err(KeystoreError::Length(path.to_owned()));
        }
        let mut kek = Zeroizing::new([0; KEK_LEN]);
        file.read_exact(kek.as_mut_slice()).map_err(io)?;
        Self::from_kek(&kek)
    }

    fn from_kek(kek: &[u8; KEK_LEN]) -> Result<Self, KeystoreError> {
        let seal = derive(kek, SEAL_DOMAIN)?;
        let journal = derive(kek, JOURNAL_DOMAIN)?;
        Ok(Self {
            seal: RandomizedNonceKey::new(&AES_256_GCM, seal.as_slice())
                .map_err(|_| KeystoreError::Crypto)?,
            journal: hmac::Key::new(hmac::HMAC_SHA256, journal.as_slice()),
        })
    }

    /// The key that chains the journal.
    pub(crate) fn journal_key(&self) -> hmac::Key {
        self.journal.clone()
    }

    /// Tells this key-encryption key from others without giving anything of it away.
    pub(crate) fn fingerprint(&self) -> String {
        let tag = hmac::sign(&self.journal, FINGERPRINT_DOMAIN);
        let bytes = tag.as_ref().iter().take(FINGERPRINT_LEN);
        bytes.map(|b| format!("{b:02x}")).collect()
    }

    /// Seals a private key (PKCS#8) for storage.
    pub(crate) fn seal(&self, id: &KeyId, key: &AuthorityKey) -> Result<Vec<u8>, KeystoreError> {
        let pkcs8 = key.pair.to_pkcs8v1().map_err(|_| KeystoreError::Crypto)?;
        let mut sealed = Zeroizing::new(pkcs8.as_ref().to_vec());
        let nonce = self
            .seal
            .seal_in_place_append_tag(Aad::from(aad(id)), &mut *sealed)
            .map_err(|_| KeystoreError::Crypto)?;
        Ok([&[SEAL_VERSION], nonce.as_ref().as_slice(), &sealed].concat())
    }

    /// Opens a sealed key.
    pub(crate) fn open_key(&self, id: &KeyId, blob: &[u8]) -> Result<AuthorityKey, KeystoreError> {
        let refused = || KeystoreError::Sealed(*id);
        let (version, rest) = blob.split_first().ok_or_else(refused)?;
        let (nonce, sealed) = rest
            .split_first_chunk::<NONCE_LEN>()
            .filter(|_| *version == SEAL_VERSION)
            .ok_or_else(refused)?;
        let mut pkcs8 = Zeroizing::new(sealed.to_vec());
        let opened = self
            .seal
            .open_in_place(Nonce::from(nonce), Aad::from(aad(id)), &mut pkcs8)
            .map_err(|_| refused())?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, opened)
            .map_err(|_| refused())?;
        Ok(AuthorityKey { pair })
    }
}

/// What a sealed key is bound to.
fn aad(id: &KeyId) -> Vec<u8> {
    [SEAL_DOMAIN, id.as_bytes()].concat()
}

/// Makes a new key-encryption key and brings it and its name to the disk before
/// anything is sealed with it.
fn make(path: &Path) -> io::Result<()> {
    let kek = Zeroizing::new(random::bytes::<KEK_LEN>());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(kek.as_slice())?;
    file.sync_all()?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Whether a file of `uid` with `mode` is read by its owner only. A credential of the
/// service manager is root's, in a folder that this service alone can enter; an access
/// list that names the service shows as a right of the group.
fn is_private(uid: u32, mode: u32, credential: bool) -> bool {
    let ours = [nix::unistd::geteuid().as_raw(), 0].contains(&uid);
    let loose = if credential && uid == 0 { 0o037 } else { 0o077 };
    ours && mode & loose == 0
}

/// Whether the service manager put the file into `folder`, that of its credentials
/// (`LoadCredential=`).
fn is_credential(path: &Path, folder: Option<&OsStr>) -> bool {
    folder.is_some_and(|folder| path.parent() == Some(Path::new(folder)))
}

fn derive(kek: &[u8; KEK_LEN], info: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
    struct Len;
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            32
        }
    }
    let mut key = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
        .extract(kek)
        .expand(&[info], Len)
        .and_then(|okm| okm.fill(key.as_mut_slice()))
        .map_err(|_| KeystoreError::Crypto)?;
    Ok(key)
}

/// The private key of an authority, as rcgen signs with it.
pub(crate) struct AuthorityKey {
    pair: EcdsaKeyPair,
}

impl AuthorityKey {
    pub(crate) fn generate() -> Result<Self, KeystoreError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map_err(|_| KeystoreError::Crypto)?;
        Ok(Self { pair })
    }
}

impl rcgen::PublicKeyData for AuthorityKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for AuthorityKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.pair
            .sign(&SystemRandom::new(), message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rcgen::PublicKeyData;

    use super::*;

    fn id(byte: u8) -> KeyId {
        KeyId::from_slice(&[byte; 20]).unwrap()
    }

    #[test]
    fn a_sealed_key_opens_for_its_own_authority_and_kek_only() {
        let dir = tempfile::tempdir().unwrap();
        let store = Keystore::open(&dir.path().join("a"), true).unwrap();
        let key = AuthorityKey::generate().unwrap();
        let sealed = store.seal(&id(1), &key).unwrap();
        let opened = store.open_key(&id(1), &sealed).unwrap();
        assert_eq!(
            opened.subject_public_key_info(),
            key.subject_public_key_info()
        );
        assert!(store.open_key(&id(2), &sealed).is_err());
        let other = Keystore::open(&dir.path().join("b"), true).unwrap();
        assert!(matches!(
            other.open_key(&id(1), &sealed),
            Err(KeystoreError::Sealed(_))
        ));
        let again = Keystore::open(&dir.path().join("a"), false).unwrap();
        assert!(again.open_key(&id(1), &sealed).is_ok());
    }

    #[test]
    fn every_changed_or_missing_byte_of_a_sealed_key_is_noticed() {
        let store = Keystore::from_kek(&[7; KEK_LEN]).unwrap();
        let sealed = store
            .seal(&id(1), &AuthorityKey::generate().unwrap())
            .unwrap();
        for index in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[index] ^= 1;
            assert!(store.open_key(&id(1), &bad).is_err(), "byte {index}");
            assert!(
                store.open_key(&id(1), &sealed[..index]).is_err(),
                "cut at {index}"
            );
        }
    }

    #[test]
    fn a_credential_may_show_an_access_list_and_no_more() {
        let ours = nix::unistd::geteuid().as_raw();
        assert!(is_private(0, 0o100_440, true) && is_private(ours, 0o100_400, true));
        for mode in [0o100_444, 0o100_460, 0o100_450] {
            assert!(!is_private(0, mode, true), "{mode:o}");
        }
        assert!(!is_private(0, 0o100_440, false));
        assert!(!is_private(ours + 1, 0o100_440, true));
        let folder = Some(OsStr::new("/run/credentials/ca"));
        assert!(is_credential(Path::new("/run/credentials/ca/kek"), folder));
        assert!(!is_credential(Path::new("/run/credentials/kek"), folder));
        assert!(!is_credential(Path::new("/run/credentials/ca/kek"), None));
    }

    #[test]
    fn a_loose_short_long_or_missing_kek_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        assert!(matches!(
            Keystore::open(&path, false),
            Err(KeystoreError::Missing(_))
        ));
        Keystore::open(&path, true).unwrap();
        let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        for loose in [0o640, 0o604, 0o660, 0o644] {
            mode(loose);
            assert!(matches!(
                Keystore::open(&path, true),
                Err(KeystoreError::Loose { .. })
            ));
        }
        for tight in [0o600, 0o400] {
            mode(tight);
            assert!(Keystore::open(&path, true).is_ok());
        }
        mode(0o600);
        for len in [0, KEK_LEN - 1, KEK_LEN + 1] {
            std::fs::write(&path, vec![1; len]).unwrap();
            assert!(matches!(
                Keystore::open(&path, true),
                Err(KeystoreError::Length(_))
            ));
        }
    }
}
