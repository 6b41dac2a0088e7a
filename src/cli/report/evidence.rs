//! A report as a package of evidence: made with the log that signs it, and checked without
//! one.

use std::{collections::BTreeMap, fs, io::Read as _, path::Path, sync::Arc};

use palisade_audit::{
    checkpoint::Checkpoint,
    cosignature::CosignerKey,
    decisions::Asked,
    envelope::DecisionRef,
    going::Going,
    note::Verifier,
    query::Limits,
    report::{
        Checked, Report,
        package::{PACKAGE_BYTES_MAX, Package},
    },
};
use palisade_mesh::{
    clock::Clock,
    diagnostic::{Diagnostic, Severity},
    wire::policy::Revision,
};
use palisade_pdp::decide::Snapshot;
use prost::Message as _;
use serde::Serialize;
use serde_json::Value;

use super::{
    Source, attending,
    granted::{self, Origin},
};
use crate::{
    archive,
    cli::{
        Context, Exit,
        audit::{proof, verify},
        block_on,
    },
    control::client::Mesh,
    history::faithful::{self, Replayed},
    render::{self, Output, reports},
    run::{
        audit::{PackReport, reports::attached},
        pdp,
    },
};

/// The package of a report, about the policies of `snapshot` where it says something of them.
///
/// # Errors
/// When it cannot be made, nobody can sign it, or a source of the policies is not there.
pub(super) fn packed(
    (report, snapshot): (&Report, Option<&Snapshot>),
    (records_max, to): (usize, String),
    origin: &Origin,
    context: &Context,
) -> Result<Vec<u8>, Diagnostic> {
    block_on(async {
        let asked = PackReport {
            report: report.clone(),
            attached: policies(snapshot, origin, context).await?,
            records_max,
            to,
        };
        match Source::find(origin, context).await? {
            Source::Folder(archive) => {
                let packed = archive.working("the package is made", move |desk| desk.pack(&asked));
                packed.await
            }
            Source::Mesh(mesh) => {
                let work = attending::Work::on_report("the audit service makes the package");
                attending::of_mesh(&mesh, "/v1/audit/report/package", &asked, &work).await
            }
        }
    })
}

/// The policies in force, where they are at hand: a bundle, named by its SHA-256.
async fn policies(
    snapshot: Option<&Snapshot>,
    origin: &Origin,
    context: &Context,
) -> Result<BTreeMap<String, String>, Diagnostic> {
    let bundle = match (&origin.policies, &origin.log) {
        (Some(dir), _) => {
            let compiled = match snapshot {
                Some(snapshot) => Some(snapshot.compiled().clone()),
                None => origin.composing.load(dir).await?.compiled,
            };
            if let Some(absent) = compiled.iter().flat_map(|c| &c.absent).next() {
                let mut told = absent.told();
                told.severity = Severity::Error;
                return Err(told);
            }
            compiled.map(|c| c.bundle)
        }
        (None, Some(_)) => None,
        // What the report says is of this revision, whatever has come into force since.
        (None, None) => match snapshot {
            Some(snapshot) => Some(snapshot.compiled().bundle.clone()),
            None => in_force(context).await,
        },
    };
    let named = bundle.map(|bundle| attached(&bundle));
    Ok(named.into_iter().collect())
}

async fn in_force(context: &Context) -> Option<bytes::Bytes> {
    let mesh = Mesh::find(context.mesh.as_deref()).await.ok()?;
    let mut revision = Vec::new();
    let asked = mesh.bytes("pdp", pdp::REVISION_ROUTE, &(), |bytes| {
        revision.extend_from_slice(bytes);
        true
    });
    asked.await.ok()?;
    let revision = Revision::decode(revision.as_slice()).ok()?;
    Some(revision.bundle)
}

