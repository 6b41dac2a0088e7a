//! The workload in Rego: a rule for each policy.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::workload::{GUARD_RAILS, Load, PER_SERVICE, namespace, service_id, workload};

/// The set of `n` policies. A test of an address range is a prefix here, which is cheaper.
pub fn module(n: usize) -> String {
    let rails = GUARD_RAILS.len().min(n / 2);
    let mut text = String::from(
        "package mesh\nimport rego.v1\n\
         default allow := false\nallow if { permit; not deny }\n\
         default permit := false\ndefault deny := false\n\
         deny if not input.tls.mtls\n\
         deny if input.tls.version == \"1.1\"\n\
         deny if input.principal.trust_domain != \"acme.test\"\n\
         deny if { startswith(input.http.path, \"/admin/\"); not \"admins\" in input.user_groups }\n\
         deny if \"quarantine\" in input.principal.above\n",
    );
    for i in 0..n - rails {
        let (k, kind) = (i / PER_SERVICE, i % PER_SERVICE);
        let to = format!("\"{}\" in input.resource.above", service_id(k));
        let read = "\"http:read\" in input.action.above";
        let _ = match kind {
            0 => writeln!(text, "permit if {{ input.principal.id == \"{}\"; {read}; {to} }}", workload(k + 1)),
            1 => writeln!(
                text,
                "permit if {{ \"{}\" in input.principal.above; {read}; {to}; startswith(input.http.path, \"/orders/\") }}",
                service_id(k + 2)
            ),
            2 => writeln!(
                text,
                "permit if {{ \"{}\" in input.principal.above; input.action.id == \"POST\"; {to}; startswith(input.http.path, \"/orders/\"); startswith(input.source.ip, \"10.\") }}",
                namespace(k + 1)
            ),
            3 => writeln!(
                text,
                "permit if {{ \"batch\" in input.principal.above; {to}; input.time.hour >= 8; input.time.hour < 18 }}"
            ),
            _ => writeln!(
                text,
                "deny if {{ \"http:write\" in input.action.above; {to}; not startswith(input.http.headers[\"x-change-id\"], \"CHG-\") }}"
            ),
        };
    }
    text
}

/// The request, with what is above each of its entities.
pub fn input(load: &Load) -> Value {
    let (caller, to) = (load.service + 2, load.service);
    json!({
        "principal": {
            "id": load.connection.peer.id.as_str(),
            "trust_domain": "acme.test",
            "above": [service_id(caller), namespace(caller), "acme.test"],
        },
        "action": {"id": "GET", "above": ["http:read", "http", "call"]},
        "resource": {
            "id": format!("{}/read", service_id(to)),
            "above": [service_id(to), namespace(to), "acme.test"],
        },
        "user_groups": [],
        "tls": {"mtls": true, "version": "1.3"},
        "source": {"ip": "10.1.2.3"},
        "time": {"hour": 15},
        "http": {"path": load.request.path.as_str(), "headers": {"x-change-id": "CHG-1234"}},
    })
}
