//! HIPAA security rule: 45 CFR 164.308, 164.312 and 164.316.

use super::{
    Control, alerts, callers, credentials, handshakes, in_use, integrity, inventory,
    policies_in_use, who_what,
};

pub(super) const CONTROLS: &[Control] = &[
    Control {
        id: "164.308(a)(1)(ii)(D)",
        asks: "Information system activity review",
        shows: "Alerts that rules raised, who answered for each after how long, and what is open; beside it denials, and what of them is new.",
        evidence: alerts,
        elsewhere: "that it was done regularly, what an answer rests on, and the review of what no rule asks for",
    },
    Control {
        id: "164.308(a)(3)",
        asks: "Workforce security",
        shows: "The policies that gave access in the period.",
        evidence: policies_in_use,
        elsewhere: "authorisation, clearance and termination of members of the workforce",
    },
    Control {
        id: "164.308(a)(4)",
        asks: "Information access management",
        shows: "A sample of the population for a review of access; the report `access-review` has all of it.",
        evidence: in_use,
        elsewhere: "the decision to authorise access",
    },
    Control {
        id: "164.308(a)(5)(ii)(C)",
        asks: "Log-in monitoring",
        shows: "Peers that could not prove an identity.",
        evidence: handshakes,
        elsewhere: "logins of people",
    },
    Control {
        id: "164.312(a)(1)",
        asks: "Access control",
        shows: "Every request was decided by policy. Keep the report to the services that hold health information with --scope.",
        evidence: who_what,
        elsewhere: "which patient a request was about, and access outside the mesh",
    },
    Control {
        id: "164.312(a)(2)(i)",
        asks: "Unique user identification",
        shows: "Each caller is a SPIFFE ID with certificates of its own.",
        evidence: callers,
        elsewhere: "identities of people",
    },
    Control {
        id: "164.312(b)",
        asks: "Audit controls",
        shows: "What every decision records.",
        evidence: integrity::fields,
        elsewhere: "activity within applications",
    },
    Control {
        id: "164.312(c)(1)",
        asks: "Integrity",
        shows: "Whether the log is what was signed.",
        evidence: integrity::statement,
        elsewhere: "integrity of health information itself",
    },
    Control {
        id: "164.312(d)",
        asks: "Person or entity authentication",
        shows: "Identities and their certificates.",
        evidence: inventory,
        elsewhere: "authentication of people",
    },
    Control {
        id: "164.312(e)(1)",
        asks: "Transmission security",
        shows: "Requests between proxies travel over mutual TLS; certificates that were issued for it.",
        evidence: credentials,
        elsewhere: "connections outside the mesh",
    },
    Control {
        id: "164.316(b)(2)(i)",
        asks: "Documentation is kept for six years",
        shows: "The age of the log, against six years.",
        evidence: integrity::six_years,
        elsewhere: "documentation other than the log",
    },
];