/// Checks a package with the public key of its log; no mesh is asked.
///
/// # Errors
/// What it is lacking before anything can be compared.
pub(super) fn verify(
    file: &Path,
    key: Option<&str>,
    origin: &Origin,
    demanded: &proof::Demanded<'_>,
    context: &Context,
) -> Result<Exit, Diagnostic> {
    if origin.policies.is_some() || origin.log.is_some() {
        return Err(
            Diagnostic::error(7818, "a package is verified by what is in it")
                .cause("`--policies` and `--log` name what it would not be asked for")
                .help("leave them out; the report in it can be compared with a log: unpack report.json"),
        );
    }
    let key = key.ok_or_else(|| {
        Diagnostic::error(7829, "a package is verified with the public key of its log")
            .cause("the key in the package is only what it says of itself")
            .help("take `checkpoint.pub` from somewhere that you trust: --key FILE")
    })?;
    let (package, seen) = block_on(opened(file, key, demanded))?;
    let mut checked = block_on(archive::checked(&package))?;
    of_policies(&package, &mut checked);
    let replayed = block_on(replayed(&package))?;
    let print = reports::print_checked;
    Ok(told(
        (&package, &seen),
        (&checked, print),
        &replayed,
        context,
    ))
}

/// Checks a package without an index: what is signed of it, what follows from its report and records
/// as text, and its decisions, which are made again. The report is taken as it was signed.
///
/// # Errors
/// What it is lacking before anything can be compared.
pub(in crate::cli) fn verify_signed(
    file: &Path,
    key: &str,
    demanded: &proof::Demanded<'_>,
    context: &Context,
) -> Result<Exit, Diagnostic> {
    let (package, seen) = block_on(opened(file, key, demanded))?;
    let (of_it, now_us) = (package.clone(), Clock::system().now_us());
    let texts = move |going: &Going| of_it.check_texts(going, now_us);
    let checked = apart("what follows from report and records is made again", texts);
    let checked = block_on(checked)??;
    let replayed = block_on(replayed(&package))?;
    let print = reports::print_texts;
    Ok(told(
        (&package, &seen),
        (&checked, print),
        &replayed,
        context,
    ))
}

/// Tells what was found of a package, by `print` what was made again of it; the exit code says it,
/// too.
fn told(
    (package, seen): (&Package, &Seen),
    (checked, print): (&Checked, fn(&Report, &Checked)),
    replayed: &Replayed,
    context: &Context,
) -> Exit {
    let replay = serde_json::to_value(replayed).unwrap_or_default();
    match context.output {
        Output::Human => {
            reports::print_signed(package, seen);
            print(&package.report, checked);
            render::faithful::print(&replay);
        }
        Output::Json => render::json(&Told::new(package, seen, checked, &replay)),
    }
    match checked.holds() && replayed.holds() {
        true => Exit::Ok,
        false => Exit::NotVerified,
    }
}

/// Does `work` on a package apart; a terminal hears how far it is, and Ctrl-C ends it.
async fn apart<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce(&Going) -> T + Send + 'static,
) -> Result<T, Diagnostic> {
    attending::apart(what, verify::interrupted, work).await
}

/// A package whose signature, sums and proofs hold, and who else has seen the log.
async fn opened(
    file: &Path,
    key: &str,
    demanded: &proof::Demanded<'_>,
) -> Result<(Arc<Package>, Seen), Diagnostic> {
    let key = proof::trusted(key)?;
    let witnesses = demanded.keys()?;
    let (bytes, of_log) = (read(file)?, key.clone());
    let package = apart("signature, sums and proofs are checked", move |_| {
        Package::open(&bytes, &of_log)
    });
    let package = Arc::new(package.await??);
    let seen = Seen::of(&package, &key, (&witnesses, demanded.quorum)).map_err(|cause| {
        proof::unwitnessed(&format!("`cosigned` in `{}`: {cause}", file.display()))
    })?;
    Ok((package, seen))
}

/// Makes the decisions of a package again.
async fn replayed(package: &Arc<Package>) -> Result<Replayed, Diagnostic> {
    let package = package.clone();
    let again = move |going: &Going| {
        going.parts(1);
        faithful::of_package(&package, going)
    };
    let replayed = apart("decisions are made again", again).await?;
    replayed.map_err(|_| verify::interrupted())
}

/// What programs are told of a package.
#[derive(Serialize)]
struct Told<'a> {
    report: &'a str,
    records: u64,
    files: Vec<&'a str>,
    signed: &'a str,
    witnesses: Vec<Value>,
    cosigned_records: Option<u64>,
    witnesses_not_verified: &'a [String],
    checked: &'a Checked,
    replay: &'a Value,
}

