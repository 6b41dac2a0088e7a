//! The writing side of a bucket.

use std::time::Instant;

use tantivy::IndexWriter;

use super::{StoreError, bucket::Bucket};

/// A bucket and the writer it may have.
pub(super) struct Open {
    pub(super) bucket: Bucket,
    /// Everything before this position that belongs here is here.
    pub(super) applied: u64,
    pub(super) writer: Option<Writer>,
    /// Something was added since searches last saw it.
    pub(super) unseen: bool,
    /// Positions whose documents were replaced since then.
    pub(super) replaced: Vec<u64>,
}

pub(super) struct Writer {
    pub(super) writer: IndexWriter,
    pub(super) used: Instant,
    pub(super) dirty: bool,
}

impl Open {
    pub(super) fn new(bucket: Bucket, applied: u64) -> Self {
        Self {
            bucket,
            applied,
            writer: None,
            unseen: false,
            replaced: Vec::new(),
        }
    }

    pub(super) fn writer(&mut self, heap_bytes: usize) -> Result<&mut Writer, StoreError> {
        if self.writer.is_none() {
            self.writer = Some(Writer {
                writer: self.bucket.writer(heap_bytes)?,
                used: Instant::now(),
                dirty: false,
            });
        }
        self.writer
            .as_mut()
            .ok_or(StoreError::Bug("a writer just opened is not there"))
    }

    /// Commits what was added: everything before `position` is in.
    pub(super) fn commit(&mut self, position: u64) -> Result<(), StoreError> {
        let Some(writer) = self.writer.as_mut().filter(|writer| writer.dirty) else {
            return Ok(());
        };
        let mut commit = writer.writer.prepare_commit()?;
        commit.set_payload(&position.to_string());
        commit.commit()?;
        writer.dirty = false;
        Ok(())
    }

    pub(super) fn close(&mut self) -> Result<(), StoreError> {
        if let Some(writer) = self.writer.take() {
            writer.writer.wait_merging_threads()?;
        }
        Ok(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            let bucket = self.bucket.view.folder.display();
            tracing::warn!(%error, %bucket, "audit index writer did not end well");
        }
    }
}
