//! What a file must say, and what is told of one that does not.

use super::*;

/// The annotated file is what people copy: it must parse, and name every section.
#[test]
fn the_annotated_file_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/palisade.yaml");
    let config = Config::read(&path).unwrap_or_else(|found| panic!("{found:#?}"));
    assert!(config.ca.is_some() && config.agent.is_some() && config.pdp.is_some());
    assert!(config.audit.is_some() && config.proxy.is_some());
    assert!(config.state_dir.is_absolute());
}

#[test]
fn a_stale_limit_below_the_least_is_refused() {
    let text = |limit| {
        format!(
            "trust_domain: acme.test\nproxy:\n  identity: {{ workload_api: \"unix:///a\" }}\n  policy: {{ pdp: \"127.0.0.1:1\" }}\n  records: {{ log: l }}\n  outbound: {{ listen: \"127.0.0.1:0\" }}\n  stale_after: {limit}\n"
        )
    };
    let found = Config::parse("m.yaml", &text("999ms")).unwrap_err();
    assert_eq!(found.first().map(|d| d.code.0), Some(5306));
    let config = Config::parse("m.yaml", &text("1s")).unwrap();
    let proxy = config.proxy.unwrap();
    assert_eq!(proxy.stale_after, STALE_AFTER_MIN);
    assert_eq!(proxy.drain.deadline, Duration::from_secs(30));
}

#[test]
fn a_slim_program_says_which_parts_of_a_lonely_proxy_it_lacks() {
    let codes = |policy: &str, records: &str, full: bool| -> Vec<u16> {
        let text = format!(
            "trust_domain: acme.test\nproxy:\n  identity: {{ workload_api: \"unix:///a\" }}\n  policy: {policy}\n  records: {records}\n  outbound: {{ listen: \"127.0.0.1:0\" }}\n"
        );
        let proxy = Config::parse("m.yaml", &text).unwrap().proxy.unwrap();
        let found = proxy.check_alone(full);
        found.iter().map(|d| d.code.0).collect()
    };
    assert_eq!(codes("{ folder: p }", "{ log: l }", true), [0_u16; 0]);
    assert_eq!(codes("{ folder: p }", "{ log: l }", false), [9213, 9213]);
    assert_eq!(codes("mesh", "{ log: l }", false), [9213]);
    assert_eq!(codes("mesh", "mesh", false), [0_u16; 0]);
}

/// `--config mesh.yaml` in the working folder, as most people write it.
#[test]
fn paths_start_at_the_folder_of_a_bare_file_name() {
    let mut named = tempfile::Builder::new();
    let file = named.suffix(".yaml").tempfile_in(".").unwrap();
    fs::write(file.path(), "trust_domain: acme.test\n").unwrap();
    let bare = Path::new(file.path().file_name().unwrap());
    let config = Config::read(bare).unwrap();
    let here = std::env::current_dir().unwrap();
    assert_eq!(config.state_dir, here.join("state"));
}

#[test]
fn mistakes_in_several_sections_are_told_at_once() {
    let text =
        "trust_domain: Acme.test\npdp:\n  policys: x\n  listen: nowhere\nca:\n  svid_ttl: soon\n";
    let found = Config::parse("mesh.yaml", text).unwrap_err();
    let lines: Vec<usize> = found
        .iter()
        .filter_map(|d| d.location.as_ref().map(|l| l.line))
        .collect();
    assert_eq!(lines, [1, 3, 4, 6], "{found:#?}");
}
