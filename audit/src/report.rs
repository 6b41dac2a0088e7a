//! Reports: what an auditor asks for, made from the log, and made again to check it.
//!
//! A report is a document of sections. Each has a query that anybody can ask again, the
//! numbers and rows it gave, what they mean, and what the log cannot show. Everything is
//! bounded twice, by a period and by a signed checkpoint, so that the same report of the
//! same checkpoint has the same numbers for ever: [`check`] makes it again and compares.

use palisade_mesh::diagnostic::{Diagnostic, did_you_mean};

mod check;
mod evidence;
mod lacks;
mod model;
pub mod package;
mod packs;
mod period;
mod render;
mod scanned;
pub mod schedule;
mod sections;
mod verifier;

pub use check::{Checked, Difference, check, covered, page, read};
pub use evidence::{Evidence, Ground};
pub use lacks::is_unlike;
pub use model::{
    Cell, CellKind, Chart, Column, FORMAT, Figure, Header, Mark, Point, Report, Section, Shape,
    Table,
};
pub use period::Period;
pub(crate) use render::visible;
pub use render::{RenderError, to_csv, to_html, to_oscal, to_pdf, to_xlsx};

use crate::index::StoreError;

/// A report that can be asked for.
pub struct Kind {
    /// What it is called on the command line.
    pub name: &'static str,
    /// Its title.
    pub title: &'static str,
    /// The question it answers.
    pub question: &'static str,
    /// Controls it is evidence for; packs name them section by section.
    pub controls: &'static [&'static str],
    build: Build,
}

