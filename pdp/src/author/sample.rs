//! The sample repository and whole-compiler behaviour, through the public door.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use cedar_policy::{Authorizer, Context, Entity, Request};
use palisade_mesh::{
    catalogue::HeaderShape,
    decision::{Answer, Decision, Question, Undecided, Verdict},
    wire::policy::File,
};
use prost::Message;
use smol_str::SmolStr;

use super::{codes, store::uid, tests as tables, tests::Trace, *};

mod annotations;
mod bounds;
mod catalogue;
mod cedar_messages;
mod cedar_tests;
mod confusables;
mod layout;
mod lints;
mod masks;
mod slices;
mod sources;
mod test_tables;

const NOW_US: i64 = 1_795_348_800_000_000;

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

/// A copy of the sample that a test may break, with headers declared for it to read.
pub(crate) fn copy() -> tempfile::TempDir {
    fn into(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                into(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    into(&sample(), dir.path());
    let settings = fs::read_to_string(sample().join("palisade.yaml")).unwrap();
    let headers = "headers: { x-change-id: single, x-tenant: single }";
    let declared = settings.replace("headers: {}", headers);
    assert_ne!(declared, settings);
    write(dir.path(), "palisade.yaml", &declared);
    dir
}

pub(crate) fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Loads the sample with one more policy file and gives what is said about it:
/// code, line, column, whole text.
fn policy(text: &str) -> Vec<Diagnostic> {
    with("policies/x.cedar", text)
}

fn with(name: &str, text: &str) -> Vec<Diagnostic> {
    let dir = copy();
    write(dir.path(), name, text);
    let loaded = load(dir.path());
    let errors = loaded.diagnostics.iter().any(Diagnostic::is_error);
    assert_eq!(loaded.compiled.is_none(), errors);
    loaded.diagnostics
}

#[track_caller]
fn only(found: Vec<Diagnostic>, code: u16, line: usize, column: usize) -> Diagnostic {
    let [one] = <[Diagnostic; 1]>::try_from(found).unwrap_or_else(|all| panic!("{all:#?}"));
    let at = one.location.as_ref().expect("located");
    assert_eq!(
        (one.code.0, at.line, at.column),
        (code, line, column),
        "{one:#?}"
    );
    one
}

fn marked(d: &Diagnostic) -> &str {
    let at = d.location.as_ref().unwrap();
    &at.text[at.offset..at.offset + at.len]
}

/// Cedar's own authorizer behind [`tables::Decide`].
pub(crate) struct Reference(pub(crate) Compiled);

impl tables::Decide for Reference {
    fn decide(&mut self, case: &tables::Case) -> Answer {
        self.answer(&case.question.as_question())
    }
}

impl Reference {
    fn answer(&self, q: &Question<'_>) -> Answer {
        let peer = &q.connection.peer.id;
        let service = self.0.catalogue.by_identity(peer);
        let mut entities = self.0.entities.clone();
        let principal = if service.is_some() {
            uid("Workload", peer.as_str())
        } else {
            let id = uid("Unregistered", peer.as_str());
            let domain = uid("TrustDomain", peer.trust_domain());
            let attribute = cedar_policy::RestrictedExpression::new_entity_uid(domain.clone());
            let entity = Entity::new(
                id.clone(),
                HashMap::from([("trustDomain".to_owned(), attribute)]),
                HashSet::from([domain]),
            );
            entities = entities.upsert_entities([entity.unwrap()], None).unwrap();
            id
        };
        let (kind, id) = match q.operation {
            Some(operation) => ("Operation", operation.id.as_str()),
            None => ("Service", q.service.id.as_str()),
        };
        let action = q
            .operation
            .and_then(|o| o.action.as_deref())
            .unwrap_or(q.request.method.as_str());
        let mut headers = serde_json::Map::new();
        for header in self.0.catalogue.headers() {
            let values: Vec<_> = q.headers.get_all(header.name.as_str()).iter().collect();
            let text = |v: &http::HeaderValue| v.to_str().unwrap().to_owned();
            match (header.shape, values.as_slice()) {
                (_, []) => {}
                (HeaderShape::Single, [one, ..]) => {
                    headers.insert(header.name.to_string(), text(one).into());
                }
                (HeaderShape::List, all) => {
                    let all: Vec<_> = all.iter().map(|v| text(v)).collect();
                    headers.insert(header.name.to_string(), all.into());
                }
            }
        }
        let context = serde_json::json!({
            "source": {
                "ip": {"__extn": {"fn": "ip", "arg": q.connection.source.ip().to_string()}},
                "port": q.connection.source.port(),
            },
            "tls": {"version": "1.3", "mtls": q.connection.tls.mtls},
            "time": {
                "now": {"__extn": {"fn": "datetime", "arg": "2026-11-20T12:00:00Z"}},
                "hour": 12, "weekday": 5,
            },
            "http": {
                "method": q.request.method.as_str(), "host": q.request.host.as_str(),
                "path": q.request.path.as_str(), "headers": headers,
            },
        });
        let action_uid = uid("Action", action);
        let context =
            Context::from_json_value(context, Some((&self.0.schema, &action_uid))).unwrap();
        let request = Request::new(
            principal,
            action_uid,
            uid(kind, id),
            context,
            Some(&self.0.schema),
        )
        .unwrap();
        let response = Authorizer::new().is_authorized(&request, &self.0.policies, &entities);
        let determining: Vec<SmolStr> = response.diagnostics().reason().map(SmolStr::new).collect();
        let verdict = match response.decision() {
            _ if response.diagnostics().errors().next().is_some() => {
                Verdict::Undecided(Undecided::ForbidErrored)
            }
            cedar_policy::Decision::Allow => Verdict::Allow,
            cedar_policy::Decision::Deny if determining.is_empty() => Verdict::NotPermitted,
            cedar_policy::Decision::Deny => Verdict::Forbidden,
        };
        Answer {
            decision: Arc::new(Decision {
                verdict,
                action: action.into(),
                resource_type: kind,
                resource_id: id.into(),
                determining,
                errors: Vec::new(),
                shadow_permits: vec![],
                deny_message: None,
                help_url: None,
                context_json: SmolStr::default(),
                valid_until_us: None,
            }),
            cached: false,
        }
    }
}

#[test]
fn the_sample_loads_without_a_word_and_its_tests_pass() {
    let loaded = load(&sample());
    assert_eq!(loaded.diagnostics, []);
    let compiled = loaded.compiled.expect("compiles");
    assert_eq!(compiled.catalogue.services().len(), 5);
    // The store is closed under ancestors and holds the actions too.
    let (refund, call) = (uid("Action", "orders:refund"), uid("Action", "call"));
    assert!(compiled.entities.is_ancestor_of(&call, &refund));
    let (cases, found) = tables::read(&sample(), &compiled, NOW_US);
    assert_eq!(found, []);
    let mut decider = Reference(compiled.clone());
    let report = tables::run(&cases, None, Trace::None, &compiled, &mut decider);
    let failed: Vec<_> = report.results.iter().filter(|r| !r.passed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(report.is_success() && report.passed > 25);
    assert!(report.untested.is_empty(), "{:?}", report.untested);
}

/// The blocks of the reference that are titled with a path are a repository.
#[test]
fn the_examples_of_the_reference_load_and_pass() {
    let reference = sample().join("../docs/reference/policy-repository.md");
    let text = fs::read_to_string(reference).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut files = 0;
    for block in text.split("\n```").skip(1).step_by(2) {
        let (title, body) = block.split_once('\n').unwrap();
        if let Some((_, path)) = title.split_once(' ') {
            write(dir.path(), path, body);
            files += 1;
        }
    }
    assert_eq!(files, 9);
    let loaded = load(dir.path());
    assert_eq!(loaded.diagnostics, []);
    let compiled = loaded.compiled.unwrap();
    let (cases, found) = tables::read(dir.path(), &compiled, NOW_US);
    assert_eq!(found, []);
    let mut engines = tables::Engines::new(compiled.clone(), &cases, false).unwrap();
    let report = tables::run(&cases, None, Trace::None, &compiled, &mut engines);
    assert!(
        report.is_success() && report.untested.is_empty(),
        "{report:#?}"
    );
}

/// Every code is in the table of the reference, once.
#[test]
fn every_code_is_documented() {
    let root = sample().join("..");
    let reference = fs::read_to_string(root.join("docs/reference/policy-repository.md")).unwrap();
    for file in ["pdp/src/author/codes.rs", "pdp/src/publish/codes.rs"] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        let numbers = text.split("u16 = ").skip(1).filter_map(|t| t.get(..4));
        for number in numbers {
            assert_eq!(
                reference.matches(&format!("| PLS{number} |")).count(),
                1,
                "{number}"
            );
        }
    }
}

#[test]
fn the_sample_is_laid_out_as_fmt_does_it() {
    let (formatted, found) = fmt::check(&sample());
    assert_eq!(found, []);
    let diffs: String = formatted.iter().map(|f| f.diff.as_str()).collect();
    assert_eq!(diffs, "");
}

/// The demo's lesson: uncommenting the permit flips the edge.
#[test]
fn the_commented_permit_can_be_uncommented() {
    let dir = copy();
    let text = fs::read_to_string(dir.path().join("policies/orders.cedar")).unwrap();
    let (before, after) = text.split_once("it can:\n//\n").unwrap();
    let text = format!("{before}it can:\n{}", after.replace("// ", ""));
    write(dir.path(), "policies/orders.cedar", &text);
    let loaded = load(dir.path());
    assert_eq!(loaded.diagnostics, []);
    let compiled = loaded.compiled.unwrap();
    let ask = Ask {
        principal: "web".into(),
        verb: "POST".into(),
        target: "orders/42/refund".into(),
        ..Ask::default()
    };
    let question = question(&compiled.catalogue, &ask).unwrap();
    let answer = Reference(compiled).answer(&question.as_question());
    assert_eq!(answer.decision.verdict, Verdict::Allow);
}

#[test]
fn one_tree_gives_one_digest_and_the_bytes_compile_to_the_same() {
    let (a, b) = (copy(), copy());
    let one = load(a.path()).compiled.unwrap();
    let two = load(b.path()).compiled.unwrap();
    assert_eq!((one.digest, &one.bundle), (two.digest, &two.bundle));
    let received = compile(one.bundle.clone());
    assert_eq!(received.diagnostics, []);
    let received = received.compiled.unwrap();
    assert_eq!(received.digest, one.digest);
    assert_eq!(received.info, one.info);
    assert!(received.entities.deep_eq(&one.entities));
    assert_eq!(received.policies, one.policies);
    write(a.path(), "tests/more.yaml", "tests: []\n");
    assert_eq!(load(a.path()).compiled.unwrap().digest, one.digest);
}

#[test]
fn a_policy_knows_its_place_and_its_words() {
    let compiled = load(&sample()).compiled.unwrap();
    let info = &compiled.info["card-data"];
    let text = fs::read_to_string(sample().join("policies/guard-rails.cedar")).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(&*info.file, "policies/guard-rails.cedar");
    assert_eq!(lines[info.first_line - 1], "@id(\"card-data\")");
    assert!(lines[info.last_line - 1].ends_with("};"));
    assert_eq!(
        info.text.lines().count(),
        info.last_line - info.first_line + 1
    );
    assert_eq!(info.owner.as_deref(), Some("security"));
    assert!(
        info.deny_message
            .as_deref()
            .unwrap()
            .starts_with("Card data")
    );
    assert!(!info.permit && !info.shadow && info.expires_us.is_none());
}

/// Attack T60.
#[test]
fn a_bundle_with_an_unknown_feature_or_broken_bytes_is_refused() {
    let compiled = load(&sample()).compiled.unwrap();
    let mut bundle = Bundle::decode(compiled.bundle.clone()).unwrap();
    bundle.features.push("time-travel".into());
    let loaded = compile(bundle.encode_to_vec().into());
    assert!(loaded.compiled.is_none());
    assert_eq!(loaded.diagnostics[0].code.0, codes::FEATURE_UNKNOWN);
    let cut = compiled.bundle.slice(..compiled.bundle.len() - 3);
    let loaded = compile(cut);
    assert_eq!(loaded.diagnostics[0].code.0, codes::BUNDLE_BROKEN);
    bundle.features.pop();
    bundle.trust_domain = "other.test".into();
    let loaded = compile(bundle.encode_to_vec().into());
    assert_eq!(loaded.diagnostics[0].code.0, codes::BUNDLE_BROKEN);
}
