//! Which attested process gets which identity: the declarative list.
//!
//! The list is checked whole, every mistake told at once, and applied whole: what
//! is not on it has no identity any more.

use std::{collections::HashSet, sync::Arc, time::Duration};

use palisade_mesh::{
    diagnostic::Diagnostic,
    spiffe_id::{SpiffeId, TrustDomain},
    wire::ca as wire,
};
use serde::{Deserialize, Serialize};

use crate::{
    join::{ANY_NODE, NodeName},
    selector::{Selector, SelectorError},
};

/// Shortest lifetime of an X.509-SVID; demos and tests use it.
pub const TTL_MIN: Duration = Duration::from_secs(10);
/// Longest lifetime of an X.509-SVID, whatever its issuer would allow.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest hint, in bytes (SPIFFE Workload API, section 5.2.1).
pub const HINT_LEN_MAX: usize = 1024;
/// Most registrations in a list.
pub const REGISTRATIONS_MAX: usize = 10_000;
/// Most selectors in a registration or a request.
pub const SELECTORS_MAX: usize = 32;
/// Most nodes that one registration names; more are every host.
pub const NODES_MAX: usize = 1000;

/// A registration as written in configuration, not yet trusted.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RegistrationConfig {
    /// Identity, `spiffe://TRUST_DOMAIN/PATH`.
    pub spiffe_id: String,
    /// Properties that must all be attested, at least one:
    /// `unix:uid:1000`, `unix:gid:1000`, `unix:path:/usr/bin/app`, `unix:sha256:…`.
    #[serde(default)]
    pub selectors: Vec<String>,
    /// Lifetime of a certificate, such as `1h` or `60s`; the default is the
    /// authority's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// Tells a workload with several identities which is which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The joined node whose workload it is. Without `node` and `nodes`: the
    /// authority's own host, and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Several nodes; `"*"` stands for every host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
}

/// What a list of registrations is checked against.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Every identity must be in it.
    pub trust_domain: TrustDomain,
    /// Lifetime where none is written.
    pub ttl_default: Duration,
    /// Longest lifetime the authority can issue.
    pub ttl_max: Duration,
}

/// A checked registration: there is no other way to one than [`parse`] and
/// [`Registration::for_role`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Registration {
    /// Identity.
    pub spiffe_id: SpiffeId,
    /// Properties that must all be attested; sorted, without repeats.
    pub selectors: Arc<[Selector]>,
    /// Lifetime of a certificate.
    pub ttl: Duration,
    /// Hint, may be empty.
    pub hint: String,
    /// Names of the nodes it is for, or [`ANY_NODE`]; empty for the authority's own
    /// host. Only the authority knows: what an agent is told is for it.
    pub nodes: Arc<[String]>,
}

impl Registration {
    /// Registers a part of the mesh itself, `spiffe://TD/palisade/ROLE`: the one
    /// way to a reserved identity.
    pub fn for_role(
        domain: &TrustDomain,
        role: &str,
        selectors: Vec<Selector>,
        ttl: Duration,
    ) -> Self {
        Self::new(domain.role(role), selectors, ttl, String::new())
    }

    /// Whether a process with these attested properties gets this identity.
    pub fn matches(&self, attested: &[Selector]) -> bool {
        !self.selectors.is_empty() && self.selectors.iter().all(|s| attested.contains(s))
    }

    /// Whether it is for the authority's own host.
    pub fn is_local(&self) -> bool {
        self.nodes.is_empty() || self.is_for_all()
    }

    /// Whether it is for the joined node `name`.
    pub fn is_on(&self, name: &str) -> bool {
        self.is_for_all() || self.nodes.iter().any(|n| n == name)
    }

    fn is_for_all(&self) -> bool {
        self.nodes.iter().any(|n| n == ANY_NODE)
    }

    /// The same, for these nodes.
    #[must_use]
    pub(crate) fn on(mut self, nodes: Vec<String>) -> Self {
        self.nodes = nodes.into();
        self
    }

    pub(crate) fn new(
        spiffe_id: SpiffeId,
        mut selectors: Vec<Selector>,
        ttl: Duration,
        hint: String,
    ) -> Self {
        selectors.sort();
        selectors.dedup();
        Self {
            spiffe_id,
            selectors: selectors.into(),
            ttl,
            hint,
            nodes: Arc::default(),
        }
    }
}

