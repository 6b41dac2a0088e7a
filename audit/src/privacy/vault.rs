//! Seals what is personal under a key of each person, and destroys such keys.
//!
//! A key-encryption key lies in a file of its own. From it come two keys (HKDF-SHA-256):
//! one makes pseudonyms (HMAC-SHA-256), one wraps the keys of persons (AES-256-GCM, bound
//! to the pseudonym). The table of wrapped keys lies outside the log: the log is kept for
//! years and copied, and a copy of the table would undo every erasure since.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    hkdf, hmac, rand,
};
use palisade_mesh::wire::{
    audit::{Sealed, SealedValue},
    record::{Cover, Disclosure, Record, cover::Handling},
};
use prost::Message as _;
use zeroize::Zeroizing;

use super::{
    Pseudonym,
    commitment::{self, SALT_LEN},
    table::{CHECK_LEN, Folder, Slot, State, Table, WRAPPED_LEN, Wrapped, erased},
};
use crate::files;

/// Most persons whose keys are kept. Beyond it values have a pseudonym alone.
pub const SUBJECTS_MAX: u32 = 1 << 24;

/// Bytes of every key.
const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 12;
const PSEUDONYM_DOMAIN: &[u8] = b"palisade/audit/pseudonym/v1";
const WRAP_DOMAIN: &[u8] = b"palisade/audit/subject-key/v1";
const CHECK_DOMAIN: &[u8] = b"palisade/audit/kek-check/v1";
const VALUE_DOMAIN: &[u8] = b"palisade/audit/sealed-value/v1";

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The cryptographic library failed.
    #[error("bug: cryptographic operation failed")]
    Crypto,
    /// A file cannot be used.
    #[error("`{path}`: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a key, or others may read it.
    #[error("key-encryption key `{0}` is not a file of 32 bytes that only its owner reads")]
    Key(PathBuf),
    /// There are keys, but not the one that opens them.
    #[error("key-encryption key `{0}` is missing, though keys wrapped with it exist")]
    Missing(PathBuf),
    /// The log has records that need keys, and these are gone.
    #[error("there are no keys in `{0}`, though the log has sealed records")]
    NoTable(PathBuf),
    /// The keys are wrapped with another one.
    #[error("key-encryption key `{0}` is not the one that the keys are wrapped with")]
    Other(PathBuf),
}

/// What is known of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// No key was ever made.
    Nobody,
    /// What is sealed can be opened.
    Sealed,
    /// Its key was destroyed then, microseconds since the Unix epoch.
    Erased(i64),
}

/// What is under a cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The key was destroyed.
    Erased,
    /// It was not kept.
    Masked,
    /// Only its pseudonym was.
    Pseudonym,
    /// It is sealed, and its key is lost or damaged; nobody erased it.
    Unreadable,
    /// This.
    Value(String),
}

/// A cover, and what is under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revealed {
    /// The field.
    pub field: String,
    /// What stands for the value, if it was not masked.
    pub pseudonym: Option<Pseudonym>,
    /// What became of it.
    pub fate: Fate,
}

/// How keys are kept, for whoever must warn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// Slots of the table that are used; one for each person that has, or had, a key.
    pub used: u32,
    /// How many there can be.
    pub max: u32,
    /// Slots that were damaged when the table was opened.
    pub damaged: usize,
    /// Keys that were ordered to be destroyed, and are not yet.
    pub doomed: usize,
    /// Values since then that have a pseudonym alone, though they should be sealed: there
    /// was no room for a key, or it could not be used.
    pub unsealed: u64,
}

/// The keys of a log.
pub struct Vault {
    pseudonyms: hmac::Key,
    wrapping: RandomizedNonceKey,
    table: Mutex<Table>,
    unsealed: AtomicU64,
}

