//! What is in a bundle file, and who has signed it.

use std::path::Path;

use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    wire::policy::{Proof, Signature},
};
use palisade_pdp::{
    author,
    bundle::{
        file::{self, BundleFile},
        proofs,
        statement::{Forged, Says},
        trust::Keys,
    },
    compiled::Compiled,
};
use serde_json::{Value, json};

use crate::{
    control::status::ago,
    render::{
        self, BAD, DIM, Output, WARN, paint,
        snippet::clean,
        table::{self, col},
    },
};

/// Compiles what is in a file, and sees that what it attests is about that.
///
/// # Errors
/// The first mistake in it.
pub(super) fn compiled(file: &BundleFile) -> Result<Compiled, Diagnostic> {
    let loaded = author::compile(file.signed.bundle.clone());
    let Some(compiled) = loaded.compiled else {
        let first = loaded.diagnostics.into_iter().find(Diagnostic::is_error);
        return Err(first.expect("what does not compile has an error"));
    };
    proofs::fit(file.signed.attestation.as_ref(), &compiled)?;
    Ok(compiled)
}

pub(super) fn inspect(path: &Path, keys: Option<&Path>, output: Output) -> Result<(), Diagnostic> {
    let file = file::read(path)?;
    let keys = keys.map(Keys::read).transpose()?;
    let compiled = compiled(&file)?;
    match output {
        Output::Json => {
            let policies: Vec<Value> = compiled.info.values().map(policy).collect();
            let more = [
                ("policies", json!(policies)),
                ("files", files(&compiled, &file)),
                ("proofs", attested(&file)),
            ];
            let view = with(view(&file, keys.as_ref()), more);
            render::json(&view);
        }
        Output::Human => {
            about(&file, &compiled);
            proofs(&file);
            signatures(&file, keys.as_ref());
            table(&compiled, &file);
        }
    }
    Ok(())
}

fn attested(file: &BundleFile) -> Value {
    let proof = |p: &Proof| json!({"invariant": p.invariant, "solver": p.solver});
    let attestation = file.signed.attestation.iter();
    attestation.flat_map(|a| &a.proofs).map(proof).collect()
}

fn about(file: &BundleFile, compiled: &Compiled) {
    render::fact(
        "bundle",
        &[
            file.domain.to_string(),
            format!("sha256:{}", file.digest),
            render::count(file.encode().len(), "byte", "bytes"),
        ],
    );
    let commit = match file.bundle.git_revision.as_str() {
        "" => "none".to_owned(),
        commit => clean(commit),
    };
    render::fact("commit", &[commit]);
    render::fact("needs", &[file.bundle.features.join(", ")]);
    render::fact(
        "holds",
        &[
            render::count(compiled.info.len(), "policy", "policies"),
            render::count(compiled.catalogue.services().len(), "service", "services"),
            render::count(file.bundle.files.len(), "other file", "other files"),
        ],
    );
}

/// What was proved of it when it was built.
fn proofs(file: &BundleFile) {
    if let Some(attestation) = &file.signed.attestation {
        let proof = |p: &Proof| format!("{} by {}", clean(&p.invariant), clean(&p.solver));
        let proofs = attestation.proofs.iter().map(proof);
        render::fact("proved", &proofs.collect::<Vec<_>>());
    }
}

/// Who has signed what.
pub(super) fn signatures(file: &BundleFile, keys: Option<&Keys>) {
    let clock = Clock::system();
    let content = &file.signed.content_signatures;
    let who = |says, signatures: &[Signature]| match signers(file, says, signatures, keys) {
        Ok(none) if none.is_empty() => paint(WARN, "signed by nobody"),
        Ok(some) => format!("signed by {}", some.join(", ")),
        Err(forged) => paint(BAD, forged),
    };
    let by = keys.and_then(|keys| {
        let signers = file.statement(Says::Content).signers(content).ok()?;
        Some(keys.vouch(&signers).to_string())
    });
    let content = who(Says::Content, content);
    render::fact(
        "content",
        &by.into_iter().chain([content]).collect::<Vec<_>>(),
    );
    if let (Some(attestation), Some(says)) = (&file.signed.attestation, file.proved_says()) {
        let proved = render::count(attestation.proofs.len(), "invariant", "invariants");
        render::fact("proofs", &[proved, who(says, &attestation.signatures)]);
    }
    match (&file.signed.release, file.release()) {
        (Some(release), Some(says)) => render::fact(
            "number",
            &[
                format!(
                    "{}, given {}",
                    release.sequence,
                    ago(&clock, release.issued_us)
                ),
                who(says, &release.signatures),
            ],
        ),
        _ => render::fact("number", &[paint(DIM, "none yet")]),
    }
    let back = file
        .signed
        .release
        .as_ref()
        .and_then(|r| r.way_back.as_ref());
    if let (Some(back), Some(says)) = (back, file.way_back_says()) {
        let (to, until) = (back.sequence, time(back.until_us));
        render::fact(
            "way back",
            &[
                match back.until_us <= clock.now_us() {
                    true => paint(WARN, format!("to {to} until {until}, which is over")),
                    false => format!("to {to} until {until}"),
                },
                who(says, &back.signatures),
            ],
        );
    }
    match (&file.signed.stamp, file.stamp_says()) {
        (Some(stamp), Some(says)) => {
            let ended = stamp.until_us < clock.now_us();
            let until = time(stamp.until_us);
            render::fact(
                "stamp",
                &[
                    match ended {
                        true => paint(WARN, format!("the newest until {until}, which is over")),
                        false => format!("the newest until {until}"),
                    },
                    who(says, &stamp.signatures),
                ],
            );
        }
        _ => render::fact("stamp", &[paint(DIM, "none")]),
    }
}