/// Checks a whole list.
///
/// # Errors
/// Every mistake in it, `PLS4001` to `PLS4009` and `PLS4101`.
pub fn parse(
    configs: &[RegistrationConfig],
    rules: &Rules,
) -> Result<Vec<Registration>, Vec<Diagnostic>> {
    let mut mistakes = Vec::new();
    if configs.len() > REGISTRATIONS_MAX {
        mistakes.push(
            Diagnostic::error(
                4009,
                format!("{} registrations are too many", configs.len()),
            )
            .cause(format!("at most {REGISTRATIONS_MAX} are allowed"))
            .help("register services, not single instances"),
        );
        return Err(mistakes);
    }
    let registrations: Vec<_> = configs
        .iter()
        .enumerate()
        .filter_map(|(index, config)| Entry { index, config }.check(rules, &mut mistakes))
        .collect();
    refuse_repeats(&registrations, &mut mistakes);
    if mistakes.is_empty() {
        Ok(registrations.into_iter().map(|(_, r)| r).collect())
    } else {
        Err(mistakes)
    }
}

/// One entry of the list under examination.
struct Entry<'a> {
    index: usize,
    config: &'a RegistrationConfig,
}

impl Entry<'_> {
    /// Checks every field, so that one run tells all mistakes of the entry.
    fn check(
        &self,
        rules: &Rules,
        mistakes: &mut Vec<Diagnostic>,
    ) -> Option<(usize, Registration)> {
        let id = self.spiffe_id(rules).map_err(|d| mistakes.push(*d)).ok();
        let selectors = self.selectors(mistakes);
        let ttl = self.ttl(rules).map_err(|d| mistakes.push(*d)).ok();
        let hint = self.hint().map_err(|d| mistakes.push(*d)).ok();
        let nodes = self.nodes().map_err(|d| mistakes.push(*d)).ok();
        let registration = Registration::new(id?, selectors?, ttl?, hint?).on(nodes?);
        Some((self.index, registration))
    }

    fn nodes(&self) -> Result<Vec<String>, Box<Diagnostic>> {
        let (one, several) = (&self.config.node, &self.config.nodes);
        if one.is_some() && several.is_some() {
            let twice = self.error(4101, "`node` and `nodes` stand beside each other");
            return Err(Box::new(twice.help("keep one of them")));
        }
        let named: Vec<String> = one
            .iter()
            .chain(several.iter().flatten())
            .cloned()
            .collect();
        if several.is_some() && named.is_empty() || named.len() > NODES_MAX {
            let wrong = self.error(4101, format!("`nodes` names {} nodes", named.len()));
            return Err(Box::new(wrong.help(format!(
                "1 to {NODES_MAX} names, or `\"*\"` for every host"
            ))));
        }
        let is_bad = |n: &&String| *n != ANY_NODE && NodeName::parse(n).is_err();
        match named.iter().find(is_bad) {
            None => Ok(named),
            Some(bad) => Err(Box::new(
                self.error(4101, format!("`{}` is not a name for a node", excerpt(bad)))
                    .help("as it was joined: 1 to 63 lower-case letters, digits, `-` and `.`"),
            )),
        }
    }

    fn error(&self, code: u16, what: impl std::fmt::Display) -> Diagnostic {
        let Self { index, config } = self;
        let name = excerpt(&config.spiffe_id);
        Diagnostic::error(code, format!("registrations[{index}] (`{name}`): {what}"))
    }

    fn spiffe_id(&self, rules: &Rules) -> Result<SpiffeId, Box<Diagnostic>> {
        let domain = &rules.trust_domain;
        let id = SpiffeId::parse(&self.config.spiffe_id).map_err(|e| {
            self.error(4001, "`spiffe_id` is not a SPIFFE ID")
                .cause(e.to_string())
                .help(format!("write it as `spiffe://{domain}/ns/shop/sa/web`"))
        })?;
        if !id.is_member_of(domain) {
            return Err(Box::new(
                self.error(4002, "identity belongs to another trust domain")
                    .cause(format!("`{}` is not `{domain}`", id.trust_domain()))
                    .help(format!("write it as `spiffe://{domain}{}`", id.path())),
            ));
        }
        if id.is_reserved() {
            return Err(Box::new(
                self.error(4003, "identity is reserved")
                    .cause("paths under `/palisade/` name the mesh's own parts")
                    .help("choose another path"),
            ));
        }
        Ok(id)
    }

    fn selectors(&self, mistakes: &mut Vec<Diagnostic>) -> Option<Vec<Selector>> {
        let texts = &self.config.selectors;
        if texts.is_empty() {
            mistakes.push(
                self.error(4004, "no selectors")
                    .cause("without one, every process would get this identity")
                    .help("add at least one, such as `unix:path:/usr/bin/app`"),
            );
            return None;
        }
        if texts.len() > SELECTORS_MAX {
            mistakes.push(
                self.error(4009, format!("{} selectors are too many", texts.len()))
                    .cause(format!("at most {SELECTORS_MAX} are allowed")),
            );
            return None;
        }
        let before = mistakes.len();
        let selectors = texts
            .iter()
            .filter_map(|text| match Selector::parse(text) {
                Ok(selector) => Some(selector),
                Err(e) => {
                    mistakes.push(self.bad_selector(text, e));
                    None
                }
            })
            .collect();
        (mistakes.len() == before).then_some(selectors)
    }

    fn bad_selector(&self, text: &str, error: SelectorError) -> Diagnostic {
        let text = excerpt(text);
        self.error(4005, format!("`{text}` is not a selector"))
            .cause(error.to_string())
            .help("for example `unix:uid:1000` or `unix:path:/usr/bin/app`")
    }

    fn ttl(&self, rules: &Rules) -> Result<Duration, Box<Diagnostic>> {
        let max = rules.ttl_max.min(TTL_MAX);
        let Some(text) = &self.config.ttl else {
            return Ok(rules.ttl_default.max(TTL_MIN).min(max));
        };
        let range = format!("between {}s and {}s", TTL_MIN.as_secs(), max.as_secs());
        let ttl = text
            .parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|d| Duration::try_from(d).ok())
            .ok_or_else(|| {
                self.error(4006, format!("`{}` is not a lifetime", excerpt(text)))
                    .help(format!("write `1h` or `90s`, {range}"))
            })?;
        if ttl < TTL_MIN || ttl > max || ttl.subsec_nanos() != 0 {
            return Err(Box::new(
                self.error(
                    4006,
                    format!("lifetime `{}` is out of range", excerpt(text)),
                )
                .cause(format!("whole seconds {range} are possible here"))
                .help("a certificate must not outlive its issuer; renewal is automatic"),
            ));
        }
        Ok(ttl)
    }

    fn hint(&self) -> Result<String, Box<Diagnostic>> {
        let hint = self.config.hint.clone().unwrap_or_default();
        if hint.len() > HINT_LEN_MAX || hint.chars().any(char::is_control) {
            return Err(Box::new(
                self.error(4008, "hint is too long or holds control characters")
                    .cause(format!("{} bytes; at most {HINT_LEN_MAX}", hint.len())),
            ));
        }
        Ok(hint)
    }
}

