//! One segment of a pass, frame by frame.

use std::{fs::File, io, sync::Arc};

use palisade_mesh::diagnostic::Severity;

use super::{
    super::{
        Finding, FindingKind,
        ahead::{Ahead, HashedFrame},
        stored::about,
    },
    Begun, Lacks, Pass,
    names::{At, name, record_name},
};
use crate::{
    envelope::{EnvelopeRef, RecordPeek, STREAM_HEADS},
    merkle::{self, Hash},
    segment::{Content, HEADER_LEN, Header},
    told,
};

impl Pass<'_> {
    /// Reads one segment, from where it was `begun`; gives the index after its last record.
    pub(super) fn segment(
        &mut self,
        name: &str,
        file: Arc<File>,
        header: Header,
        next: Option<u64>,
        begun: Option<Begun>,
    ) -> io::Result<u64> {
        let (mut index, mut lacks, start) = match begun {
            Some(begun) => (self.index, begun.lacks, begun.offset),
            None => {
                self.header(name, &file, header)?;
                (header.first_leaf, Lacks::default(), HEADER_LEN)
            }
        };
        let len = file.metadata()?.len();
        let mut reader = Ahead::new(file.clone(), start, len, index);
        loop {
            if self.report.live && index >= self.signed {
                self.begun = Some(Begun {
                    first: header.first_leaf,
                    offset: reader.offset(),
                    lacks,
                });
                return Ok(index);
            }
            let at = At {
                file: name,
                leaf: index,
                offset: reader.offset(),
            };
            let Some(frame) = reader.next()? else {
                break;
            };
            if next.is_some_and(|next| index >= next) {
                let finding = at.finding(FindingKind::Segment, "more follows the last record");
                self.find(finding);
                break;
            }
            if let Ok(frame) = &frame
                && let Content::Sparse(said) = frame.content()
            {
                // It comes first, and once; anything else is a frame too many.
                if frame.offset() != HEADER_LEN {
                    self.find(at.finding(FindingKind::Record, "it cannot stand here"));
                }
                lacks.said = Some(said.to_vec());
                continue;
            }
            if index >= self.signed {
                let whole = frame.is_ok();
                self.beyond(at, whole, len);
                if !whole {
                    break;
                }
                index += 1;
                continue;
            }
            let mut read = 1;
            match frame {
                Ok(frame) => match frame.content() {
                    Content::Leaf(leaf) => self.leaf(at, leaf, &frame),
                    Content::Gone(gone) => read = self.gone(at, gone, next, &mut lacks),
                    Content::Sparse(_) => read = 0,
                },
                Err(fault) => {
                    lacks.damaged = true;
                    match self.fault(at, &fault, &file, next)? {
                        (Some(offset), leaves) => {
                            reader.go_to(offset);
                            read = leaves;
                        }
                        (None, leaves) => {
                            index += leaves;
                            break;
                        }
                    }
                }
            }
            index += read;
            self.count(read, reader.offset() - at.offset);
            // What was found until then is told nobody.
            if self.going.has_ended() {
                return Ok(index);
            }
        }
        self.lacks(name, header.first_leaf, lacks);
        match next {
            // What a damaged length hides is counted as lost.
            Some(next) if index < next => {
                if !self.damaged {
                    let what = format!("the segment ends before record {next}");
                    let offset = reader.offset();
                    let at = At {
                        file: name,
                        leaf: index,
                        offset,
                    };
                    self.find(at.finding(FindingKind::Segment, what));
                }
                self.lose(index, next);
                Ok(next)
            }
            _ => Ok(index),
        }
    }

    fn header(&mut self, name: &str, file: &File, header: Header) -> io::Result<()> {
        if let Err(fault) = header.check(file)? {
            self.find(Finding {
                leaf: Some(header.first_leaf),
                offset: Some(0),
                stored: Some(fault.stored),
                computed: Some(fault.expected),
                ..about(
                    FindingKind::Header,
                    name,
                    format!("header field {}", fault.field),
                )
            });
        }
        Ok(())
    }

    /// Takes in a whole record.
    fn leaf(&mut self, at: At<'_>, leaf: &[u8], frame: &HashedFrame<'_>) {
        let hash = *frame.hash;
        if let Some(stored) = self.tile_hash(at.leaf)
            && stored != hash
            && self.suspect.is_none()
        {
            self.suspect = Some(Finding {
                record: name(leaf),
                stored: Some(merkle::hex(&stored)),
                computed: Some(merkle::hex(&hash)),
                ..at.finding(
                    FindingKind::Leaf,
                    "the record is not the one that was signed",
                )
            });
        }
        if let Some(envelope) = &frame.envelope {
            self.observe(at, envelope, *frame.record);
        }
        if let Some(seen) = &mut self.seen {
            seen(at.leaf, leaf);
        }
        self.push(hash, frame.root.copied());
    }

    /// Takes in what a record says, and that it has this SHA-256.
    pub(super) fn observe(&mut self, at: At<'_>, envelope: &EnvelopeRef<'_>, hash: Hash) {
        let peek = RecordPeek::new(envelope.record).unwrap_or_default();
        let closes = peek.closes_stream();
        self.closed = closes && at.leaf + 1 == self.signed;
        if let Some(said) = self
            .key
            .as_ref()
            .and_then(|key| told::said(key, envelope, &peek))
            && let Err(what) = self.told.take(at.leaf, &said)
        {
            self.find(Finding {
                record: record_name(envelope),
                ..at.finding(FindingKind::Dropped, what)
            });
        }
        self.certificates.observe(at.leaf, envelope, &peek);
        let (new, wrong) = self.streams.observe(envelope, hash, closes);
        if let Some(what) = wrong {
            self.find(at.finding(FindingKind::Heads, what));
        }
        if !new {
            self.find(Finding {
                record: record_name(envelope),
                ..at.finding(FindingKind::Duplicate, "the record is in the log before")
            });
        } else if peek.class == STREAM_HEADS {
            let finding = || Finding {
                record: record_name(envelope),
                ..at.finding(FindingKind::Heads, "")
            };
            let heard = self.streams.heads(envelope, &peek, at.leaf, finding);
            for (signer, first) in heard.signers {
                self.certificates.signed(&signer, first);
            }
            heard.findings.into_iter().for_each(|f| self.find(f));
        }
    }

    /// Looks at what follows the signed records.
    fn beyond(&mut self, at: At<'_>, whole: bool, len: u64) {
        let first = self.report.unsigned == 0;
        self.report.unsigned += u64::from(whole);
        let rest = len - at.offset;
        if self.closed && first {
            let what = format!("{rest} bytes follow the record that closed the log");
            self.find(at.finding(FindingKind::Trailing, what));
        } else if !whole {
            let what = format!("{rest} bytes are no whole record: an interrupted write");
            self.find(Finding {
                severity: Severity::Warning,
                ..at.finding(FindingKind::Tail, what)
            });
        }
    }
}
