//! A damaged frame: what is told of it, and where reading goes on.

use std::{fs::File, io, sync::Arc};

use super::{
    super::{Finding, FindingKind},
    Pass,
    names::{At, record_name},
};
use crate::{
    envelope::decode_prefix,
    merkle::sha256,
    segment::{
        self, FRAME_HEADER_LEN, Fault, FrameReader, GoneRun, HEADER_LEN, PAYLOAD_LEN_MAX,
        read_at_most,
    },
};

impl Pass<'_> {
    /// Names a damaged frame; gives where the next one starts, if that can be told, and for
    /// how many leaves it stands.
    pub(super) fn fault(
        &mut self,
        at: At<'_>,
        fault: &Fault,
        file: &Arc<File>,
        after: Option<u64>,
    ) -> io::Result<(Option<u64>, u64)> {
        let finding = at.finding(FindingKind::Record, fault.to_string());
        let mut finding = match *fault {
            Fault::Crc {
                stored, computed, ..
            } => Finding {
                stored: Some(format!("{stored:08x}")),
                computed: Some(format!("{computed:08x}")),
                ..finding
            },
            Fault::Length { stored, .. } => Finding {
                stored: Some(stored.to_string()),
                ..finding
            },
            Fault::Short { .. } => finding,
        };
        // Neither length nor contents can be trusted: the envelope tells its own
        // length, the frame another; right is the one that a whole frame follows.
        let (stored, payload) = ahead(file, at.offset)?;
        let leaf = payload.get(1..).unwrap_or_default();
        let told = decode_prefix(leaf);
        if let Some((envelope, _)) = told.first() {
            finding.record = record_name(envelope);
            // Its number may be what is damaged; then it is missing in its stream.
            if self.streams.expects(envelope) {
                self.observe(at, envelope, sha256(envelope.record));
            }
        }
        let frame = |len: usize| at.offset + (FRAME_HEADER_LEN + len) as u64;
        let end = file.metadata()?.len();
        let mut next = None;
        for len in told.iter().map(|(_, len)| len + 1).chain([stored]) {
            if next.is_none() && is_frame(file, frame(len), end)? {
                next = Some(frame(len));
                if len != stored {
                    finding.what = format!("record length stored {stored}, found {len}");
                    finding.stored = Some(stored.to_string());
                    finding.computed = Some(len.to_string());
                }
            }
        }
        self.find(finding);
        if next.is_none() && segment::is_no_leaf(&payload) {
            let found = segment::next_frame(&payload, 1);
            next = found.map(|found| at.offset + (FRAME_HEADER_LEN + found) as u64);
        }
        // What records left that were dropped stands for many; what a segment lacks, for none.
        let told = match next {
            Some(next) => segment::index_at(file, next, end, after)?,
            None => None,
        };
        let run = GoneRun::read(leaf)
            .filter(|run| segment::is_no_leaf(&payload) && run.first() == at.leaf);
        let most = after.unwrap_or(self.signed).min(self.signed);
        let leaves = told
            .and_then(|index| index.checked_sub(at.leaf))
            .filter(|leaves| *leaves > 0 || at.offset == HEADER_LEN)
            .or(run.map(|run| run.len()))
            .filter(|leaves| at.leaf + leaves <= most)
            .unwrap_or(1);
        self.damaged = true;
        // The tile keeps the hash of what was signed; the next root tells if it is true.
        self.lose(at.leaf, at.leaf + leaves);
        Ok((next, leaves))
    }
}

/// The length that a frame claims, and the bytes that follow its header, as many
/// as a payload may have.
fn ahead(file: &File, offset: u64) -> io::Result<(usize, Vec<u8>)> {
    let mut bytes = vec![0; FRAME_HEADER_LEN + PAYLOAD_LEN_MAX];
    let len = read_at_most(file, &mut bytes, offset)?;
    bytes.truncate(len);
    Ok(match bytes.split_first_chunk::<FRAME_HEADER_LEN>() {
        Some((header, payload)) => (segment::frame_header(*header).0 as usize, payload.to_vec()),
        None => (0, Vec::new()),
    })
}

/// Whether a whole frame, or the end of the file, is at `offset`.
fn is_frame(file: &Arc<File>, offset: u64, end: u64) -> io::Result<bool> {
    let next = FrameReader::new(file.clone(), offset, end)
        .next()?
        .is_none_or(|f| f.is_ok());
    Ok(next && offset <= end)
}
