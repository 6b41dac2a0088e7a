//! The table of rules.

use super::{
    Finding, Study, condition, expiry, impossible, like, owner, scope, shadow, tested, unasked,
    unused,
};
use crate::author::{codes, policies::IMPOSSIBLE_RULE};

/// A rule: what is looked for.
#[derive(Debug)]
pub struct Rule {
    /// Short name for the command line.
    pub name: &'static str,
    /// Code of what it finds.
    pub code: u16,
    /// What it finds, in a line.
    pub what: &'static str,
    /// How it looks; none where the compiler does, or another rule on its way.
    pub(super) look: Option<fn(&Study, &mut Vec<Finding>)>,
}

impl Rule {
    /// The rule of that name or code.
    pub fn find(name: &str) -> Option<&'static Self> {
        let code = name.to_ascii_uppercase();
        let code = code.trim_start_matches("PLS").parse::<u16>().ok();
        RULES
            .iter()
            .find(|rule| rule.name == name || code == Some(rule.code))
    }
}

const fn kept(name: &'static str, code: u16, what: &'static str) -> Rule {
    Rule {
        name,
        code,
        what,
        look: None,
    }
}

const fn rule(
    name: &'static str,
    code: u16,
    what: &'static str,
    look: fn(&Study, &mut Vec<Finding>),
) -> Rule {
    Rule {
        name,
        code,
        what,
        look: Some(look),
    }
}

/// Every rule, by name.
pub static RULES: &[Rule] = &[
    kept(
        "confusable-characters",
        codes::CONFUSABLE,
        "characters that look like others",
    ),
    rule(
        "constant-condition",
        codes::CONSTANT,
        "a part of a condition that is always true or always false",
        condition::look,
    ),
    kept(
        "duplicate-id",
        codes::ID_TWICE,
        "two policies with one `@id`",
    ),
    rule(
        "expired",
        codes::EXPIRED,
        "a permit past its `@expires`",
        expiry::expired,
    ),
    rule(
        "expires-soon",
        codes::EXPIRES_SOON,
        "a permit whose `@expires` is near",
        expiry::soon,
    ),
    kept(
        "forbid-optional",
        codes::FORBID_OPTIONAL,
        "a `forbid` that reads an optional attribute without `has`",
    ),
    rule(
        IMPOSSIBLE_RULE,
        codes::IMPOSSIBLE,
        "a policy that can never match, with the two facts that contradict",
        impossible::look,
    ),
    rule(
        "like-everything",
        codes::LIKE_EVERYTHING,
        "`like \"*\"`",
        like::everything,
    ),
    rule(
        "like-exact",
        codes::LIKE_EXACT,
        "`like` without a `*`",
        like::exact,
    ),
    rule(
        "like-unanchored",
        codes::LIKE_UNANCHORED,
        "a pattern for a path that does not begin with `/`",
        like::unanchored,
    ),
    rule(
        "many-unscoped",
        codes::MANY_UNSCOPED,
        "more than ten policies that every request has to evaluate",
        scope::many,
    ),
    kept("missing-id", codes::ID_MISSING, "a policy without `@id`"),
    rule(
        "missing-owner",
        codes::OWNER_MISSING,
        "a policy without `@owner`",
        owner::look,
    ),
    rule(
        "never-asked",
        codes::NEVER_ASKED,
        "a policy about requests that nobody can make",
        unasked::asked,
    ),
    rule(
        "never-carried",
        codes::NEVER_CARRIED,
        "a condition on what no request carries",
        unasked::carried,
    ),
    kept(
        "permit-all",
        codes::PERMIT_ALL,
        "a `permit` for everything and everyone",
    ),
    kept(
        "permit-optional",
        codes::PERMIT_OPTIONAL,
        "a `permit` that reads an optional attribute without `has`",
    ),
    rule(
        "shadowed-policy",
        codes::SHADOWED,
        "a policy that another one makes superfluous",
        shadow::look,
    ),
    kept(
        "unknown-annotation",
        codes::ANNOTATION_UNKNOWN,
        "an annotation that nothing reads",
    ),
    kept(
        "unknown-entity",
        codes::UNKNOWN_ENTITY,
        "a SPIFFE ID, service or group that does not exist",
    ),
    kept(
        "unreachable-condition",
        codes::UNREACHABLE,
        "a part of a condition that can never be true where it stands",
    ),
    rule(
        "unscoped-permit",
        codes::UNSCOPED_PERMIT,
        "a `permit` whose scope names neither who nor what",
        scope::permit,
    ),
    rule(
        "untested-policy",
        codes::UNTESTED,
        "a policy that decides no test",
        tested::look,
    ),
    rule(
        "unused-group",
        codes::UNUSED_GROUP,
        "a group that no policy names",
        unused::groups,
    ),
    rule(
        "unused-header",
        codes::UNUSED_HEADER,
        "a declared header that no policy reads",
        unused::headers,
    ),
    rule(
        "unused-operation",
        codes::UNUSED_OPERATION,
        "an operation that no `permit` reaches",
        unused::operations,
    ),
];
