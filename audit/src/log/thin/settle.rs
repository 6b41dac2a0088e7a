//! What the log says of what is dropped, so that nothing that was told stays open: done, or not
//! done.

use std::{io, sync::PoisonError, time::Duration};

use palisade_mesh::wire::record::{Dropping, record::Body};

use crate::{
    files,
    log::{Log, LogError, book, reader::Shared, writer::about_dropping},
    merkle::Hash,
    segment,
    told::{self, OF_SEGMENT, RECORDS_GONE, RECORDS_LEFT},
};

/// How long the log may take to sign that something is dropped.
const SIGN_TIME_MAX: Duration = Duration::from_secs(60);

/// Records something about a segment; signed when it returns.
pub(in crate::log) fn say(log: &Log, body: Body) -> io::Result<()> {
    let mut receipt = log.note(body);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let signed = runtime
        .block_on(async { tokio::time::timeout(SIGN_TIME_MAX, receipt.checkpointed()).await });
    match signed {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(unsigned()),
    }
}

/// Waits until all that is there is signed.
pub(in crate::log) fn await_signature(log: &Log) -> Result<(), LogError> {
    let (len, mut signed) = (log.len(), log.subscribe_checkpoints());
    let over = async {
        let over = signed.wait_for(|checkpoint| checkpoint.size >= len);
        tokio::time::timeout(SIGN_TIME_MAX, over).await.is_ok()
    };
    let waited = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map(|runtime| runtime.block_on(over));
    match waited {
        Ok(true) => Ok(()),
        Ok(false) => Err(unsigned()),
        Err(error) => Err(error),
    }
    .map_err(LogError::io(&log.inner.shared.dir))
}

fn unsigned() -> io::Error {
    let what = "the log has not signed what it has to say";
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// Says of what was told to be dropped and was not that it is there. Signed when it returns,
/// and what was put in place before survives a power cut.
pub(in crate::log) fn settle(log: &Log) -> Result<(), LogError> {
    let shared = &log.inner.shared;
    let dir = shared.dir.join(segment::DIR);
    files::sync_dir(&dir).map_err(LogError::io(&dir))?;
    let (known, pending) = book::with(log, |book| {
        (book.unsettled().clone(), book.told().pending())
    })?;
    let left = match known {
        Some(left) => Some(left),
        // What an earlier process has told.
        None => match pending {
            Some((segment, digest, before)) => {
                (lacks_now(shared, segment)? == before).then(|| dropping(segment, digest, before))
            }
            None => None,
        },
    };
    if let Some(left) = left {
        let detail = format!("{OF_SEGMENT}{}: it was not done", left.segment);
        let segment = left.segment..left.segment;
        say(log, about_dropping(RECORDS_LEFT, detail, left))
            .map_err(|e| shared.failed(&segment, e))?;
        unsettled(log, |left| *left = None);
    }
    Ok(())
}

/// Says of what was told last and was done that it is: from then on it cannot be undone
/// without being named. Signed when it returns.
pub(in crate::log) fn conclude(log: &Log) -> Result<(), LogError> {
    let Some((segment, digest, before)) = book::with(log, |book| book.told().pending())? else {
        return Ok(());
    };
    if lacks_now(&log.inner.shared, segment)? != Some(digest) {
        return Ok(());
    }
    let gone = dropping(segment, digest, before);
    let detail = format!("{OF_SEGMENT}{segment}: it is done");
    let segment = segment..segment;
    say(log, about_dropping(RECORDS_GONE, detail, gone))
        .map_err(|e| log.inner.shared.failed(&segment, e))
}

fn dropping(segment: u64, digest: Hash, before: Option<Hash>) -> Dropping {
    Dropping {
        segment,
        digest: digest.to_vec(),
        previous: before.map_or_else(Vec::new, |hash| hash.to_vec()),
    }
}

/// The digest of what the segment says that it lacks.
fn lacks_now(shared: &Shared, segment: u64) -> Result<Option<Hash>, LogError> {
    let path = shared.dir.join(segment::relative(segment));
    let said = shared.sparse(segment).map_err(LogError::io(&path))?;
    Ok(said.map(|said| told::digest(&said)))
}

pub(super) fn unsettled(log: &Log, change: impl FnOnce(&mut Option<Dropping>)) {
    let book = log.inner.shared.book.lock();
    change(book.unwrap_or_else(PoisonError::into_inner).unsettled());
}
