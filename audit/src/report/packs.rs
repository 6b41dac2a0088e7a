//! Evidence packs: what the mesh shows for the controls of a framework, and what it does
//! not. A pack supports an auditor's test; it is never compliance by itself.
//!
//! Each control names sections of the reports, says what they show for it, and what has to
//! come from elsewhere. Sources: PCI DSS 4.0.1, the AICPA Trust Services Criteria (2017,
//! revised points of focus 2022), ISO/IEC 27001:2022 Annex A, 45 CFR 164.

use super::{
    evidence::Evidence,
    model::{CellKind, Section, Table},
    sections::{self, Build, access, beyond, changes, denials, duty, integrity},
};
use crate::index::StoreError;

mod hipaa;
mod iso27001;
mod pci_dss;
mod soc2;

/// Rows of evidence for each control: a sample. The report of the same name has all.
const SAMPLE: usize = 25;

/// What the mesh shows for a control.
struct Control {
    /// Its number.
    id: &'static str,
    /// What it asks for, in short.
    asks: &'static str,
    /// What the evidence below shows for it.
    shows: &'static str,
    /// The section that has the evidence.
    evidence: Build,
    /// What has to come from elsewhere.
    elsewhere: &'static str,
}

/// What belongs to a control beside its own evidence: framework, control, section.
const BESIDE: &[(&str, &str, Build)] = &[
    ("PCI DSS", "7.2.4", sign_offs),
    ("PCI DSS", "7.2.5.1", sign_offs),
    ("PCI DSS", "10.4.1", denied),
    ("PCI DSS", "10.7.2", both_sides),
    ("SOC 2", "CC4.1", both_sides),
    ("SOC 2", "CC6.2", sign_offs),
    ("SOC 2", "CC7.3", denied),
    ("ISO 27001", "A.5.18", sign_offs),
    ("HIPAA", "164.308(a)(1)(ii)(D)", denied),
    ("HIPAA", "164.308(a)(4)", sign_offs),
];

/// The section that has every control in one row.
pub(super) const AT_A_GLANCE: &str = "at-a-glance";

