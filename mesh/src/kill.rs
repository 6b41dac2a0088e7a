//! The kill list: who is barred at once, whatever certificates and policies say.
//!
//! A certificate lives for an hour and a policy has to be written; a stolen key
//! waits for neither. The certificate authority keeps the list and signs it, the
//! PDP and the agents pass it on, and whoever meets a peer asks it: the authority
//! before it issues, the proxy at the handshake, at each request and, when the list
//! changes, for every connection that is open. An entry only ever takes away.

use std::fmt;

use rustc_hash::FxHashMap;
use ulid::Ulid;

use crate::{
    spiffe_id::{SpiffeId, TrustDomain},
    wire::kill as wire,
};

mod signed;

pub use signed::{KillListError, LIST_LEN_MAX, open, read, sign};

/// Most entries of a list.
pub const ENTRIES_MAX: usize = 4096;
/// Longest reason, in bytes.
pub const REASON_LEN_MAX: usize = 512;
/// Longest name of an author, in bytes.
pub const AUTHOR_LEN_MAX: usize = 256;
/// Longest serial number, in bytes (RFC 5280 section 4.1.2.2).
pub const SERIAL_LEN_MAX: usize = 20;
/// Longest key id of an authority, in bytes.
pub const KEY_ID_LEN_MAX: usize = 64;

/// What an entry bars.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// Everything that was issued under this authority, named by its key id.
    Authority(Box<[u8]>),
    /// One SPIFFE ID.
    Identity(SpiffeId),
    /// This SPIFFE ID and every one below it, by whole path segments.
    Prefix(SpiffeId),
    /// One leaf certificate, named by its serial number, big-endian.
    Serial(Box<[u8]>),
}

impl Target {
    /// The word for its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Authority(_) => "authority",
            Self::Identity(_) => "identity",
            Self::Prefix(_) => "prefix",
            Self::Serial(_) => "serial",
        }
    }

    /// The constant word for records of whoever it bars.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Authority(_) => "authority_killed",
            Self::Identity(_) => "identity_killed",
            Self::Prefix(_) => "prefix_killed",
            Self::Serial(_) => "serial_killed",
        }
    }

    /// Whether it may bar more than one workload.
    pub fn is_wide(&self) -> bool {
        matches!(self, Self::Authority(_) | Self::Prefix(_))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind())?;
        match self {
            Self::Authority(bytes) | Self::Serial(bytes) => {
                bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
            Self::Identity(id) | Self::Prefix(id) => write!(f, "{id}"),
        }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: Ulid,
    /// What it bars.
    pub target: Target,
    /// Why.
    pub reason: String,
    /// Who put it there.
    pub author: String,
    /// When, microseconds since the Unix epoch.
    pub created_us: i64,
    /// When it ends, microseconds since the Unix epoch; `None` for never.
    pub expires_us: Option<i64>,
}

/// Whom somebody met, as far as a list can know them.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// SPIFFE ID.
    pub id: &'a SpiffeId,
    /// Serial number of the leaf, big-endian.
    pub serial: &'a [u8],
    /// Key ids of the authorities that the leaf was issued under.
    pub authorities: &'a [Box<[u8]>],
}

/// A list, ready to be asked.
#[derive(Debug, Clone)]
pub struct KillList {
    trust_domain: TrustDomain,
    sequence: u64,
    issued_us: i64,
    entries: Vec<Entry>,
    exact: FxHashMap<Target, usize>,
    prefixes: Vec<usize>,
}

impl KillList {
    /// Checks the entries and builds the tables. Where two entries bar the same,
    /// the one that ends later counts.
    ///
    /// # Errors
    /// [`KillListError::TooManyEntries`], or the first [`KillListError::Entry`] that no
    /// list may hold.
    pub fn new(
        trust_domain: TrustDomain,
        sequence: u64,
        issued_us: i64,
        entries: Vec<Entry>,
    ) -> Result<Self, KillListError> {
        if entries.len() > ENTRIES_MAX {
            return Err(KillListError::TooManyEntries(entries.len()));
        }
        let mut list = Self {
            trust_domain,
            sequence,
            issued_us,
            entries: Vec::with_capacity(entries.len()),
            exact: FxHashMap::default(),
            prefixes: Vec::new(),
        };
        entries.into_iter().try_for_each(|e| list.add(e))?;
        Ok(list)
    }

