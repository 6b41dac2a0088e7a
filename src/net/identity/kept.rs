//! The last SVID on disk, so that a proxy restarts without its agent.
//!
//! One file, replaced whole, mode 0600. Where the service manager hands over a key
//! (`LoadCredential=palisade-state-key:…`, then `$CREDENTIALS_DIRECTORY` holds it), the
//! file is sealed with it: AES-256-GCM under a key derived by HKDF-SHA-256. What is
//! read back must verify as in a handshake: key and chain belong together, the chain
//! leads to the kept roots, it has not ended, and it is of our trust domain and of the
//! instance that kept it.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    hkdf,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    spiffe_id::{SpiffeId, TrustDomain},
    svid::{TrustBundle, X509Svid, verify_chain},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// Name of the credential that seals the file.
pub const CREDENTIAL: &str = "palisade-state-key";
/// The fewest bytes of that credential.
pub const CREDENTIAL_LEN_MIN: usize = 32;
/// Longest file that is read.
const FILE_LEN_MAX: u64 = 1 << 20;
const SEALED: &[u8] = b"palisade sealed svid 1\n";
const DOMAIN: &[u8] = b"palisade/proxy/svid/v1";
const NONCE_LEN: usize = 12;

/// Where it is kept, and whose it must be.
#[derive(Debug)]
pub struct Keep {
    path: PathBuf,
    instance: String,
    trust_domain: TrustDomain,
    wanted: Option<SpiffeId>,
    seal: Option<RandomizedNonceKey>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    instance: String,
    chain: Vec<String>,
    key: String,
    roots: Vec<String>,
}

impl Drop for Written {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Keep {
    /// For the proxy `instance`, in `folder`.
    ///
    /// # Errors
    /// `PLS5305` when there is a credential to seal with that cannot be used.
    pub fn new(
        folder: &Path,
        instance: &str,
        trust_domain: TrustDomain,
        wanted: Option<SpiffeId>,
    ) -> Result<Self, Diagnostic> {
        let credential =
            env::var_os("CREDENTIALS_DIRECTORY").map(|d| Path::new(&d).join(CREDENTIAL));
        let seal = match credential.filter(|path| path.exists()) {
            Some(path) => Some(key(&path).map_err(|e| no_credential(&path, &e))?),
            None => None,
        };
        Ok(Self {
            path: folder.join("svid.json"),
            instance: instance.to_owned(),
            trust_domain,
            wanted,
            seal,
        })
    }

    /// Replaces what is kept. Blocks for an fsync.
    ///
    /// # Errors
    /// What the system says.
    pub fn store(&self, svid: &X509Svid, bundle: &TrustBundle) -> io::Result<()> {
        let text = |der: &CertificateDer<'_>| BASE64.encode(der);
        let written = Written {
            instance: self.instance.clone(),
            chain: svid.chain.iter().map(text).collect(),
            key: BASE64.encode(&*svid.key),
            roots: bundle.roots.iter().map(text).collect(),
        };
        let mut bytes = Zeroizing::new(serde_json::to_vec(&written)?);
        if let Some(seal) = &self.seal {
            let nonce = seal
                .seal_in_place_append_tag(Aad::from(self.bound_to()), &mut *bytes)
                .map_err(io::Error::other)?;
            *bytes = [SEALED, nonce.as_ref().as_slice(), &bytes].concat();
        }
        self.replace(&bytes)
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        crate::net::uds::private_folder(folder)?;
        let draft = folder.join(format!("svid.json.{}.new", std::process::id()));
        let _ = fs::remove_file(&draft);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)?;
        File::open(folder)?.sync_all()
    }

    /// What is kept; none when nothing is, yet.
    ///
    /// # Errors
    /// `PLS5303` when it cannot be read or is damaged, `PLS5304` when it is of somebody
    /// else or does not verify (any more).
    pub fn load(&self, clock: &Clock) -> Result<Option<(X509Svid, TrustBundle)>, Diagnostic> {
        let Some(bytes) = self.read()? else {
            return Ok(None);
        };
        let (instance, svid, bundle) = self.open(bytes).map_err(|why| self.damaged(&why))?;
        if instance != self.instance {
            return Err(self.foreign(&format!("it was kept by the proxy `{instance}`")));
        }
        if let Some(wanted) = self.wanted.as_ref().filter(|w| **w != svid.id) {
            return Err(self.foreign(&format!("it is of `{}`, not of `{wanted}`", svid.id)));
        }
        let now = u64::try_from(clock.now_us() / 1_000_000).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        verify_chain(&svid.chain, &bundle, now).map_err(|e| self.foreign(&e.to_string()))?;
        Ok(Some((svid, bundle)))
    }

    fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, Diagnostic> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.damaged(&error.to_string())),
        };
        let mode = file.metadata().map_or(0, |m| m.mode() & 0o777);
        if mode & 0o077 != 0 {
            return Err(self.damaged(&format!("others may read it: its mode is {mode:04o}")));
        }
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(FILE_LEN_MAX)
            .read_to_end(&mut bytes)
            .map_err(|e| self.damaged(&e.to_string()))?;
        Ok(Some(bytes))
    }

    fn open(
        &self,
        mut bytes: Zeroizing<Vec<u8>>,
    ) -> Result<(String, X509Svid, TrustBundle), String> {
        let sealed = bytes
            .strip_prefix(SEALED)
            .and_then(|rest| rest.split_first_chunk::<NONCE_LEN>());
        match (&self.seal, sealed) {
            (None, None) => {}
            (None, Some(_)) => return Err(format!("it is sealed, and there is no `{CREDENTIAL}`")),
            (Some(_), None) => return Err("it is not sealed, though there is a key".to_owned()),
            (Some(seal), Some((nonce, ciphertext))) => {
                let mut plain = Zeroizing::new(ciphertext.to_vec());
                let len = seal
                    .open_in_place(Nonce::from(nonce), Aad::from(self.bound_to()), &mut plain)
                    .map_err(|_| "it was sealed with another key, or changed".to_owned())?
                    .len();
                plain.truncate(len);
                bytes = plain;
            }
        }
        let written: Written = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
        let certificates = |texts: &[String]| -> Result<Vec<CertificateDer<'static>>, String> {
            let der = texts
                .iter()
                .map(|t| BASE64.decode(t).map(CertificateDer::from));
            der.collect::<Result<_, _>>().map_err(|e| e.to_string())
        };
        let key = BASE64.decode(&written.key).map_err(|e| e.to_string())?;
        let svid = X509Svid::new(certificates(&written.chain)?, Zeroizing::new(key))
            .map_err(|e| e.to_string())?;
        let bundle = TrustBundle {
            trust_domain: self.trust_domain.clone(),
            roots: certificates(&written.roots)?,
        };
        Ok((written.instance.clone(), svid, bundle))
    }

    fn bound_to(&self) -> Vec<u8> {
        [DOMAIN, self.instance.as_bytes()].concat()
    }

    fn damaged(&self, why: &str) -> Diagnostic {
        let path = self.path.display();
        Diagnostic::error(5303, format!("kept identity `{path}` cannot be used"))
            .cause(why.to_owned())
            .help("the proxy waits for its Workload API; remove the file if it stays so")
    }

    fn foreign(&self, why: &str) -> Diagnostic {
        let path = self.path.display();
        Diagnostic::error(5304, format!("kept identity `{path}` is not accepted"))
            .cause(why.to_owned())
            .help("the proxy waits for its Workload API")
    }
}

fn key(path: &Path) -> io::Result<RandomizedNonceKey> {
    struct Len;
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            32
        }
    }
    let secret = Zeroizing::new(fs::read(path)?);
    if secret.len() < CREDENTIAL_LEN_MIN {
        let why = format!("it has fewer than {CREDENTIAL_LEN_MIN} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut key = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
        .extract(&secret)
        .expand(&[DOMAIN], Len)
        .and_then(|okm| okm.fill(key.as_mut_slice()))
        .map_err(io::Error::other)?;
    RandomizedNonceKey::new(&AES_256_GCM, key.as_slice()).map_err(io::Error::other)
}

fn no_credential(path: &Path, why: &io::Error) -> Diagnostic {
    let path = path.display();
    Diagnostic::error(
        5305,
        format!("credential `{path}` cannot seal the identity"),
    )
    .cause(why.to_string())
    .help("make one of 32 random bytes: head -c 32 /dev/urandom | systemd-creds encrypt - FILE")
}

#[cfg(test)]
mod tests;
