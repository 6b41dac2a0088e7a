//! Section `pdp.decisions.authzen`: what the words of callers of AuthZEN mean.

use palisade_mesh::diagnostic::Diagnostic;
#[cfg(feature = "full")]
use palisade_mesh::spiffe_id::TrustDomain;
#[cfg(feature = "full")]
use palisade_pdp::apis::authzen::{ActionRule, Mapping, Names, ResourceRule, SubjectRule, Target};
use serde::Deserialize;

/// Section `pdp.decisions.authzen`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthzenSection {
    /// Subjects that are called otherwise. Default: none.
    #[serde(default)]
    pub subjects: Vec<SubjectSection>,
    /// Actions that are called otherwise. Default: none.
    #[serde(default)]
    pub actions: Vec<ActionSection>,
    /// Resources that are called otherwise. Default: none.
    #[serde(default)]
    pub resources: Vec<ResourceSection>,
    /// Properties that change nothing, as `PART.NAME`. Default: none, every unknown one is
    /// refused.
    #[serde(default)]
    pub unread: Vec<String>,
}

/// A rule about subjects.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectSection {
    /// The caller's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The caller's id; `*` stands for what is the same in `is`.
    pub id: String,
    /// SPIFFE ID of a workload.
    pub is: String,
}

/// A rule about actions.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionSection {
    /// The caller's name.
    pub name: String,
    /// A method, `grpc:call` or a business action.
    pub is: String,
    /// The callers' types of resources for which it holds. Default: all.
    #[serde(default)]
    pub on: Vec<String>,
}

/// A rule about resources; exactly one of the last three.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceSection {
    /// The caller's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The caller's id; `*` stands for what is the same in what it is.
    pub id: String,
    /// An address.
    pub url: Option<String>,
    /// The id of an operation.
    pub operation: Option<String>,
    /// A service's name.
    pub service: Option<String>,
}

impl AuthzenSection {
    /// Resources that are none of ours, or several.
    pub fn check(&self) -> Vec<Diagnostic> {
        let one = |r: &&ResourceSection| {
            let kinds = [&r.url, &r.operation, &r.service];
            kinds.into_iter().flatten().count() != 1
        };
        let wrong = self.resources.iter().filter(one);
        wrong
            .map(|rule| {
                let text = format!("`resources` does not say what `{}` is", rule.id);
                Diagnostic::error(6130, text)
                    .cause("a resource is exactly one of `url`, `operation` and `service`")
                    .help(
                        "such as { type: account, id: \"*\", url: \"http://accounts/accounts/*\" }",
                    )
            })
            .collect()
    }

    /// The words, ready for use.
    ///
    /// # Errors
    /// Everything that does not fit together.
    #[cfg(feature = "full")]
    pub fn names(&self, domain: &TrustDomain) -> Result<Names, Vec<Diagnostic>> {
        let found = self.check();
        if !found.is_empty() {
            return Err(found);
        }
        Names::new(&self.mapping(), domain)
    }

    #[cfg(feature = "full")]
    fn mapping(&self) -> Mapping {
        let subjects = self.subjects.iter().map(|rule| SubjectRule {
            kind: rule.kind.clone(),
            id: rule.id.clone(),
            is: rule.is.clone(),
        });
        let actions = self.actions.iter().map(|rule| ActionRule {
            name: rule.name.clone(),
            is: rule.is.clone(),
            on: rule.on.clone(),
        });
        let resources = self.resources.iter().filter_map(|rule| {
            let url = rule.url.clone().map(Target::Url);
            let operation = rule.operation.clone().map(Target::Operation);
            let service = rule.service.clone().map(Target::Service);
            Some(ResourceRule {
                kind: rule.kind.clone(),
                id: rule.id.clone(),
                is: url.or(operation).or(service)?,
            })
        });
        Mapping {
            subjects: subjects.collect(),
            actions: actions.collect(),
            resources: resources.collect(),
            unread: self.unread.clone(),
        }
    }
}

#[cfg(all(test, feature = "full"))]
mod tests {
    use palisade_pdp::apis::authzen::RULES_MAX;

    use crate::config::Config;

    /// Codes of what is wrong with a section, written in one line.
    fn codes(section: &str) -> Vec<u16> {
        let text = format!(
            "trust_domain: acme.test\npdp:\n  policies: p\n  listen: 127.0.0.1:1\n  decisions:\n    listen: 127.0.0.1:2\n    authzen: {section}\n"
        );
        match Config::parse("m.yaml", &text) {
            Ok(_) => Vec::new(),
            Err(found) => found.iter().map(|d| d.code.0).collect(),
        }
    }

    const USERS: &str =
        "{ type: user, id: \"*@acme.test\", is: \"spiffe://acme.test/ns/people/sa/*\" }";
    const ACCOUNTS: &str = "{ type: account, id: \"*\", url: \"http://account/*\" }";

