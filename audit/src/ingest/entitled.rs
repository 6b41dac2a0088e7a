//! Which reporters may leave records of a class.
//!
//! An SVID proves who reports, not that what is said is that reporter's to say. What the
//! mesh's own parts alone do is taken from them alone, so that a record is no better
//! and no worse than its reporter. The log writes its own records itself; they come through
//! no door.

use palisade_mesh::{
    differences::DIFFERS,
    spiffe_id::SpiffeId,
    wire::record::{Record, record::Body},
};

/// Verb of what agents record of certificates.
const REFUSED: &str = "refused";

/// Verbs of what a proxy records of the policy folder that it reads itself.
const OWN_POLICY: [&str; 2] = ["activated", "rejected"];

/// A kind of reporter, by its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The agent of a host or node, `palisade/agent`, `palisade/agent/NAME`.
    Agent,
    /// The authority, `palisade/ca`.
    Authority,
    /// The policy decision point, `palisade/pdp`.
    Pdp,
    /// Whoever has an identity that is not reserved: its proxy.
    Workload,
    /// Any other reserved identity.
    Other,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Agent,
        Self::Authority,
        Self::Pdp,
        Self::Workload,
        Self::Other,
    ];

    fn of(reporter: &SpiffeId) -> Self {
        match reporter.path() {
            _ if !reporter.is_reserved() => Self::Workload,
            "/palisade/ca" => Self::Authority,
            "/palisade/pdp" => Self::Pdp,
            path if path == "/palisade/agent" || path.starts_with("/palisade/agent/") => {
                Self::Agent
            }
            _ => Self::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Agent => "an agent",
            Self::Authority => "the authority",
            Self::Pdp => "the PDP",
            Self::Workload => "a workload",
            Self::Other => "another part of the mesh",
        }
    }
}

/// The table: whose a record is to leave.
fn of(body: &Body) -> &'static [Kind] {
    use Kind::{Agent, Authority, Pdp, Workload};
    match body {
        Body::Decision(_) | Body::PolicyChange(_) => &[Pdp, Workload],
        Body::Outcome(_) | Body::Rejudgement(_) | Body::Call(_) => &[Workload],
        Body::AuthnFailure(_)
        | Body::StreamHead(_)
        | Body::StreamHeads(_)
        | Body::SpoolEvent(_) => &Kind::ALL,
        Body::Admin(admin) if admin.verb == DIFFERS => &[Pdp, Workload],
        Body::Admin(_) => &[Authority, Pdp],
        Body::Credential(credential) if credential.verb == REFUSED => &[Agent, Authority],
        Body::Credential(_) => &[Authority],
        // A search of the decision APIs; reads of the log have a verb.
        Body::AuditRead(read) if read.verb.is_empty() => &[Pdp],
        Body::AuditRead(_) | Body::LogLifecycle(_) | Body::Alert(_) | Body::Erasure(_) => &[],
    }
}

/// Checks that a record, whose class is called `class`, is its reporter's to leave.
///
/// # Errors
/// Says why not, and who may.
pub(super) fn check(reporter: &SpiffeId, record: &Record, class: &str) -> Result<(), String> {
    // A class that this version does not know has nobody who could be believed more.
    let Some(body) = &record.body else {
        return Ok(());
    };
    let may = of(body);
    let kind = Kind::of(reporter);
    if !may.contains(&kind) {
        let verb = match body {
            Body::Admin(admin) => format!(" with the verb `{:.40}`", admin.verb),
            Body::Credential(credential) => format!(" with the verb `{:.40}`", credential.verb),
            Body::AuditRead(read) => format!(" with the verb `{:.40}`", read.verb),
            _ => String::new(),
        };
        let who = match may {
            [] => "the log itself".to_owned(),
            may => may
                .iter()
                .map(|kind| kind.name())
                .collect::<Vec<_>>()
                .join(" and "),
        };
        return Err(format!(
            "`{class}`{verb} may not come from {}: only {who} may leave it",
            kind.name()
        ));
    }
    match kind {
        Kind::Workload => of_itself(reporter, body),
        _ => Ok(()),
    }
}

