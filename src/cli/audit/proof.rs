//! `palisade audit proof` and `audit verify --proof`: one record for an outsider, and
//! what the outsider does with it.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use palisade_audit::{
    checkpoint::Checkpoint,
    cosignature::CosignerKey,
    item::Item,
    note::{NoteError, Verifier},
    proof::{PROOF_LEN_MAX, Proof, ProofFault, RECORD_LEN_MAX},
    row::Row,
    source::Entry,
};
use palisade_mesh::{
    diagnostic::Diagnostic,
    wire::{audit::Envelope, record::Record},
};
use prost::Message as _;
use serde_json::{Value, json};

use crate::{
    cli::{Context, Exit, block_on},
    control::client::Mesh,
    render::{self, Output, records, snippet::clean},
    run::audit::{Proven, Wanted},
};

/// Longest file with a key that is read, in bytes.
const KEY_LEN_MAX: usize = 4096;

/// Arguments of `audit proof`.
#[derive(Debug, clap::Args)]
pub(crate) struct ProofArgs {
    /// Id of a record, or its first six or more characters.
    id: String,
    /// Which record of the id, by its place in the log (`entry` in a search); its decision, or
    /// else its first, where nothing is said.
    #[arg(long)]
    entry: Option<u64>,
    /// File for the proof; `ID.tlog-proof` where nothing is said.
    #[arg(long, value_name = "FILE")]
    proof: Option<PathBuf>,
    /// File for the record; `ID.record` where nothing is said.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Replace files of these names.
    #[arg(long)]
    overwrite: bool,
}

/// Writes a record and its proof.
pub(super) fn main(args: &ProofArgs, context: &Context) -> Exit {
    match block_on(write(args, context)) {
        Ok(done) => {
            match context.output {
                Output::Json => render::json(&done),
                Output::Human => print_written(&done),
            }
            Exit::Ok
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

async fn write(args: &ProofArgs, context: &Context) -> Result<Value, Diagnostic> {
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    let wanted = Wanted {
        id: args.id.clone(),
        entry: args.entry,
    };
    let proven: Proven = mesh.post("audit", "/v1/audit/proof", &wanted).await?;
    let record = BASE64.decode(&proven.record).unwrap_or_default();
    let id = proven.row.get("id").and_then(Value::as_str);
    let id = id.unwrap_or(args.id.as_str()).to_owned();
    let named = |given: &Option<PathBuf>, ending: &str| {
        let named = given.clone();
        named.unwrap_or_else(|| PathBuf::from(format!("{id}.{ending}")))
    };
    let (proof_file, record_file) = (
        named(&args.proof, "tlog-proof"),
        named(&args.record, "record"),
    );
    put(&record_file, &record, args.overwrite)?;
    put(&proof_file, proven.proof.as_bytes(), args.overwrite)?;
    Ok(json!({
        "id": id,
        "entry": proven.entry,
        "entries": proven.entries,
        "proof": proof_file,
        "record": record_file,
        "key": proven.key,
    }))
}

fn put(path: &Path, contents: &[u8], overwrite: bool) -> Result<(), Diagnostic> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    match overwrite {
        true => options.create(true).truncate(true),
        false => options.create_new(true),
    };
    let written = options.open(path).and_then(|mut f| f.write_all(contents));
    written.map_err(|e| {
        let told = Diagnostic::error(7534, format!("`{}` cannot be written", path.display()));
        match e.kind() {
            std::io::ErrorKind::AlreadyExists => told
                .cause("there is a file of this name already")
                .help("choose another name with --proof and --record, or --overwrite"),
            _ => told
                .cause(e.to_string())
                .help("see that its folder is there and writable"),
        }
    })
}

fn print_written(done: &Value) {
    let text = |key: &str| clean(done.get(key).and_then(Value::as_str).unwrap_or_default());
    let entry = done
        .get("entry")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    let (proof, record, key) = (text("proof"), text("record"), text("key"));
    let head = format!("record {entry} of the log, {}", text("id"));
    render::line(&format!(
        "{}: {head}",
        render::paint(render::GOOD.bold(), "✓ written")
    ));
    for (name, value) in [("record", &record), ("proof", &proof), ("key", &key)] {
        render::line(&format!("  {name:<8}{value}"));
    }
    render::next(&[(
        format!("palisade audit verify --proof {proof} --record {record} --key '{key}'"),
        "needs no mesh",
    )]);
}

/// Who must have cosigned a checkpoint.
pub(crate) struct Demanded<'a> {
    /// Keys of witnesses.
    pub(crate) witnesses: &'a [String],
    /// How many of them.
    pub(crate) quorum: usize,
}

impl Demanded<'_> {
    /// The keys, each of them once.
    ///
    /// # Errors
    /// `PLS7533` for what is no key, `PLS7547` for one that is named twice, and where none or more
    /// are demanded than there are.
    pub(crate) fn keys(&self) -> Result<Vec<CosignerKey>, Diagnostic> {
        let keys = self.witnesses.iter().map(|key| trusted_witness(key));
        let keys: Vec<CosignerKey> = keys.collect::<Result<_, _>>()?;
        each_once(&keys)?;
        if !keys.is_empty() && !(1..=keys.len()).contains(&self.quorum) {
            return Err(Diagnostic::error(
                7547,
                format!("a quorum of {} is none of {}", self.quorum, keys.len()),
            )
            .cause("none would be demanded, or more than can be there")
            .help("demand from one to all of the witnesses that are named"));
        }
        Ok(keys)
    }
}

