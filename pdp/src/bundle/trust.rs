//! Whom to believe about a bundle: n of m keys, written in a file of one key a line.
//!
//! ```text
//! # name   key                     once it is no longer trusted
//! alice    ed25519:11qYAYKxCrfV…
//! old-ci   ed25519:7Qm0c2fB9yZk…   removed 2026-11-02
//! ```

use std::{fmt, path::PathBuf, time::Duration};

use palisade_mesh::{
    diagnostic::Diagnostic,
    snapshot::Digest,
    spiffe_id::TrustDomain,
    wire::policy::{Attestation, Revision, Signature, Stamp},
};

use super::{
    broken, codes,
    file::BundleFile,
    key::PublicKey,
    proofs, read_bounded,
    statement::{self, Forged, Says, Statement},
};

mod back;

pub(crate) use back::is_too_long;
pub use back::{WAY_BACK_MAX, way_back};

/// Most keys of a file.
pub const KEYS_MAX: usize = 256;
/// Most bytes of a file.
pub const KEYS_LEN_MAX: usize = 64 << 10;
/// How much the clock of who stamps may be ahead of ours.
const AHEAD_MAX_US: i64 = 10 * 60 * 1_000_000;
/// Longest name of a key.
pub const NAME_LEN_MAX: usize = 64;

/// Whom to believe, as it is configured. Nothing that is sent can weaken it. The files
/// are read anew at each use, so that a key that is taken out counts no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustConfig {
    /// File of the keys that sign content and releases.
    pub keys: PathBuf,
    /// How many of them must have signed each.
    pub threshold: usize,
    /// Whether a stamp is demanded, and of which age at most.
    pub stamp_age: Option<Duration>,
    /// File of the keys that sign stamps, when they are others; one is enough.
    pub stamp_keys: Option<PathBuf>,
    /// Invariants that must have been proved when the bundle was built.
    pub proved: Vec<String>,
}

/// Whom to believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    keys: Keys,
    threshold: usize,
    stamps: Option<(Keys, Duration)>,
    proved: Vec<String>,
}

/// Keys with names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys(Vec<NamedKey>);

/// A key that has a name, because somebody trusts it or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedKey {
    /// Its name.
    pub name: String,
    /// The key.
    pub key: PublicKey,
    /// Since when it is no longer trusted, as it is written there.
    pub removed: Option<String>,
}

/// Who vouches for a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignedBy {
    /// The PDP alone: its word is all there is.
    Pdp,
    /// Keys that the PDP does not have.
    Trusted {
        /// Their names.
        signers: Vec<String>,
        /// How many there are to sign.
        of: usize,
    },
}

impl SignedBy {
    /// Names of the trusted keys that signed.
    pub fn signers(&self) -> &[String] {
        match self {
            Self::Pdp => &[],
            Self::Trusted { signers, .. } => signers,
        }
    }
}

impl fmt::Display for SignedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pdp => f.write_str("signed by the PDP"),
            Self::Trusted { signers, of } => write!(f, "signed in CI ({} of {of})", signers.len()),
        }
    }
}

impl TrustConfig {
    /// Tells two states of the files apart, also of those that cannot be read.
    pub(crate) fn fingerprint(&self) -> Digest {
        let files = std::iter::once(&self.keys).chain(&self.stamp_keys);
        let digest = |file: &PathBuf| {
            let bytes = read_bounded(file, KEYS_LEN_MAX).unwrap_or_default();
            Digest::of(&bytes)
        };
        let digests: Vec<u8> = files.flat_map(|file| digest(file).0).collect();
        Digest::of(&digests)
    }

    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read, or not enough keys are in it.
    pub fn load(&self) -> Result<Trust, Diagnostic> {
        let keys = Keys::read(&self.keys)?;
        let trusted = keys.trusted().count();
        if self.threshold == 0 || trusted < self.threshold {
            return Err(Diagnostic::error(
                codes::KEYS,
                format!(
                    "`{}` has {trusted} trusted keys, {} are demanded",
                    self.keys.display(),
                    self.threshold
                ),
            )
            .cause("no bundle could ever be signed enough, or none would have to be")
            .help("set `threshold` from 1 to the number of keys"));
        }
        let stamps = match (self.stamp_age, &self.stamp_keys) {
            (None, _) => None,
            (Some(age), None) => Some((keys.clone(), age)),
            (Some(age), Some(file)) => Some((Keys::read(file)?, age)),
        };
        Ok(Trust {
            keys,
            threshold: self.threshold,
            stamps,
            proved: self.proved.clone(),
        })
    }
}

