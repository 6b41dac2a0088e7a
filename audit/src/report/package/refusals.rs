//! What is said of a package that is none, is not what was packed, or cannot be made.

use palisade_mesh::diagnostic::Diagnostic;

use super::{PROOFS, archive::Fault};
use crate::{
    log::LogError,
    report::{Checked, Section, render::visible},
};

pub(super) fn no_package(why: Fault) -> Diagnostic {
    if let Fault::Refused(told) = why {
        return *told;
    }
    Diagnostic::error(7820, "this is no evidence package")
        .cause(why.to_string())
        .help("take the file as `palisade report run NAME --to evidence.tar.zst` wrote it")
}

pub(super) fn changed(name: &str, why: &str) -> Diagnostic {
    let name = visible(name);
    Diagnostic::error(7822, format!("`{name}` is not what was packed"))
        .cause(why)
        .help("take the package from where it was delivered; if it came from the log's operator, keep it as evidence")
}

pub(super) fn missing(name: &str) -> Diagnostic {
    let name = visible(name);
    Diagnostic::error(7822, format!("`{name}` is missing from the package"))
        .cause("what was signed has it")
        .help("take the package from where it was delivered; if it came from the log's operator, keep it as evidence")
}

pub(super) fn not_signed(name: &str, why: &str) -> Diagnostic {
    Diagnostic::error(
        7823,
        format!("`{name}` is not signed by the log of this key"),
    )
    .cause(why)
    .help("see that the key is the one of this log; if it is, keep the package as evidence")
}

pub(super) fn unproven(why: &str) -> Diagnostic {
    Diagnostic::error(7824, "the records are not proven to be in the log")
        .cause(format!("`{PROOFS}`, {why}"))
        .help("if the package came from the log's operator, keep it as evidence")
}

/// What is said where the signing key of a log is not there.
pub fn unsigned(why: &LogError) -> Diagnostic {
    Diagnostic::error(7825, "nothing can be signed for this log")
        .cause(why.to_string())
        .help("ask the running mesh, or use the folder that has `checkpoint.key`; where a device has the key, see that it is there")
}

/// What is said where the log does not bear out what it is to sign.
pub fn unsaid(checked: &Checked) -> Diagnostic {
    let first = checked.differences.first();
    let cause = first.map_or_else(
        || "its checkpoint is not one that this log signed".to_owned(),
        |d| format!("{}, {}: {} against {}", d.section, d.what, d.report, d.log),
    );
    Diagnostic::error(7826, "the log does not say what the report says")
        .cause(cause)
        .help("make the report again")
}

pub(super) fn unsaid_of(section: &Section) -> Diagnostic {
    let id = visible(&section.id);
    Diagnostic::error(7826, "the log does not say what the report says")
        .cause(format!(
            "no report of this name has a section `{id}` from policies"
        ))
        .help("make the report again")
}

pub(super) fn unpacked(why: &str) -> Diagnostic {
    Diagnostic::error(7827, "the package cannot be made").cause(why).help(
        "make it of a shorter period; if that does not help, write the report's formats one by one",
    )
}
