//! Strict validation at level 1, told one message per cause.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use cedar_policy::{
    Policy, PolicyId, PolicySet, Schema, ValidationError, ValidationMode, ValidationWarning,
    Validator,
};
use miette::Diagnostic as Report;
use palisade_mesh::{
    diagnostic::{Diagnostic, Severity, did_you_mean},
    snapshot::Digest,
};

use super::{
    DIAGNOSTICS_MAX, cedar, codes, confusable, impossible,
    policies::{Policies, Read},
};
use crate::decide::Accepting;

/// How deep a policy may look into entities.
const LEVEL: u32 = 1;

/// Most impossible policies whose contradiction is looked for.
const TRIED_MAX: usize = 20;

/// Validates all policies under a schema, which is known by its digest. `actions_missing` says
/// that operations are missing from the schema, so that actions which may be theirs (they have
/// a `:`, which a method has not) are not reported again.
pub(crate) fn validate(
    policies: &Policies,
    (schema, digest): (&Schema, Digest),
    actions_missing: bool,
    found: &mut Vec<Diagnostic>,
) {
    let validator = Validator::new(schema.clone());
    let doubtful = doubtful(policies, schema, digest);
    let result = validator.validate_with_level(&doubtful, ValidationMode::Strict, LEVEL);
    let mut warnings: BTreeMap<&str, Vec<&ValidationWarning>> = BTreeMap::new();
    for warning in result.validation_warnings() {
        let id = name(warning.policy_id());
        warnings.entry(id).or_default().push(warning);
    }
    let mut seen = BTreeSet::new();
    let mut broken = BTreeSet::new();
    let mut errors: Vec<_> = result.validation_errors().collect();
    // Of errors at one place the first is told; what a workload lacks too is worth
    // more than what only an unregistered caller lacks.
    errors.sort_by_cached_key(|e| e.to_string().contains("`Unregistered`"));
    for error in errors {
        let Some(read) = policies.read.get(name(error.policy_id())) else {
            continue;
        };
        let first = broken.insert(read.info.id.clone());
        let hidden = if first {
            warnings.get(read.info.id.as_str()).map_or(0, Vec::len)
        } else {
            0
        };
        if actions_missing
            && matches!(error, ValidationError::UnrecognizedActionId(_))
            && action_named(&error.to_string()).contains(':')
        {
            continue;
        }
        let diagnostic = of_error(error, read, schema, hidden);
        let place = diagnostic.location.as_ref().map(|l| (l.offset, l.len));
        if found.len() > DIAGNOSTICS_MAX {
            return;
        }
        // One mistake is an error for each action that the policy applies to.
        if seen.insert((read.info.id.clone(), diagnostic.code, place)) {
            found.push(diagnostic);
        }
    }
    // Trying parts of a policy costs a validation each; people read some dozens at most.
    let tried = Cell::new(0);
    let next = |id: &str| {
        tried.set(tried.get() + 1);
        let policy = policies.set.policy(&PolicyId::new(id));
        policy.filter(|_| tried.get() <= TRIED_MAX)
    };
    for (id, warnings) in warnings {
        let Some(read) = policies.read.get(id) else {
            continue;
        };
        if found.len() > DIAGNOSTICS_MAX {
            return;
        }
        if !broken.contains(id) {
            let of_scope = || impossible::of_scope(next(id)?, schema);
            let culprits = || impossible::culprits(next(id)?, &validator);
            found.extend(of_warnings(&warnings, read, of_scope, culprits));
        }
    }
}

/// The policies of which validation has something to say, and perhaps others.
fn doubtful(policies: &Policies, schema: &Schema, digest: Digest) -> PolicySet {
    let accepting = Accepting::new(schema);
    let accepts = |policy: &Policy| match policies.read.get(name(policy.id())) {
        Some(read) => read.judged.under(digest, || accepting.accepts(policy)),
        None => accepting.accepts(policy),
    };
    let all: Vec<&Policy> = policies.set.policies().collect();
    let in_turn = policies.turn.order(&all).into_iter();
    let doubtful: Vec<&Policy> = in_turn.copied().filter(|p| !accepts(p)).collect();
    // The order in which mistakes are told is the same in every turn.
    let in_order = policies.turn.order(&doubtful).into_iter();
    PolicySet::from_policies(in_order.map(|p| (*p).clone())).expect("ids of one set are told apart")
}

