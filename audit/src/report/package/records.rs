//! The records of a package: each as it is hashed, with the proof that it is in the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use palisade_mesh::wire::{audit::Envelope, record::Record};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    checkpoint::Checkpoint,
    envelope::LEAF_LEN_MAX,
    export::{Object, ParquetFile, write_jsonl},
    going::Going,
    item::Item,
    log::{Log, LogError},
    merkle::{self, Hash},
    row::Row,
    source::{Entry, Source, SourceError},
};

/// Longest line of a record with its proof: the leaf in base64, 64 hashes, and names.
const LINE_LEN_MAX: usize = LEAF_LEN_MAX / 3 * 4 + 64 * 48 + 256;

/// One record and its proof, as a line of JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// Index in the log.
    entry: u64,
    /// The leaf, base64.
    leaf: String,
    /// Hashes beside the way from the leaf to the root, base64.
    proof: Vec<String>,
}

/// Records of a log by index, each as it is hashed.
#[derive(Debug, Clone, Default)]
pub(super) struct Records(BTreeMap<u64, Bytes>);

impl Records {
    /// Reads these records out of the log, and proves each under `size` records; the
    /// lines that say so.
    ///
    /// # Errors
    /// When the log does not have one, it cannot be decoded, or nobody waits any more.
    pub(super) fn of_log(
        going: &Going,
        log: &Log,
        entries: BTreeSet<u64>,
        size: u64,
    ) -> Result<(Self, Vec<u8>), LogError> {
        let (mut records, mut lines) = (BTreeMap::new(), Vec::new());
        let many = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        let mut reading = going.reading(many);
        for entry in entries {
            reading.read(1)?;
            let leaf = log.leaf(entry)?;
            let proof = log.prove_under(entry, size)?;
            let line = Line {
                entry,
                leaf: BASE64.encode(&leaf),
                proof: proof.iter().map(|hash| BASE64.encode(hash)).collect(),
            };
            // A number and base64 always are JSON.
            serde_json::to_writer(&mut lines, &line).unwrap_or_default();
            lines.push(b'\n');
            records.insert(entry, leaf);
        }
        Ok((Self(records), lines))
    }

    /// Reads such lines, and believes only what is proven to be under `checkpoint`.
    ///
    /// # Errors
    /// In words, which line is wrong and why.
    pub(super) fn proven(lines: &[u8], checkpoint: &Checkpoint) -> Result<Self, String> {
        let mut records: BTreeMap<u64, Bytes> = BTreeMap::new();
        for (n, line) in (1_u64..).zip(lines.split_inclusive(|b| *b == b'\n')) {
            let bad = |what: String| format!("line {n}: {what}");
            if line.len() > LINE_LEN_MAX || !line.ends_with(b"\n") {
                return Err(bad("it is too long, or does not end".into()));
            }
            let line: Line = serde_json::from_slice(line).map_err(|e| bad(e.to_string()))?;
            let decode = |text: &String| BASE64.decode(text).map_err(|e| bad(e.to_string()));
            let leaf = decode(&line.leaf)?;
            let hash = |text: &String| {
                Hash::try_from(decode(text)?).map_err(|_| bad("a hash has 32 bytes".into()))
            };
            let proof = line.proof.iter().map(hash).collect::<Result<Vec<_>, _>>()?;
            let (size, root) = (checkpoint.size, &checkpoint.root);
            let hashed = merkle::leaf(&leaf);
            merkle::verify_inclusion(&hashed, line.entry, size, &proof, root)
                .map_err(|e| bad(format!("record {} is not in the log: {e}", line.entry)))?;
            let ascends = records
                .last_key_value()
                .is_none_or(|(k, _)| *k < line.entry);
            if !ascends {
                return Err(bad(format!("record {} is out of order", line.entry)));
            }
            entry_of(line.entry, leaf.clone().into()).map_err(bad)?;
            records.insert(line.entry, leaf.into());
        }
        Ok(Self(records))
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        u64::try_from(self.0.len()).unwrap_or(u64::MAX)
    }

    /// Each by its index in the log, as it is hashed.
    pub(super) fn leaves(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.0.iter().map(|(index, leaf)| (*index, &**leaf))
    }

    /// When the log received its first record, if that is among these.
    pub(super) fn begins_us(&self) -> Option<i64> {
        let first = entry_of(0, self.0.get(&0)?.clone()).ok()?;
        Some(first.envelope.received_us)
    }

    /// The records as rows, each by itself: as JSON lines, and as Parquet with `facts`.
    ///
    /// # Errors
    /// In words.
    pub(super) fn rows(
        &self,
        going: &Going,
        facts: &[(&str, String)],
    ) -> Result<(Vec<u8>, Vec<u8>), String> {
        let mut lines = Vec::new();
        let mut columns = ParquetFile::new(Vec::new()).map_err(|e| e.to_string())?;
        self.each_row(going, |row| {
            write_jsonl(row, &mut lines).map_err(|e| e.to_string())?;
            columns.row(row).map_err(|e| e.to_string())
        })?;
        Ok((lines, columns.finish(facts).map_err(|e| e.to_string())?))
    }

    /// The records as JSON lines alone.
    ///
    /// # Errors
    /// In words.
    pub(super) fn lines(&self, going: &Going) -> Result<Vec<u8>, String> {
        let mut lines = Vec::new();
        self.each_row(going, |row| {
            write_jsonl(row, &mut lines).map_err(|e| e.to_string())
        })?;
        Ok(lines)
    }

    fn each_row(
        &self,
        going: &Going,
        mut take: impl FnMut(&Object) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut reading = going.reading(self.len());
        for (index, leaf) in &self.0 {
            reading.read(1).map_err(|e| e.to_string())?;
            let row = Row::new(&Item::new(entry_of(*index, leaf.clone())?));
            let value = serde_json::to_value(row).map_err(|e| e.to_string())?;
            if let serde_json::Value::Object(row) = &value {
                take(row)?;
            }
        }
        Ok(())
    }

    /// What an index can be made from.
    pub(super) fn source(self) -> Arc<dyn Source> {
        let len = self.0.last_key_value().map_or(0, |(last, _)| last + 1);
        Arc::new(Sparse {
            records: self.0,
            len: watch::Sender::new(len),
        })
    }
}

/// A log of which only some records are there.
struct Sparse {
    records: BTreeMap<u64, Bytes>,
    len: watch::Sender<u64>,
}

impl Source for Sparse {
    fn len(&self) -> u64 {
        *self.len.borrow()
    }

    fn read(&self, index: u64) -> Result<Entry, SourceError> {
        let failed = |cause: String| SourceError {
            index,
            cause: cause.into(),
        };
        let leaf = self.records.get(&index);
        let leaf = leaf.ok_or_else(|| failed("it is not in the package".to_owned()))?;
        entry_of(index, leaf.clone()).map_err(failed)
    }

    fn scan(&self, from: u64) -> Box<dyn Iterator<Item = Result<Entry, SourceError>> + '_> {
        Box::new(
            self.records
                .range(from..)
                .map(|(index, _)| self.read(*index)),
        )
    }

    fn subscribe(&self) -> watch::Receiver<u64> {
        self.len.subscribe()
    }
}

fn entry_of(index: u64, leaf: Bytes) -> Result<Entry, String> {
    let bad = |e: prost::DecodeError| format!("record {index} cannot be decoded: {e}");
    let envelope = Envelope::decode(leaf).map_err(bad)?;
    let record = Record::decode(envelope.record.clone()).map_err(bad)?;
    Ok(Entry {
        index,
        envelope,
        record,
    })
}