impl Vault {
    /// Opens the keys in the folder `dir`, under the key-encryption key in the file `kek`.
    /// Where there are none they are begun, if the log `begins`: nothing sealed is in it.
    /// Blocks while it reads the table.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn open(dir: &Path, kek: &Path, begins: bool) -> Result<Self, VaultError> {
        Self::open_for(dir, kek, begins, SUBJECTS_MAX)
    }

    /// Whether there are keys in the folder `dir`.
    pub fn is_in(dir: &Path) -> bool {
        std::fs::metadata(super::table::path(dir)).is_ok_and(|file| file.len() > 0)
    }

    /// As [`Vault::open`], for at most `max` persons.
    pub(super) fn open_for(
        dir: &Path,
        kek: &Path,
        begins: bool,
        max: u32,
    ) -> Result<Self, VaultError> {
        let failed = |source| VaultError::Io {
            path: dir.to_owned(),
            source,
        };
        let folder = Folder::hold(dir).map_err(failed)?;
        let fresh = folder.len().map_err(failed)? == 0;
        if fresh && !begins {
            return Err(VaultError::NoTable(dir.to_owned()));
        }
        let written = key_of(kek, fresh)?;
        let pseudonyms = derive(&written, PSEUDONYM_DOMAIN)?;
        let wrapping = derive(&written, WRAP_DOMAIN)?;
        let wrapping =
            RandomizedNonceKey::new(&AES_256_GCM, &*wrapping).map_err(|_| VaultError::Crypto)?;
        let check = derive(&written, CHECK_DOMAIN)?;
        let check = check.first_chunk().unwrap_or(&[0; CHECK_LEN]);
        let table = Table::open(folder, max, check).map_err(failed)?;
        Ok(Self {
            pseudonyms: hmac::Key::new(hmac::HMAC_SHA256, &*pseudonyms),
            wrapping,
            table: Mutex::new(table.ok_or_else(|| VaultError::Other(kek.to_owned()))?),
            unsealed: AtomicU64::new(0),
        })
    }

    /// What stands for `name` in the log.
    pub fn pseudonym(&self, name: &str) -> Pseudonym {
        let tag = hmac::sign(&self.pseudonyms, name.as_bytes());
        let mut pseudonym = [0; super::PSEUDONYM_LEN];
        for (to, from) in pseudonym.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        Pseudonym(pseudonym)
    }

    /// Seals what goes beside an encoded record; gives the encoded `Sealed`. New keys are
    /// durable with the next [`Vault::commit`], which must come before what they seal.
    ///
    /// # Errors
    /// When a key cannot be read or made.
    pub(crate) fn seal(&self, record: &[u8]) -> io::Result<Vec<u8>> {
        let invalid = |e| io::Error::new(io::ErrorKind::InvalidData, e);
        let record = Record::decode(record).map_err(invalid)?;
        let mut disclosed = record.disclosures.iter();
        let mut values = Vec::new();
        for (at, cover) in (0..).zip(&record.covers) {
            if cover.commitment.is_empty() {
                continue;
            }
            let Some(disclosure) = disclosed.next() else {
                break;
            };
            values.push(self.value(at, cover, disclosure, record.time_us)?);
        }
        Ok(Sealed { values }.encode_to_vec())
    }

    fn value(
        &self,
        at: u32,
        cover: &Cover,
        disclosure: &Disclosure,
        happened_us: i64,
    ) -> io::Result<SealedValue> {
        let pseudonym = self.pseudonym(&disclosure.value);
        let key = match cover.handling() {
            Handling::Sealed => self.key(pseudonym, happened_us)?,
            _ => None,
        };
        let ciphertext = match key {
            None => Vec::new(),
            Some(key) => {
                let mut sealed = [&disclosure.salt, disclosure.value.as_bytes()].concat();
                let nonce = key
                    .seal_in_place_append_tag(Aad::from(aad(cover)), &mut sealed)
                    .map_err(|_| failed())?;
                [nonce.as_ref().as_slice(), &sealed].concat()
            }
        };
        Ok(SealedValue {
            cover: at,
            pseudonym: pseudonym.0.to_vec(),
            ciphertext,
        })
    }

    /// The key of a person for what happened then, made if there is none; `None` when there
    /// is no room for it, or it cannot be used. Who is heard of again after an erasure has a
    /// new one; what happened before and arrives after it has none.
    fn key(
        &self,
        pseudonym: Pseudonym,
        happened_us: i64,
    ) -> io::Result<Option<RandomizedNonceKey>> {
        let mut table = self.table();
        let known = table.find(&pseudonym)?;
        let erased_us = match known {
            None => None,
            Some(slot) if slot.state == State::Damaged => return Ok(self.without_key()),
            Some(slot) => slot.erased_us,
        };
        if erased_us.is_some_and(|erased| happened_us <= erased) {
            return Ok(None);
        }
        if let Some(slot) = known.filter(|slot| slot.state != State::Erased) {
            let key = unwrap(&self.wrapping, &pseudonym, &slot.key);
            return Ok(key.or_else(|| self.without_key()));
        }
        let mut key = Zeroizing::new([0; KEY_LEN]);
        rand::fill(&mut *key).map_err(|_| failed())?;
        let slot = Slot {
            pseudonym,
            state: State::Live,
            erased_us,
            key: self.wrapped(&pseudonym, &key)?,
        };
        let has_room = match known {
            Some(_) => table.replace(&slot).map(|()| true)?,
            None => table.add(slot),
        };
        match RandomizedNonceKey::new(&AES_256_GCM, &*key) {
            Ok(key) if has_room => Ok(Some(key)),
            Ok(_) => Ok(self.without_key()),
            Err(_) => Err(failed()),
        }
    }

    /// Counts a value that has a pseudonym alone, though it should be sealed.
    fn without_key(&self) -> Option<RandomizedNonceKey> {
        if self.unsealed.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::error!("a value has a pseudonym alone: its key cannot be made or used");
        }
        None
    }

    fn wrapped(&self, pseudonym: &Pseudonym, key: &[u8; KEY_LEN]) -> io::Result<Wrapped> {
        let mut sealed = key.to_vec();
        let nonce = self
            .wrapping
            .seal_in_place_append_tag(Aad::from(pseudonym.0), &mut sealed)
            .map_err(|_| failed())?;
        let bytes = [nonce.as_ref().as_slice(), &sealed].concat();
        bytes.try_into().map_err(|_| failed())
    }

    /// Makes every key that was used so far durable.
    ///
    /// # Errors
    /// Those of the file system; what the keys seal must not be written then.
    pub(crate) fn commit(&self) -> io::Result<()> {
        self.table().commit()
    }

    /// What is under the covers of a record.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn reveal(&self, record: &Record, sealed: &[SealedValue]) -> io::Result<Vec<Revealed>> {
        (0..)
            .zip(&record.covers)
            .map(|(at, cover)| {
                let kept = sealed.iter().find(|value| value.cover == at);
                let pseudonym = kept.and_then(|value| Pseudonym::of(&value.pseudonym));
                let fate = match (cover.handling(), kept, pseudonym) {
                    (Handling::Sealed, Some(value), Some(pseudonym)) => {
                        self.open_value(cover, &value.ciphertext, &pseudonym)?
                    }
                    (_, Some(_), _) => Fate::Pseudonym,
                    _ => Fate::Masked,
                };
                Ok(Revealed {
                    field: cover.field.clone(),
                    pseudonym,
                    fate,
                })
            })
            .collect()
    }

    fn open_value(
        &self,
        cover: &Cover,
        ciphertext: &[u8],
        pseudonym: &Pseudonym,
    ) -> io::Result<Fate> {
        if ciphertext.is_empty() {
            return Ok(Fate::Pseudonym);
        }
        let slot = self.table().find(pseudonym)?;
        let Some(slot) = slot.filter(|slot| slot.state != State::Damaged) else {
            return Ok(Fate::Unreadable);
        };
        if slot.state != State::Live {
            return Ok(Fate::Erased);
        }
        let key = unwrap(&self.wrapping, pseudonym, &slot.key);
        let value = key.and_then(|key| open(&key, cover, ciphertext));
        Ok(match (value, slot.erased_us) {
            (Some(value), _) => Fate::Value(value),
            // A value that was sealed before an erasure is not opened by a later key.
            (None, Some(_)) => Fate::Erased,
            (None, None) => Fate::Unreadable,
        })
    }

    /// What is known of a person.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn known(&self, pseudonym: &Pseudonym) -> io::Result<Known> {
        let table = self.table();
        Ok(match table.find(pseudonym)? {
            Some(slot) if slot.state == State::Erased => {
                Known::Erased(slot.erased_us.unwrap_or_default())
            }
            Some(_) => Known::Sealed,
            None if self.damaged(&table, pseudonym)?.is_empty() => Known::Nobody,
            None => Known::Sealed,
        })
    }

    /// Notes durably that the key of a person is to be destroyed. Where the process ends
    /// before it is, [`Vault::doomed`] names it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn doom(&self, pseudonym: &Pseudonym) -> io::Result<()> {
        let mut table = self.table();
        match table.find(pseudonym)? {
            Some(slot) if slot.state != State::Erased => table.replace(&Slot {
                state: State::Doomed,
                ..slot
            }),
            _ => Ok(()),
        }
    }

    /// Takes that back.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn spare(&self, pseudonym: &Pseudonym) -> io::Result<()> {
        let mut table = self.table();
        match table.find(pseudonym)? {
            Some(slot) if slot.state == State::Doomed => table.replace(&Slot {
                state: State::Live,
                ..slot
            }),
            _ => Ok(()),
        }
    }

    /// Overwrites the key of a person, durably: nothing that is sealed with it is ever
    /// opened again. How a disk keeps what was overwritten is beyond this.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn destroy(&self, pseudonym: &Pseudonym, now_us: i64) -> io::Result<()> {
        let mut table = self.table();
        for place in self.damaged(&table, pseudonym)? {
            table.write(place, &erased(*pseudonym, now_us))?;
        }
        match table.find(pseudonym)? {
            Some(slot) if slot.state != State::Erased => table.replace(&erased(*pseudonym, now_us)),
            _ => Ok(()),
        }
    }

    /// Damaged slots that have a key of this person all the same, whomever they name.
    fn damaged(&self, table: &Table, pseudonym: &Pseudonym) -> io::Result<Vec<u32>> {
        let mut places = Vec::new();
        for place in table.damaged() {
            let slot = table.at(*place)?;
            if unwrap(&self.wrapping, pseudonym, &slot.key).is_some() {
                places.push(*place);
            }
        }
        Ok(places)
    }

    /// Everybody whose key was ordered to be destroyed, and is not yet.
    pub fn doomed(&self) -> Vec<Pseudonym> {
        self.table().doomed().iter().copied().collect()
    }

    /// How the keys are kept.
    pub fn keeping(&self) -> Keeping {
        let table = self.table();
        Keeping {
            used: table.used(),
            max: table.max(),
            damaged: table.damaged().len(),
            doomed: table.doomed().len(),
            unsealed: self.unsealed.load(Ordering::Relaxed),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").finish_non_exhaustive()
    }
}

