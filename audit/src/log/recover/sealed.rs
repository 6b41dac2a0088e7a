//! What a start can see of the segments that nobody writes any more, without reading them.
//!
//! Every byte of them is vouched for by a signature, and `audit verify` reads all. A start
//! looks whether each is there, is this log's, and has the length and the records that the names
//! of its neighbours leave for it. What is wrong is told, and stops nothing: what is
//! there can be read, and the newest segment is another matter.

use std::{io, path::Path, sync::Arc};

use super::{super::Damage, log_id};
use crate::{
    files,
    note::Verifier,
    segment::{self, Header, Offsets},
};

/// Every sealed segment that is damaged or gone, as far as that can be seen.
pub(super) fn damaged(dir: &Path, verifier: &Verifier, firsts: &[u64]) -> Vec<Damage> {
    let mut found = Vec::new();
    if let Some(first) = firsts.first().filter(|first| **first > 0) {
        found.push(Damage {
            file: segment::relative(0),
            leaf: 0,
            offset: 0,
            what: format!("the segments before record {first} are gone"),
            lost: Some(0..*first),
        });
    }
    let nexts = firsts.iter().skip(1);
    for (first, next) in firsts.iter().zip(nexts) {
        let what = match fault(dir, verifier, *first, next - first) {
            Ok(None) => continue,
            Ok(Some(what)) => what,
            // It went to an archive, where there is one; whoever reads it is told.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => e.to_string(),
        };
        found.push(Damage {
            file: segment::relative(*first),
            leaf: *first,
            offset: 0,
            what,
            lost: None,
        });
    }
    for damage in &found {
        tracing::error!(%damage, "a segment of the audit log is damaged or gone");
    }
    found
}

/// What is wrong with a segment of `count` records.
fn fault(dir: &Path, verifier: &Verifier, first: u64, count: u64) -> io::Result<Option<String>> {
    let path = dir.join(segment::relative(first));
    let file = Arc::new(files::open(&path)?);
    let header = Header {
        first_leaf: first,
        log_id: log_id(verifier),
    };
    if let Err(fault) = header.check(&file)? {
        return Ok(Some(fault.to_string()));
    }
    if Offsets::are_likely(&path, &file, count) {
        return Ok(None);
    }
    let there = Offsets::load(&path, &file, first, count)?.len();
    Ok((there < count).then(|| {
        format!(
            "it ends, or cannot be read on, at record {}, and the next segment begins at {}: it was cut or changed, or one between them is gone",
            first + there,
            first + count
        )
    }))
}
