use super::*;
use crate::config::Config;

const FILE: &str = "trust_domain: acme.test
proxy:
  identity: {workload_api: \"unix:///x\"}
  policy: {folder: p}
  records: {log: l}
  workers: 2
  outbound: {listen: \"127.0.0.1:5\"}
";

fn environment(variables: &[(&str, &str)]) -> Result<Overrides, Vec<Diagnostic>> {
    let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    Overrides::from_environment(variables.iter().map(owned))
}

fn read(overrides: &Overrides) -> Result<(Config, Vec<Effective>), Vec<Diagnostic>> {
    Config::parse_over("a.yaml", FILE, overrides)
}

fn of(values: &[Effective], path: &str) -> (String, Origin) {
    let value = values.iter().find(|v| v.path == path);
    let value = value.unwrap_or_else(|| panic!("{path} of {values:#?}"));
    (value.value.clone(), value.origin.clone())
}

/// Default, file, environment, flag: the later wins, and each value says who set it.
#[test]
fn flags_win_over_the_environment_and_both_over_the_file() {
    let over = environment(&[
        ("PALISADE_PROXY__WORKERS", "3"),
        ("PALISADE_PROXY__OUTBOUND__LISTEN", "127.0.0.1:6"),
        ("PALISADE_SERVICE_HOST", "10.0.0.1"),
        ("PALISADE_LOG", "debug"),
        ("HOME", "/"),
    ]);
    let flags = ["proxy.workers=4".to_owned()];
    let over = over.unwrap().with_flags(&flags).unwrap();
    let (config, values) = read(&over).unwrap();
    let proxy = config.proxy.unwrap();
    assert_eq!(proxy.workers, 4);
    assert_eq!(proxy.outbound.unwrap().listen.port(), 6);
    assert_eq!(of(&values, "proxy.workers"), ("4".into(), Origin::Flag));
    let (_, origin) = of(&values, "proxy.outbound.listen");
    let name = "PALISADE_PROXY__OUTBOUND__LISTEN".to_owned();
    assert_eq!(origin, Origin::Environment(name));
    assert_eq!(
        of(&values, "proxy.records.log"),
        ("l".into(), Origin::File(5))
    );
    assert_eq!(
        of(&values, "proxy.limits.h2_streams"),
        ("256".into(), Origin::Default)
    );
}

/// Only what holds is shown: no section that is not there, no choice that was not made.
#[test]
fn what_is_not_configured_is_not_shown() {
    let (_, values) = read(&Overrides::default()).unwrap();
    let shown = |prefix: &str| values.iter().any(|v| v.path.starts_with(prefix));
    assert!(shown("proxy.limits.") && shown("proxy.policy.folder"));
    assert!(!shown("ca.") && !shown("proxy.policy.pdp") && !shown("proxy.admin"));
}

#[test]
fn an_override_makes_its_section_and_changes_a_choice() {
    let over = environment(&[
        ("PALISADE_PROXY__POLICY__PDP", "127.0.0.1:9"),
        ("PALISADE_PROXY__ADMIN", "{}"),
        ("PALISADE_PROXY__INBOUND__LISTEN", "127.0.0.1:0"),
        ("PALISADE_PROXY__INBOUND__SERVICE", "shop/orders"),
        ("PALISADE_PROXY__INBOUND__UPSTREAM", "127.0.0.1:80"),
        (
            "PALISADE_CA__REGISTRATIONS",
            "[{spiffe_id: x, selectors: [a]}]",
        ),
    ]);
    let (config, _) = read(&over.unwrap()).unwrap();
    let proxy = config.proxy.unwrap();
    assert!(matches!(proxy.policy, crate::config::PolicySource::Pdp(_)));
    assert!(proxy.admin.is_some() && proxy.inbound.is_some());
    assert_eq!(config.ca.unwrap().registrations.len(), 1);
}

/// A mistake in the environment is told with those of the file, and at its own place.
#[test]
fn a_wrong_override_is_told_where_it_stands() {
    let over = environment(&[
        ("PALISADE_PROXY__WORKERS", "many"),
        ("PALISADE_PROXY__OUTBOUND__LISTEN", "0.0.0.0:1"),
    ]);
    let text = FILE.replace("log: l", "lgo: l");
    let found = Config::parse_over("a.yaml", &text, &over.unwrap()).unwrap_err();
    let told: Vec<(u16, &str, usize)> = found
        .iter()
        .map(|d| {
            let at = d.location.as_ref().unwrap();
            (d.code.0, &*at.file, at.line)
        })
        .collect();
    assert_eq!(told, [(8003, "a.yaml", 5), (8005, PLACE, 2)], "{found:#?}");
    let at = found[1].location.as_ref().unwrap();
    assert_eq!(&at.text[at.offset..at.offset + at.len], "many");
    assert!(found[1].message.contains("`proxy.workers`"), "{}", found[1]);
}

/// What the proxy itself refuses has the key's place too.
#[test]
fn a_value_out_of_range_has_its_place() {
    let flags = ["proxy.outbound.listen=0.0.0.0:1".to_owned()];
    let found = read(&Overrides::default().with_flags(&flags).unwrap()).unwrap_err();
    let at = found[0].location.as_ref().unwrap();
    assert_eq!((&*at.file, at.line), (PLACE, 1));
    let text = FILE.replace("workers: 2", "workers: 2000");
    let found = Config::parse("a.yaml", &text).unwrap_err();
    assert_eq!(found[0].location.as_ref().unwrap().line, 6);
}

#[test]
fn what_names_no_key_is_refused_with_a_suggestion() {
    let found = environment(&[("PALISADE_PROXY__WORKER", "1")]).unwrap_err();
    assert_eq!(found[0].code.0, 8101);
    let help = found[0].help.as_deref();
    assert_eq!(help, Some("did you mean `PALISADE_PROXY__WORKERS`?"));
    let flags = [
        "proxy.worker=1",
        "proxy.workers",
        "ca.registrations[].ttl=1h",
    ];
    let flags = flags.map(str::to_owned);
    let found = Overrides::default().with_flags(&flags).unwrap_err();
    let codes: Vec<u16> = found.iter().map(|d| d.code.0).collect();
    assert_eq!(codes, [8102, 8103, 8102]);
}