impl Trust {
    /// Believes `threshold` of `keys`, and demands no stamp.
    pub fn new(keys: Keys, threshold: usize) -> Self {
        Self {
            keys,
            threshold,
            stamps: None,
            proved: Vec::new(),
        }
    }

    /// Demands that these invariants were proved when the bundle was built.
    #[must_use]
    pub fn demanding(mut self, invariants: Vec<String>) -> Self {
        self.proved = invariants;
        self
    }

    /// Whether content and number of a revision are signed by enough trusted keys, what must be
    /// proved of it is, and nothing is forged. A way back that too few have signed leads nowhere
    /// ([`way_back`]), and takes nothing from the rest.
    ///
    /// # Errors
    /// Who has signed, and who is missing.
    pub fn check(
        &self,
        domain: &TrustDomain,
        digest: Digest,
        revision: &Revision,
    ) -> Result<SignedBy, Diagnostic> {
        let content = statement::content(domain, digest);
        let content = self.signers(&content, &revision.content_signatures)?;
        let release = statement::release(domain, digest, revision);
        let release = self.signers(&release, &revision.release_signatures)?;
        let what = format!("policy revision {} ({})", revision.sequence, digest.short());
        self.enough(&what, "its content", &content)?;
        self.enough(&what, "its number", &release)?;
        let back = revision.way_back.as_ref();
        back::check(&self.keys, domain, (digest, revision.sequence), back)?;
        self.proved(
            domain,
            digest,
            (revision.attestation.as_ref(), &revision.bundle),
            &what,
        )?;
        Ok(self.keys.vouch(&content))
    }

    /// Whether a file's content, and its number where it has one, are signed by enough trusted
    /// keys, and it has a good stamp where one is demanded. For its way back, see
    /// [`Trust::way_back_of`].
    ///
    /// # Errors
    /// Who has signed, and who is missing.
    pub fn check_file(&self, file: &BundleFile, now_us: i64) -> Result<SignedBy, Diagnostic> {
        let what = format!("bundle {}", file.digest.short());
        let signed = &file.signed;
        let content = file.statement(Says::Content);
        let content = self.signers(&content, &signed.content_signatures)?;
        self.enough(&what, "its content", &content)?;
        if let Some((says, release)) = file.release().zip(signed.release.as_ref()) {
            let signers = self.signers(&file.statement(says), &release.signatures)?;
            self.enough(&what, "its number", &signers)?;
            let named = (file.digest, release.sequence);
            back::check(&self.keys, &file.domain, named, release.way_back.as_ref())?;
        }
        let attestation = signed.attestation.as_ref();
        self.proved(
            &file.domain,
            file.digest,
            (attestation, &signed.bundle),
            &what,
        )?;
        let sequence = signed.release.as_ref().map_or(0, |r| r.sequence);
        let revision = (file.digest, sequence);
        self.check_stamp(&file.domain, revision, signed.stamp.as_ref(), now_us)?;
        Ok(self.keys.vouch(&content))
    }