    fn add(&mut self, entry: Entry) -> Result<(), KillListError> {
        entry
            .check(&self.trust_domain)
            .map_err(KillListError::Entry)?;
        let at = self.entries.len();
        if matches!(entry.target, Target::Prefix(_)) {
            self.prefixes.push(at);
        } else {
            let entries = &self.entries;
            self.exact
                .entry(entry.target.clone())
                .and_modify(|present| {
                    if entries.get(*present).is_some_and(|e| e.ends_before(&entry)) {
                        *present = at;
                    }
                })
                .or_insert(at);
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Grows with every change, never falls.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// When it was signed, microseconds since the Unix epoch.
    pub fn issued_us(&self) -> i64 {
        self.issued_us
    }

    /// Whose it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Every entry, also those that have ended.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry that bars `subject` at `now_us`, if there is one.
    pub fn bars(&self, subject: &Subject<'_>, now_us: i64) -> Option<&Entry> {
        if self.entries.is_empty() {
            return None;
        }
        let exact = [
            Target::Identity(subject.id.clone()),
            Target::Serial(subject.serial.into()),
        ]
        .into_iter()
        .chain(subject.authorities.iter().cloned().map(Target::Authority));
        exact
            .filter_map(|target| self.exact.get(&target))
            .chain(
                self.prefixes
                    .iter()
                    .filter(|i| self.covers(**i, subject.id)),
            )
            .filter_map(|i| self.entries.get(*i))
            .find(|entry| entry.is_live(now_us))
    }

    fn covers(&self, prefix: usize, id: &SpiffeId) -> bool {
        match self.entries.get(prefix).map(|e| &e.target) {
            Some(Target::Prefix(prefix)) => is_below(prefix, id),
            _ => false,
        }
    }

    /// Checks that this list may take the place of `present`: it knows more, or says
    /// the same later. Anything else is a replay.
    ///
    /// # Errors
    /// [`KillListError::Older`].
    pub fn check_supersedes(&self, present: &Self) -> Result<(), KillListError> {
        if (self.sequence, self.issued_us) >= (present.sequence, present.issued_us) {
            return Ok(());
        }
        Err(KillListError::Older {
            offered: self.sequence,
            held: present.sequence,
        })
    }
}

impl Entry {
    /// Whether it bars anybody at `now_us`.
    pub fn is_live(&self, now_us: i64) -> bool {
        self.expires_us.is_none_or(|end| now_us < end)
    }

    fn ends_before(&self, other: &Self) -> bool {
        self.expires_us.unwrap_or(i64::MAX) < other.expires_us.unwrap_or(i64::MAX)
    }

    /// Why no list of `domain` may hold this entry.
    fn check(&self, domain: &TrustDomain) -> Result<(), BadEntry> {
        if self.reason.len() > REASON_LEN_MAX {
            return Err(BadEntry::Reason);
        }
        if self.author.len() > AUTHOR_LEN_MAX {
            return Err(BadEntry::Author);
        }
        match &self.target {
            Target::Authority(id) if id.is_empty() || id.len() > KEY_ID_LEN_MAX => {
                Err(BadEntry::KeyId)
            }
            Target::Serial(serial) if serial.is_empty() || serial.len() > SERIAL_LEN_MAX => {
                Err(BadEntry::Serial)
            }
            Target::Identity(id) | Target::Prefix(id) if !id.is_member_of(domain) => {
                Err(BadEntry::Domain(id.clone()))
            }
            Target::Identity(id) if *id == domain.role("ca") => Err(BadEntry::Signer),
            Target::Prefix(id) if is_below(id, &domain.role("ca")) => Err(BadEntry::Signer),
            _ => Ok(()),
        }
    }
}

fn is_below(prefix: &SpiffeId, id: &SpiffeId) -> bool {
    id.as_str()
        .strip_prefix(prefix.as_str())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Why an entry cannot stand on a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// Over [`AUTHOR_LEN_MAX`].
    #[error("author of over 256 bytes")]
    Author,
    /// An identity of somebody else's.
    #[error("`{0}` is of another trust domain")]
    Domain(SpiffeId),
    /// Empty or over [`KEY_ID_LEN_MAX`].
    #[error("key id of no byte or over 64")]
    KeyId,
    /// Over [`REASON_LEN_MAX`].
    #[error("reason of over 512 bytes")]
    Reason,
    /// Empty or over [`SERIAL_LEN_MAX`].
    #[error("serial number of no byte or over 20")]
    Serial,
    /// It would bar the authority, which signs the list.
    #[error("it would bar the authority that signs the list")]
    Signer,
}

impl From<&Entry> for wire::Entry {
    fn from(entry: &Entry) -> Self {
        use wire::entry::Target as Wire;
        Self {
            id: entry.id.to_bytes().to_vec(),
            target: Some(match &entry.target {
                Target::Authority(id) => Wire::Authority(id.to_vec()),
                Target::Identity(id) => Wire::Identity(id.to_string()),
                Target::Prefix(id) => Wire::Prefix(id.to_string()),
                Target::Serial(serial) => Wire::Serial(serial.to_vec()),
            }),
            reason: entry.reason.clone(),
            author: entry.author.clone(),
            created_us: entry.created_us,
            expires_us: entry.expires_us.unwrap_or(0),
        }
    }
}

impl TryFrom<wire::Entry> for Entry {
    type Error = KillListError;

    fn try_from(entry: wire::Entry) -> Result<Self, KillListError> {
        use wire::entry::Target as Wire;
        let identity = |text: &str| SpiffeId::parse(text).map_err(|_| KillListError::Unreadable);
        let id: [u8; 16] = entry
            .id
            .as_slice()
            .try_into()
            .map_err(|_| KillListError::Unreadable)?;
        Ok(Self {
            id: Ulid::from_bytes(id),
            target: match entry.target.ok_or(KillListError::UnknownTarget)? {
                Wire::Authority(id) => Target::Authority(id.into()),
                Wire::Identity(id) => Target::Identity(identity(&id)?),
                Wire::Prefix(id) => Target::Prefix(identity(&id)?),
                Wire::Serial(serial) => Target::Serial(serial.into()),
            },
            reason: entry.reason,
            author: entry.author,
            created_us: entry.created_us,
            expires_us: (entry.expires_us != 0).then_some(entry.expires_us),
        })
    }
}

#[cfg(test)]
mod tests;
