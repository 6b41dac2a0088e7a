//! Records to a syslog receiver, once.

use std::path::Path;

use palisade_audit::export::{Content, Syslog};
use palisade_mesh::diagnostic::Diagnostic;
use serde_json::{Value, json};

use super::{ExportArgs, Format, part::Note};
use crate::net::syslog::{Line, Receiver, SCHEME};

/// A receiver that takes messages.
pub(super) struct Sender {
    line: Line,
    syslog: Syslog,
    address: String,
}

/// The receiver that `to` names; none where it is a file.
pub(super) fn address(to: &Path) -> Option<&str> {
    to.to_str()?.strip_prefix(SCHEME)
}

/// Checks what was asked for against what a receiver takes.
///
/// # Errors
/// `PLS7702` for a format of files, `PLS7705` where an export is to go on.
pub(super) fn understood(args: &ExportArgs) -> Result<Format, Diagnostic> {
    if args.resume {
        return Err(
            Diagnostic::error(7705, "what went to a receiver is not gone on with")
                .cause("nobody knows how far it came")
                .help("begin anew, or let the audit service forward: `audit.syslog`"),
        );
    }
    match args.format {
        None | Some(Format::Jsonl) => Ok(Format::Jsonl),
        Some(Format::Ocsf) => Ok(Format::Ocsf),
        Some(other) => Err(Diagnostic::error(
            7702,
            format!("a syslog message is no {}", other.name()),
        )
        .help("leave --format out, or take ocsf")),
    }
}

impl Sender {
    /// Connects to `address` as the arguments say.
    ///
    /// # Errors
    /// `PLS7720`, `PLS7722`, `PLS7724`.
    pub(super) fn connect(
        address: &str,
        args: &ExportArgs,
        format: Format,
        host: &str,
    ) -> Result<Self, Diagnostic> {
        let client = args.cert.as_deref().zip(args.cert_key.as_deref());
        let receiver = Receiver::new(address, args.ca.as_deref(), client)?;
        let line = receiver.connect().map_err(|e| gone(address, &e))?;
        Ok(Self {
            line,
            syslog: Syslog {
                facility: args.facility,
                content: match format {
                    Format::Ocsf => Content::Ocsf,
                    _ => Content::Json,
                },
                structured: true,
                host: host.to_owned(),
            },
            address: address.to_owned(),
        })
    }

    /// Sends a page.
    ///
    /// # Errors
    /// `PLS7724`.
    pub(super) fn rows(&mut self, rows: &[Value], note: &mut Note) -> Result<(), Diagnostic> {
        let mut frames = Vec::new();
        for row in rows.iter().filter_map(Value::as_object) {
            match self.syslog.frame(row) {
                Some(frame) => {
                    frames.extend(frame);
                    note.records += 1;
                }
                None => note.left_out += 1,
            }
        }
        let sent = self.line.send(&frames);
        sent.map_err(|e| gone(&self.address, &e))
    }

    /// Ends once the receiver has taken everything, and says what that was.
    ///
    /// # Errors
    /// `PLS7724`.
    pub(super) fn finish(self, note: &Note) -> Result<Value, Diagnostic> {
        let bytes = self.line.sent();
        let confirmed = self.line.end().map_err(|e| gone(&self.address, &e))?;
        let mut done = note.summary();
        if let Some(done) = done.as_object_mut() {
            done.insert(
                "file".to_owned(),
                json!(format!("{SCHEME}{}", self.address)),
            );
            done.insert("bytes".to_owned(), json!(bytes));
            done.insert("confirmed".to_owned(), json!(confirmed));
        }
        Ok(done)
    }
}

fn gone(address: &str, why: &std::io::Error) -> Diagnostic {
    Diagnostic::error(7724, format!("syslog receiver `{address}` does not take the records"))
        .cause(why.to_string())
        .help("see that it is there, and that its certificate is under --ca; what it has, it may get again")
}