fn refuse_repeats(registrations: &[(usize, Registration)], mistakes: &mut Vec<Diagnostic>) {
    let mut seen = HashSet::new();
    for (index, r) in registrations {
        if !seen.insert((&r.spiffe_id, &r.selectors)) {
            mistakes.push(
                Diagnostic::error(
                    4007,
                    format!("registrations[{index}] (`{}`) is a repeat", r.spiffe_id),
                )
                .cause("identity and selectors equal those of an earlier registration")
                .help("remove one of them"),
            );
        }
    }
}

/// What of a wrong value a message repeats.
fn excerpt(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

impl From<&Registration> for wire::Registration {
    fn from(r: &Registration) -> Self {
        Self {
            spiffe_id: r.spiffe_id.to_string(),
            selectors: r.selectors.iter().map(Selector::to_string).collect(),
            ttl_s: u32::try_from(r.ttl.as_secs()).unwrap_or(u32::MAX),
            hint: r.hint.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            trust_domain: TrustDomain::parse("acme.test").unwrap(),
            ttl_default: Duration::from_secs(3600),
            ttl_max: TTL_MAX,
        }
    }

    fn config(id: &str, selectors: &[&str]) -> RegistrationConfig {
        RegistrationConfig {
            spiffe_id: id.into(),
            selectors: selectors.iter().map(|s| s.to_string()).collect(),
            ..RegistrationConfig::default()
        }
    }

    fn codes(configs: &[RegistrationConfig]) -> Vec<u16> {
        parse(configs, &rules()).map_or_else(|m| m.iter().map(|d| d.code.0).collect(), |_| vec![])
    }

    const WEB: &str = "spiffe://acme.test/ns/shop/sa/web";

    #[test]
    fn a_good_list_is_taken_in_its_order() {
        let mut second = config(
            "spiffe://acme.test/b",
            &["unix:uid:1", "unix:gid:2", "unix:uid:1"],
        );
        second.ttl = Some("90s".into());
        second.hint = Some("internal".into());
        let list = parse(&[config(WEB, &["unix:uid:7"]), second], &rules()).unwrap();
        assert_eq!(list[0].spiffe_id.as_str(), WEB);
        assert_eq!(list[0].ttl, Duration::from_secs(3600));
        assert_eq!(list[1].selectors.len(), 2);
        assert_eq!(list[1].ttl, Duration::from_secs(90));
        assert_eq!(list[1].hint, "internal");
    }

    #[test]
    fn each_mistake_has_its_code() {
        let uid = &["unix:uid:1"][..];
        let with = |ttl: &str| RegistrationConfig {
            ttl: Some(ttl.into()),
            ..config(WEB, uid)
        };
        let hint = |len: usize| RegistrationConfig {
            hint: Some("h".repeat(len)),
            ..config(WEB, uid)
        };
        let many: Vec<String> = (0..=SELECTORS_MAX)
            .map(|n| format!("unix:uid:{n}"))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (config, code) in [
            (config("acme.test/web", uid), 4001),
            (config("spiffe://acme.test", uid), 4001),
            (config("spiffe://Acme.test/web", uid), 4001),
            (config("spiffe://acme.tester/web", uid), 4002),
            (config("spiffe://acme.test/palisade/ca", uid), 4003),
            (config("spiffe://acme.test/palisade", uid), 4003),
            (config(WEB, &[]), 4004),
            (config(WEB, &["uid:1"]), 4005),
            (with("soon"), 4006),
            (with("-1h"), 4006),
            (with("9s"), 4006),
            (with("1h 0.5s"), 4006),
            (with("25h"), 4006),
            (hint(HINT_LEN_MAX + 1), 4008),
            (config(WEB, &many), 4009),
        ] {
            assert_eq!(codes(std::slice::from_ref(&config)), [code], "{config:?}");
        }
        for good in [
            with("10s"),
            with("24h"),
            hint(HINT_LEN_MAX),
            config(WEB, &many[1..]),
        ] {
            assert!(codes(std::slice::from_ref(&good)).is_empty(), "{good:?}");
        }
    }

    /// Where nothing is said, no other host gets it.
    #[test]
    fn a_registration_is_for_the_nodes_it_names() {
        let on = |node: Option<&str>, nodes: Option<&[&str]>| RegistrationConfig {
            node: node.map(Into::into),
            nodes: nodes.map(|n| n.iter().map(|s| s.to_string()).collect()),
            ..config(WEB, &["unix:uid:1"])
        };
        let where_is = |c| {
            let r = parse(&[c], &rules()).unwrap().remove(0);
            [r.is_local(), r.is_on("a"), r.is_on("b")]
        };
        assert_eq!(where_is(on(None, None)), [true, false, false]);
        assert_eq!(where_is(on(Some("a"), None)), [false, true, false]);
        assert_eq!(where_is(on(None, Some(&["a", "b"]))), [false, true, true]);
        assert_eq!(where_is(on(Some("*"), None)), [true, true, true]);
        for bad in [
            on(Some("a"), Some(&["b"])),
            on(None, Some(&[])),
            on(Some("A"), None),
            on(None, Some(&["a"; NODES_MAX + 1])),
        ] {
            assert_eq!(codes(&[bad]), [4101]);
        }
        assert!(codes(&[on(None, Some(&["a"; NODES_MAX]))]).is_empty());
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let mut bad = config("nonsense", &["uid:1", "unix:uid:x"]);
        bad.ttl = Some("1s".into());
        let twice = config(WEB, &["unix:uid:1"]);
        assert_eq!(
            codes(&[bad, twice.clone(), twice]),
            [4001, 4005, 4005, 4006, 4007]
        );
    }

    #[test]
    fn every_selector_must_be_attested() {
        let list = parse(
            &[config(WEB, &["unix:uid:1", "unix:path:/bin/app"])],
            &rules(),
        )
        .unwrap();
        let path = Selector::Path("/bin/app".into());
        assert!(list[0].matches(&[Selector::Gid(4), path.clone(), Selector::Uid(1)]));
        assert!(!list[0].matches(&[Selector::Uid(1)]));
        assert!(!list[0].matches(&[path]));
        assert!(!list[0].matches(&[]));
    }
}
