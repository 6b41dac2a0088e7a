//! Cedar for the mesh's own links: who may subscribe, push records, ask for
//! certificates, announce.
//!
//! A small schema and policy set of our own, apart from the repository's: a mistake in
//! a policy for services must not cut the control plane. An operator can add policies
//! of the same vocabulary; they are validated, and a `forbid` of theirs wins as ever.

use std::{collections::HashMap, fs, path::Path, str::FromStr, sync::Arc};

use cedar_policy::{
    Authorizer, Context, Decision, Effect, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    PolicySet, Request, RestrictedExpression, Schema, ValidationMode, Validator,
};
use palisade_mesh::{
    diagnostic::{Diagnostic, Location},
    link::{Link, LinkRefused},
    spiffe_id::SpiffeId,
};

const SCHEMA: &str = include_str!("links/links.cedarschema");
const BUILT_IN: &str = include_str!("links/links.cedar");
/// Longest policy file, in bytes.
pub const FILE_LEN_MAX: u64 = 1 << 20;
/// Most policy files of a folder.
pub const FILES_MAX: usize = 100;

/// Decides about control links. Every answer is made anew; they are rare.
#[derive(Clone)]
pub struct Links(Arc<Inner>);

struct Inner {
    schema: Schema,
    policies: PolicySet,
    /// Names for people, by Cedar's own ids.
    names: HashMap<String, String>,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

impl Default for Links {
    fn default() -> Self {
        Self::with(&[]).expect("the built-in policies are checked by a test")
    }
}

impl Links {
    /// The built-in policies and those of every `.cedar` file in `folder`.
    ///
    /// # Errors
    /// `PLS4131` for each file that cannot be read, parsed, or does not validate.
    pub fn with_folder(folder: &Path) -> Result<Self, Vec<Diagnostic>> {
        let mut paths: Vec<_> = fs::read_dir(folder)
            .map_err(|e| vec![unreadable(folder, &e)])?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "cedar"))
            .collect();
        paths.sort();
        if paths.len() > FILES_MAX {
            let many = format!("{} link policy files are too many", paths.len());
            return Err(vec![
                Diagnostic::error(4131, many).help(format!("at most {FILES_MAX}")),
            ]);
        }
        let mut files = Vec::new();
        let mut found = Vec::new();
        for path in paths {
            let text = fs::metadata(&path).and_then(|meta| {
                if meta.len() > FILE_LEN_MAX {
                    return Err(std::io::Error::other("it is larger than 1 MiB"));
                }
                fs::read_to_string(&path)
            });
            match text {
                Ok(text) => files.push((path.display().to_string(), text)),
                Err(error) => found.push(unreadable(&path, &error)),
            }
        }
        if found.is_empty() {
            Self::with(&files)
        } else {
            Err(found)
        }
    }

    /// The built-in policies and these files, each a name and a text.
    ///
    /// # Errors
    /// As [`Links::with_folder`].
    pub fn with(files: &[(String, String)]) -> Result<Self, Vec<Diagnostic>> {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA)
            .map_err(|e| vec![wrong("the built-in schema", "", &e.to_string())])?;
        let mut policies = PolicySet::new();
        let mut names = HashMap::new();
        let mut found = Vec::new();
        let built_in = ("built-in".to_owned(), BUILT_IN.to_owned());
        for (file, text) in std::iter::once(&built_in).chain(files) {
            let parsed = match PolicySet::from_str(text) {
                Ok(parsed) => parsed,
                Err(error) => {
                    found.push(wrong(file, text, &error.to_string()));
                    continue;
                }
            };
            for policy in parsed.policies() {
                let id = cedar_policy::PolicyId::new(format!("{file}#{}", policy.id()));
                let name = policy.annotation("id").unwrap_or_else(|| id.as_ref());
                names.insert(id.to_string(), name.to_owned());
                if let Err(error) = policies.add(policy.new_id(id)) {
                    found.push(wrong(file, text, &error.to_string()));
                }
            }
            if parsed.templates().next().is_some() {
                found.push(wrong(file, text, "templates are not used here"));
            }
        }
        let validated = Validator::new(schema.clone()).validate(&policies, ValidationMode::Strict);
        for error in validated.validation_errors() {
            let id = error.policy_id().to_string();
            let file = id.split('#').next().unwrap_or_default();
            found.push(wrong(file, "", &error.to_string()));
        }
        if !found.is_empty() {
            return Err(found);
        }
        Ok(Self(Arc::new(Inner {
            schema,
            policies,
            names,
        })))
    }

    /// Decides about one call. What cannot be evaluated is refused, and so is a call
    /// on which any policy fails.
    ///
    /// # Errors
    /// Which policies forbid it; none, where nothing permits it.
    pub fn decide(&self, link: &Link<'_>) -> Result<(), LinkRefused> {
        let refused = |policies| LinkRefused {
            peer: link.peer.to_string(),
            action: link.action.as_str(),
            policies,
        };
        let Some((request, entities)) = self.ask(link) else {
            return Err(refused(vec!["a question that cannot be put".into()]));
        };
        let answer = Authorizer::new().is_authorized(&request, &self.0.policies, &entities);
        let failed = answer.diagnostics().errors().next().is_some();
        if answer.decision() == Decision::Allow && !failed {
            return Ok(());
        }
        let forbid = |id: &&cedar_policy::PolicyId| {
            let policy = self.0.policies.policy(id);
            policy.is_some_and(|p| p.effect() == Effect::Forbid)
        };
        let named = answer
            .diagnostics()
            .reason()
            .filter(forbid)
            .filter_map(|id| self.0.names.get(&id.to_string()).cloned())
            .collect();
        Err(refused(named))
    }

    fn ask(&self, link: &Link<'_>) -> Option<(Request, Entities)> {
        let principal = principal(link)?;
        let action = uid("Action", link.action.as_str())?;
        let resource = uid("Part", link.action.part())?;
        let about = link.about.as_ref();
        let parts = [
            ("role", link.role),
            ("api", about.map(|a| a.api)),
            (
                "subject",
                about.and_then(|a| a.subject).map(SpiffeId::as_str),
            ),
            ("service", about.and_then(|a| a.service)),
        ];
        let said = parts
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), text(value?))));
        let context = Context::from_pairs(said).ok()?;
        let schema = Some(&self.0.schema);
        let request = Request::new(principal.uid(), action, resource, context, schema).ok()?;
        let entities = Entities::from_entities([principal], schema).ok()?;
        Some((request, entities))
    }
}

