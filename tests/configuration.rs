//! Promises about the configuration: the annotated files, the schema and the reference
//! page say what is read. `PALISADE_TEST_WRITE=1 cargo test --test configuration` writes
//! the files and the page anew, after a key was added to the table.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use palisade::config::{
    Config,
    keys::{self, KEYS, Key, Kind},
    schema,
    template::{self, Template},
};
use palisade_mesh::yaml::{self, Codes, Node, Source, Value as Yaml};
use serde_json::Value;
use support::Home;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn file(template: Template) -> PathBuf {
    root().join(format!("deploy/config/{}.yaml", template.name()))
}

/// Compares a file with what it should hold, or writes it when asked to.
fn same(path: &Path, expected: &str) {
    if std::env::var_os("PALISADE_TEST_WRITE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, expected).unwrap();
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == expected,
        "{} is not what the table of keys gives: PALISADE_TEST_WRITE=1 cargo test --test configuration",
        path.display()
    );
}

#[test]
fn the_annotated_files_are_what_config_init_prints_and_can_be_read() {
    let home = Home::new();
    for template in Template::ALL {
        let path = file(template);
        same(&path, &template::annotated(template));
        let config = Config::read(&path).unwrap_or_else(|found| panic!("{found:#?}"));
        assert!(config.state_dir.is_absolute());
        let path = path.to_str().unwrap();
        let args = ["config", "check", path, "--role", template.name()];
        let said = home.says(&args, 0);
        assert!(said.contains("is in order"), "{said}");
        let printed = home.run(&["config", "init", template.name()]).stdout;
        assert_eq!(printed, fs::read(path).unwrap());
    }
}

fn parent(key: &Key) -> &str {
    key.parent().rsplit('.').next().unwrap()
}

/// Every key of a role stands in its file, as a line of its own.
#[test]
fn every_key_of_the_schema_is_in_an_annotated_file() {
    for template in Template::ALL {
        let text = fs::read_to_string(file(template)).unwrap();
        let keys = KEYS.iter().filter(|k| {
            let first = k.path.split('.').next().unwrap().trim_end_matches("[]");
            let top = KEYS.iter().find(|top| top.path == first).unwrap();
            k.path != "demo" && template.shows(top)
        });
        for key in keys {
            let line = match key.kind {
                Kind::Word => format!("{}: {}", parent(key), key.name()),
                _ => format!("{}:", key.name()),
            };
            let stands = |l: &str| l.trim_start_matches([' ', '#', '-']).starts_with(&line);
            assert!(
                text.lines().any(stands),
                "{} in {}.yaml",
                key.path,
                template.name()
            );
        }
    }
}

/// The part of JSON Schema that the schema uses, on a YAML tree; patterns left out.
fn mistakes(schema: &Value, node: &Node, at: &str, found: &mut Vec<String>) {
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let fits = |kind: &&str| match (&node.value, *kind) {
        (Yaml::Map(_), "object") | (Yaml::List(_), "array") | (Yaml::Scalar(_), "string") => true,
        (Yaml::Scalar(text), "integer") => text.parse::<u64>().is_ok(),
        (Yaml::Scalar(text), "boolean") => text.parse::<bool>().is_ok(),
        _ => false,
    };
    if !kinds.is_empty() && !kinds.iter().any(fits) {
        found.push(format!("{at}: is no {kinds:?}"));
    }
    match &node.value {
        Yaml::Map(entries) => {
            for entry in entries {
                match schema["properties"].get(&entry.key) {
                    Some(inner) => {
                        mistakes(inner, &entry.value, &format!("{at}.{}", entry.key), found);
                    }
                    None => found.push(format!("{at}: `{}` is not known", entry.key)),
                }
            }
            for name in schema["required"].as_array().into_iter().flatten() {
                if !entries.iter().any(|e| name == e.key.as_str()) {
                    found.push(format!("{at}: {name} is missing"));
                }
            }
            if schema["maxProperties"] == 1 && entries.len() != 1 {
                found.push(format!("{at}: one of its keys"));
            }
        }
        Yaml::List(items) => {
            for item in items {
                mistakes(&schema["items"], item, &format!("{at}[]"), found);
            }
        }
        Yaml::Scalar(text) => {
            if let Some(words) = schema["enum"].as_array()
                && !words.iter().any(|w| w == text.as_str())
            {
                found.push(format!("{at}: `{text}`"));
            }
        }
        Yaml::Null => {}
    }
}

fn check(name: &str, text: &str) -> Vec<String> {
    const CODES: Codes = Codes {
        duplicate_key: 1,
        syntax: 2,
        too_deep: 3,
    };
    let mut broken = Vec::new();
    let node = yaml::parse(&Source::new(name, text), CODES, &mut broken).unwrap();
    assert!(broken.is_empty(), "{broken:?}");
    let mut found = Vec::new();
    mistakes(&schema::schema(), &node, name, &mut found);
    found
}

