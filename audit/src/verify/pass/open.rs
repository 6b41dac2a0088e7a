//! The segments of a pass are opened, those that went away too; what cannot be read is gone on
//! over.

use std::{fs::File, io, path::Path};

#[cfg(feature = "index")]
use super::super::{Finding, FindingKind, stored::about};
use super::Pass;
use crate::files;
#[cfg(feature = "index")]
use crate::{
    archive::Away,
    envelope::{EnvelopeRef, RecordPeek},
    merkle::{self, Hash},
    segment::{self, Stub},
    told,
};

impl Pass<'_> {
    /// Opens a segment; `None` when it went away and was named, and gone on over.
    #[cfg(feature = "index")]
    pub(super) fn open(
        &mut self,
        first: u64,
        next: Option<u64>,
        file: &Path,
    ) -> io::Result<Option<File>> {
        let path = self.dir.join(file);
        // A run beside this lets it go, or brings it back, at any moment.
        let mut refused: Option<(Hash, Away)> = None;
        let (digest, away) = loop {
            let missing = match files::open(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => e,
                opened => {
                    self.replaced(refused, None);
                    return opened.map(Some);
                }
            };
            let stub = match Stub::read(&self.dir, first) {
                Ok(stub) => stub,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let file = files::open(&path).map_err(|_| missing)?;
                    self.replaced(refused, None);
                    return Ok(Some(file));
                }
                Err(e) => {
                    let file = file.with_extension(segment::MOVED);
                    self.not_read(FindingKind::Archive, first, next, &file, e.to_string());
                    return Ok(None);
                }
            };
            // It may have become another while it was asked for, and its object gone.
            if let Some(refused) = refused.take_if(|(digest, _)| *digest == stub.digest) {
                break refused;
            }
            // What is cached says nothing of what the store has, and nothing is written here.
            let opened = match &self.archive {
                Some(archive) => archive.open_afresh(&stub),
                None => Err(Away::unset(&stub)),
            };
            match opened {
                Ok(file) => {
                    self.replaced(refused, Some(&stub));
                    self.away.push((first, stub.digest));
                    self.report.moved += 1;
                    return Ok(Some(file));
                }
                Err(away) if away.why.is_damage() => refused = Some((stub.digest, away)),
                Err(away) => break (stub.digest, away),
            }
        };
        self.away.push((first, digest));
        let kind = match away.why.is_damage() {
            true => FindingKind::Archive,
            false => FindingKind::Unread,
        };
        self.not_read(kind, first, next, file, away.to_string());
        Ok(None)
    }

    #[cfg(not(feature = "index"))]
    pub(super) fn open(&mut self, _: u64, _: Option<u64>, file: &Path) -> io::Result<Option<File>> {
        files::open(&self.dir.join(file)).map(Some)
    }

    /// A segment became another while it was asked for, or came back.
    #[cfg(feature = "index")]
    fn replaced(&self, refused: Option<(Hash, Away)>, now: Option<&Stub>) {
        if let (Some(archive), Some((_, away))) = (&self.archive, refused) {
            archive.is_replaced(&away.object, now);
        }
    }

    /// Names a segment that cannot be read, and goes on over its records. What it says of
    /// others is known from what stays of it.
    #[cfg(feature = "index")]
    fn not_read(
        &mut self,
        kind: FindingKind,
        first: u64,
        next: Option<u64>,
        file: &Path,
        what: String,
    ) {
        self.find(Finding {
            leaf: Some(first),
            ..about(kind, &file.to_string_lossy(), what)
        });
        if let Ok(stub) = Stub::read(&self.dir, first) {
            let lacks = stub.sparse().map(told::digest);
            self.lacking.push((first, lacks));
            for said in &stub.moved.said {
                let envelope = EnvelopeRef::decode(&said.leaf);
                let signed = self.tile_hash(said.index) == Some(merkle::leaf(&said.leaf));
                if let (Some(key), Some(envelope), true) = (&self.key, envelope, signed)
                    && let Some(peek) = RecordPeek::new(envelope.record)
                    && let Some(told) = told::said(key, &envelope, &peek)
                {
                    // What does not fit is named where its segment is read.
                    let _ = self.told.take(said.index, &told);
                }
            }
        }
        let next = next.unwrap_or(self.signed);
        self.report.unread += next.saturating_sub(first);
        self.lose(first, next);
        self.index = next;
    }
}