/// The peer as Cedar sees it.
fn principal(link: &Link<'_>) -> Option<Entity> {
    let id = link.peer.as_str();
    let (kind, attributes) = match kind(link.peer) {
        Kind::Node(name) => {
            let roles = link.roles.iter().map(|r| text(r));
            let roles = RestrictedExpression::new_set(roles);
            (
                "Node",
                vec![("name".to_owned(), text(name)), ("roles".to_owned(), roles)],
            )
        }
        Kind::Client(name) => ("Client", vec![("name".to_owned(), text(name))]),
        Kind::Role(name) => ("Role", vec![("name".to_owned(), text(name))]),
        Kind::Workload => {
            let is = RestrictedExpression::new_bool(link.is_catalogued);
            let services = link.services.iter().map(|s| text(s));
            (
                "Workload",
                vec![
                    ("path".to_owned(), text(link.peer.path())),
                    ("catalogued".to_owned(), is),
                    (
                        "services".to_owned(),
                        RestrictedExpression::new_set(services),
                    ),
                ],
            )
        }
    };
    let attributes = attributes.into_iter().collect();
    Entity::new(uid(kind, id)?, attributes, Default::default()).ok()
}

pub(crate) enum Kind<'a> {
    Client(&'a str),
    Node(&'a str),
    Role(&'a str),
    Workload,
}

pub(crate) fn kind(peer: &SpiffeId) -> Kind<'_> {
    match peer.path().strip_prefix("/palisade/") {
        Some(rest) => match rest.split_once('/') {
            Some(("agent", name)) => Kind::Node(name),
            Some(("client", name)) => Kind::Client(name),
            _ => Kind::Role(rest),
        },
        None => Kind::Workload,
    }
}

pub(crate) fn uid(kind: &str, id: &str) -> Option<EntityUid> {
    let kind = EntityTypeName::from_str(kind).ok()?;
    Some(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

pub(crate) fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error(
        4131,
        format!("link policies in `{}` cannot be read", path.display()),
    )
    .cause(error.to_string())
    .help("name a folder with .cedar files, or leave `links` out")
}

fn wrong(file: &str, text: &str, cause: &str) -> Diagnostic {
    let at = Diagnostic::error(4131, format!("link policies of `{file}` cannot be used"))
        .cause(cause.to_owned())
        .help("the vocabulary is in docs/reference/links.md");
    if text.is_empty() {
        return at;
    }
    at.at(Location::span(file, text, 0, 0))
}

#[cfg(test)]
mod tests {
    use palisade_mesh::link::{About, LinkAction};

    use super::*;

    fn id(path: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://acme.test/{path}")).unwrap()
    }

    fn may(links: &Links, path: &str, action: LinkAction, change: fn(&mut Link<'_>)) -> bool {
        let peer = id(path);
        let mut link = Link::new(&peer, action);
        change(&mut link);
        links.decide(&link).is_ok()
    }

    /// The whole table of the built-in policies.
    #[test]
    fn each_kind_of_peer_may_do_its_own_and_nothing_else() {
        use LinkAction::{Announce, Issue, Push, Subscribe, Watch};
        let links = Links::default();
        let node = "palisade/agent/host-2";
        let plain: fn(&mut Link<'_>) = |_| {};
        let pdp: fn(&mut Link<'_>) = |l| {
            l.role = Some("pdp");
            l.roles = &["pdp", "proxy"];
        };
        let audit: fn(&mut Link<'_>) = |l| {
            l.role = Some("audit");
            l.roles = &["pdp", "proxy"];
        };
        let catalogued: fn(&mut Link<'_>) = |l| l.is_catalogued = true;
        for (path, action, change, expected) in [
            (node, Watch, plain, true),
            (node, Issue, plain, true),
            (node, Announce, pdp, true),
            (node, Announce, audit, false),
            (node, Announce, plain, false),
            (node, Subscribe, plain, false),
            (node, Push, plain, true),
            ("palisade/pdp", Push, plain, true),
            ("palisade/pdp", Issue, plain, false),
            ("palisade/pdp", Watch, plain, false),
            ("palisade/audit", Subscribe, plain, false),
            ("ns/shop/sa/web", Subscribe, catalogued, true),
            ("ns/shop/sa/web", Subscribe, plain, false),
            ("ns/shop/sa/web", Push, catalogued, true),
            ("ns/shop/sa/web", Issue, catalogued, false),
            ("ns/shop/sa/web", Watch, catalogued, false),
            ("ns/shop/sa/web", Announce, pdp, false),
        ] {
            let answer = may(&links, path, action, change);
            assert_eq!(answer, expected, "{path} {}", action.as_str());
        }
    }

    /// T99: nobody asks about others or lists who may do what unless a policy says so.
    #[test]
    fn the_decision_apis_answer_a_workload_about_itself_and_no_more() {
        use LinkAction::{Ask, Assert, Explain, Search};
        let links = Links::default();
        let about: fn(&mut Link<'_>) = |l| {
            l.is_catalogued = true;
            l.services = &["acme.test/shop/orders"];
            l.about = Some(About {
                api: "grpc",
                subject: None,
                service: Some("acme.test/shop/orders"),
            });
        };
        let web = "ns/shop/sa/web";
        assert!(may(&links, web, Ask, about));
        for action in [Assert, Explain, Search] {
            assert!(!may(&links, web, action, about), "{}", action.as_str());
        }
        for path in ["palisade/client/ci", "palisade/audit", "palisade/agent/h"] {
            assert!(!may(&links, path, Ask, about), "{path}");
        }
        let text = r#"permit (principal is Workload, action == Action::"assert", resource)
            when { context has service && principal.services.contains(context.service) };
            permit (principal is Client, action == Action::"search", resource)
            when { principal.name == "ci" && context.api == "grpc" };"#;
        let links = Links::with(&[("mine.cedar".into(), text.into())]).unwrap();
        assert!(may(&links, web, Assert, about));
        assert!(!may(&links, web, Search, about));
        assert!(may(&links, "palisade/client/ci", Search, about));
        assert!(!may(&links, "palisade/client/cd", Search, about));
    }

    #[test]
    fn an_operator_s_policy_is_added_and_a_forbid_names_itself() {
        let text = r#"@id("not-host-9") forbid (principal is Node, action, resource)
            when { principal.name == "host-9" };"#;
        let links = Links::with(&[("mine.cedar".into(), text.into())]).unwrap();
        assert!(may(
            &links,
            "palisade/agent/host-2",
            LinkAction::Watch,
            |_| {}
        ));
        let peer = id("palisade/agent/host-9");
        let refused = links
            .decide(&Link::new(&peer, LinkAction::Watch))
            .unwrap_err();
        assert_eq!(refused.policies, ["not-host-9"]);
        assert!(refused.to_string().starts_with("PLS4130: "), "{refused}");
    }

    #[test]
    fn policies_that_do_not_parse_or_validate_are_refused() {
        for bad in [
            "permit (principal, action",
            "permit (principal is Nobody, action, resource);",
            "permit (principal is Node, action, resource) when { principal.nmae == \"a\" };",
            "permit (principal == ?principal, action, resource);",
        ] {
            let found = Links::with(&[("mine.cedar".into(), bad.into())]).unwrap_err();
            assert!(found.iter().all(|d| d.code.0 == 4131), "{bad}: {found:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(Links::with_folder(dir.path()).is_ok());
        assert!(Links::with_folder(&dir.path().join("none")).is_err());
        let file = dir.path().join("big.cedar");
        fs::write(&file, " ".repeat(FILE_LEN_MAX as usize)).unwrap();
        assert!(Links::with_folder(dir.path()).is_ok());
        fs::write(&file, " ".repeat(FILE_LEN_MAX as usize + 1)).unwrap();
        assert!(Links::with_folder(dir.path()).is_err());
    }
}