/// Checks a record against its proof; needs no mesh. What the key is worth depends on
/// where it came from.
pub(in crate::cli) fn verify(
    proof: &Path,
    record: &Path,
    key: &str,
    demanded: &Demanded<'_>,
    context: &Context,
) -> Exit {
    match verified(proof, record, key, demanded) {
        Ok(report) => {
            match context.output {
                Output::Json => render::json(&report),
                Output::Human => print_verified(&report),
            }
            Exit::Ok
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

fn verified(
    proof_file: &Path,
    record_file: &Path,
    key: &str,
    demanded: &Demanded<'_>,
) -> Result<Value, Diagnostic> {
    let key = trusted(key)?;
    let witnesses = demanded.keys()?;
    let text = String::from_utf8(read(proof_file, PROOF_LEN_MAX)?)
        .map_err(|_| no_proof(proof_file, "it is not UTF-8"))?;
    let record = read(record_file, RECORD_LEN_MAX)?;
    let read = Proof::parse(&text);
    let proof = read.map_err(|e| no_proof(proof_file, &e.to_string()))?;
    let checkpoint = proof
        .verify(&record, &key)
        .map_err(|e| refused(proof_file, &e))?;
    let cosigned = cosigned(&proof.checkpoint, &witnesses, demanded.quorum).map_err(|cause| {
        unwitnessed(&format!(
            "checkpoint in `{}`: {cause}",
            proof_file.display()
        ))
    })?;
    Ok(report(&proof, &record, &checkpoint, &key, &cosigned))
}

/// A witness that is named twice is one.
fn each_once(witnesses: &[CosignerKey]) -> Result<(), Diagnostic> {
    let mut seen = BTreeSet::new();
    match witnesses.iter().find(|key| !seen.insert(key.to_string())) {
        None => Ok(()),
        Some(twice) => Err(Diagnostic::error(
            7547,
            format!("witness `{}` is named twice", clean(twice.name())),
        )
        .cause("it would count twice for the quorum")
        .help("name each witness once")),
    }
}

/// Names and times of the witnesses that cosigned `note`; there must be `quorum` of them.
///
/// # Errors
/// In words, when there are fewer, or one of them has signed something else.
pub(crate) fn cosigned(
    note: &str,
    witnesses: &[CosignerKey],
    quorum: usize,
) -> Result<Vec<(String, u64)>, String> {
    let mut found = Vec::new();
    for witness in witnesses {
        if let Some(time_s) = witness.time_on(note).map_err(|e| e.to_string())? {
            found.push((witness.name().to_owned(), time_s));
        }
    }
    match found.len() >= quorum {
        true => Ok(found),
        false => Err(format!(
            "{} of {quorum} witnesses have cosigned it",
            found.len()
        )),
    }
}

fn report(
    proof: &Proof,
    record: &[u8],
    checkpoint: &Checkpoint,
    key: &Verifier,
    cosigned: &[(String, u64)],
) -> Value {
    json!({
        "witnesses": told(cosigned),
        "verified": true,
        "origin": checkpoint.origin,
        "key": key.to_string(),
        "entry": proof.index,
        "checkpoint": {
            "size": checkpoint.size,
            "root": render::hex(&checkpoint.root),
            "time": format!("{:.6}", checkpoint.time),
        },
        "row": row(proof.index, record),
    })
}

/// Witnesses that have cosigned, with the time that each gave.
pub(crate) fn told(cosigned: &[(String, u64)]) -> Vec<Value> {
    let witness = |(name, time_s): &(String, u64)| json!({ "name": name, "time": moment(*time_s) });
    cosigned.iter().map(witness).collect()
}

/// The time that a witness gave, seconds since the Unix epoch, as text.
pub(crate) fn moment(time_s: u64) -> String {
    let time = i64::try_from(time_s).ok();
    let time = time.and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.unwrap_or_default().to_string()
}

/// The record as a search shows it; nothing where this version cannot read it, which
/// takes nothing from the proof.
fn row(index: u64, record: &[u8]) -> Value {
    let decoded = || {
        let envelope = Envelope::decode(Bytes::copy_from_slice(record)).ok()?;
        let record = Record::decode(envelope.record.clone()).ok()?;
        serde_json::to_value(Row::new(&Item::new(Entry {
            index,
            envelope,
            record,
        })))
        .ok()
    };
    decoded().unwrap_or_default()
}

fn print_verified(report: &Value) {
    let of = |at: &str| {
        clean(
            report
                .pointer(at)
                .and_then(Value::as_str)
                .unwrap_or_default(),
        )
    };
    let number = |at: &str| {
        report
            .pointer(at)
            .and_then(Value::as_u64)
            .unwrap_or_default()
    };
    let (entry, size) = (number("/entry"), number("/checkpoint/size"));
    render::line(&format!(
        "{}: record {} of {}",
        render::paint(render::GOOD.bold(), "✓ verified"),
        render::thousands(entry),
        render::count(size, "record", "records"),
    ));
    for (name, at) in [
        ("log", "/origin"),
        ("signed", "/checkpoint/time"),
        ("root", "/checkpoint/root"),
    ] {
        render::line(&render::paint(
            render::DIM,
            format!("  {name:<7} {}", of(at)),
        ));
    }
    let witnesses = report.get("witnesses").and_then(Value::as_array);
    for witness in witnesses.into_iter().flatten() {
        let text = |key: &str| clean(witness.get(key).and_then(Value::as_str).unwrap_or_default());
        let said = format!("  witness {}, {}", text("name"), text("time"));
        render::line(&render::paint(render::DIM, said));
    }
    match report.get("row") {
        Some(row) if row.is_object() => records::print_fields(row),
        _ => render::line("the record is of a version that this program cannot read"),
    }
}

/// A log's key that is trusted: its text, or a file with it.
pub(crate) fn trusted(key: &str) -> Result<Verifier, Diagnostic> {
    parsed(key, "log", Verifier::parse)
}

/// The same of a witness.
fn trusted_witness(key: &str) -> Result<CosignerKey, Diagnostic> {
    parsed(key, "witness", CosignerKey::parse)
}

fn parsed<K>(
    key: &str,
    whose: &str,
    parse: impl Fn(&str) -> Result<K, NoteError>,
) -> Result<K, Diagnostic> {
    let unreadable = |cause: String| {
        Diagnostic::error(7533, format!("`{key}` is no key of a {whose}"))
            .cause(cause)
            .help("name a file such as `checkpoint.pub` or `witness.pub`, or write NAME+HASH+KEY itself; take it from somewhere that you trust, not from whom you check")
    };
    if let Ok(key) = parse(key) {
        return Ok(key);
    }
    let text =
        read(Path::new(key), KEY_LEN_MAX).map_err(|e| unreadable(e.cause.unwrap_or(e.message)))?;
    let text = String::from_utf8_lossy(&text);
    parse(text.trim()).map_err(|e| unreadable(e.to_string()))
}

/// That the log of a mesh was verified with the trusted key, if one is.
pub(super) fn is_under(report: &Value, key: Option<&Verifier>) -> Result<(), Diagnostic> {
    let used = report
        .get("key")
        .and_then(Value::as_str)
        .unwrap_or_default();
    match key {
        Some(key) if key.to_string() != used => Err(Diagnostic::error(
            7532,
            "the log is under another key than the trusted one",
        )
        .cause(format!("its own is `{used}`"))
        .help("see whether the key or the mesh is the one that you mean; if both are, keep the log as evidence")),
        _ => Ok(()),
    }
}

/// Reads a file that is no longer than something of its kind can be.
fn read(path: &Path, len_max: usize) -> Result<Vec<u8>, Diagnostic> {
    let unreadable = |cause: String| {
        Diagnostic::error(7531, format!("`{}` cannot be read", path.display()))
            .cause(cause)
            .help("both files come from `palisade audit proof ID`")
    };
    let mut bytes = Vec::new();
    let most = u64::try_from(len_max).unwrap_or(u64::MAX).saturating_add(1);
    let file = fs::File::open(path).map_err(|e| unreadable(e.to_string()))?;
    let read = file.take(most).read_to_end(&mut bytes);
    read.map_err(|e| unreadable(e.to_string()))?;
    match bytes.len() > len_max {
        true => Err(unreadable(format!("it has more than {len_max} bytes"))),
        false => Ok(bytes),
    }
}

fn no_proof(path: &Path, cause: &str) -> Diagnostic {
    Diagnostic::error(7531, format!("`{}` is no proof", path.display()))
        .cause(cause)
        .help("take the file as `palisade audit proof ID` wrote it")
}

/// That fewer witnesses have cosigned than are demanded.
pub(crate) fn unwitnessed(cause: &str) -> Diagnostic {
    Diagnostic::error(7532, "nobody else is proven to have seen this log")
        .cause(cause)
        .help("take one under a checkpoint that they have cosigned: `palisade status` tells whether they do; or ask for fewer of them: --quorum")
}

fn refused(path: &Path, fault: &ProofFault) -> Diagnostic {
    Diagnostic::error(7532, "the record is not proven to be in the log")
        .cause(format!("`{}`: {fault}", path.display()))
        .help("record, proof and key belong together; if they came from the log's operator, keep them as evidence")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

    use palisade_audit::cosignature::Cosigner;

    use super::*;

    #[test]
    fn a_witness_counts_once_for_a_quorum() {
        let dir = tempfile::tempdir().unwrap();
        let key = |name: &str| {
            let cosigner = Cosigner::load(&dir.path().join(name), name, true).unwrap();
            CosignerKey::parse(&cosigner.key().to_string()).unwrap()
        };
        let (a, b) = (key("a"), key("b"));
        assert!(each_once(&[a.clone(), b]).is_ok());
        assert_eq!(each_once(&[a.clone(), a]).unwrap_err().code.0, 7547);
    }

    /// From one to all of them; of nobody nothing is demanded.
    #[test]
    fn a_quorum_is_of_the_witnesses_that_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let key = |name: &str| {
            let cosigner = Cosigner::load(&dir.path().join(name), name, true).unwrap();
            cosigner.key().to_string()
        };
        let two = [key("a"), key("b")];
        for (witnesses, quorum, code) in [
            (&two[..], 0, Some(7547)),
            (&two, 1, None),
            (&two, 2, None),
            (&two, 3, Some(7547)),
            (&[], 0, None),
        ] {
            let refused = Demanded { witnesses, quorum }.keys().err();
            assert_eq!(refused.map(|told| told.code.0), code, "{quorum}");
        }
    }
}