impl<'a> Told<'a> {
    fn new(package: &'a Package, seen: &'a Seen, checked: &'a Checked, replay: &'a Value) -> Self {
        Self {
            report: &package.report.name,
            records: package.records(),
            files: package.files().collect(),
            signed: package.signed(),
            witnesses: proof::told(&seen.cosigned),
            cosigned_records: seen.records,
            witnesses_not_verified: &seen.unverified,
            checked,
            replay,
        }
    }
}

/// Compares what policies were asked for with what those in the package say of its records.
fn of_policies(package: &Package, checked: &mut Checked) {
    let said = package.of_policies();
    let ids: Vec<&str> = said.iter().map(|s| s.id.as_str()).collect();
    let Some(first) = ids.first() else {
        if granted::is_of_policies(&package.report.name) && !granted::says_none(&package.report) {
            let section = "the parts that policies were asked for";
            checked.same("header", section, "absent", "there");
        }
        return;
    };
    let Some(bundle) = granted::bundle_of(&said, package.policies()) else {
        checked.not_compared.push(format!(
            "what policies were asked for ({}): the package does not have them",
            ids.join(", ")
        ));
        return;
    };
    let now_us = Clock::system().now_us();
    let again = granted::again(&package.report, &said, bundle, &mut |query, take| {
        let asked = Asked::new(query, query.window(now_us, &Limits::default())?);
        let leaves = package.leaves();
        let of_query = leaves.filter(|(index, leaf)| asked.is_for(*index, leaf));
        of_query
            .filter_map(|(_, leaf)| DecisionRef::of_leaf(leaf))
            .for_each(|decision| take(&decision));
        Ok(())
    });
    match again {
        Ok(again) => {
            let lacks = granted::not_replayed_of(&mut package.report.header.clone());
            again.compare(&said, &lacks, checked);
        }
        Err(found) => {
            let why = found.first().map_or_else(String::new, ToString::to_string);
            checked.same(first, "what the policies in the package say", "there", &why);
        }
    }
}

/// What witnesses have seen of the log of a package.
pub(crate) struct Seen {
    /// Those whose cosignature was verified, and the time that each gave.
    pub(crate) cosigned: Vec<(String, u64)>,
    /// How many records the log had then.
    pub(crate) records: Option<u64>,
    /// Names that stand on the note without being verified by anybody.
    pub(crate) unverified: Vec<String>,
}

impl Seen {
    /// # Errors
    /// In words, when fewer than so many of the witnesses have cosigned.
    fn of(
        package: &Package,
        key: &Verifier,
        (witnesses, quorum): (&[CosignerKey], usize),
    ) -> Result<Self, String> {
        let Some(note) = package.cosigned() else {
            return match quorum {
                0 => Ok(Self {
                    cosigned: Vec::new(),
                    records: None,
                    unverified: Vec::new(),
                }),
                n => Err(format!("it is missing, and {n} are asked for")),
            };
        };
        let cosigned = proof::cosigned(note, witnesses, quorum)?;
        let checkpoint = Checkpoint::open(key, note).map_err(|e| e.to_string())?;
        let lines = note.lines().filter(|line| line.starts_with('\u{2014}'));
        let names = lines.filter_map(|line| line.split(' ').nth(1));
        let known = |name: &str| {
            name == checkpoint.origin || witnesses.iter().any(|witness| witness.name() == name)
        };
        Ok(Self {
            records: Some(checkpoint.size),
            unverified: names
                .filter(|name| !known(name))
                .map(str::to_owned)
                .collect(),
            cosigned,
        })
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Diagnostic> {
    let unread = |cause: String| {
        Diagnostic::error(7820, format!("`{}` cannot be read", file.display()))
            .cause(cause)
            .help("take the file as `palisade report run NAME --to evidence.tar.zst` wrote it")
    };
    let mut bytes = Vec::new();
    let opened = fs::File::open(file).map_err(|e| unread(e.to_string()))?;
    let len = opened.metadata().map_err(|e| unread(e.to_string()))?.len();
    if len > PACKAGE_BYTES_MAX {
        return Err(unread(format!(
            "it has {len} bytes, more than the {PACKAGE_BYTES_MAX} of the largest package"
        )));
    }
    let read = opened.take(PACKAGE_BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(|e| unread(e.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