/// Checks that a workload speaks of what it did itself. A proxy with a policy folder of its own
/// puts revisions in force; whoever asks what the mesh's policies were asks for the PDP's.
fn of_itself(reporter: &SpiffeId, body: &Body) -> Result<(), String> {
    match body {
        Body::Admin(admin) if admin.actor != reporter.as_str() => Err(format!(
            "a workload may leave `admin` of what it did itself only, not of `{:.200}`",
            admin.actor
        )),
        Body::PolicyChange(change) if !OWN_POLICY.contains(&change.verb.as_str()) => Err(format!(
            "a workload may leave `policy_change` with the verbs `activated` and `rejected` only, not `{:.40}`",
            change.verb
        )),
        Body::PolicyChange(change) if !change.authors.is_empty() => Err(
            "a workload may leave `policy_change` of its own policy folder only, which names no author"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use palisade_mesh::wire::record::{Admin, AuditRead, Credential, PolicyChange};

    use super::*;

    const DOMAIN: &str = "spiffe://acme.test";

    fn admin(verb: &str) -> Body {
        Body::Admin(Admin {
            actor: format!("{DOMAIN}/ns/shop/sa/web"),
            verb: verb.into(),
            ..Admin::default()
        })
    }

    fn credential(verb: &str) -> Body {
        Body::Credential(Credential {
            verb: verb.into(),
            ..Credential::default()
        })
    }

    fn change(verb: &str, author: &str) -> Body {
        Body::PolicyChange(PolicyChange {
            verb: verb.into(),
            authors: Vec::from_iter((!author.is_empty()).then(|| author.into())),
            ..PolicyChange::default()
        })
    }

    fn read(verb: &str) -> Body {
        Body::AuditRead(AuditRead {
            verb: verb.into(),
            ..AuditRead::default()
        })
    }

    /// Every class with every kind of reporter, on both sides.
    #[test]
    fn a_record_is_taken_from_whoever_may_leave_it_and_from_nobody_else() {
        let reporters = [
            "ns/shop/sa/web",
            "palisade/ca",
            "palisade/pdp",
            "palisade/agent",
            "palisade/agent/n1",
            "palisade/audit",
            "palisade/agents",
            "palisade/pdp/x",
        ];
        let all = &reporters[..];
        let [web, ca, pdp, agent, node] = [0, 1, 2, 3, 4].map(|n| reporters[n]);
        let table: [(Body, &[&str]); 22] = [
            (Body::Decision(Default::default()), &[web, pdp]),
            (Body::Outcome(Default::default()), &[web]),
            (Body::Rejudgement(Default::default()), &[web]),
            (Body::Call(Default::default()), &[web]),
            (Body::AuthnFailure(Default::default()), all),
            (admin(DIFFERS), &[web, pdp]),
            (admin("kill_added"), &[ca, pdp]),
            (admin("hold_added"), &[ca, pdp]),
            (credential("issued"), &[ca]),
            (credential(REFUSED), &[ca, agent, node]),
            (change("activated", ""), &[web, pdp]),
            (change("rejected", ""), &[web, pdp]),
            (change("rolled_back", ""), &[pdp]),
            (change("activated", "ana@acme.test"), &[pdp]),
            (read(""), &[pdp]),
            (read("search"), &[]),
            (Body::LogLifecycle(Default::default()), &[]),
            (Body::Alert(Default::default()), &[]),
            (Body::Erasure(Default::default()), &[]),
            (Body::StreamHead(Default::default()), all),
            (Body::StreamHeads(Default::default()), all),
            (Body::SpoolEvent(Default::default()), all),
        ];
        for (body, may) in table {
            let record = Record {
                body: Some(body),
                ..Record::default()
            };
            for path in reporters {
                let reporter = SpiffeId::parse(&format!("{DOMAIN}/{path}")).unwrap();
                let taken = check(&reporter, &record, "");
                assert_eq!(
                    taken.is_ok(),
                    may.contains(&path),
                    "{path}: {taken:?} {record:?}"
                );
            }
        }
    }

    #[test]
    fn a_workload_acts_for_nobody_else() {
        let other = SpiffeId::parse("spiffe://acme.test/ns/shop/sa/other").unwrap();
        let record = Record {
            body: Some(admin(DIFFERS)),
            ..Record::default()
        };
        let refused = check(&other, &record, "").unwrap_err();
        assert!(refused.contains("did itself only"), "{refused}");
    }
}
