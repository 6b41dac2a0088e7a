//! A bundle in one file, with what was signed about it: what is built in CI and served
//! by a PDP.
//!
//! A first line that says what it is, then one protobuf message (`SignedBundle`).
//! Signatures stand in the order of their keys, so that it does not matter who
//! signed first.

use std::path::Path;

use bytes::Bytes;
use palisade_mesh::{
    diagnostic::Diagnostic,
    snapshot::Digest,
    spiffe_id::TrustDomain,
    wire::policy::{Attestation, Bundle, Release, Signature, SignedBundle, Stamp, WayBack},
};
use prost::Message;

use super::{
    Opened, broken, census, codes,
    key::SigningKey,
    proofs, read_bounded, slice,
    statement::{self, SIGNATURES_MAX, Says, Statement},
    trust,
};

/// The first line.
pub const MAGIC: &[u8] = b"palisade bundle 1\n";
/// Most bytes of a file.
pub const FILE_LEN_MAX: usize = 64 << 20;

/// A file that was opened: its bundle is what its digest says.
#[derive(Debug, Clone)]
pub struct BundleFile {
    /// As it is written.
    pub signed: SignedBundle,
    /// The content.
    pub bundle: Bundle,
    /// Its digest.
    pub digest: Digest,
    /// Whose policy it is.
    pub domain: TrustDomain,
}

/// Reads a file.
///
/// # Errors
/// When it cannot be read, or is not a whole bundle.
pub fn read(path: &Path) -> Result<BundleFile, Diagnostic> {
    BundleFile::parse_from(&path.display().to_string(), &bytes(path)?)
}

/// The bytes of a file, at most [`FILE_LEN_MAX`].
pub(crate) fn bytes(path: &Path) -> Result<Bytes, Diagnostic> {
    let read = read_bounded(path, FILE_LEN_MAX).map(Bytes::from);
    read.map_err(|error| unread(&path.display().to_string(), &error.to_string()))
}

/// That a bundle file cannot be read, and why.
pub(crate) fn unread(name: &str, why: &str) -> Diagnostic {
    Diagnostic::error(codes::FILE, format!("bundle file `{name}` cannot be read"))
        .cause(why)
        .help("build one: palisade bundle build DIR -f FILE")
}

impl BundleFile {
    /// A file around an encoded bundle, signed by nobody yet.
    ///
    /// # Errors
    /// When it is not a whole bundle.
    pub fn new(bundle: Bytes) -> Result<Self, Diagnostic> {
        Self::open(SignedBundle {
            bundle,
            ..SignedBundle::default()
        })
    }

    /// Parses the bytes of a file.
    ///
    /// # Errors
    /// When it is not a whole bundle.
    pub fn parse(bytes: &Bytes) -> Result<Self, Diagnostic> {
        if !bytes.starts_with(MAGIC) {
            return Err(Diagnostic::error(codes::FILE, "this is no bundle file")
                .cause("it does not begin with `palisade bundle 1`")
                .help("build one: palisade bundle build DIR -f FILE"));
        }
        let rest = bytes.slice(MAGIC.len()..);
        census::signed(&rest).map_err(broken)?;
        let signed = SignedBundle::decode(rest).map_err(|e| broken(e.to_string()))?;
        Self::open(signed)
    }

    /// Parses the bytes of a file from `place`, which diagnostics name.
    ///
    /// # Errors
    /// When it is not a whole bundle.
    pub fn parse_from(place: &str, bytes: &Bytes) -> Result<Self, Diagnostic> {
        Self::parse(bytes).map_err(|diagnostic| Diagnostic {
            message: format!("`{place}`: {}", diagnostic.message),
            ..diagnostic
        })
    }