fn of_error(error: &ValidationError, read: &Read, schema: &Schema, hidden: usize) -> Diagnostic {
    let id = &read.info.id;
    let text = error.to_string();
    let message = cedar::without_policy(&text)
        .trim_start_matches("error during extension function argument validation: ");
    let base = |code: u16| {
        let mut diagnostic = cedar::of_report(code, error, &read.source);
        diagnostic.message = format!("policy `{id}`: {message}");
        if error.labels().is_none() {
            diagnostic.location = Some(read.source.line(read.info.first_line));
        }
        diagnostic
    };
    match error {
        ValidationError::UnrecognizedActionId(_) => unknown_action(message, read, schema, hidden),
        ValidationError::UnrecognizedEntityType(_) => unknown_type(message, read, schema),
        ValidationError::UnsafeAttributeAccess(_) | ValidationError::NoTagsAllowed(_) => {
            let mut diagnostic = unknown_attribute(base(codes::UNKNOWN_ATTRIBUTE));
            diagnostic.message = absent(id, message);
            diagnostic
        }
        ValidationError::UnsafeOptionalAttributeAccess(_) => {
            optional(base, message, "attribute", read)
        }
        ValidationError::UnsafeTagAccess(_) => optional(base, message, "tag", read),
        ValidationError::UnexpectedType(_) | ValidationError::IncompatibleTypes(_) => {
            types(base(codes::TYPES), message)
        }
        ValidationError::InvalidActionApplication(_) => base(codes::ACTION_NEVER_APPLIES),
        ValidationError::EntityDerefLevelViolation(_) => base(codes::LEVEL)
            .cause("a decision sees `principal`, `resource` and the entities they point at, no further")
            .help("put the attribute on the entity itself, or use a group"),
        _ => base(codes::FUNCTION),
    }
}

fn unknown_action(message: &str, read: &Read, schema: &Schema, hidden: usize) -> Diagnostic {
    let name = action_named(message);
    let mut diagnostic = Diagnostic::error(
        codes::UNKNOWN_ACTION,
        format!("action `{name}` is not in the schema"),
    )
    .help(
        "replace it, give an operation in services/ this `action`, or add it to schema.cedarschema",
    )
    .at(read.find(&format!("Action::\"{name}\"")));
    if hidden > 0 {
        diagnostic = diagnostic.cause(format!(
            "this also makes policy `{}` impossible to match ({hidden} follow-up {} hidden)",
            read.info.id,
            if hidden == 1 { "warning" } else { "warnings" }
        ));
    }
    let known: Vec<_> = schema.actions().map(|a| a.id().unescaped()).collect();
    match did_you_mean(name, known.iter().copied()) {
        Some(near) => diagnostic.label(format!("did you mean `Action::\"{near}\"`?")),
        None => diagnostic,
    }
}

/// The action that a message is about, by its name alone.
fn action_named(message: &str) -> &str {
    let uid = quoted(cedar::without_policy(message));
    let name = uid.strip_prefix("Action::\"");
    name.and_then(|n| n.strip_suffix('"')).unwrap_or(uid)
}

fn unknown_type(message: &str, read: &Read, schema: &Schema) -> Diagnostic {
    let name = quoted(message);
    let diagnostic = Diagnostic::error(
        codes::UNKNOWN_TYPE,
        format!("entity type `{name}` is not in the schema"),
    )
    .help("replace it, or declare it in schema.cedarschema")
    .at(read.find(name));
    let known: Vec<_> = schema.entity_types().map(ToString::to_string).collect();
    match did_you_mean(name, known.iter().map(String::as_str)) {
        Some(near) => diagnostic.label(format!("did you mean `{near}`?")),
        None => diagnostic,
    }
}