    /// Whether `stamp` holds at `now_us`, where one is demanded; then also until when,
    /// microseconds since the Unix epoch.
    ///
    /// # Errors
    /// Attack T104: when it is missing, signed by nobody who may, or has ended.
    pub fn check_stamp(
        &self,
        domain: &TrustDomain,
        (digest, sequence): (Digest, u64),
        stamp: Option<&Stamp>,
        now_us: i64,
    ) -> Result<Option<i64>, Diagnostic> {
        let Some((keys, age)) = &self.stamps else {
            return Ok(None);
        };
        let bad = |cause: String| {
            Diagnostic::error(
                codes::STAMP,
                format!("nothing proves that policy revision {sequence} is still the newest"),
            )
            .cause(cause)
            .help("stamp it: palisade bundle sign FILE --key KEY --stamp 24h")
        };
        let stamp = stamp.ok_or_else(|| bad("it comes without a stamp".to_owned()))?;
        let said = statement::stamp(domain, digest, sequence, stamp);
        let signers = said
            .signers(&stamp.signatures)
            .map_err(|f| forged(&f, keys))?;
        let by_age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let until_us = stamp.until_us.min(stamp.issued_us.saturating_add(by_age));
        if !signers.iter().any(|key| keys.is_trusted(key)) {
            let who = keys.describe(&signers);
            return Err(bad(format!("its stamp is signed by {who}")));
        }
        if stamp.issued_us > now_us.saturating_add(AHEAD_MAX_US) {
            let at = jiff::Timestamp::from_microsecond(stamp.issued_us).unwrap_or_default();
            return Err(bad(format!(
                "its stamp is from {at:.0}, which is yet to come: the clock there or here is wrong"
            )));
        }
        if until_us < now_us {
            let at = jiff::Timestamp::from_microsecond(until_us).unwrap_or_default();
            return Err(bad(format!("its stamp ended at {at:.0}")));
        }
        Ok(Some(until_us))
    }

    /// Whether enough trusted keys say that what is demanded was proved: beside the content, or
    /// as a part of it as the format before had it. A word that nobody needs may be signed by
    /// anybody, but not forged.
    fn proved(
        &self,
        domain: &TrustDomain,
        digest: Digest,
        (attestation, bundle): (Option<&Attestation>, &[u8]),
        what: &str,
    ) -> Result<(), Diagnostic> {
        if let Some(attestation) = attestation {
            let says = proofs::says(attestation).map_err(broken)?;
            let said = Statement {
                domain,
                digest,
                says,
            };
            let signers = self.signers(&said, &attestation.signatures)?;
            if !self.proved.is_empty() {
                self.enough(what, "what was proved of it", &signers)?;
            }
        }
        if self.proved.is_empty() {
            return Ok(());
        }
        let within = match attestation {
            Some(attestation) => attestation.proofs.clone(),
            None => proofs::within(bundle),
        };
        proofs::check(&within, &self.proved, what)
    }

    fn signers(
        &self,
        statement: &Statement<'_>,
        signatures: &[Signature],
    ) -> Result<Vec<PublicKey>, Diagnostic> {
        let signers = statement.signers(signatures);
        signers.map_err(|f| forged(&f, &self.keys))
    }

    fn enough(&self, what: &str, part: &str, signers: &[PublicKey]) -> Result<(), Diagnostic> {
        let good = signers.iter().filter(|key| self.keys.is_trusted(key));
        let good = good.count();
        if good >= self.threshold {
            return Ok(());
        }
        let missing = self.keys.trusted().filter(|k| !signers.contains(&k.key));
        let missing: Vec<_> = missing.map(|k| format!("`{}`", k.name)).collect();
        let missing = match missing.is_empty() {
            true => String::new(),
            false => format!("; {} could", missing.join(", ")),
        };
        let who = self.keys.describe(signers);
        Err(Diagnostic::error(
            codes::NOT_SIGNED,
            format!("{what} is not signed by enough trusted keys"),
        )
        .cause(format!(
            "{good} of {} that {part} needs: it is signed by {who}{missing}",
            self.threshold
        ))
        .help("sign it: palisade bundle sign FILE --key KEY --sequence N"))
    }
}

/// Whom to believe by `configured`; none where that is nobody in particular. Blocks on the
/// disk.
///
/// # Errors
/// As [`TrustConfig::load`].
pub fn load(configured: Option<&TrustConfig>) -> Result<Option<Trust>, Diagnostic> {
    configured.map(TrustConfig::load).transpose()
}

