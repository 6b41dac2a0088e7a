//! The sample repository and whole-compiler behaviour, through the public door.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use cedar_policy::{Authorizer, Context, Entity, Request};
use palisade_mesh::{
    catalogue::HeaderShape,
    decision::{Answer, Decision, Question, Undecided, Verdict},
};
use prost::Message;

use super::{codes, store::uid, tests as tables, *};

const NOW_US: i64 = 1_795_348_800_000_000;

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

/// A copy of the sample that a test may break.
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
    fn decide(&mut self, q: &Question<'_>) -> Answer {
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
        let determining: Vec<SmolStr> = response
            .diagnostics()
            .reason()
            .map(|id| SmolStr::new(id.to_string()))
            .collect();
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
    let (cases, found) = tables::read(&sample(), &compiled, NOW_US);
    assert_eq!(found, []);
    let mut decider = Reference(compiled.clone());
    let report = tables::run(&cases, None, &compiled, &mut decider);
    let failed: Vec<_> = report.results.iter().filter(|r| !r.passed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(report.is_success() && report.passed > 25);
    // mTLS is always there in a table; every other policy decides some case.
    assert_eq!(report.untested, ["require-mtls"]);
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
    let answer = tables::Decide::decide(&mut Reference(compiled), &question.as_question());
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

mod cedar_messages {
    use super::*;

    #[test]
    fn a_syntax_error_is_placed_and_its_expectations_condensed() {
        let found =
            policy("@id(\"a\")\npermit (principal, action, resource)\nwhen { context.tls.mtls \n");
        let one = only(found, codes::CEDAR_SYNTAX, 3, 23);
        assert!(one.label.clone().unwrap_or_default().len() < 60, "{one:#?}");
        assert!(one.help.is_some());
    }

    #[test]
    fn several_files_tell_all_their_mistakes_at_once() {
        let dir = copy();
        write(
            dir.path(),
            "policies/a.cedar",
            "permit (principal action, resource);",
        );
        write(
            dir.path(),
            "policies/b.cedar",
            "permit (principal, action, resource) when { 1 };",
        );
        write(dir.path(), "services/web.yaml", "servce: shop/web\n");
        write(dir.path(), "entities/groups.yaml", "groups: [a]\n");
        let found = load(dir.path()).diagnostics;
        let files: HashSet<_> = found
            .iter()
            .map(|d| d.location.as_ref().unwrap().file.to_string())
            .collect();
        for file in [
            "policies/a.cedar",
            "policies/b.cedar",
            "services/web.yaml",
            "entities/groups.yaml",
        ] {
            assert!(files.contains(file), "{file} in {found:#?}");
        }
    }

    #[test]
    fn a_mistyped_action_is_one_message() {
        let text = "@id(\"a\")\npermit (principal, action == Action::\"GTE\", resource in Service::\"demo.test/shop/orders\");";
        let one = only(policy(text), codes::UNKNOWN_ACTION, 2, 30);
        assert_eq!(one.message, "action `GTE` is not in the schema");
        assert_eq!(
            one.label.as_deref(),
            Some("did you mean `Action::\"GET\"`?")
        );
        assert_eq!(marked(&one), "Action::\"GTE\"");
        assert!(one.cause.unwrap().contains("impossible to match"));
    }

    #[test]
    fn a_mistyped_type_is_one_message() {
        let text = "@id(\"a\")\npermit (principal is Worklod, action, resource in Service::\"demo.test/shop/orders\");";
        let one = only(policy(text), codes::UNKNOWN_TYPE, 2, 22);
        assert_eq!(one.label.as_deref(), Some("did you mean `Workload`?"));
    }

    #[test]
    fn an_unknown_attribute_or_header_is_placed() {
        let text = "@id(\"a\")\npermit (principal, action, resource in Service::\"demo.test/shop/orders\")\nwhen { context.tls.mtl };";
        let one = only(policy(text), codes::UNKNOWN_ATTRIBUTE, 3, 8);
        assert!(one.message.starts_with("policy `a`: attribute"), "{one:#?}");
        assert_eq!(one.label.as_deref(), Some("did you mean `mtls`?"));
        let text = "@id(\"a\")\npermit (principal, action in Action::\"http\", resource)\nwhen { context.http.headers has \"x-none\" && context.http.headers[\"x-none\"] == \"1\" };";
        let found = policy(text);
        assert!(
            found
                .iter()
                .all(|d| matches!(d.code.0, codes::UNKNOWN_ATTRIBUTE | codes::IMPOSSIBLE)),
            "{found:#?}"
        );
    }

    /// Attack T62, in the words of the message standard.
    #[test]
    fn a_forbid_that_reads_an_optional_attribute_says_what_would_happen() {
        let text = "@id(\"a\")\nforbid (principal, action in Action::\"http:write\", resource)\nunless { context.http.headers[\"x-change-id\"] like \"CHG-*\" };";
        let one = only(policy(text), codes::FORBID_OPTIONAL, 3, 10);
        assert_eq!(one.message, "forbid `a` may be skipped");
        assert_eq!(
            one.label.as_deref(),
            Some("optional attribute read without `has`")
        );
        assert!(one.cause.unwrap().contains("ALLOWED"));
        let help = one.help.unwrap();
        assert!(
            help.contains("has") && help.contains("x-change-id"),
            "{help}"
        );
        let permit = text.replace("forbid", "permit").replace("unless", "when");
        only(policy(&permit), codes::PERMIT_OPTIONAL, 3, 8);
    }

    #[test]
    fn types_functions_and_levels_are_told_apart() {
        let body = |b: &str| {
            format!(
                "@id(\"a\")\npermit (principal is Workload, action in Action::\"http\", resource)\nwhen {{ {b} }};"
            )
        };
        only(policy(&body("context.http.path == 1")), codes::TYPES, 3, 8);
        let level = "principal has service && principal.service has tier && principal.service.tier == \"x\"";
        let found = policy(&body(level));
        assert!(
            found.iter().all(|d| d.code.0 == codes::LEVEL) && !found.is_empty(),
            "{found:#?}"
        );
        only(
            policy(&body("context.source.ip == ip(\"x\")")),
            codes::FUNCTION,
            3,
            29,
        );
    }

    #[test]
    fn an_impossible_policy_is_a_warning_with_a_reason() {
        let text = "@id(\"a\")\npermit (principal is User, action, resource);";
        let one = only(policy(text), codes::IMPOSSIBLE, 2, 1);
        assert!(!one.is_error() && one.message == "policy `a` can never match");
        assert!(one.cause.unwrap().contains("scope"));
    }

    #[test]
    fn confusable_characters_are_an_error() {
        let text = "@id(\"a\")\npermit (principal, action in Action::\"http\", resource)\nwhen { context.http.path == \"/\u{430}dmin\" };";
        let one = only(policy(text), codes::CONFUSABLE, 3, 29);
        assert!(one.is_error());
    }
}

mod annotations {
    use super::*;

    const OPEN: &str = "permit (principal, action, resource in Service::\"demo.test/shop/web\");";

    #[test]
    fn ids_are_there_once_and_well_formed() {
        let one = only(policy(OPEN), codes::ID_MISSING, 1, 1);
        assert!(one.help.unwrap().contains("@id("));
        let one = only(
            policy(&format!("@id(\"card-data\")\n{OPEN}")),
            codes::ID_TWICE,
            1,
            1,
        );
        assert!(
            one.cause
                .unwrap()
                .starts_with("`policies/guard-rails.cedar:14`")
        );
        only(
            policy(&format!("@id(\"a b\")\n{OPEN}")),
            codes::ID_INVALID,
            1,
            1,
        );
        let at = |n| policy(&format!("@id(\"{}\")\n{OPEN}", "a".repeat(n)));
        assert_eq!(at(ID_LEN_MAX), []);
        only(at(ID_LEN_MAX + 1), codes::ID_INVALID, 1, 1);
    }

    #[test]
    fn an_unknown_annotation_is_a_warning_with_a_suggestion() {
        let one = only(
            policy(&format!("@id(\"a\")\n@ownr(\"x\")\n{OPEN}")),
            codes::ANNOTATION_UNKNOWN,
            2,
            1,
        );
        assert!(!one.is_error());
        assert_eq!(one.label.as_deref(), Some("did you mean `@owner`?"));
    }

    /// Attack T106.
    #[test]
    fn a_forbid_carries_neither_mode_nor_expiry() {
        for annotation in ["@mode(\"shadow\")", "@expires(\"2030-01-01\")"] {
            let text = format!(
                "@id(\"a\")\n{annotation}\nforbid (principal, action, resource in Service::\"demo.test/shop/web\");"
            );
            let one = only(policy(&text), codes::FORBID_WEAKENED, 2, 1);
            assert!(one.cause.unwrap().contains("widen"));
        }
    }

    #[test]
    fn values_are_checked_and_understood() {
        for bad in [
            "@mode(\"shadw\")",
            "@expires(\"soon\")",
            "@help_url(\"wiki\")",
            "@deny_message(\"a\\nb\")",
        ] {
            only(
                policy(&format!("@id(\"a\")\n{bad}\n{OPEN}")),
                codes::ANNOTATION_VALUE,
                2,
                1,
            );
        }
        let dir = copy();
        let text = format!(
            "@id(\"a\")\n@mode(\"shadow\")\n@expires(\"2026-12-31\")\n{OPEN}\n@id(\"b\")\n@expires(\"2026-12-31T00:00:00Z\")\n{OPEN}"
        );
        write(dir.path(), "policies/x.cedar", &text);
        let compiled = load(dir.path()).compiled.unwrap();
        let (a, b) = (&compiled.info["a"], &compiled.info["b"]);
        assert!(a.shadow && !b.shadow);
        assert_eq!(
            (a.expires_us, a.expires_us),
            (b.expires_us, Some(1_798_675_200_000_000))
        );
        assert_eq!((a.first_line, a.last_line, b.first_line), (1, 4, 5));
    }

    #[test]
    fn a_template_is_refused() {
        only(
            policy("@id(\"a\")\npermit (principal == ?principal, action, resource);"),
            codes::TEMPLATE,
            1,
            1,
        );
    }
}

mod lints {
    use super::*;

    #[test]
    fn an_entity_that_does_not_exist_is_an_error_for_forbid_and_a_warning_for_permit() {
        let text = "@id(\"a\")\nforbid (principal, action, resource in Service::\"shop/orders\");";
        let one = only(policy(text), codes::UNKNOWN_ENTITY, 2, 40);
        assert!(one.is_error());
        assert_eq!(
            one.label.as_deref(),
            Some("did you mean `Service::\"demo.test/shop/orders\"`?")
        );
        assert!(
            one.cause
                .unwrap()
                .contains("ids carry the trust domain `demo.test`")
        );
        let one = only(
            policy(&text.replace("forbid", "permit")),
            codes::UNKNOWN_ENTITY,
            2,
            40,
        );
        assert!(!one.is_error());
    }

    #[test]
    fn a_near_id_of_any_type_is_suggested() {
        for (wrong, right) in [
            (
                "principal in Group::\"card-handler\"",
                "Group::\"card-handlers\"",
            ),
            (
                "principal == Workload::\"ns/shop/sa/web\"",
                "Workload::\"spiffe://demo.test/ns/shop/sa/web\"",
            ),
            (
                "principal in Namespace::\"shop\"",
                "Namespace::\"demo.test/shop\"",
            ),
            (
                "resource == Operation::\"shop/orders/refnd\"",
                "Operation::\"demo.test/shop/orders/refund\"",
            ),
        ] {
            let text =
                format!("@id(\"a\")\nforbid (principal, action, resource)\nwhen {{ {wrong} }};");
            let found = policy(&text);
            let label = format!("did you mean `{right}`?");
            assert!(
                found.iter().any(|d| d.label.as_deref() == Some(&label)),
                "{found:#?}"
            );
        }
    }

    /// A foreign trust domain may be named: its callers are known by the handshake.
    #[test]
    fn other_trust_domains_and_users_may_be_named() {
        let text =
            "@id(\"a\")\nforbid (principal in TrustDomain::\"evil.test\", action, resource);";
        assert_eq!(policy(text), []);
    }

    #[test]
    fn a_permit_for_everything_is_a_warning() {
        let one = only(
            policy("@id(\"a\")\npermit (principal, action, resource);"),
            codes::PERMIT_ALL,
            2,
            1,
        );
        assert!(!one.is_error());
    }
}

mod catalogue {
    use super::*;

    fn service(rest: &str) -> Vec<Diagnostic> {
        with("services/x.yaml", &format!("service: shop/x\n{rest}\n"))
    }

    #[test]
    fn every_mistake_of_a_service_file_is_told_at_once() {
        let found = service(
            "hostss: [x]\nhosts: [X, \"a b\"]\nprotocol: htp\nidentities: [/palisade/pdp, spiffe://evil.test/a, \"a b\"]\n\
             endpoints: [localhost:80]\ntimeout: 3d\nunmatched: maybe\naudit: 1\ntier: [a]\noperations:\n  - {name: \"a b\", match: GET /a}\n  \
             - {name: b, match: GTE /b}\n  - {name: c, match: \"GET b\"}\n  - {match: GET /d}\n  - {name: e, match: GET /e, action: \"http:x\"}\n  \
             - {name: f, match: GET /f, host: nowhere}\n  - {name: g}",
        );
        let mut codes: Vec<_> = found.iter().map(|d| d.code.0).collect();
        codes.sort_unstable();
        let mut expected = vec![
            codes::UNKNOWN_KEY,
            codes::HOST,
            codes::HOST,
            codes::INVALID_VALUE,
            codes::IDENTITY_RESERVED,
            codes::IDENTITY,
            codes::IDENTITY,
            codes::ENDPOINT,
            codes::DURATION,
            codes::INVALID_VALUE,
            codes::INVALID_VALUE,
            codes::WRONG_KIND,
            codes::NAME,
            codes::OPERATION_MATCH,
            codes::OPERATION_MATCH,
            codes::MISSING_KEY,
            codes::ACTION_NAME,
            codes::HOST,
            codes::MISSING_KEY,
        ];
        expected.sort_unstable();
        assert_eq!(codes, expected, "{found:#?}");
        assert!(found.iter().all(|d| d.location.is_some()));
    }

    #[test]
    fn two_services_do_not_share_a_name_an_identity_or_a_host() {
        let found = with("services/x.yaml", "service: shop/orders\n");
        only(found, codes::SERVICE_TWICE, 1, 10);
        let found = service("identities: [ns/shop/sa/orders]\nhosts: [orders]");
        let codes: Vec<_> = found.iter().map(|d| d.code.0).collect();
        assert_eq!(codes, [codes::IDENTITY_TWICE, codes::HOST_TWICE]);
        assert_eq!(
            found[1].location.as_ref().map(|l| (l.line, l.column)),
            Some((3, 9))
        );
    }

    #[test]
    fn operations_neither_overlap_nor_share_a_name() {
        let found = service(
            "operations:\n  - {name: a, match: \"GET /a/{id}\"}\n  - {name: b, match: GET /a/b}",
        );
        let one = only(found, codes::OPERATIONS_OVERLAP, 4, 12);
        assert_eq!(one.message, "operations `a` and `b` overlap");
        let found =
            service("operations:\n  - {name: a, match: GET /a}\n  - {name: a, match: GET /b}");
        only(found, codes::OPERATION_TWICE, 4, 12);
    }

    #[test]
    fn methods_may_be_several_or_all_and_an_action_spans_them() {
        let dir = copy();
        write(
            dir.path(),
            "services/x.yaml",
            "service: shop/x\noperations:\n  - {name: a, match: \"GET,HEAD /a\", action: \"x:read\"}\n  \
             - {name: b, match: \"* /b\", action: \"x:any\"}\n  - {name: c, match: \"POST,PUT /c\", action: \"x:write\"}\n",
        );
        let compiled = load(dir.path()).compiled.unwrap();
        let text = generated_schema(&compiled.catalogue);
        for expected in [
            "action \"x:read\" in [\"http:read\"]",
            "action \"x:any\" in [\"http\"]",
            "action \"x:write\" in [\"http:write\"]",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn grpc_operations_are_methods_of_services() {
        let text = "service: shop/g\nprotocol: grpc\noperations:\n  - {name: a, match: shop.v1.Stock/Get, action: \"g:get\"}\n";
        let dir = copy();
        write(dir.path(), "services/g.yaml", text);
        let compiled = load(dir.path()).compiled.unwrap();
        assert!(
            generated_schema(&compiled.catalogue).contains("action \"g:get\" in [\"grpc:call\"]")
        );
        let found = with(
            "services/g.yaml",
            &text.replace("shop.v1.Stock/Get", "GET /x"),
        );
        only(found, codes::OPERATION_MATCH, 4, 22);
        let found = with("services/g.yaml", &text.replace("g:get", "orders:refund"));
        assert_eq!(
            found.iter().map(|d| d.code.0).collect::<Vec<_>>(),
            [codes::ACTION_NAME]
        );
    }

    #[test]
    fn groups_know_their_members() {
        let found = with(
            "entities/x.yaml",
            "groups:\n  a: {services: [shop/ordrs], groups: [b], workloads: [ns/shop/sa/nobody], users: [eve]}\n  b: {groups: [a]}\n  card-handlers: {}\n",
        );
        let codes: Vec<_> = found.iter().map(|d| d.code.0).collect();
        assert_eq!(codes, [codes::DECLARED_TWICE], "{found:#?}");
        let found = with(
            "entities/x.yaml",
            "groups:\n  a: {services: [shop/ordrs], groups: [b], workloads: [ns/shop/sa/nobody], users: [eve]}\n  b: {groups: [a]}\n",
        );
        let mut codes: Vec<_> = found.iter().map(|d| d.code.0).collect();
        codes.sort_unstable();
        assert_eq!(
            codes,
            [
                codes::UNKNOWN_MEMBER,
                codes::UNKNOWN_MEMBER,
                codes::UNKNOWN_MEMBER,
                codes::GROUP_CYCLE,
                codes::GROUP_CYCLE
            ]
        );
        assert_eq!(
            found[1].label.as_deref(),
            Some("did you mean `shop/orders`?"),
            "{found:#?}"
        );
    }

    #[test]
    fn entities_carry_users_attributes_and_memberships() {
        let dir = copy();
        write(
            dir.path(),
            "entities/x.yaml",
            "groups:\n  staff: {groups: [support]}\n  support: {users: [ana]}\n\
             users:\n  ana: {issuer: https://login.demo.test, subject: u1, email: ana@demo.test}\n\
             services:\n  shop/web: {labels: {team: shop}}\n",
        );
        let compiled = load(dir.path()).compiled.unwrap();
        let user = uid("User", "https://login.demo.test#u1");
        assert!(
            compiled
                .entities
                .is_ancestor_of(&uid("Group", "staff"), &user)
        );
        let web = uid("Workload", "spiffe://demo.test/ns/shop/sa/web");
        assert!(
            compiled
                .entities
                .is_ancestor_of(&uid("TrustDomain", "demo.test"), &web)
        );
        assert!(compiled.entities.get(&web).unwrap().tag("team").is_some());
        let payments = uid("Workload", "spiffe://demo.test/ns/shop/sa/payments");
        assert!(
            compiled
                .entities
                .is_ancestor_of(&uid("Group", "card-handlers"), &payments)
        );
        let found = with(
            "entities/x.yaml",
            "users:\n  ana: {issuer: x}\nservices:\n  shop/wep: {tier: a}\n  shop/web: {tier: b}\n",
        );
        let codes: Vec<_> = found.iter().map(|d| d.code.0).collect();
        assert_eq!(
            codes,
            [
                codes::MISSING_KEY,
                codes::UNKNOWN_MEMBER,
                codes::DECLARED_TWICE
            ]
        );
    }

    #[test]
    fn a_team_adds_types_but_cannot_redefine_ours() {
        assert_eq!(
            with(
                "schema.cedarschema",
                "namespace Team { entity Folder; }\nentity Thing;"
            ),
            []
        );
        let found = with("schema.cedarschema", "entity Service;\n");
        assert_eq!(
            found.iter().map(|d| d.code.0).collect::<Vec<_>>(),
            [codes::SCHEMA],
            "{found:#?}"
        );
        let found = with("schema.cedarschema", "entity Thing\nentity Other;");
        let one = only(found, codes::SCHEMA, 2, 1);
        assert!(one.is_error());
    }
}

mod bounds {
    use super::*;

    /// Attack T94: hostile sizes end in a code, not in a crash.
    #[test]
    fn deep_and_long_policies_are_refused_and_those_at_the_limit_compile() {
        let chain = |n: usize| {
            format!(
                "@id(\"a\")\npermit (principal, action, resource)\nwhen {{ {} }};",
                vec!["context.tls.mtls"; n].join(" && ")
            )
        };
        // Each clause has four operators or accesses, and scope and braces have six.
        let most = (OPERATORS_MAX - 2) / 4;
        assert_eq!(policy(&chain(most)), []);
        let found = policy(&chain(most + 1));
        assert_eq!(found[0].code.0, codes::TOO_DEEP);
        let nested = |n: usize| {
            format!(
                "@id(\"a\")\npermit (principal, action, resource)\nwhen {{ {}context.tls.mtls{} }};",
                "(".repeat(n),
                ")".repeat(n)
            )
        };
        assert_eq!(policy(&nested(BRACKETS_MAX - 1)), []);
        assert_eq!(policy(&nested(BRACKETS_MAX))[0].code.0, codes::TOO_DEEP);
    }

    #[test]
    fn operations_of_a_service_are_bounded() {
        let operations = |n: usize| {
            let all: Vec<_> = (0..n)
                .map(|i| format!("  - {{name: o{i}, match: GET /o{i}}}\n"))
                .collect();
            with(
                "services/x.yaml",
                &format!("service: shop/x\noperations:\n{}", all.concat()),
            )
        };
        assert_eq!(operations(OPERATIONS_MAX), []);
        assert_eq!(
            operations(OPERATIONS_MAX + 1)[0].code.0,
            codes::REPOSITORY_TOO_LARGE
        );
    }
}

mod test_tables {
    use super::*;

    fn table(text: &str) -> (Vec<tables::Case>, Vec<Diagnostic>, Compiled) {
        let dir = copy();
        fs::remove_dir_all(dir.path().join("tests")).unwrap();
        write(dir.path(), "tests/t.yaml", text);
        let compiled = load(dir.path()).compiled.unwrap();
        let (cases, found) = tables::read(dir.path(), &compiled, NOW_US);
        (cases, found, compiled)
    }

    #[test]
    fn a_failed_case_says_what_was_expected_and_what_came() {
        let (cases, found, compiled) = table(
            "tests:\n  - {name: n, principal: web, requests: [GET orders/orders, POST orders/42/refund], expect: allow, policies: [orders-from-web]}\n  \
             - {name: m, principal: web, request: GET payments/cards, expect: deny}\n  \
             - {name: o, principal: web, request: GET orders/orders, expect: allow, policies: [card-data]}\n",
        );
        assert_eq!(found, []);
        let report = tables::run(&cases, None, &compiled, &mut Reference(compiled.clone()));
        let passed: Vec<_> = report.results.iter().map(|r| r.passed).collect();
        assert_eq!(passed, [true, false, true, false]);
        let failure = report.results[1].failure.as_ref().unwrap();
        assert_eq!(failure.code.0, codes::TEST_FAILED);
        assert_eq!(
            failure.label.as_deref(),
            Some("expected allow, got not_permitted")
        );
        assert_eq!(report.results[1].line, 2);
        let failure = report.results[3].failure.as_ref().unwrap();
        assert_eq!(
            failure.label.as_deref(),
            Some("expected allow by [card-data], got allow")
        );
        assert!(
            failure
                .cause
                .as_ref()
                .unwrap()
                .contains("policies/orders.cedar:3")
        );
        assert!(!report.is_success());
        assert!(
            serde_json::to_value(&report).unwrap()["results"][1]["failure"]["code"] == "PLS2003"
        );
    }

    #[test]
    fn no_selected_test_is_a_failure() {
        let (cases, _, compiled) =
            table("tests:\n  - {principal: web, request: GET orders/orders, expect: allow}\n");
        let mut decider = Reference(compiled.clone());
        let report = tables::run(&cases, Some("nothing like it"), &compiled, &mut decider);
        assert_eq!(report.diagnostics[0].code.0, codes::NO_TESTS);
        assert!(!report.is_success());
        assert!(tables::run(&cases, Some("web"), &compiled, &mut decider).is_success());
    }

    #[test]
    fn mistakes_in_a_table_are_told_where_they_are() {
        let (cases, found, _) = table(
            "tests:\n  - {principal: wep, request: GET orders/orders, expect: allow}\n  - {principal: web, request: GTE orders/orders, expect: allow}\n  \
             - {principal: web, request: GET ordrs/1, expect: allow}\n  - {principal: web, request: GET orders/a%2fb, expect: allow}\n  \
             - {principal: web, request: GET orders/orders, expect: alow}\n  - {principal: web, request: GET orders/orders, expect: allow, policies: [x]}\n  \
             - {principal: web, request: GET orders/orders, expect: allow, context: {headers: {x-chang-id: a}}}\n  - {principal: web, expect: allow}\n  \
             - {principal: web, request: GET orders/orders, expect: allow, context: {now: noon}}\n  - {principal: web, request: GET orders/orders, expect: allow, context: {source: here}}\n",
        );
        let seen: Vec<_> = found
            .iter()
            .map(|d| (d.code.0, d.location.as_ref().unwrap().line))
            .collect();
        assert_eq!(
            seen,
            [
                (codes::TEST_PRINCIPAL, 2),
                (codes::TEST_ACTION, 3),
                (codes::TEST_TARGET, 4),
                (codes::TEST_REQUEST, 5),
                (codes::INVALID_VALUE, 6),
                (codes::TEST_POLICY, 7),
                (codes::TEST_CONTEXT, 8),
                (codes::MISSING_KEY, 9),
                (codes::TEST_CONTEXT, 10),
                (codes::TEST_CONTEXT, 11),
            ]
        );
        assert_eq!(found[0].label.as_deref(), Some("did you mean `web`?"));
        assert_eq!(found[1].label.as_deref(), Some("did you mean `GET`?"));
        assert_eq!(found[2].label.as_deref(), Some("did you mean `orders`?"));
        assert_eq!(
            found[6].label.as_deref(),
            Some("did you mean `x-change-id`?")
        );
        assert_eq!(cases.len(), 1);
    }

    #[test]
    fn a_target_has_many_spellings_and_one_meaning() {
        let compiled = load(&sample()).compiled.unwrap();
        let understood = |principal: &str, verb: &str, target: &str, on: Option<&str>| {
            let ask = Ask {
                principal: principal.into(),
                verb: verb.into(),
                target: target.into(),
                on: on.map(str::to_owned),
                ..Ask::default()
            };
            question(&compiled.catalogue, &ask)
                .map(|q| (q.understood(), q.operation.map(|o| o.name)))
        };
        let refund = (
            "POST http://orders/orders/42/refund".to_owned(),
            Some(SmolStr::new("refund")),
        );
        for (verb, target, on) in [
            ("POST", "orders/42/refund", None),
            ("post", "orders/orders/42/refund", None),
            ("POST", "shop/orders/42/refund", None),
            ("POST", "shop/orders/orders/42/refund", None),
            ("POST", "http://orders:8443/orders/42/refund", None),
            ("POST", "/orders/42/refund", Some("orders")),
            ("POST", "/orders/42/refund", Some("shop/orders")),
            ("orders:refund", "orders/42/refund", None),
        ] {
            for principal in [
                "web",
                "shop/web",
                "ns/shop/sa/web",
                "spiffe://demo.test/ns/shop/sa/web",
            ] {
                assert_eq!(
                    understood(principal, verb, target, on).unwrap(),
                    refund,
                    "{principal} {verb} {target} {on:?}"
                );
            }
        }
        let (text, operation) = understood("web", "orders:refund", "", None).unwrap();
        assert_eq!(
            (text.as_str(), operation.as_deref()),
            ("POST http://orders/orders/id/refund", Some("refund"))
        );
        let (text, operation) = understood("web", "GET", "orders", None).unwrap();
        assert_eq!(
            (text.as_str(), operation.as_deref()),
            ("GET http://orders/orders", Some("list"))
        );
        let (text, operation) = understood("web", "GET", "orders/nothing/here", None).unwrap();
        assert_eq!(
            (text.as_str(), operation),
            ("GET http://orders/nothing/here", None)
        );
        let found = understood("web", "payments:read-cards", "", None).unwrap_err();
        assert_eq!(found[0].code.0, codes::TEST_ACTION);
        assert!(
            found[0]
                .cause
                .as_ref()
                .unwrap()
                .contains("several operations")
        );
        let found = understood("wep", "GTE", "nowhere/x", None).unwrap_err();
        assert_eq!(found.len(), 2);
    }
}

mod layout {
    use super::*;

    #[test]
    fn fmt_shows_a_diff_and_writes_only_what_differs() {
        let dir = copy();
        write(
            dir.path(),
            "policies/x.cedar",
            "// kept\n@id(\"a\") permit(principal,action,resource in Service::\"demo.test/shop/web\");",
        );
        let (formatted, found) = fmt::check(dir.path());
        assert_eq!(found, []);
        let changed: Vec<_> = formatted.iter().filter(|f| f.changed).collect();
        assert_eq!(changed.len(), 1);
        assert!(
            changed[0].diff.contains("\n-@id(\"a\") permit(")
                && changed[0].diff.contains("\n+@id(\"a\")\n"),
            "{}",
            changed[0].diff
        );
        fmt::write(dir.path(), &formatted).unwrap();
        let text = fs::read_to_string(dir.path().join("policies/x.cedar")).unwrap();
        assert!(text.starts_with("// kept\n@id(\"a\")\npermit"), "{text}");
        assert!(fmt::check(dir.path()).0.iter().all(|f| !f.changed));
    }

    #[test]
    fn fmt_leaves_a_broken_file_alone() {
        let dir = copy();
        write(dir.path(), "policies/x.cedar", "permit (");
        let (formatted, found) = fmt::check(dir.path());
        assert_eq!(found[0].code.0, codes::CEDAR_SYNTAX);
        assert!(formatted.iter().all(|f| f.file != "policies/x.cedar"));
    }
}
