//! SOC 2: common criteria CC2, CC4, CC6, CC7 and CC8.

use super::{
    Control, alerts, denials, handshakes, in_use, integrity, inventory, operators, policies_in_use,
    policy_changes, streams, who_what,
};

pub(super) const CONTROLS: &[Control] = &[
    Control {
        id: "CC6.1",
        asks: "Logical access is restricted",
        shows: "Every request was decided by policy; the table is the access that was used.",
        evidence: who_what,
        elsewhere: "access that does not pass the mesh",
    },
    Control {
        id: "CC6.2",
        asks: "Access is registered, authorised and removed",
        shows: "A sample of the population for an access review, with room for the verdict; the report `access-review` has all of it.",
        evidence: in_use,
        elsewhere: "requests and approvals of access, and removals after somebody left",
    },
    Control {
        id: "CC6.3",
        asks: "Access is by role and least privilege",
        shows: "The policies that granted something in the period.",
        evidence: policies_in_use,
        elsewhere: "segregation of duties among people",
    },
    Control {
        id: "CC6.6",
        asks: "Boundaries are protected",
        shows: "Peers that could not prove an identity were turned away.",
        evidence: handshakes,
        elsewhere: "firewalls and network boundaries",
    },
    Control {
        id: "CC6.7",
        asks: "Transmission is protected",
        shows: "Identities and their certificates: requests between proxies travel over mutual TLS.",
        evidence: inventory,
        elsewhere: "data at rest, and connections outside the mesh",
    },
    Control {
        id: "CC7.1",
        asks: "Changes in configuration are detected",
        shows: "Every revision of the policies that came into force or was rejected.",
        evidence: policy_changes,
        elsewhere: "configuration of hosts and applications",
    },
    Control {
        id: "CC7.2",
        asks: "Anomalies are monitored",
        shows: "Denials over the period.",
        evidence: denials::over_time,
        elsewhere: "that somebody watched",
    },
    Control {
        id: "CC7.3",
        asks: "Events are evaluated",
        shows: "Alerts that rules raised, who answered for each after how long, and what is open; beside it denials, and what of them is new.",
        evidence: alerts,
        elsewhere: "the evaluation that an answer rests on, its result, and the evaluation of events that no rule asks for",
    },
    Control {
        id: "CC7.4",
        asks: "Incidents are responded to",
        shows: "Actions of operators: the kill list, rotations after a compromise.",
        evidence: operators,
        elsewhere: "the incident process and its records",
    },
    Control {
        id: "CC8.1",
        asks: "Changes are authorised and tested",
        shows: "Changes of the policies with authors and commit as far as git has them, and effect.",
        evidence: policy_changes,
        elsewhere: "approvals and test results, which are kept with the policy repository",
    },
    Control {
        id: "CC4.1",
        asks: "Controls are evaluated over the whole period",
        shows: "Whether the population is complete: every number of every stream.",
        evidence: streams,
        elsewhere: "evaluation by management",
    },
    Control {
        id: "CC2.1",
        asks: "Information used is of quality",
        shows: "Whether the log is what was signed.",
        evidence: integrity::statement,
        elsewhere: "quality of information from elsewhere",
    },
];
