//! What a node keeps on disk: its key, and what the authority gave it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use palisade_mesh::diagnostic::Diagnostic;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::{
    join::{NodeName, NodeRole},
    request::SvidKey,
};

/// Longest file that is read, in bytes.
const FILE_LEN_MAX: u64 = 1 << 20;

/// What a joined node knows.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) name: NodeName,
    /// `HOST:PORT` of the authority.
    pub(super) address: String,
    #[serde(serialize_with = "write_list", deserialize_with = "read_list")]
    pub(super) chain: Vec<Vec<u8>>,
    #[serde(serialize_with = "write_list", deserialize_with = "read_list")]
    pub(super) roots: Vec<Vec<u8>>,
    pub(super) roles: Vec<NodeRole>,
    #[serde(serialize_with = "write_bytes", deserialize_with = "read_bytes")]
    pub(super) return_secret: Vec<u8>,
}

impl Kept {
    pub(super) fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.roots.iter().cloned().map(Into::into).collect()
    }
}

/// The folder of both.
pub(super) struct StateDir(PathBuf);

impl StateDir {
    /// Makes the folder, or enters it; only its owner may.
    pub(super) fn open(dir: &Path) -> Result<Self, Diagnostic> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|e| unusable(dir, &e.to_string()))?;
        let mode = fs::metadata(dir)
            .map_err(|e| unusable(dir, &e.to_string()))?
            .mode();
        if mode & 0o077 != 0 {
            let loose = format!("others may enter: mode {:04o}", mode & 0o7777);
            return Err(unusable(dir, &loose));
        }
        Ok(Self(dir.to_owned()))
    }

    /// The node's key; made when there is none.
    pub(super) fn key(&self) -> Result<SvidKey, Diagnostic> {
        let path = self.0.join("key");
        match self.bytes(&path)? {
            Some(pkcs8) => SvidKey::from_pkcs8(&pkcs8).map_err(|e| unusable(&path, &e.to_string())),
            None => {
                let key = SvidKey::generate().map_err(|e| unusable(&path, &e.to_string()))?;
                // Before anybody hears of it.
                self.put(&path, &key.pkcs8())?;
                Ok(key)
            }
        }
    }

    /// What the authority gave last; none before it joined.
    pub(super) fn read(&self) -> Result<Option<Kept>, Diagnostic> {
        let path = self.0.join("node.json");
        let Some(bytes) = self.bytes(&path)? else {
            return Ok(None);
        };
        let kept = serde_json::from_slice(&bytes).map_err(|e| unusable(&path, &e.to_string()))?;
        Ok(Some(kept))
    }

    /// Keeps what the authority gave.
    pub(super) fn write(&self, kept: &Kept) -> Result<(), Diagnostic> {
        let path = self.0.join("node.json");
        let json = serde_json::to_vec(kept).map_err(|e| unusable(&path, &e.to_string()))?;
        self.put(&path, &Zeroizing::new(json))
    }

    fn bytes(&self, path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Diagnostic> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(unusable(path, &e.to_string())),
        };
        let mut bytes = Zeroizing::new(Vec::new());
        let read = io::Read::read_to_end(&mut io::Read::take(file, FILE_LEN_MAX), &mut bytes);
        read.map_err(|e| unusable(path, &e.to_string()))?;
        Ok(Some(bytes))
    }

    /// Whole or not at all, and on the disk when it returns.
    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), Diagnostic> {
        put(path, bytes).map_err(|e| unusable(path, &e.to_string()))
    }
}

/// Writes a file of mode 0600 whole or not at all.
pub(in crate::agent) fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn unusable(path: &Path, why: &str) -> Diagnostic {
    Diagnostic::error(
        4121,
        format!("`{}` cannot be used as state of this node", path.display()),
    )
    .cause(why.to_owned())
    .help("it is a folder of mode 0700 of the agent's user; without it the host joins with a new token")
}

fn write_bytes<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&STANDARD.encode(bytes))
}

fn read_bytes<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(d)?;
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}

fn write_list<S: Serializer>(list: &[Vec<u8>], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(list.iter().map(|b| STANDARD.encode(b)))
}

fn read_list<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Vec<u8>>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    let decode = |t: &String| STANDARD.decode(t).map_err(serde::de::Error::custom);
    texts.iter().map(decode).collect()
}
