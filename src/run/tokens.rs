//! Bearer tokens of the APIs: a file of names and hashes, read again when it changes.
//!
//! One line for each: `NAME SHA-256`, the hash of the token in hexadecimal. A token is
//! as good as its randomness: 32 random bytes need no slow hash. Whoever has one is
//! `spiffe://TD/palisade/client/NAME`, an identity that no certificate can have.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use http::{HeaderMap, header::AUTHORIZATION};
use palisade_mesh::{
    diagnostic::{Diagnostic, Location},
    snapshot::Digest,
    spiffe_id::{SpiffeId, TrustDomain},
};

/// Longest file, in bytes.
const FILE_LEN_MAX: u64 = 1 << 20;
/// Most tokens.
const TOKENS_MAX: usize = 4096;
/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const UNREADABLE: u16 = 6120;
const MALFORMED: u16 = 6121;

type Known = HashMap<Digest, SpiffeId>;

/// The tokens in force. Clones are one.
#[derive(Clone)]
pub(super) struct Tokens {
    path: PathBuf,
    trust_domain: TrustDomain,
    known: Arc<RwLock<Known>>,
}

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// `PLS6120` when it cannot be read, `PLS6121` for each line that is not understood.
    pub(super) fn read(path: PathBuf, trust_domain: &TrustDomain) -> Result<Self, Vec<Diagnostic>> {
        let known = load(&path, trust_domain)?;
        Ok(Self {
            path,
            trust_domain: trust_domain.clone(),
            known: Arc::new(RwLock::new(known)),
        })
    }

    /// Whose token this is, and whether it still is, whenever that is asked.
    pub(super) fn owner(
        &self,
        token: &str,
    ) -> Option<(SpiffeId, impl Fn() -> bool + Send + Sync + use<>)> {
        let digest = Digest::of(token.as_bytes());
        let owner = self.of(&digest)?;
        let (tokens, id) = (self.clone(), owner.clone());
        Some((owner, move || tokens.of(&digest).as_ref() == Some(&id)))
    }

    /// Whose token a request brings, as [`Tokens::owner`].
    pub(super) fn bearer(
        &self,
        headers: &HeaderMap,
    ) -> Option<(SpiffeId, impl Fn() -> bool + Send + Sync + use<>)> {
        let field = headers.get(AUTHORIZATION)?;
        let (scheme, token) = field.to_str().ok()?.split_once(' ')?;
        let bearer = scheme.eq_ignore_ascii_case("bearer").then_some(token)?;
        self.owner(bearer.trim())
    }

    fn of(&self, digest: &Digest) -> Option<SpiffeId> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(digest).cloned()
    }

    /// Reads the file again whenever it changes, for ever. One that cannot be used
    /// changes nothing.
    pub(super) async fn follow(self) {
        let mut seen = modified(&self.path);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = modified(&self.path);
            if now == seen {
                continue;
            }
            seen = now;
            match load(&self.path, &self.trust_domain) {
                Ok(known) => {
                    tracing::info!(tokens = known.len(), "bearer tokens read again");
                    *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
                }
                Err(found) => {
                    for error in found {
                        tracing::warn!(%error, "bearer tokens are not usable, keeping the present ones");
                    }
                }
            }
        }
    }
}

fn modified(path: &PathBuf) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

fn load(path: &PathBuf, trust_domain: &TrustDomain) -> Result<Known, Vec<Diagnostic>> {
    let name = path.display().to_string();
    let text = fs::metadata(path).and_then(|meta| match meta.len() {
        len if len > FILE_LEN_MAX => Err(std::io::Error::other("it is larger than 1 MiB")),
        _ => fs::read_to_string(path),
    });
    let text = text.map_err(|error| {
        vec![
            Diagnostic::error(
                UNREADABLE,
                format!("bearer tokens in `{name}` cannot be read"),
            )
            .cause(error.to_string())
            .help("name a file with a line `NAME SHA-256` for each token"),
        ]
    })?;
    let mut known = Known::new();
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        match entry(line, trust_domain) {
            Ok((digest, id)) if known.len() < TOKENS_MAX => {
                known.insert(digest, id);
            }
            Ok(_) => {
                let many = format!("more than {TOKENS_MAX} tokens");
                found.push(Diagnostic::error(MALFORMED, many).help("take away those out of use"));
                break;
            }
            // The line is not shown: somebody may have put the token itself there.
            Err(cause) => found.push(
                Diagnostic::error(MALFORMED, format!("line {} is no token", number + 1))
                    .cause(cause)
                    .help(
                        "write `NAME SHA-256`; make both: t=$(openssl rand -hex 32); echo \"$t\"; \
                         printf %s \"$t\" | sha256sum",
                    )
                    .at(Location::span(name.as_str(), "", 0, 0)),
            ),
        }
    }
    match found.is_empty() {
        true => Ok(known),
        false => Err(found),
    }
}

fn entry(line: &str, trust_domain: &TrustDomain) -> Result<(Digest, SpiffeId), String> {
    let mut words = line.split_ascii_whitespace();
    let (Some(name), Some(hash), None) = (words.next(), words.next(), words.next()) else {
        return Err("there are not exactly a name and a hash".into());
    };
    let id = trust_domain.id(&format!("palisade/client/{name}"));
    let id = id.ok().filter(|_| !name.contains('/'));
    let id = id.ok_or("a name is made of letters, digits, `.`, `-` and `_`")?;
    let digest = Digest::from_hex(hash).ok_or("a hash has 64 hexadecimal digits")?;
    Ok((digest, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Tokens, Vec<Diagnostic>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        fs::write(&path, text).unwrap();
        Tokens::read(path, &TrustDomain::parse("acme.test").unwrap())
    }

    #[test]
    fn a_token_is_known_by_its_hash_alone() {
        let hash = Digest::of(b"secret");
        let tokens = read(&format!("# tokens\nci {hash} # of the pipeline\n\n")).unwrap();
        let (id, is_good) = tokens.owner("secret").unwrap();
        assert_eq!(id.as_str(), "spiffe://acme.test/palisade/client/ci");
        assert!(is_good());
        let another = format!("cd {hash}");
        let known = read(&another).unwrap().known.read().unwrap().clone();
        *tokens.known.write().unwrap() = known;
        assert!(!is_good(), "whose it was is not whose it is");
        for wrong in ["", "Secret", "secret ", &hash.to_string()] {
            assert!(tokens.owner(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn every_line_that_is_no_token_is_told_and_never_shown() {
        let found = read("ci hunter2\nonly\na/b 00\n../x 00\n").err().unwrap();
        assert_eq!(found.len(), 4);
        assert!(found.iter().all(|d| d.code.0 == MALFORMED));
        assert!(!format!("{found:?}").contains("hunter2"));
    }

    #[test]
    fn both_limits_hold_on_both_sides() {
        let line = |n: usize| format!("n{n} {}\n", Digest::of(&n.to_le_bytes()));
        let full: String = (0..TOKENS_MAX).map(line).collect();
        assert!(read(&full).is_ok());
        assert!(read(&(full + &line(TOKENS_MAX))).is_err());
        let long = "#".repeat(usize::try_from(FILE_LEN_MAX).unwrap());
        assert!(read(&long).is_ok());
        assert_eq!(read(&(long + "#")).err().unwrap()[0].code.0, UNREADABLE);
    }
}