/// Whether those whom `trust` names have signed a revision; where it is nobody, at least
/// no signature may be forged.
///
/// # Errors
/// Who has signed, and who is missing.
pub fn check(
    trust: Option<&Trust>,
    domain: &TrustDomain,
    digest: Digest,
    revision: &Revision,
) -> Result<SignedBy, Diagnostic> {
    match trust {
        Some(trust) => trust.check(domain, digest, revision),
        None => check_untrusting(domain, digest, revision),
    }
}

/// Who vouches for what was proved of a revision.
pub(crate) struct Vouchers {
    /// Keys of those whom is trusted, where it is nobody of all.
    pub(crate) keys: Vec<PublicKey>,
    /// Whether that is proved by enough of them which has to be.
    pub(crate) is_enough: bool,
}

/// Who vouches for what was proved of a revision, of those whom `trust` names; where it is nobody,
/// anybody, and it is never enough.
///
/// # Errors
/// When it is not in order, or a signature is forged.
pub(crate) fn vouchers(
    trust: Option<&Trust>,
    domain: &TrustDomain,
    digest: Digest,
    attestation: &Attestation,
) -> Result<Vouchers, Diagnostic> {
    let nobody = Keys::default();
    let says = proofs::says(attestation).map_err(broken)?;
    let said = Statement {
        domain,
        digest,
        says,
    };
    let keys = trust.map_or(&nobody, |trust| &trust.keys);
    let signers = said.signers(&attestation.signatures);
    let signers = signers.map_err(|f| forged(&f, keys))?;
    let Some(trust) = trust else {
        let is_enough = false;
        return Ok(Vouchers {
            keys: signers,
            is_enough,
        });
    };
    let good: Vec<PublicKey> = signers
        .into_iter()
        .filter(|key| keys.is_trusted(key))
        .collect();
    let is_proved = |id: &String| attestation.proofs.iter().any(|p| p.invariant == *id);
    Ok(Vouchers {
        is_enough: good.len() >= trust.threshold && trust.proved.iter().all(is_proved),
        keys: good,
    })
}

/// What a revision is signed by, where nobody in particular has to.
///
/// # Errors
/// When a signature is no signature.
fn check_untrusting(
    domain: &TrustDomain,
    digest: Digest,
    revision: &Revision,
) -> Result<SignedBy, Diagnostic> {
    let nobody = Keys::default();
    let content = statement::content(domain, digest);
    let release = statement::release(domain, digest, revision);
    for (said, signatures) in [
        (content, &revision.content_signatures),
        (release, &revision.release_signatures),
    ] {
        said.signers(signatures).map_err(|f| forged(&f, &nobody))?;
    }
    let named = (digest, revision.sequence);
    back::check(&nobody, domain, named, revision.way_back.as_ref())?;
    if let Some(attestation) = &revision.attestation {
        let said = Statement {
            domain,
            digest,
            says: proofs::says(attestation).map_err(broken)?,
        };
        let signers = said.signers(&attestation.signatures);
        signers.map_err(|f| forged(&f, &nobody))?;
    }
    Ok(SignedBy::Pdp)
}

/// The trust domain that a bundle names.
///
/// # Errors
/// When it is none.
pub fn domain_of(name: &str) -> Result<TrustDomain, Diagnostic> {
    TrustDomain::parse(name).map_err(|_| broken(format!("`{name}` is no trust domain")))
}

fn forged(Forged(key): &Forged, keys: &Keys) -> Diagnostic {
    let whose = key.map_or_else(
        || "its key is none".to_owned(),
        |key| format!("it claims to be by {}", keys.describe(&[key])),
    );
    Diagnostic::error(
        codes::FORGED,
        "a signature of the policy bundle does not verify",
    )
    .cause(format!(
        "{whose}; it was made up, or what it signed was changed"
    ))
    .help("find out where the bundle came from; build and sign it again")
}

