//! A repository as teams write it: each service with one business action and five policies,
//! every one tested, in a tenth as many files as there are services.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each bench uses its part, and one that cannot build its input should stop"
)]

use std::{fmt::Write, fs, path::Path};

use palisade_pdp::author::fmt;

/// Policies of each service.
pub const PER_SERVICE: usize = 5;
/// The moment at which tests are run and revisions compared.
pub const NOW_US: i64 = 1_795_348_800_000_000;
/// Services whose policies stand in one file.
const PER_FILE: usize = 10;

/// A repository of so many services in a folder of its own.
pub fn repository(services: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let settings = "trust_domain: acme.test\nheaders:\n  x-change-id: single\n";
    write(dir.path(), "palisade.yaml", settings);
    write(
        dir.path(),
        "entities/groups.yaml",
        "groups:\n  batch: { services: [n/s0] }\n",
    );
    let files = services.div_ceil(PER_FILE);
    let (mut cedar, mut tables) = (
        vec![String::new(); files],
        vec!["tests:\n".to_owned(); files],
    );
    for k in 0..services {
        let service = format!(
            "service: n/s{k}\noperations:\n  - {{ name: all, match: \"* /orders/{{*path}}\" }}\n  \
             - {{ name: refund, match: \"POST /refunds/{{id}}\", action: \"s{k}:refund\" }}\n"
        );
        write(dir.path(), &format!("services/s{k}.yaml"), &service);
        let (text, table) = (cedar.get_mut(k % files), tables.get_mut(k % files));
        text.unwrap().push_str(&policies(k, services));
        table.unwrap().push_str(&rows(k, services));
    }
    for (i, (text, table)) in cedar.iter().zip(&tables).enumerate() {
        let text = format!("{}\n", text.trim_end());
        write(dir.path(), &format!("policies/f{i}.cedar"), &text);
        write(dir.path(), &format!("tests/f{i}.yaml"), table);
    }
    let (formatted, broken) = fmt::check(dir.path());
    assert!(broken.is_empty(), "{broken:?}");
    fmt::write(dir.path(), &formatted).unwrap();
    dir
}

/// The file that the policies of service `k` stand in.
pub fn file_of(k: usize, services: usize) -> String {
    format!("policies/f{}.cedar", k % services.div_ceil(PER_FILE))
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn policies(k: usize, services: usize) -> String {
    let (to, from) = (format!("acme.test/n/s{k}"), (k + 1) % services);
    format!(
        r#"@id("s{k}-read")
@owner("team")
permit (
  principal in Service::"acme.test/n/s{from}",
  action in Action::"http:read",
  resource in Service::"{to}"
);

@id("s{k}-write")
@owner("team")
permit (
  principal in Service::"acme.test/n/s{from}",
  action in [Action::"POST", Action::"s{k}:refund"],
  resource in Service::"{to}"
)
when {{ context.http.path like "/refunds/*" && context.source.ip.isInRange(ip("10.0.0.0/8")) }};

@id("s{k}-batch")
@owner("team")
permit (
  principal in Group::"batch",
  action == Action::"DELETE",
  resource in Service::"{to}"
)
when {{ context.time.hour >= 8 && context.time.hour < 18 }};

@id("s{k}-change")
@owner("team")
forbid (
  principal,
  action == Action::"PUT",
  resource in Service::"{to}"
)
unless
{{
  context.http.headers has "x-change-id" &&
  context.http.headers["x-change-id"] like "CHG-*"
}};

@id("s{k}-own")
@owner("team")
forbid (
  principal,
  action == Action::"PATCH",
  resource in Service::"{to}"
)
unless {{ principal has namespace && principal.namespace == Namespace::"acme.test/n" }};

"#
    )
}

fn rows(k: usize, services: usize) -> String {
    let from = (k + 1) % services;
    let mut rows = String::new();
    for (principal, request, more) in [
        (
            format!("s{from}"),
            format!("GET s{k}/orders/1"),
            format!("expect: allow, policies: [s{k}-read]"),
        ),
        (
            format!("s{from}"),
            format!("POST s{k}/refunds/1"),
            format!("context: {{ source: 10.0.0.7 }}, expect: allow, policies: [s{k}-write]"),
        ),
        (
            "s0".to_owned(),
            format!("DELETE s{k}/orders/1"),
            format!(
                "context: {{ now: 2026-11-20T12:00:00Z }}, expect: allow, policies: [s{k}-batch]"
            ),
        ),
        (
            format!("s{from}"),
            format!("PUT s{k}/orders/1"),
            format!("expect: forbidden, policies: [s{k}-change]"),
        ),
        (
            "ns/other/sa/x".to_owned(),
            format!("PATCH s{k}/orders/1"),
            format!("expect: forbidden, policies: [s{k}-own]"),
        ),
    ] {
        writeln!(
            rows,
            "  - {{ principal: {principal}, request: {request}, {more} }}"
        )
        .unwrap();
    }
    rows
}
