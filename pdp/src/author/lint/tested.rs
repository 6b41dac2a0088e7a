//! Policies that no test would miss.

use palisade_mesh::diagnostic::Diagnostic;

use super::{Finding, Policy, Study};
use crate::author::codes;

pub(super) fn look(study: &Study, findings: &mut Vec<Finding>) {
    let Some(tested) = &study.tested else { return };
    // What is not enforced decides nothing.
    let enforced = |policy: &&Policy| {
        let info = &study.read(policy).info;
        !info.shadow && info.expires_us.is_none_or(|at| at > study.now_us)
    };
    let untested = study
        .policies
        .iter()
        .filter(enforced)
        .filter(|p| !tested.policies.contains(&p.id));
    findings.extend(untested.map(|policy| {
        Diagnostic::warning(
            codes::UNTESTED,
            format!("no test is decided by policy `{}`", policy.id),
        )
        .cause("it could be removed, and every test would still pass")
        .help("add a row to tests/ that it decides; `policies:` in the row names it")
        .at(study.at(policy, None))
        .into()
    }));
}
