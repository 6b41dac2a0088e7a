use std::collections::BTreeSet;

use super::*;
use crate::config::Config;

/// A file with an unknown key in the map at `path`, and the value `inner` there.
fn file(path: &str, inner: &str) -> String {
    let steps: Vec<&str> = path.split('.').filter(|s| !s.is_empty()).collect();
    let mut text = String::new();
    let mut indent = String::new();
    for step in steps {
        match step.strip_suffix("[]") {
            Some(list) => {
                text.push_str(&format!("{indent}{list}:\n{indent}  -\n"));
                indent.push_str("    ");
            }
            None => {
                text.push_str(&format!("{indent}{step}:\n"));
                indent.push_str("  ");
            }
        }
    }
    text + &format!("{indent}{inner}\n")
}

/// What the reader itself says can stand in the map at `path`.
fn possible(path: &str) -> Option<BTreeSet<String>> {
    let found = Config::parse("probe", &file(path, "zzzzzz: 1")).unwrap_err();
    let told = found.iter().find(|d| d.message.contains("`zzzzzz`"))?;
    let names = told.help.as_deref()?.strip_prefix("possible here: ")?;
    Some(names.split(", ").map(str::to_owned).collect())
}

/// The table and the reader know the same keys, at every depth.
#[test]
fn the_table_knows_every_key_that_is_read_and_no_other() {
    let mut maps: Vec<String> = vec![String::new()];
    for key in KEYS {
        match key.kind {
            Kind::Choice | Kind::Section | Kind::Source => maps.push(key.path.to_owned()),
            Kind::List => maps.push(format!("{}[]", key.path)),
            Kind::OneOf(words) => {
                let words = words.iter().map(|w| (*w).to_owned()).collect();
                assert_eq!(possible(key.path), Some(words), "{}", key.path);
            }
            _ => assert_eq!(
                possible(key.path),
                None,
                "{} holds further keys: give them rows",
                key.path
            ),
        }
    }
    for map in maps {
        let told: BTreeSet<String> = children(&map).map(|k| k.name().to_owned()).collect();
        let read = possible(&map).unwrap_or_else(|| panic!("`{map}` is no map"));
        assert_eq!(told, read, "keys of `{map}`");
    }
}

/// Smallest files in which the keys of each section can be written.
const LEAST: &str = "trust_domain: acme.test
pdp: {policies: p, listen: \"127.0.0.1:1\", decisions: {listen: \"127.0.0.1:6\", tokens: t, authzen: {}}}
audit: {listen: \"127.0.0.1:2\", api: {listen: \"127.0.0.1:7\", policy: r}, syslog: {address: \"acme.test:6514\"}}
agent: {}
ca: {}
proxy:
  identity: {workload_api: \"unix:///x\"}
  policy: {folder: p}
  records: {log: l}
  inbound: {listen: \"127.0.0.1:3\", service: a/b, upstream: \"127.0.0.1:4\"}
  outbound: {listen: \"127.0.0.1:5\"}
  admin: {}
";

/// To write a default changes nothing, and every value of the table can be read.
#[test]
fn defaults_are_what_holds_and_examples_can_be_read() {
    use crate::config::layers::Overrides;
    let with = |flag: String| {
        let flags = Overrides::default().with_flags(&[flag]).unwrap();
        Config::parse_over("least", LEAST, &flags).unwrap_or_else(|found| panic!("{found:#?}"))
    };
    let least = Config::parse("least", LEAST).unwrap();
    for key in KEYS
        .iter()
        .filter(|k| k.variable().is_some() && !k.is_map())
    {
        // A certificate alone is no identity, a threshold alone no trust, a reference no source,
        // a name no witness, a library no key.
        let partial = [
            ".files.",
            ".policy_trust.",
            "pdp.policies.",
            "audit.log_key",
            "audit.witness",
            // A certificate alone, a key alone.
            "audit.syslog.cert",
            "audit.syslog.key",
            // A region without a place.
            "audit.archive",
            // Outcomes that would go before their decisions.
            "audit.retention.outcome",
        ];
        if partial.iter().any(|part| key.path.contains(part)) {
            continue;
        }
        let (config, _) = with(format!("{}={}", key.path, key.example()));
        if let Fallback::Is(_) = key.fallback {
            assert_eq!(format!("{config:?}"), format!("{least:?}"), "{}", key.path);
        }
    }
}

#[test]
fn every_variable_is_of_one_key_and_every_key_says_what_it_is_for() {
    let variables: BTreeSet<_> = KEYS.iter().filter_map(Key::variable).collect();
    let whole = KEYS.iter().filter(|k| k.variable().is_some()).count();
    assert_eq!(variables.len(), whole);
    for key in KEYS {
        assert!(key.about.len() > 10, "{}", key.path);
        assert!(find(key.parent().trim_end_matches("[]")).is_some() || key.parent().is_empty());
    }
}