/// What a sealed value is bound to.
fn aad(cover: &Cover) -> Vec<u8> {
    [VALUE_DOMAIN, &cover.commitment].concat()
}

/// Opens a sealed value, which must be what its cover commits to.
fn open(key: &RandomizedNonceKey, cover: &Cover, ciphertext: &[u8]) -> Option<String> {
    let (nonce, sealed) = ciphertext.split_first_chunk::<NONCE_LEN>()?;
    let mut sealed = sealed.to_vec();
    let opened = key
        .open_in_place(Nonce::from(nonce), Aad::from(aad(cover)), &mut sealed)
        .ok()?;
    let (salt, value) = opened.split_at_checked(SALT_LEN)?;
    let disclosure = Disclosure {
        salt: salt.to_vec(),
        value: String::from_utf8(value.to_vec()).ok()?,
    };
    commitment::opens(cover, &disclosure).then_some(disclosure.value)
}

fn unwrap(
    wrapping: &RandomizedNonceKey,
    pseudonym: &Pseudonym,
    wrapped: &[u8; WRAPPED_LEN],
) -> Option<RandomizedNonceKey> {
    let (nonce, sealed) = wrapped.split_first_chunk::<NONCE_LEN>()?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let key = wrapping
        .open_in_place(Nonce::from(nonce), Aad::from(pseudonym.0), &mut sealed)
        .ok()?;
    RandomizedNonceKey::new(&AES_256_GCM, key).ok()
}