type Build = fn(&Evidence<'_>) -> Result<Vec<Section>, StoreError>;

/// Every report, in the order of the list.
pub static KINDS: &[Kind] = &[
    Kind {
        name: "access-review",
        title: "Access review",
        question: "Who has used which access, under which policy, and should they keep it?",
        controls: &[
            "PCI DSS 7.2.4",
            "PCI DSS 7.2.5.1",
            "SOC 2 CC6.2",
            "ISO 27001 A.5.18",
            "HIPAA 164.308(a)(4)",
        ],
        build: sections::access_review,
    },
    Kind {
        name: "reach",
        title: "Effective access",
        question: "Who can reach what under the policies in force, and under which conditions?",
        controls: &[
            "PCI DSS 7.2.1",
            "PCI DSS 7.3.3",
            "SOC 2 CC6.1",
            "ISO 27001 A.5.15",
            "HIPAA 164.312(a)(1)",
        ],
        build: sections::none,
    },
    Kind {
        name: "unused",
        title: "Unused access",
        question: "Which grants did nobody use, and what change of the policies ends them?",
        controls: &[
            "PCI DSS 7.2.5.1",
            "SOC 2 CC6.3",
            "ISO 27001 A.5.18",
            "HIPAA 164.308(a)(4)",
        ],
        build: sections::unused,
    },
    Kind {
        name: "access",
        title: "Who accessed what",
        question: "Which callers reached which services and operations, how often and when?",
        controls: &[
            "PCI DSS 10.2.1.1",
            "SOC 2 CC6.1",
            "ISO 27001 A.8.3",
            "HIPAA 164.312(b)",
        ],
        build: sections::access,
    },
    Kind {
        name: "privileged",
        title: "Privileged actions",
        question: "What did operators and authorities do?",
        controls: &[
            "PCI DSS 10.2.1.2",
            "PCI DSS 10.2.1.5",
            "SOC 2 CC6.3",
            "ISO 27001 A.8.2",
        ],
        build: sections::privileged,
    },
    Kind {
        name: "denials",
        title: "Denied attempts",
        question: "Who was refused, where and why, and what of it is new?",
        controls: &[
            "PCI DSS 10.2.1.4",
            "SOC 2 CC7.2",
            "ISO 27001 A.8.16",
            "HIPAA 164.308(a)(5)(ii)(C)",
        ],
        build: sections::denials,
    },
    Kind {
        name: "certificates",
        title: "Certificate inventory",
        question: "Which identities hold certificates, from which authority, until when?",
        controls: &[
            "PCI DSS 8.6.1",
            "SOC 2 CC6.1",
            "ISO 27001 A.8.24",
            "HIPAA 164.312(d)",
        ],
        build: sections::certificates,
    },
    Kind {
        name: "changes",
        title: "Policy changes",
        question: "Which policy was in force when, who changed it, and what followed?",
        controls: &["PCI DSS 10.2.1.2", "SOC 2 CC8.1", "ISO 27001 A.8.32"],
        build: sections::changes,
    },
    Kind {
        name: "integrity",
        title: "Log integrity and completeness",
        question: "Is the log what was signed, and is anything missing from it?",
        controls: &[
            "PCI DSS 10.3",
            "PCI DSS 10.5.1",
            "SOC 2 CC7.2",
            "ISO 27001 A.8.15",
            "HIPAA 164.312(c)(1)",
        ],
        build: sections::integrity,
    },
    Kind {
        name: "hygiene",
        title: "Identity hygiene",
        question: "Which identities are shared, silent or refused?",
        controls: &[
            "PCI DSS 8.2.1",
            "SOC 2 CC6.1",
            "ISO 27001 A.5.16",
            "HIPAA 164.312(a)(2)(i)",
        ],
        build: sections::hygiene,
    },
    Kind {
        name: "zero-trust",
        title: "Zero-trust scorecard",
        question: "How much of the traffic follows the tenets of NIST SP 800-207?",
        controls: &["NIST SP 800-207 2.1"],
        build: sections::scorecard,
    },
    Kind {
        name: "incident",
        title: "Incident timeline",
        question: "What did the callers of the scope do, what met them, and what was changed meanwhile?",
        controls: &["SOC 2 CC7.4", "ISO 27001 A.5.28", "HIPAA 164.308(a)(6)(ii)"],
        build: sections::incident,
    },
    Kind {
        name: "digest",
        title: "Daily review digest",
        question: "Which alerts came, who answered for them after how long, and what is open?",
        controls: &[
            "PCI DSS 10.4.1",
            "SOC 2 CC7.3",
            "ISO 27001 A.8.16",
            "HIPAA 164.308(a)(1)(ii)(D)",
        ],
        build: sections::digest,
    },
    Kind {
        name: "personal-data",
        title: "Personal-data processing",
        question: "Which services processed what for whom, who read the records, and what was erased?",
        controls: &["GDPR article 30", "ISO 27001 A.5.34"],
        build: sections::personal_data,
    },
    Kind {
        name: "pci-dss",
        title: "PCI DSS 4.0.1 evidence pack",
        question: "What does the mesh show for requirements 7, 8 and 10?",
        controls: &[],
        build: packs::pci_dss,
    },
    Kind {
        name: "soc2",
        title: "SOC 2 evidence pack",
        question: "What does the mesh show for the common criteria CC2, CC4, CC6, CC7 and CC8?",
        controls: &[],
        build: packs::soc2,
    },
    Kind {
        name: "iso27001",
        title: "ISO/IEC 27001:2022 evidence pack",
        question: "What does the mesh show for the controls of Annex A?",
        controls: &[],
        build: packs::iso27001,
    },
    Kind {
        name: "hipaa",
        title: "HIPAA security rule evidence pack",
        question: "What does the mesh show for the safeguards of 164.308, 164.312 and 164.316?",
        controls: &[],
        build: packs::hipaa,
    },
];

impl Kind {
    /// The report called `name`.
    ///
    /// # Errors
    /// `PLS7801` when there is none.
    pub fn find(name: &str) -> Result<&'static Self, Diagnostic> {
        KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| {
            let near = did_you_mean(name, KINDS.iter().map(|kind| kind.name));
            Diagnostic::error(7801, format!("there is no report `{name}`")).help(near.map_or_else(
                || "see which there are: palisade report list".to_owned(),
                |near| format!("did you mean `{near}`?"),
            ))
        })
    }
}

/// Makes a report. Blocks on the disk.
///
/// # Errors
/// When the store or the log cannot answer.
pub fn run(kind: &Kind, evidence: &Evidence<'_>) -> Result<Report, StoreError> {
    let sections = (kind.build)(evidence)?;
    let mut controls: Vec<String> = kind.controls.iter().map(|c| (*c).to_owned()).collect();
    for control in sections.iter().flat_map(|section| &section.controls) {
        if !controls.contains(control) {
            controls.push(control.clone());
        }
    }
    Ok(Report {
        format: FORMAT,
        name: kind.name.to_owned(),
        title: kind.title.to_owned(),
        question: kind.question.to_owned(),
        header: evidence.header(controls, &sections)?,
        sections,
    })
}

#[cfg(test)]
mod tests;