    fn open(signed: SignedBundle) -> Result<Self, Diagnostic> {
        let Opened { bundle, digest } = super::open(&signed.bundle)?;
        if slice::is_slice(&bundle) {
            return Err(slice::not_whole());
        }
        let domain = trust::domain_of(&bundle.trust_domain)?;
        let of_release = signed.release.iter().map(|r| &r.signatures);
        let of_stamp = signed.stamp.iter().map(|s| &s.signatures);
        let backs = signed.release.iter().flat_map(|r| &r.way_back);
        let of_back = backs.map(|b| &b.signatures);
        let of_proofs = signed.attestation.iter().map(|a| &a.signatures);
        let of_others = of_stamp.chain(of_back).chain(of_proofs);
        let mut all = of_release.chain(of_others);
        if signed.content_signatures.len() > SIGNATURES_MAX || all.any(|s| s.len() > SIGNATURES_MAX)
        {
            return Err(broken(format!(
                "it has more than {SIGNATURES_MAX} signatures"
            )));
        }
        if let Some(attestation) = &signed.attestation {
            proofs::says(attestation).map_err(broken)?;
        }
        Ok(Self {
            signed,
            bundle,
            digest,
            domain,
        })
    }

    /// The same bundle, with the word that these invariants were proved of it by `solver`. Its
    /// digest stays; nobody has signed the word yet.
    #[must_use]
    pub fn attesting<'i>(
        mut self,
        proved: impl IntoIterator<Item = &'i str>,
        solver: &str,
    ) -> Self {
        self.signed.attestation = proofs::attestation(proved, solver);
        self
    }

    /// What is said to be proved of it, if anything is.
    pub fn proved_says(&self) -> Option<Says> {
        let attestation = self.signed.attestation.as_ref()?;
        proofs::says(attestation).ok()
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let encoded = self.signed.encode(&mut bytes);
        encoded.expect("a vector has room");
        bytes
    }

    /// The statement with this meaning about the bundle.
    pub fn statement(&self, says: Says) -> Statement<'_> {
        Statement {
            domain: &self.domain,
            digest: self.digest,
            says,
        }
    }

    /// What is said about its number, if it has one.
    pub fn release(&self) -> Option<Says> {
        self.signed.release.as_ref().map(|release| Says::Release {
            sequence: release.sequence,
            issued_us: release.issued_us,
        })
    }

    /// What is said about where its number may be taken back to, if anything is.
    pub fn way_back_says(&self) -> Option<Says> {
        let release = self.signed.release.as_ref()?;
        let back = release.way_back.as_ref()?;
        let said = statement::way_back(&self.domain, self.digest, release.sequence, back)?;
        Some(said.says)
    }

    /// What is said about how long it is the newest, if anything is.
    pub fn stamp_says(&self) -> Option<Says> {
        let (release, stamp) = self
            .signed
            .release
            .as_ref()
            .zip(self.signed.stamp.as_ref())?;
        Some(Says::Stamp {
            sequence: release.sequence,
            issued_us: stamp.issued_us,
            until_us: stamp.until_us,
        })
    }

    /// Signs the content, and what was proved of it.
    pub fn sign_content(&mut self, key: &SigningKey) {
        let signature = self.statement(Says::Content).sign(key);
        add(&mut self.signed.content_signatures, signature);
        let proved = self
            .proved_says()
            .map(|says| self.statement(says).sign(key));
        if let (Some(Attestation { signatures, .. }), Some(signature)) =
            (&mut self.signed.attestation, proved)
        {
            add(signatures, signature);
        }
    }

    /// Signs number `sequence`, as of `now_us` where nobody has signed it yet. Another
    /// number, its way back and a stamp on it, are given up.
    pub fn sign_release(&mut self, key: &SigningKey, sequence: u64, now_us: i64) {
        let before = self.signed.release.take();
        let mut release = before
            .filter(|r| r.sequence == sequence)
            .unwrap_or_else(|| {
                self.signed.stamp = None;
                Release {
                    sequence,
                    issued_us: now_us,
                    signatures: Vec::new(),
                    way_back: None,
                }
            });
        let says = Says::Release {
            sequence,
            issued_us: release.issued_us,
        };
        add(&mut release.signatures, self.statement(says).sign(key));
        self.signed.release = Some(release);
    }

    /// Signs that its number may be taken back to that of `to`, until `until_us` where nobody
    /// has signed the same yet, and otherwise until then, if that is no later. Says until when.
    ///
    /// # Errors
    /// When one of them has no number, `to` none that is lower, or another trust domain; when it
    /// would last too long, or somebody has said so for longer than this one does.
    pub fn sign_way_back(
        &mut self,
        key: &SigningKey,
        to: &Self,
        until_us: i64,
    ) -> Result<i64, Diagnostic> {
        let (own, of) = (self.signed.release.as_ref(), to.signed.release.as_ref());
        let (Some(own), Some(of)) = (own, of) else {
            return Err(no_way("both need a number"));
        };
        if of.sequence >= own.sequence {
            return Err(no_way(&format!(
                "{} does not come before {}",
                of.sequence, own.sequence
            )));
        }
        if to.domain != self.domain {
            return Err(no_way(&format!(
                "they are policy of `{}` and of `{}`",
                self.domain, to.domain
            )));
        }
        let same = |b: &WayBack| b.sequence == of.sequence && b.sha256 == to.digest.0;
        let before = own.way_back.clone().filter(same);
        let mut back = before.unwrap_or_else(|| WayBack {
            sha256: to.digest.0.to_vec(),
            sequence: of.sequence,
            until_us,
            signatures: Vec::new(),
        });
        let time = |us| jiff::Timestamp::from_microsecond(us).unwrap_or_default();
        if back.until_us > until_us {
            return Err(no_way(&format!(
                "it was given until {:.0}, and this signer gives it until {:.0}",
                time(back.until_us),
                time(until_us)
            )));
        }
        if trust::is_too_long(own.issued_us, back.until_us) {
            return Err(no_way(&format!(
                "it would end at {:.0}, more than 7 days after the number was given at {:.0}",
                time(back.until_us),
                time(own.issued_us)
            )));
        }
        let says = Says::WayBack {
            sequence: own.sequence,
            back: to.digest,
            back_sequence: of.sequence,
            until_us: back.until_us,
        };
        add(&mut back.signatures, self.statement(says).sign(key));
        let until_us = back.until_us;
        if let Some(release) = &mut self.signed.release {
            release.way_back = Some(back);
        }
        Ok(until_us)
    }

    /// Stamps its number as the newest from `now_us` until `until_us`, in place of the
    /// stamp before. Nothing happens to one without a number.
    pub fn stamp(&mut self, key: &SigningKey, now_us: i64, until_us: i64) {
        let Some(release) = &self.signed.release else {
            return;
        };
        let says = Says::Stamp {
            sequence: release.sequence,
            issued_us: now_us,
            until_us,
        };
        self.signed.stamp = Some(Stamp {
            issued_us: now_us,
            until_us,
            signatures: vec![self.statement(says).sign(key)],
        });
    }
}