fn unknown_attribute(mut diagnostic: Diagnostic) -> Diagnostic {
    let attribute = attribute_of(&diagnostic.message).to_owned();
    if let Some(help) = diagnostic.help.take_if(|h| h.starts_with("did you mean"))
        && did_you_mean(&attribute, [quoted(&help)]).is_some()
    {
        diagnostic = diagnostic.label(help);
    }
    if diagnostic.message.contains("headers") {
        return diagnostic.help("declare the header in palisade.yaml, under `headers`");
    }
    if let Some(action) = matches!(attribute.as_str(), "grpc" | "http" | "tcp")
        .then(|| format!("`action in Action::\"{}\"`", action_of(&attribute)))
    {
        diagnostic.label = None;
        return diagnostic
            .cause("its scope also takes actions whose context is another")
            .help(format!("name the actions it is about, such as {action}"));
    }
    if diagnostic.message.contains("Unregistered") {
        return diagnostic
            .cause("a caller that no service claims has its trust domain only")
            .help("begin with `principal is Workload && …`");
    }
    match diagnostic.help {
        Some(_) => diagnostic,
        None => diagnostic.help("`palisade policy schema` prints what there is"),
    }
}

/// What is not there, as the author wrote it; an attribute of the context is missing for
/// whatever action Cedar happened to look at.
fn absent(id: &str, message: &str) -> String {
    let name = |text: &str| text.split('`').nth(1).unwrap_or_default().to_owned();
    match message.split_once("` in context for ") {
        Some((attribute, _)) => {
            format!(
                "policy `{id}`: `context.{}` is not in the schema",
                name(attribute)
            )
        }
        None => match message.split_once("` on entity type ") {
            Some((attribute, entity)) => format!(
                "policy `{id}`: `{}` has no attribute `{}`",
                name(entity),
                name(attribute)
            ),
            None => format!("policy `{id}`: {message}"),
        },
    }
}

/// Two types that never meet: Cedar's rule is the cause, the fix is ours.
fn types(mut diagnostic: Diagnostic, message: &str) -> Diagnostic {
    let Some(rule) = diagnostic.help.take() else {
        return diagnostic;
    };
    let entity = message
        .strip_prefix("the types ")
        .and_then(|rest| rest.strip_suffix(" are not compatible"))
        .and_then(|types| types.split_once(" and "))
        .and_then(|(a, b)| match (a, b) {
            ("String", entity) | (entity, "String") => Some(entity),
            _ => None,
        })
        .filter(|entity| !matches!(*entity, "Bool" | "Long") && !entity.contains(['<', '{', ' ']));
    match entity {
        Some(entity) => diagnostic.cause(rule).help(format!(
            "write the entity, as in `{entity}::\"…\"`, in place of the text"
        )),
        None => diagnostic.cause(rule).help(
            "make both sides one type; `palisade policy schema` prints the type of each attribute",
        ),
    }
}

/// The name that a message about an attribute is about.
fn attribute_of(message: &str) -> &str {
    let whole = message
        .split_once("attribute `")
        .and_then(|(_, rest)| rest.split_once('`'))
        .map_or("", |(name, _)| name);
    whole.rsplit('.').next().unwrap_or(whole)
}

/// The widest action whose context has this part.
fn action_of(part: &str) -> &'static str {
    match part {
        "grpc" => "grpc:call",
        "tcp" => "tcp:connect",
        _ => "http",
    }
}