#[test]
fn the_schema_accepts_every_shipped_file_and_no_unknown_key() {
    let mut paths: Vec<PathBuf> = Template::ALL.into_iter().map(file).collect();
    paths.push(root().join("deploy/palisade.yaml"));
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let found = check(&path.display().to_string(), &text);
        assert!(found.is_empty(), "{found:#?}");
    }
    let wrong = "name: 1\nproxy: {identity: {}, policy: {pdp: \"a\", folder: b}, wrkers: 1, inbound: {listen: x}}\n";
    let found = check("wrong", wrong);
    assert_eq!(found.len(), 7, "{found:#?}");
}

#[test]
fn the_schema_is_printed_as_it_is() {
    let printed = Home::new().json(&["config", "schema"]);
    assert_eq!(printed, schema::schema());
}

/// The reference page, made of the table.
fn reference() -> String {
    let mut page = String::from(
        "# Configuration\n\
         \n\
         One YAML file, a section for each role; a role reads the keys outside of sections and its own section.\n\
         `palisade config init ROLE` begins a file with every key of a role; `palisade config check FILE` tells every\n\
         mistake at once; `palisade config show --origin FILE` shows the value of every key and who set it;\n\
         `palisade config schema` prints the JSON Schema for editors.\n\
         \n\
         Who wins, weakest first: the default, the file, the environment, `--set KEY=VALUE` flags. A variable is named after\n\
         the key: `PALISADE_`, then the path in capitals with `__` for each dot, such as `PALISADE_PROXY__INBOUND__LISTEN`.\n\
         Lists and maps are given as YAML: `PALISADE_PROXY__ADMIN='{}'`. A variable with `__` that names no key is refused;\n\
         other variables that begin with `PALISADE_` are not configuration.\n\
         \n\
         Relative paths start at the folder of the file, those in variables and flags too. Spans of time are written as\n\
         `90s`, `15m`, `1h 30m`; sizes as `65536`, `64KiB`, `10MiB`; addresses as `IP:PORT`, names are not looked up.\n\
         Unknown keys are refused.\n\
         \n\
         A proxy reads its file again when it changes, and on SIGHUP (`systemctl reload`): what is marked [fixed] cannot\n\
         change while it runs, and a file that changes it is refused, whole; all else that it reads applies at once. See\n\
         [proxies](../operations/proxies.md). The other roles read their file at the start.\n",
    );
    let mut group = None;
    for key in KEYS.iter().filter(|k| k.path != "demo") {
        let first = key.path.split(['.', '[']).next().unwrap();
        let section = keys::find(first).filter(|k| k.kind == Kind::Section);
        let heading = section.map(|k| k.path);
        if group != Some(heading) {
            group = Some(heading);
            let title = section.map_or_else(
                || "## Every role".to_owned(),
                |k| format!("## {}\n\n{}.", k.path, k.about.trim_end_matches('.')),
            );
            let _ = writeln!(
                page,
                "\n{title}\n\n| key | value | default | what it is for |\n|---|---|---|---|"
            );
        }
        if key.path.contains('.') || section.is_none() {
            let (value, default) = (key.kind.text(), key.default_text());
            let _ = writeln!(
                page,
                "| `{}` | {value} | {default} | {}{} |",
                key.path,
                key.about,
                if key.is_fixed() { " [fixed]" } else { "" }
            );
        }
    }
    page
}

#[test]
fn the_reference_page_has_every_key_with_its_default() {
    same(
        &root().join("docs/reference/configuration.md"),
        &reference(),
    );
}

/// All mistakes at once, with their place, and exit code 3; nothing is begun twice.
#[test]
fn mistakes_are_told_at_once_and_files_are_not_overwritten() {
    let home = Home::new();
    let text =
        "trust_domain: acme.test\nca:\n  svid_tl: 1h\n  registrations: []\nproxy:\n  wokers: 1\n";
    fs::write(home.path("a.yaml"), text).unwrap();
    let said = home.says(
        &["config", "check", "a.yaml", "--set", "ca.svid_ttl=soon"],
        3,
    );
    for expected in [
        "unknown key `svid_tl` in `ca`",
        "a.yaml:3:3",
        "did you mean `svid_ttl`?",
        "unknown key `wokers` in `proxy`",
        "`ca.svid_ttl`",
        "environment and flags:1",
    ] {
        assert!(said.contains(expected), "{expected} in\n{said}");
    }
    home.says(&["config", "init", "proxy", "b.yaml"], 0);
    assert!(
        home.says(&["config", "init", "proxy", "b.yaml"], 1)
            .contains("PLS9111")
    );
    assert!(
        home.says(&["config", "check", "b.yaml", "--role", "ca"], 3)
            .contains("PLS8010")
    );
    let shown = home.says(&["config", "show", "b.yaml", "--origin"], 0);
    let line = |key: &str| {
        shown
            .lines()
            .find(|l| l.starts_with(key))
            .unwrap()
            .to_owned()
    };
    assert!(
        line("proxy.inbound.listen").contains("file b.yaml:"),
        "{shown}"
    );
    assert!(
        line("proxy.limits.body_bytes").contains("default"),
        "{shown}"
    );
}
