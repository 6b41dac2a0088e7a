//! Decisions on their way from the audit service over the local socket: frames of a
//! length (`u32`, little-endian) and as many bytes. The first frame says what follows,
//! as JSON; each other one is the index of a leaf (`u64`, little-endian) and the leaf;
//! an empty frame is the end. Without it the answer is not whole.

use std::ops::ControlFlow;

use palisade_audit::envelope::DecisionRef;
use palisade_mesh::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};

use super::{Covered, Pace};
use crate::{control::client::Mesh, run::audit::Tail};

/// Where the local socket answers.
pub(crate) const ROUTE: &str = "/v1/audit/decisions";
/// Bytes of an index.
const INDEX_LEN: usize = 8;
/// Longest frame: an index and a leaf, or the head.
const FRAME_LEN_MAX: usize = INDEX_LEN + palisade_audit::envelope::LEAF_LEN_MAX;

/// What the frames are about.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Start of the time asked about, microseconds since the Unix epoch.
    pub(crate) from_us: i64,
    /// End of it, exclusively.
    pub(crate) to_us: i64,
    /// When the log received its first record.
    pub(crate) begins_us: Option<i64>,
    /// Index of the first leaf that is looked at.
    pub(crate) first: u64,
    /// Index behind the last.
    pub(crate) end: u64,
}

/// Appends a frame of these parts.
pub(crate) fn write(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    out.extend(u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// Asks the running mesh.
pub(super) async fn of_mesh(
    mesh: &Mesh,
    query: String,
    pace: &mut Pace<'_>,
) -> Result<Covered, Diagnostic> {
    let mut reader = Reader::default();
    let asked = Tail { query };
    mesh.bytes("audit", ROUTE, &asked, |bytes| reader.take(bytes, pace))
        .await?;
    let name = mesh.processes().next().map_or("", |a| a.mesh.as_str());
    reader.covered(format!("running mesh {name}"))
}

/// Puts frames together.
#[derive(Default)]
struct Reader {
    buffer: Vec<u8>,
    head: Option<Head>,
    /// Whether the end was seen, or was not waited for.
    whole: bool,
    broken: bool,
}

impl Reader {
    /// Takes what has arrived; whether more is wanted.
    fn take(&mut self, bytes: &[u8], pace: &mut Pace<'_>) -> bool {
        self.buffer.extend_from_slice(bytes);
        let buffer = std::mem::take(&mut self.buffer);
        let mut rest = buffer.as_slice();
        let mut wanted = true;
        while wanted && let Some((len, after)) = rest.split_first_chunk::<4>() {
            let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
            if len > FRAME_LEN_MAX {
                self.broken = true;
                return false;
            }
            let Some((frame, after)) = after.split_at_checked(len) else {
                break;
            };
            rest = after;
            wanted = self.frame(frame, pace).is_continue();
        }
        self.buffer.extend_from_slice(rest);
        wanted
    }

    fn frame(&mut self, frame: &[u8], pace: &mut Pace<'_>) -> ControlFlow<()> {
        if frame.is_empty() {
            self.whole = true;
            return ControlFlow::Break(());
        }
        let Some(head) = &self.head else {
            self.head = serde_json::from_slice(frame).ok();
            return match self.head {
                Some(_) => ControlFlow::Continue(()),
                None => ControlFlow::Break(()),
            };
        };
        let Some((index, leaf)) = frame.split_first_chunk::<INDEX_LEN>() else {
            return ControlFlow::Break(());
        };
        let Some(decision) = DecisionRef::of_leaf(leaf) else {
            return ControlFlow::Continue(());
        };
        let done = u64::from_le_bytes(*index).saturating_sub(head.first);
        let flow = pace.pass(&decision, done, head.end - head.first.min(head.end));
        self.whole |= flow.is_break();
        flow
    }

    fn covered(self, origin: String) -> Result<Covered, Diagnostic> {
        let Some(head) = self.head.filter(|_| self.whole && !self.broken) else {
            return Err(
                Diagnostic::error(2203, "the decision log broke off before its end")
                    .cause("the audit service could not read on, or it ended")
                    .help("see its log, and: palisade audit verify"),
            );
        };
        Ok(Covered {
            origin,
            from_us: Some(head.from_us),
            to_us: Some(head.to_us),
            begins_us: head.begins_us,
            ..Covered::default()
        })
    }
}