/// Something is read (`what` it is) that need not be there.
fn optional(
    base: impl Fn(u16) -> Diagnostic,
    message: &str,
    what: &str,
    read: &Read,
) -> Diagnostic {
    let test = match what {
        "tag" => "hasTag",
        _ => "has",
    };
    let (code, message, cause) = if read.info.permit {
        (
            codes::PERMIT_OPTIONAL,
            format!("policy `{}`: {message}", read.info.id),
            format!("if the {what} is missing the policy fails to evaluate and permits nothing"),
        )
    } else {
        (
            codes::FORBID_OPTIONAL,
            format!("forbid `{}` may be skipped", read.info.id),
            format!(
                "if the {what} is missing Cedar ignores this forbid, so the request could be ALLOWED"
            ),
        )
    };
    let mut diagnostic = base(code)
        .label(format!("optional {what} read without `{test}`"))
        .cause(cause);
    diagnostic.message = message;
    let guard = diagnostic
        .help
        .as_deref()
        .map(quoted)
        .and_then(|g| g.strip_suffix(" && .."));
    let text = diagnostic.location.as_ref().and_then(|l| {
        let text = l.text.get(l.offset..l.offset + l.len)?;
        (!text.contains('\n')).then_some(text)
    });
    if let (Some(guard), Some(text)) = (guard, text) {
        // Cedar calls an entity `e`; the author called it something else.
        let parts = match what {
            "tag" => cedar::tag_read(text),
            _ => text.rsplit_once('.'),
        };
        let entity = parts.map_or(text, |(entity, _)| entity);
        let guard = match (guard.strip_prefix("e has "), guard.starts_with(".hasTag(")) {
            (Some(attribute), _) => format!("{entity} has {attribute}"),
            (None, true) => format!("{entity}{guard}"),
            (None, false) => guard.to_owned(),
        };
        // A tag is text, and no truth value by itself.
        let text = match what {
            "tag" => format!("{text} == \"…\""),
            _ => text.to_owned(),
        };
        let help = match read.info.permit {
            true => format!("ask first: `{guard} && {text}`"),
            false => format!(
                "say what a request without it is: in `when`, `{guard} && {text}` spares it, and `!({guard}) || {text}` forbids it, too"
            ),
        };
        diagnostic = diagnostic.help(help);
    }
    diagnostic
}

fn name(id: &PolicyId) -> &str {
    id.as_ref()
}

/// The first text between backticks.
fn quoted(text: &str) -> &str {
    text.split('`').nth(1).unwrap_or(text)
}

fn of_warnings(
    warnings: &[&ValidationWarning],
    read: &Read,
    of_scope: impl FnOnce() -> Option<String>,
    culprits: impl FnOnce() -> Option<(String, String)>,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let id = &read.info.id;
    let never = |w: &&&ValidationWarning| {
        matches!(
            w,
            ValidationWarning::InvalidActionApplication(_) | ValidationWarning::ImpossiblePolicy(_)
        )
    };
    if let Some(first) = warnings.iter().find(never)
        && !read.may_be_impossible
    {
        let scope = matches!(first, ValidationWarning::InvalidActionApplication(_));
        let mut diagnostic =
            Diagnostic::warning(codes::IMPOSSIBLE, format!("policy `{id}` can never match"))
                .cause(match (!scope).then(culprits).flatten() {
                    _ if scope => of_scope().unwrap_or_else(|| {
                        "no action of its scope applies to such a principal and such a resource"
                            .to_owned()
                    }),
                    Some((first, second)) => {
                        format!("{first} and {second} cannot both hold, by their types")
                    }
                    None => {
                        "its scope and conditions contradict each other, whatever the request is"
                            .to_owned()
                    }
                })
                .help("remove it, or correct the type that is tested; where it is meant so, write `@allow(\"impossible-policy\")` above it");
        diagnostic.location = Some(read.find(read.effect()));
        found.push(diagnostic);
    }
    for warning in warnings.iter().filter(|w| !never(w)) {
        let mut diagnostic = cedar::of_report(codes::CONFUSABLE, *warning, &read.source);
        let text = warning.to_string();
        diagnostic.message = format!("policy `{id}`: {}", cedar::without_policy(&text));
        // Of whoever makes a revision it is an error; one that is there is taken as it is.
        diagnostic.severity = Severity::Warning;
        if let Some(at) = &mut diagnostic.location
            && let Some(string) = confusable::string_in(&at.text, at.offset..at.offset + at.len)
        {
            *at = read.source.span(string);
        }
        found.push(
            diagnostic
                .cause("it looks like another text than it is, to those who review it")
                .help("type it anew with plain letters, or write it as `\\u{…}`"),
        );
    }
    found
}