/// A report that is a pack, its framework and its controls.
type Pack = (&'static str, &'static str, &'static [Control]);

const PCI_DSS: Pack = ("pci-dss", "PCI DSS", pci_dss::CONTROLS);
const SOC2: Pack = ("soc2", "SOC 2", soc2::CONTROLS);
const ISO27001: Pack = ("iso27001", "ISO 27001", iso27001::CONTROLS);
const HIPAA: Pack = ("hipaa", "HIPAA", hipaa::CONTROLS);

const PACKS: [Pack; 4] = [PCI_DSS, SOC2, ISO27001, HIPAA];

pub(super) fn pci_dss(e: &Evidence<'_>) -> Result<Vec<Section>, StoreError> {
    pack(PCI_DSS, e)
}

pub(super) fn soc2(e: &Evidence<'_>) -> Result<Vec<Section>, StoreError> {
    pack(SOC2, e)
}

pub(super) fn iso27001(e: &Evidence<'_>) -> Result<Vec<Section>, StoreError> {
    pack(ISO27001, e)
}

pub(super) fn hipaa(e: &Evidence<'_>) -> Result<Vec<Section>, StoreError> {
    pack(HIPAA, e)
}

/// Every control at a glance, as it follows from the sections of a report; none of one that is
/// no pack.
pub(super) fn at_a_glance_of(report: &str, sections: &[Section]) -> Option<Section> {
    let mut packs = PACKS.into_iter();
    let (_, framework, controls) = packs.find(|(name, ..)| *name == report)?;
    Some(at_a_glance(framework, controls, sections))
}

fn pack((_, framework, controls): Pack, e: &Evidence<'_>) -> Result<Vec<Section>, StoreError> {
    let beside = |control: &Control| {
        let id = control.id;
        let of_it = move |(of, beside, _): &&(&str, &str, Build)| *of == framework && *beside == id;
        BESIDE.iter().filter(of_it)
    };
    let of_beside: usize = controls.iter().map(|c| beside(c).count()).sum();
    e.going().parts(controls.len() + of_beside);
    let mut all = Vec::new();
    for control in controls {
        all.push(section(framework, control, e)?);
        for (_, _, build) in beside(control) {
            all.push(beside_of(framework, control, sections::made(*build, e)?));
        }
    }
    all.insert(0, at_a_glance(framework, controls, &all));
    Ok(all)
}

/// A section that stands beside the evidence of a control.
fn beside_of(framework: &str, control: &Control, section: Section) -> Section {
    Section {
        id: format!("{} {}", control.id, section.id),
        title: format!("{} {}", control.id, section.title),
        controls: vec![format!("{framework} {}", control.id)],
        ..section
    }
}

/// Every control on one page: what there is, and what has to come from elsewhere.
fn at_a_glance(framework: &str, controls: &[Control], sections: &[Section]) -> Section {
    let section = Section::new(
        AT_A_GLANCE,
        "The controls at a glance",
        "One row for each control. The evidence supports an auditor's test of a control; it is never compliance by itself, and \
         the last column is what somebody else has to bring.",
    );
    let mut table = Table::new(&[
        ("control", CellKind::Text),
        ("asks for", CellKind::Text),
        ("shown here", CellKind::Text),
        ("rows", CellKind::Number),
        ("from elsewhere", CellKind::Text),
    ]);
    let mut without = 0_u64;
    for control in controls {
        let section = sections.iter().find(|section| section.id == control.id);
        let shown_table = section.and_then(|section| section.table.as_ref());
        let rows = shown_table.map_or(0, |table| table.total);
        without += u64::from(rows == 0 && shown_table.is_some());
        table.rows.push(vec![
            control.id.to_owned(),
            control.asks.to_owned(),
            section.map(shown).unwrap_or_default(),
            rows.to_string(),
            control.elsewhere.to_owned(),
        ]);
    }
    table.total = u64::try_from(controls.len()).unwrap_or(u64::MAX);
    let mut section = section
        .figure("framework", framework)
        .figure("controls", controls.len())
        .figure("controls without a row of evidence", without);
    section.table = Some(table);
    section.momentary()
}

/// A section's first numbers, in words.
fn shown(section: &Section) -> String {
    let short = section
        .figures
        .iter()
        .filter(|figure| figure.value.len() <= 24);
    let figures = short
        .take(3)
        .map(|figure| format!("{}: {}", figure.label, figure.value));
    figures.collect::<Vec<_>>().join("; ")
}

fn section(framework: &str, control: &Control, e: &Evidence<'_>) -> Result<Section, StoreError> {
    let evidence = sections::made(control.evidence, e)?;
    let mut section = Section {
        id: control.id.to_owned(),
        title: format!("{} {}", control.id, control.asks),
        controls: vec![format!("{framework} {}", control.id)],
        narrative: format!(
            "{} {}: {}",
            control.shows, evidence.title, evidence.narrative
        ),
        ..evidence
    };
    section.cannot_show.insert(0, control.elsewhere.to_owned());
    Ok(section)
}

// The sections as samples.

fn in_use(e: &Evidence<'_>) -> Result<Section, StoreError> {
    access::in_use(e, SAMPLE)
}

fn policies_in_use(e: &Evidence<'_>) -> Result<Section, StoreError> {
    access::policies(e, SAMPLE)
}

fn callers(e: &Evidence<'_>) -> Result<Section, StoreError> {
    access::callers(e, SAMPLE)
}

fn who_what(e: &Evidence<'_>) -> Result<Section, StoreError> {
    access::who_what(e, SAMPLE)
}

fn denied(e: &Evidence<'_>) -> Result<Section, StoreError> {
    denials::who(e, SAMPLE)
}

fn alerts(e: &Evidence<'_>) -> Result<Section, StoreError> {
    duty::alerts(e, SAMPLE)
}

fn both_sides(e: &Evidence<'_>) -> Result<Section, StoreError> {
    integrity::both_sides(e, SAMPLE)
}

fn sign_offs(e: &Evidence<'_>) -> Result<Section, StoreError> {
    duty::sign_offs(e, SAMPLE)
}

fn handshakes(e: &Evidence<'_>) -> Result<Section, StoreError> {
    denials::handshakes(e, SAMPLE)
}

fn operators(e: &Evidence<'_>) -> Result<Section, StoreError> {
    changes::operators(e, SAMPLE)
}

fn policy_changes(e: &Evidence<'_>) -> Result<Section, StoreError> {
    changes::policies(e, SAMPLE)
}

fn credentials(e: &Evidence<'_>) -> Result<Section, StoreError> {
    changes::credentials(e, SAMPLE)
}

fn inventory(e: &Evidence<'_>) -> Result<Section, StoreError> {
    changes::inventory(e, SAMPLE)
}

fn reads(e: &Evidence<'_>) -> Result<Section, StoreError> {
    changes::reads(e, SAMPLE)
}

fn lifecycle(e: &Evidence<'_>) -> Result<Section, StoreError> {
    integrity::lifecycle(e, SAMPLE)
}

fn losses(e: &Evidence<'_>) -> Result<Section, StoreError> {
    integrity::losses(e, SAMPLE)
}

fn streams(e: &Evidence<'_>) -> Result<Section, StoreError> {
    integrity::streams(e, SAMPLE)
}

fn clocks(e: &Evidence<'_>) -> Result<Section, StoreError> {
    integrity::clocks(e, SAMPLE)
}

fn revisions(e: &Evidence<'_>) -> Result<Section, StoreError> {
    changes::revisions(e, SAMPLE)
}

fn offsets(e: &Evidence<'_>) -> Result<Section, StoreError> {
    beyond::offsets(e, SAMPLE)
}

fn processing(e: &Evidence<'_>) -> Result<Section, StoreError> {
    duty::processing(e, SAMPLE)
}

fn erasures(e: &Evidence<'_>) -> Result<Section, StoreError> {
    duty::erasures(e, SAMPLE)
}

#[cfg(test)]
mod tests;
