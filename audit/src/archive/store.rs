//! Exchanges with the store, each within its time.

use std::{
    fs::{self, File},
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::{
    ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, UpdateVersion,
    path::{Path as Name, PathPart},
};

use super::{
    Why,
    away::Refused,
    courier::{Courier, Late, Silence},
};
use crate::{files, merkle::Hash};

/// Longest time of an exchange with the store, beside [`BYTES_PER_SECOND_MIN`].
const EXCHANGE_TIME_MAX: Duration = Duration::from_secs(30);

/// A store that is slower counts as away.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;

/// Longest word of a store that is passed on.
const CAUSE_LEN_MAX: usize = 400;

/// A folder or a bucket.
pub(super) struct Store {
    objects: Arc<dyn ObjectStore>,
    prefix: Name,
    /// The folder of an archive in the file system, which has to be there.
    root: Option<PathBuf>,
    courier: Courier,
    /// Whether it was heard that the bucket keeps earlier versions.
    versions: Arc<AtomicBool>,
    time_max: Duration,
}

/// Why an exchange came to nothing.
enum Fault {
    Store(object_store::Error),
    /// What was fetched cannot be written here.
    Local(io::Error),
    /// The folder of the archive cannot be read or written.
    Folder(io::Error),
    /// The folder is not there.
    NoFolder(PathBuf),
    /// It is not as long as it was.
    Length(u64),
}

impl From<object_store::Error> for Fault {
    fn from(error: object_store::Error) -> Self {
        Self::Store(error)
    }
}

impl Store {
    pub(super) fn new(
        objects: Arc<dyn ObjectStore>,
        prefix: Name,
        root: Option<PathBuf>,
        versions: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        Ok(Self {
            objects,
            prefix,
            root,
            courier: Courier::start()?,
            versions,
            time_max: EXCHANGE_TIME_MAX,
        })
    }

    /// Gives an exchange less time.
    #[cfg(test)]
    pub(super) fn hurry(&mut self, time_max: Duration) {
        self.time_max = time_max;
    }

    /// Whether it keeps earlier versions of what is deleted, as far as it has said.
    pub(super) fn keeps_versions(&self) -> bool {
        self.versions.load(Ordering::Relaxed)
    }

    /// Creates an object if there is none of its name.
    pub(super) fn create(&self, object: &str, bytes: Bytes) -> Result<(), Refused> {
        let (objects, name) = (self.objects.clone(), self.name(object));
        let root = self.root.clone();
        self.exchange(bytes.len() as u64, async move {
            let options = PutOptions::from(PutMode::Create);
            let put = match objects.put_opts(&name, bytes.into(), options).await {
                // An earlier try of ours, perhaps; reading it back tells.
                Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
                Err(object_store::Error::Precondition { .. }) => Ok(()),
                // No object is not there, but the bucket.
                Err(object_store::Error::NotFound { source, .. }) => {
                    Err(Fault::Store(object_store::Error::Generic {
                        store: "the store",
                        source,
                    }))
                }
                Err(error) => Err(error.into()),
            };
            match (put, root) {
                (Ok(()), Some(root)) => in_folder(move || sync(&path_of(&name), &root)).await,
                (put, _) => put,
            }
        })
    }

    /// Writes an object over that has the bytes `was`; one that has others stays, and is told.
    pub(super) fn exchange_for(&self, object: &str, was: Bytes, now: Bytes) -> Result<(), Refused> {
        let (objects, name) = (self.objects.clone(), self.name(object));
        let root = self.root.clone();
        let swapped = self.exchange(now.len() as u64, async move {
            if root.is_some() {
                return in_folder(move || swap(&path_of(&name), &was, &now)).await;
            }
            let got = objects.get(&name).await?;
            let version = UpdateVersion {
                e_tag: got.meta.e_tag.clone(),
                version: got.meta.version.clone(),
            };
            if got.bytes().await? != was {
                return Ok(false);
            }
            let options = PutOptions::from(PutMode::Update(version));
            match objects.put_opts(&name, now.into(), options).await {
                Ok(_) => Ok(true),
                Err(object_store::Error::Precondition { .. }) => Ok(false),
                Err(error) => Err(error.into()),
            }
        })?;
        match swapped {
            true => Ok(()),
            false => {
                let cause = format!("`{object}` was written by another at this moment");
                Err((Why::Foreign, cause))
            }
        }
    }

    /// Reads a small object.
    pub(super) fn get(&self, object: &str, len_max: u64) -> Result<Bytes, Refused> {
        let (objects, name) = (self.objects.clone(), self.name(object));
        self.exchange(len_max, async move {
            let got = objects.get(&name).await?;
            match got.meta.size <= len_max {
                true => Ok(got.bytes().await?),
                false => Err(Fault::Length(len_max)),
            }
        })
    }

    /// Reads an object of `length` bytes, into the file `to` if that is wanted; gives its sum.
    pub(super) fn read(
        &self,
        object: &str,
        length: u64,
        to: Option<File>,
    ) -> Result<Hash, Refused> {
        let (objects, name) = (self.objects.clone(), self.name(object));
        self.exchange(length, async move {
            let mut to = to;
            let got = objects.get(&name).await?;
            if got.meta.size != length {
                return Err(Fault::Length(length));
            }
            let mut chunks = got.into_stream();
            let (mut sum, mut len) = (Context::new(&SHA256), 0_u64);
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk?;
                len += chunk.len() as u64;
                if len > length {
                    return Err(Fault::Length(length));
                }
                sum.update(&chunk);
                if let Some(to) = &mut to {
                    io::Write::write_all(to, &chunk).map_err(Fault::Local)?;
                }
            }
            match len == length {
                true => Ok(super::hash_of(sum)),
                false => Err(Fault::Length(length)),
            }
        })
    }

    /// Deletes an object; one that is not there is gone.
    pub(super) fn delete(&self, object: &str) -> Result<(), Refused> {
        let (objects, name) = (self.objects.clone(), self.name(object));
        self.exchange(0, async move {
            match objects.delete(&name).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Carries out an exchange in which so many bytes travel, within its time.
    fn exchange<T: Send + 'static>(
        &self,
        bytes: u64,
        ask: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<T, Refused> {
        let limit = self.time_max + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN);
        let root = self.root.clone();
        let late = match root {
            Some(_) => Late::Stays,
            None => Late::Ends,
        };
        let asked = self.courier.run(limit, late, async move {
            match root {
                Some(root) if !is_there(root.clone()).await => Err(Fault::NoFolder(root)),
                _ => ask.await,
            }
        });
        match asked {
            Ok(answer) => answer.map_err(Fault::refused),
            Err(Silence::Late) => {
                let cause = format!("no whole answer within {} s", limit.as_secs());
                Err((Why::Unreachable, cause))
            }
            Err(Silence::Ended) => {
                Err((Why::Unreachable, "the thread that asks it has ended".into()))
            }
        }
    }

    fn name(&self, object: &str) -> Name {
        let parts = object.split('/').map(PathPart::from);
        self.prefix.parts().chain(parts).collect()
    }
}

/// Where an object of a folder lies.
fn path_of(name: &Name) -> PathBuf {
    Path::new("/").join(name.as_ref())
}

/// Works on the folder of an archive, on a thread of its own.
async fn in_folder<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Fault> {
    let worked = tokio::task::spawn_blocking(work).await;
    worked
        .map_err(io::Error::other)
        .flatten()
        .map_err(Fault::Folder)
}

/// Makes an object durable that is there, by whoever it was put, with its folders up to `root`.
fn sync(path: &Path, root: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    for folder in path.ancestors().skip(1) {
        files::sync_dir(folder)?;
        if folder == root {
            break;
        }
    }
    Ok(())
}

/// Replaces a file that has the bytes `was`; says whether it had.
fn swap(path: &Path, was: &[u8], now: &[u8]) -> io::Result<bool> {
    let busy = || io::Error::new(io::ErrorKind::WouldBlock, "it is being written by another");
    let _lock = files::lock(&path.with_extension("lock"))?.ok_or_else(busy)?;
    if fs::read(path)? != was {
        return Ok(false);
    }
    files::replace(path, now, files::Sync::Yes).map(|()| true)
}

/// Asked on a thread of its own: a file system that hangs answers never.
async fn is_there(root: PathBuf) -> bool {
    let asked = tokio::task::spawn_blocking(move || Path::is_dir(&root));
    asked.await.unwrap_or(false)
}

impl Fault {
    fn refused(self) -> Refused {
        match self {
            Self::Store(object_store::Error::NotFound { .. }) => {
                (Why::Missing, "the store has no such object".into())
            }
            Self::Store(error) => (Why::Unreachable, told(&error)),
            Self::Local(error) if error.kind() == io::ErrorKind::StorageFull => {
                (Why::NoRoom, error.to_string())
            }
            Self::Local(error) => (Why::Local, error.to_string()),
            Self::Folder(error) => (Why::Unreachable, error.to_string()),
            Self::NoFolder(root) => {
                let cause = format!("there is no folder `{}`", root.display());
                (Why::Unreachable, cause)
            }
            Self::Length(length) => {
                let cause = format!("it has not the {length} bytes that it had");
                (Why::Altered, cause)
            }
        }
    }
}

/// An error of the store with its causes, on one line of bounded length, without what an
/// address may carry behind its `?`. What a server says is cut down to its code before.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    let words = text.split_whitespace();
    let words = words.map(|word| word.split_once('?').map_or(word, |(before, _)| before));
    let mut text = words.collect::<Vec<_>>().join(" ");
    text.truncate(text.floor_char_boundary(CAUSE_LEN_MAX));
    text
}