/// Where a file that is good may be taken back to, or why its way back does not serve.
pub(super) fn way_back(back: &Result<Option<(u64, i64)>, Diagnostic>) {
    match back {
        Ok(None) => {}
        Ok(Some((to, until_us))) => {
            let until = time(*until_us);
            render::fact("way back", &[format!("to {to} until {until}")]);
        }
        Err(error) => {
            let why = error.cause.as_deref().unwrap_or(&error.message);
            let told = format!("does not serve: {}", clean(why));
            render::fact("way back", &[paint(WARN, told)]);
        }
    }
}

/// The same as `--output json` has it.
pub(super) fn leads(back: &Result<Option<(u64, i64)>, Diagnostic>) -> Value {
    match back {
        Ok(None) => Value::Null,
        Ok(Some((to, until_us))) => json!({"sequence": to, "until_us": until_us}),
        Err(error) => json!({"error": error.to_string()}),
    }
}

/// Names of those who signed, or whose signature is none.
fn signers(
    file: &BundleFile,
    says: Says,
    signatures: &[Signature],
    keys: Option<&Keys>,
) -> Result<Vec<String>, String> {
    let name = |key| match keys.and_then(|keys| keys.find(&key)) {
        Some(named) => match &named.removed {
            None => format!("`{}`", named.name),
            Some(at) => format!("`{}` (removed from trust on {at})", named.name),
        },
        None => format!("key {} ({key})", key.id()),
    };
    match file.statement(says).signers(signatures) {
        Ok(signers) => Ok(signers.into_iter().map(name).collect()),
        Err(Forged(Some(key))) => Err(format!("the signature by {} does not verify", name(key))),
        Err(Forged(None)) => Err("a signature names no key".to_owned()),
    }
}

fn table(compiled: &Compiled, file: &BundleFile) {
    let mut rows = table::Table::new(&[
        col("POLICY"),
        col("EFFECT"),
        col("CAN CONCERN"),
        col("WHERE"),
    ]);
    for info in compiled.info.values() {
        rows.row([
            info.id.as_str().into(),
            effect(info.permit).into(),
            scope_of(file, &info.id).into(),
            table::styled(DIM, format!("{}:{}", info.file, info.first_line)),
        ]);
    }
    render::line("");
    rows.print();
}

/// As `--output json` has it.
pub(super) fn view(file: &BundleFile, keys: Option<&Keys>) -> Value {
    let who = |says, signatures: &[Signature]| match signers(file, says, signatures, keys) {
        Ok(signers) => json!({ "signers": signers }),
        Err(forged) => json!({ "signers": [], "error": forged }),
    };
    let release = file.signed.release.as_ref().zip(file.release());
    let stamp = file.signed.stamp.as_ref().zip(file.stamp_says());
    let back = file
        .signed
        .release
        .as_ref()
        .and_then(|r| r.way_back.as_ref());
    let back = back.zip(file.way_back_says());
    json!({
        "trust_domain": file.domain.to_string(),
        "digest": file.digest.to_string(),
        "git_revision": file.bundle.git_revision,
        "features": file.bundle.features,
        "bytes": file.encode().len(),
        "content": who(Says::Content, &file.signed.content_signatures),
        "release": release.map(|(r, says)| with(
            who(says, &r.signatures),
            [("sequence", json!(r.sequence)), ("issued_us", json!(r.issued_us))],
        )),
        "way_back": back.map(|(b, says)| with(
            who(says, &b.signatures),
            [
                ("digest", json!(palisade_mesh::snapshot::Digest::from_slice(&b.sha256).map(|d| d.to_string()))),
                ("sequence", json!(b.sequence)),
                ("until_us", json!(b.until_us)),
            ],
        )),
        "stamp": stamp.map(|(s, says)| with(
            who(says, &s.signatures),
            [("issued_us", json!(s.issued_us)), ("until_us", json!(s.until_us))],
        )),
    })
}

/// A JSON object with these keys, too.
fn with<const N: usize>(mut object: Value, more: [(&str, Value); N]) -> Value {
    if let Value::Object(fields) = &mut object {
        fields.extend(more.map(|(key, value)| (key.to_owned(), value)));
    }
    object
}

fn policy(info: &palisade_pdp::compiled::PolicyInfo) -> Value {
    json!({
        "id": info.id,
        "effect": effect(info.permit),
        "file": &*info.file,
        "first_line": info.first_line,
        "last_line": info.last_line,
        "commit": info.commit,
        "author": info.author,
    })
}

fn files(compiled: &Compiled, file: &BundleFile) -> Value {
    let mut paths: Vec<String> = file.bundle.files.iter().map(|f| f.path.clone()).collect();
    paths.extend(compiled.info.values().map(|info| info.file.to_string()));
    paths.sort_unstable();
    paths.dedup();
    json!(paths)
}

fn scope_of(file: &BundleFile, id: &str) -> String {
    let of = |g: &&palisade_mesh::wire::policy::PolicyGroup| {
        g.policies.iter().any(|p| p.policy_id == id)
    };
    let group = file.bundle.groups.iter().find(of);
    match group.map(|g| g.scope.as_str()) {
        Some("*") | None => "everything".to_owned(),
        Some(scope) => scope.to_owned(),
    }
}

fn effect(permit: bool) -> &'static str {
    if permit { "permit" } else { "forbid" }
}

fn time(us: i64) -> String {
    let time = jiff::Timestamp::from_microsecond(us);
    time.map_or_else(|_| us.to_string(), |t| format!("{t:.0}"))
}
