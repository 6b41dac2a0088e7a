//! ISO/IEC 27001:2022, Annex A.

use super::{
    Control, callers, clocks, credentials, denials, denied, handshakes, in_use, integrity,
    inventory, operators, policy_changes, who_what,
};

pub(super) const CONTROLS: &[Control] = &[
    Control {
        id: "A.5.15",
        asks: "Access control",
        shows: "Every request was decided by policy, the default being deny.",
        evidence: who_what,
        elsewhere: "the access control policy as a document",
    },
    Control {
        id: "A.5.16",
        asks: "Identity management",
        shows: "Identities of the mesh and their certificates.",
        evidence: inventory,
        elsewhere: "identities of people",
    },
    Control {
        id: "A.5.17",
        asks: "Authentication information",
        shows: "Certificates that were issued and refused.",
        evidence: credentials,
        elsewhere: "passwords and secrets of applications",
    },
    Control {
        id: "A.5.18",
        asks: "Access rights are reviewed and removed",
        shows: "A sample of the population for the review, with room for the verdict; the report `access-review` has all of it.",
        evidence: in_use,
        elsewhere: "the review itself",
    },
    Control {
        id: "A.5.28",
        asks: "Collection of evidence",
        shows: "The checkpoint that binds every number of this report.",
        evidence: integrity::statement,
        elsewhere: "chain of custody after the report has left the mesh",
    },
    Control {
        id: "A.5.33",
        asks: "Protection of records",
        shows: "How long records are kept.",
        evidence: integrity::retention,
        elsewhere: "backups and disposal",
    },
    Control {
        id: "A.8.2",
        asks: "Privileged access rights",
        shows: "Actions of operators.",
        evidence: operators,
        elsewhere: "allocation of privileges on hosts",
    },
    Control {
        id: "A.8.3",
        asks: "Information access restriction",
        shows: "Denied attempts.",
        evidence: denied,
        elsewhere: "restriction within applications",
    },
    Control {
        id: "A.8.5",
        asks: "Secure authentication",
        shows: "Peers that could not prove an identity.",
        evidence: handshakes,
        elsewhere: "authentication of people",
    },
    Control {
        id: "A.8.15",
        asks: "Logging",
        shows: "What every decision records.",
        evidence: integrity::fields,
        elsewhere: "logs of other systems",
    },
    Control {
        id: "A.8.16",
        asks: "Monitoring activities",
        shows: "Denials over the period.",
        evidence: denials::over_time,
        elsewhere: "that somebody watched",
    },
    Control {
        id: "A.8.17",
        asks: "Clock synchronisation",
        shows: "Records whose time was not credible.",
        evidence: clocks,
        elsewhere: "configuration of time synchronisation",
    },
    Control {
        id: "A.8.20",
        asks: "Networks security",
        shows: "Callers that proved themselves.",
        evidence: callers,
        elsewhere: "network devices",
    },
    Control {
        id: "A.8.24",
        asks: "Use of cryptography",
        shows: "Certificates and the authorities that signed them.",
        evidence: inventory,
        elsewhere: "keys of applications",
    },
    Control {
        id: "A.8.32",
        asks: "Change management",
        shows: "Changes of the policies.",
        evidence: policy_changes,
        elsewhere: "approvals and tests",
    },
];