impl Keys {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or a line of it.
    pub fn read(path: &std::path::Path) -> Result<Self, Diagnostic> {
        let name = path.display().to_string();
        let bytes = read_bounded(path, KEYS_LEN_MAX).map_err(|error| {
            Diagnostic::error(codes::KEYS, format!("the keys in `{name}` cannot be read"))
                .cause(error.to_string())
                .help("write one key a line: NAME ed25519:BASE64")
        })?;
        Self::parse(&name, &String::from_utf8_lossy(&bytes))
    }

    /// Parses a text; `name` is what diagnostics call it.
    ///
    /// # Errors
    /// The first line that names no key, or one a second time.
    pub fn parse(name: &str, text: &str) -> Result<Self, Diagnostic> {
        let mut keys: Vec<NamedKey> = Vec::new();
        let lines = text.lines().zip(1..).filter(|(line, _)| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#')
        });
        for (line, number) in lines {
            let wrong = |cause: String| {
                Diagnostic::error(codes::KEYS, format!("line {number} of `{name}` is no key"))
                    .cause(cause)
                    .help("write one key a line: NAME ed25519:BASE64, then perhaps `removed DATE`")
            };
            let key = NamedKey::parse(line).map_err(wrong)?;
            let twice = keys.iter().find(|k| k.name == key.name || k.key == key.key);
            if let Some(first) = twice {
                return Err(wrong(format!("`{}` is there before", first.name)));
            }
            if keys.len() == KEYS_MAX {
                return Err(wrong(format!("there are at most {KEYS_MAX}")));
            }
            keys.push(key);
        }
        Ok(Self(keys))
    }

    /// Those that are trusted now.
    pub fn trusted(&self) -> impl Iterator<Item = &NamedKey> {
        self.0.iter().filter(|k| k.removed.is_none())
    }

    /// What is known of a key.
    pub fn find(&self, key: &PublicKey) -> Option<&NamedKey> {
        self.0.iter().find(|k| k.key == *key)
    }

    /// Those of `signers` that are trusted.
    pub fn vouch(&self, signers: &[PublicKey]) -> SignedBy {
        let good = self.trusted().filter(|k| signers.contains(&k.key));
        SignedBy::Trusted {
            signers: good.map(|k| k.name.clone()).collect(),
            of: self.trusted().count(),
        }
    }

    fn is_trusted(&self, key: &PublicKey) -> bool {
        self.find(key).is_some_and(|k| k.removed.is_none())
    }

    /// Who these are, in words.
    fn describe(&self, keys: &[PublicKey]) -> String {
        let who = |key: &PublicKey| match self.find(key) {
            None => format!("an unknown key ({key})"),
            Some(NamedKey {
                name,
                removed: Some(at),
                ..
            }) => format!("`{name}`, which was removed from trust on {at}"),
            Some(NamedKey { name, .. }) => format!("`{name}`"),
        };
        match keys.is_empty() {
            true => "nobody".to_owned(),
            false => keys.iter().map(who).collect::<Vec<_>>().join(", "),
        }
    }
}

impl NamedKey {
    fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let (Some(name), Some(key)) = (words.next(), words.next()) else {
            return Err("it has a name and a key".to_owned());
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
        if name.len() > NAME_LEN_MAX || !name.chars().all(fits) {
            return Err(format!(
                "a name has letters, digits and `-_.@`, at most {NAME_LEN_MAX} of them"
            ));
        }
        let parsed = key.parse::<PublicKey>();
        let parsed = parsed.map_err(|e| format!("`{key}` is {e}"))?;
        let removed = match (words.next(), words.next(), words.next()) {
            (None, ..) => None,
            (Some("removed"), Some(date), None) => match date.parse::<jiff::civil::Date>() {
                Ok(date) => Some(date.to_string()),
                Err(_) => return Err(format!("`{date}` is no date such as 2026-11-02")),
            },
            (Some(word), ..) => {
                return Err(format!(
                    "nothing follows a key but `removed DATE`, not `{word}`"
                ));
            }
        };
        Ok(Self {
            name: name.to_owned(),
            key: parsed,
            removed,
        })
    }
}

#[cfg(test)]
mod tests;