    #[test]
    fn words_that_can_be_put_into_ours_and_back_are_taken() {
        for good in [
            "{}".to_owned(),
            format!("{{ subjects: [{USERS}], resources: [{ACCOUNTS}], unread: [subject.age] }}"),
            format!("{{ resources: [{ACCOUNTS}], actions: [{{ name: can_read, is: GET }}] }}"),
            // The same name for other types, and the same thing for other types.
            format!(
                "{{ resources: [{ACCOUNTS}, {{ type: book, id: \"*\", service: \"shop/*\" }}], actions: [{{ name: read, is: GET, on: [account] }}, {{ name: read, is: \"shop:read\", on: [book] }}, {{ name: see, is: GET, on: [book, url] }}] }}"
            ),
            format!("{{ unread: [{}] }}", unread(RULES_MAX)),
        ] {
            assert_eq!(codes(&good), [0_u16; 0], "{good}");
        }
    }

    #[test]
    fn every_wrong_mapping_has_its_code() {
        let subjects = |more: &str| format!("{{ subjects: [{USERS}, {more}] }}");
        let actions = |more: &str| {
            format!(
                "{{ resources: [{ACCOUNTS}], actions: [{{ name: can_read, is: GET }}, {more}] }}"
            )
        };
        let resources = |more: &str| format!("{{ resources: [{ACCOUNTS}, {more}] }}");
        for (bad, code) in [
            // Two meanings for a name.
            (
                subjects("{ type: user, id: \"al@acme.test\", is: \"spiffe://acme.test/a\" }"),
                6125,
            ),
            (actions("{ name: can_read, is: PUT, on: [account] }"), 6125),
            (
                resources("{ type: account, id: \"1\", service: shop/orders }"),
                6125,
            ),
            // Two names for one thing.
            (
                subjects("{ type: user, id: al, is: \"spiffe://acme.test/ns/people/sa/al\" }"),
                6126,
            ),
            (actions("{ name: read, is: GET, on: [account] }"), 6126),
            (
                resources("{ type: account, id: \"a/b\", url: \"http://account/ab\" }"),
                6126,
            ),
            // However either of them is spelled.
            (actions("{ name: read, is: get, on: [account] }"), 6126),
            (
                resources("{ type: account, id: \"a/b\", url: \"https://Account.:80/1\" }"),
                6126,
            ),
            (
                "{ resources: [{ type: shop, id: a, service: shop/orders }, { type: shop, id: b, service: acme.test/shop/orders }] }".to_owned(),
                6126,
            ),
            (
                "{ resources: [{ type: desk, id: a, operation: shop/orders/list }, { type: desk, id: b, operation: acme.test/shop/orders/list }] }".to_owned(),
                6126,
            ),
            // A type that nothing has.
            (actions("{ name: see, is: GET, on: [acount] }"), 6127),
            // What cannot be mapped.
            (
                subjects("{ type: workload, id: a, is: \"spiffe://acme.test/a\" }"),
                6128,
            ),
            (
                subjects("{ type: user, id: a, is: \"spiffe://other.test/a\" }"),
                6128,
            ),
            (subjects("{ type: user, id: a, is: people/a }"), 6128),
            (
                subjects("{ type: user, id: \"*a*\", is: \"spiffe://acme.test/*\" }"),
                6128,
            ),
            (
                subjects("{ type: user, id: \"b*\", is: \"spiffe://acme.test/a\" }"),
                6128,
            ),
            (
                subjects("{ type: user, id: \"\", is: \"spiffe://acme.test/a\" }"),
                6128,
            ),
            (actions("{ name: put, is: GET }"), 6128),
            (actions("{ name: \"grpc:call\", is: GET }"), 6128),
            (
                resources("{ type: url, id: a, service: shop/orders }"),
                6128,
            ),
            (resources("{ type: book, id: a, url: orders/a }"), 6128),
            (
                resources("{ type: book, id: \"*\", url: \"http://*/a\" }"),
                6128,
            ),
            (
                resources("{ type: book, id: a, url: \"http://orders/a?b\" }"),
                6128,
            ),
            // What is read, and what is no property.
            ("{ unread: [context.tls] }".to_owned(), 6129),
            ("{ unread: [subject.ip_address] }".to_owned(), 6129),
            ("{ unread: [department] }".to_owned(), 6129),
            ("{ unread: [user.department] }".to_owned(), 6129),
            // Not exactly one of the three.
            (resources("{ type: book, id: a }"), 6130),
            (
                resources("{ type: book, id: a, service: shop/a, operation: shop/a/b }"),
                6130,
            ),
            (format!("{{ unread: [{}] }}", unread(RULES_MAX + 1)), 6128),
        ] {
            assert_eq!(codes(&bad), [code], "{bad}");
        }
    }

    fn unread(count: usize) -> String {
        let all: Vec<String> = (0..count).map(|n| format!("context.p{n}")).collect();
        all.join(", ")
    }
}
