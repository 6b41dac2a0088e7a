//! Section `audit.syslog`: where records are forwarded to as they come.

use std::path::PathBuf;

#[cfg(feature = "full")]
use palisade_audit::{
    export::{Content, FACILITY_MAX, Syslog},
    query::{PSEUDONYM, Query},
};
#[cfg(feature = "full")]
use palisade_mesh::diagnostic::Diagnostic;
use serde::Deserialize;

/// Section `audit.syslog`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyslogSection {
    /// The receiver, `HOST:PORT`, spoken to over TLS.
    pub address: String,
    /// Roots that its certificate is under. Default: the system's.
    pub ca: Option<PathBuf>,
    /// A certificate to show it. Default: none.
    pub cert: Option<PathBuf>,
    /// The private key of that.
    pub key: Option<PathBuf>,
    /// Which records. Default: all.
    #[serde(default = "default_query")]
    pub query: String,
    /// The facility, 0 to 23. Default: 13, log audit.
    #[serde(default = "default_facility")]
    pub facility: u8,
    /// What the text of a message is. Default: `json`.
    #[serde(default)]
    pub format: ContentWord,
    /// Whether fields are repeated as structured data. Default: true.
    #[serde(default = "default_structured")]
    pub structured: bool,
}

/// What the text of a message is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentWord {
    /// The record.
    #[default]
    Json,
    /// An event of OCSF.
    Ocsf,
}

#[cfg(feature = "full")]
impl SyslogSection {
    /// Which records, and how they are written; `host` is named in each.
    ///
    /// # Errors
    /// `PLS7721` for what does not fit together.
    pub fn parsed(&self, host: &str) -> Result<(Query, Syslog), Diagnostic> {
        let wrong =
            |cause: String| Diagnostic::error(7721, "`audit.syslog` cannot be used").cause(cause);
        let query = Query::parse(&self.query).map_err(|d| wrong(d.message))?;
        if query.stage().is_some() || query.names_a_time() {
            return Err(wrong("its query has a summary or a time".into()));
        }
        if !query.names().is_empty() {
            return Err(
                wrong("its query names a person, and records have pseudonyms".into())
                    .help(PSEUDONYM),
            );
        }
        if self.facility > FACILITY_MAX {
            return Err(wrong(format!("a facility is 0 to {FACILITY_MAX}")));
        }
        if self.cert.is_some() != self.key.is_some() {
            return Err(wrong("`cert` and `key` belong together".into()));
        }
        let syslog = Syslog {
            facility: self.facility,
            content: match self.format {
                ContentWord::Json => Content::Json,
                ContentWord::Ocsf => Content::Ocsf,
            },
            structured: self.structured,
            host: host.to_owned(),
        };
        Ok((query, syslog))
    }
}

fn default_query() -> String {
    "class:*".to_owned()
}

fn default_facility() -> u8 {
    13
}

fn default_structured() -> bool {
    true
}

#[cfg(all(test, feature = "full"))]
mod tests {
    use crate::config::Config;

    #[test]
    fn what_does_not_fit_together_is_told() {
        let codes = |rest: &str| -> Vec<u16> {
            let text = format!(
                "trust_domain: acme.test\naudit:\n  listen: 127.0.0.1:0\n  syslog:\n    address: logs.acme.test:6514\n{rest}"
            );
            let found = Config::parse("m.yaml", &text).err().unwrap_or_default();
            found.iter().map(|d| d.code.0).collect()
        };
        assert_eq!(codes(""), [0_u16; 0]);
        assert_eq!(
            codes("    facility: 23\n    format: ocsf\n    structured: false\n"),
            [0_u16; 0]
        );
        assert_eq!(codes("    facility: 24\n"), [7721]);
        assert_eq!(codes("    cert: a.pem\n"), [7721]);
        assert_eq!(codes("    query: 'decision:deny last:1h'\n"), [7721]);
        assert_eq!(
            codes("    query: 'decision:deny until:2026-11-29'\n"),
            [7721]
        );
        assert_eq!(codes("    query: '-subject:alice@example.org'\n"), [7721]);
        assert_eq!(
            codes("    query: '-subject:p-00112233445566778899aabbccddeeff'\n"),
            [0_u16; 0]
        );
        assert_eq!(codes("    format: cef\n"), [8003]);
    }
}