fn no_way(cause: &str) -> Diagnostic {
    Diagnostic::error(codes::WAY_BACK, "the bundle cannot be given this way back")
        .cause(cause)
        .help("name the signed file of the revision before it: --back-to FILE; --back-within says for how long")
}

/// Adds a signature at its place; a key signs once.
fn add(signatures: &mut Vec<Signature>, signature: Signature) {
    signatures.retain(|s| s.key != signature.key);
    signatures.push(signature);
    signatures.sort_by(|a, b| a.key.cmp(&b.key));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::author::{self, sample};

    fn file() -> BundleFile {
        let dir = sample::copy();
        let compiled = author::load(dir.path()).compiled.unwrap();
        BundleFile::new(compiled.bundle).unwrap()
    }

    fn key() -> SigningKey {
        SigningKey::generate().unwrap().0
    }

    #[test]
    fn it_does_not_matter_who_signs_first_or_twice() {
        let (a, b) = (key(), key());
        let (mut one, mut two) = (file(), file());
        for (file, keys) in [(&mut one, [&a, &b, &a]), (&mut two, [&b, &b, &a])] {
            for key in keys {
                file.sign_content(key);
                file.sign_release(key, 7, 100);
            }
        }
        assert_eq!(one.encode(), two.encode());
        let read = BundleFile::parse(&one.encode().into()).unwrap();
        assert_eq!((read.signed, read.digest), (one.signed, one.digest));
    }

    /// A second signer signs what the first did; another number is another statement.
    #[test]
    fn a_number_is_signed_as_it_was_issued_and_a_new_one_begins_anew() {
        let (a, b) = (key(), key());
        let mut file = file();
        file.stamp(&a, 100, 200);
        assert_eq!(file.signed.stamp, None);
        file.sign_release(&a, 7, 100);
        file.stamp(&a, 110, 210);
        file.sign_release(&b, 7, 120);
        let release = file.signed.release.clone().unwrap();
        assert_eq!((release.issued_us, release.signatures.len()), (100, 2));
        let said = file.statement(file.release().unwrap());
        assert_eq!(said.signers(&release.signatures).unwrap().len(), 2);
        assert!(file.signed.stamp.is_some());
        file.sign_release(&b, 8, 130);
        let release = file.signed.release.unwrap();
        assert_eq!((release.issued_us, release.signatures.len()), (130, 1));
        assert_eq!(file.signed.stamp, None);
    }

    /// A second signer signs until when the first one did; another number has no way back yet.
    #[test]
    fn a_way_back_is_signed_as_it_was_said_first() {
        let (a, b) = (key(), key());
        let (mut old, mut new) = (file(), file());
        let code = |done: Result<i64, Diagnostic>| done.map_err(|d| d.code.0);
        assert_eq!(code(new.sign_way_back(&a, &old, 500)), Err(codes::WAY_BACK));
        old.sign_release(&a, 6, 100);
        new.sign_release(&a, 6, 100);
        assert_eq!(code(new.sign_way_back(&a, &old, 500)), Err(codes::WAY_BACK));
        new.sign_release(&a, 7, 100);
        assert_eq!(code(new.sign_way_back(&a, &old, 500)), Ok(500));
        // Who gives less time does not sign for more, and nobody for more than a week.
        assert_eq!(code(new.sign_way_back(&b, &old, 499)), Err(codes::WAY_BACK));
        assert_eq!(code(new.sign_way_back(&b, &old, 500)), Ok(500));
        assert_eq!(code(new.sign_way_back(&b, &old, 900)), Ok(500));
        let week_us = 7 * 24 * 3_600_000_000_i64;
        for (until_us, expected) in [
            (100 + week_us, Ok(100 + week_us)),
            (101 + week_us, Err(codes::WAY_BACK)),
        ] {
            let mut long = file();
            long.sign_release(&a, 7, 100);
            assert_eq!(code(long.sign_way_back(&a, &old, until_us)), expected);
        }
        let back = |file: &BundleFile| file.signed.release.clone().unwrap().way_back;
        let given = back(&new).unwrap();
        assert_eq!((given.sequence, given.signatures.len()), (6, 2));
        let said = new.statement(new.way_back_says().unwrap());
        assert_eq!(said.signers(&given.signatures).unwrap().len(), 2);
        let read = BundleFile::parse(&new.encode().into()).unwrap();
        assert_eq!(back(&read), Some(given));
        let mut crowded = new.clone();
        let release = crowded.signed.release.as_mut().unwrap();
        release.way_back.as_mut().unwrap().signatures =
            vec![Signature::default(); SIGNATURES_MAX + 1];
        assert!(BundleFile::parse(&crowded.encode().into()).is_err());
        new.sign_release(&b, 8, 110);
        assert_eq!(back(&new), None);
    }

    #[test]
    fn what_is_no_file_or_not_whole_is_refused() {
        let good = file();
        let code = |bytes: Vec<u8>| BundleFile::parse(&bytes.into()).map_err(|d| d.code.0);
        assert!(code(good.encode()).is_ok());
        assert_eq!(code(Vec::new()).unwrap_err(), codes::FILE);
        let mut other = good.encode();
        other[16] = b'2';
        assert_eq!(code(other).unwrap_err(), codes::FILE);
        let mut cut = good.encode();
        cut.pop();
        assert!(code(cut).is_err());
        let mut slice = good.bundle.clone();
        slice.groups[0].policies.clear();
        let slice = BundleFile::new(slice.encode_to_vec().into());
        assert_eq!(slice.unwrap_err().code.0, codes::NOT_WHOLE);
        let mut crowded = good.clone();
        crowded.signed.content_signatures = vec![Signature::default(); SIGNATURES_MAX + 1];
        assert!(code(crowded.encode()).is_err());
        crowded.signed.content_signatures.pop();
        assert!(code(crowded.encode()).is_ok());
    }
}
