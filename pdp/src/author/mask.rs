//! `mask`: what records leave out, of the repository, of a service and of an operation.

use std::collections::BTreeSet;

use palisade_mesh::{
    diagnostic::{Diagnostic, did_you_mean},
    personal::{Mask, Personal},
    yaml::Span,
};
use smol_str::SmolStr;

use super::{
    codes,
    yaml::{Node, Reader},
};

/// Most fields of one mask.
pub const MASK_FIELDS_MAX: usize = 64;

/// Fields that a request can have, beside its headers.
const FIELDS: [&str; 4] = ["path", "query", "source_ip", "user"];
/// What the name of a header begins with.
const HEADER: &str = "header:";

/// Reads the list of one mask, of fields and of these `headers`. What is wrong in it is told,
/// and the rest is read.
pub(super) fn read(node: &Node, headers: &[SmolStr], reader: &mut Reader<'_>) -> Mask {
    let written = reader.texts(node, "`mask`");
    if written.len() > MASK_FIELDS_MAX {
        let diagnostic = Diagnostic::error(
            codes::REPOSITORY_TOO_LARGE,
            format!("a mask may have {MASK_FIELDS_MAX} fields"),
        )
        .cause(format!("this one has {}", written.len()))
        .help("name the fields that requests have; an operation and a service add to what stands above them");
        reader.report(diagnostic, node.span);
        return Mask::NONE;
    }
    let mut fields = BTreeSet::new();
    for (name, span) in written {
        let Some(field) = field(name, span, headers, reader) else {
            continue;
        };
        if !fields.insert(field) {
            let diagnostic =
                Diagnostic::error(codes::MASK_TWICE, format!("`{name}` is masked twice"))
                    .label("second time")
                    .help("name each field once");
            reader.report(diagnostic, span);
        }
    }
    Mask::of(fields)
}

/// The field that a name means. One that masks nothing is refused: whoever wrote it
/// believes that something is left out of the records.
fn field(name: &str, span: Span, headers: &[SmolStr], reader: &mut Reader<'_>) -> Option<Personal> {
    let told = |what: &str| Diagnostic::error(codes::MASK_FIELD, format!("`{name}` {what}"));
    let diagnostic = match name.parse::<Personal>() {
        Ok(Personal::Author) => told("is no field of a request")
            .cause("it is of policy changes, which are no service's")
            .help("mask it under `privacy` of the process that records them"),
        Ok(Personal::Header(header))
            if !headers.iter().any(|h| h.eq_ignore_ascii_case(&header)) =>
        {
            let names = headers.iter().map(SmolStr::as_str);
            let known = names.clone().map(|name| format!("{HEADER}{name}"));
            let known = known.collect::<Vec<_>>().join(", ");
            let near = did_you_mean(&header, names);
            let told = told("is a header that no record has")
                .cause("it is not under `headers` of `palisade.yaml`, and only those are recorded");
            let told = told.help(match known.is_empty() {
                true => "declare the header, or leave it out".to_owned(),
                false => format!("declare the header, leave it out, or one of: {known}"),
            });
            match near {
                Some(near) => told.label(format!("did you mean `{HEADER}{near}`?")),
                None => told,
            }
        }
        Ok(field) => return Some(field),
        Err(_) => {
            let told = told("is no field that can be masked")
                .help(format!("one of: {}, header:NAME", FIELDS.join(", ")));
            // A header without what says that it is one is meant more often than anything else.
            let header = headers.iter().find(|h| h.eq_ignore_ascii_case(name));
            let near = header
                .map(|h| format!("{HEADER}{h}"))
                .or_else(|| did_you_mean(name, FIELDS).map(str::to_owned));
            match near {
                Some(near) => told.label(format!("did you mean `{near}`?")),
                None => told,
            }
        }
    };
    reader.report(diagnostic, span);
    None
}
