//! Who answers for a policy.

use palisade_mesh::diagnostic::Diagnostic;

use super::{Finding, Study};
use crate::author::codes;

pub(super) fn look(study: &Study, findings: &mut Vec<Finding>) {
    for policy in &study.policies {
        if study.read(policy).info.owner.is_none() {
            let diagnostic = Diagnostic::warning(
                codes::OWNER_MISSING,
                format!("policy `{}` has no `@owner`", policy.id),
            )
            .cause("nobody is named who answers for it in reviews, records and reports")
            .help("write for example `@owner(\"team-orders\")` above it")
            .at(study.at(policy, None));
            findings.push(diagnostic.into());
        }
    }
}