/// Reads the key-encryption key; makes one for a table that begins.
fn key_of(path: &Path, fresh: bool) -> Result<Zeroizing<[u8; KEY_LEN]>, VaultError> {
    let io = |source| VaultError::Io {
        path: path.to_owned(),
        source,
    };
    if fresh && !path.exists() {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        rand::fill(&mut *key).map_err(|_| VaultError::Crypto)?;
        files::replace(path, &*key, files::Sync::Yes).map_err(io)?;
    }
    let mut file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(VaultError::Missing(path.to_owned()));
        }
        other => other.map_err(io)?,
    };
    let meta = file.metadata().map_err(io)?;
    if !meta.is_file() || meta.len() != KEY_LEN as u64 || !files::is_private(path, &meta) {
        return Err(VaultError::Key(path.to_owned()));
    }
    let mut key = Zeroizing::new([0; KEY_LEN]);
    file.read_exact(&mut *key).map_err(io)?;
    Ok(key)
}

fn derive(kek: &[u8; KEY_LEN], info: &[u8]) -> Result<Zeroizing<[u8; KEY_LEN]>, VaultError> {
    struct Len;
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            KEY_LEN
        }
    }
    let mut key = Zeroizing::new([0; KEY_LEN]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
        .extract(kek)
        .expand(&[info], Len)
        .and_then(|okm| okm.fill(&mut *key))
        .map_err(|_| VaultError::Crypto)?;
    Ok(key)
}

fn failed() -> io::Error {
    io::Error::other("a key of a person cannot be used")
}
