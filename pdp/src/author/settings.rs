//! `palisade.yaml`: what holds for the whole repository.

use std::time::Duration;

use palisade_mesh::{
    catalogue::{DeclaredHeader, HeaderShape, Unmatched},
    diagnostic::Diagnostic,
    personal::Mask,
    spiffe_id::TrustDomain,
    wire::record::AuditMode,
    yaml::{Source, Span},
};
use smol_str::SmolStr;

use super::{
    codes, mask,
    yaml::{Node, Reader, parse},
};

pub(crate) mod sources;

use sources::Contributor;

/// Longest and default time a request may take where a service says nothing.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);
/// Longest time a service may allow a request.
pub const TIMEOUT_MAX: Duration = Duration::from_hours(24);

/// Names of the audit modes.
pub(crate) const AUDIT: &[(&str, AuditMode)] = &[
    ("strict", AuditMode::Strict),
    ("spool", AuditMode::Spool),
    ("best_effort", AuditMode::BestEffort),
];
/// Names of what becomes of requests that are no operation.
pub(crate) const UNMATCHED: &[(&str, Unmatched)] = &[
    ("not_found", Unmatched::NotFound),
    ("forward", Unmatched::Forward),
];
const SHAPES: &[(&str, HeaderShape)] =
    &[("single", HeaderShape::Single), ("list", HeaderShape::List)];

/// Headers whose values are secrets or claims of identity: a policy that read
/// them would put them into records, or trust what anybody can write.
const HEADERS_REFUSED: &[&str] = &[
    "authorization",
    "cookie",
    "forwarded",
    "host",
    "proxy-authorization",
    "set-cookie",
    "x-forwarded-client-cert",
    "x-forwarded-for",
];

/// The settings as they are meant.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) headers: Vec<DeclaredHeader>,
    /// Names under `headers`, also those that cannot be declared so.
    pub(crate) header_names: Vec<SmolStr>,
    pub(crate) unmatched: Unmatched,
    pub(crate) audit: AuditMode,
    pub(crate) mask: Mask,
    pub(crate) timeout: Duration,
    /// Sources that contribute to the repository, by name.
    pub(crate) sources: Vec<Contributor>,
}

/// The trust domain that the settings `text` name, where they can be read.
pub(crate) fn trust_domain(text: &str) -> Option<TrustDomain> {
    let source = Source::new(super::files::SETTINGS, text);
    read(&source, &mut Vec::new()).map(|settings| settings.trust_domain)
}

/// Reads the settings; `None` when there is no usable trust domain.
pub(crate) fn read(source: &Source, found: &mut Vec<Diagnostic>) -> Option<Settings> {
    let root = parse(source, found)?;
    let mut reader = Reader::new(source, found);
    let fields = reader.fields(
        &root,
        "`palisade.yaml`",
        &["trust_domain", "headers", "defaults", "sources"],
    )?;
    let (headers, header_names) = fields
        .get("headers")
        .map(|node| headers(node, &mut reader))
        .unwrap_or_default();
    let mut settings = Settings {
        trust_domain: TrustDomain::parse("unknown.invalid").ok()?,
        headers,
        header_names,
        unmatched: Unmatched::NotFound,
        audit: AuditMode::Spool,
        mask: Mask::NONE,
        timeout: TIMEOUT_DEFAULT,
        sources: Vec::new(),
    };
    if let Some(node) = fields.get("sources") {
        settings.sources = sources::read(node, &mut reader);
    }
    if let Some(node) = fields.get("defaults") {
        defaults(node, &mut settings, &mut reader);
    }
    let Some(node) = fields.get("trust_domain") else {
        reader.missing(
            fields.span,
            "`palisade.yaml`",
            "trust_domain",
            "trust_domain: acme.test",
        );
        return None;
    };
    let name = reader.text(node, "`trust_domain`")?;
    match TrustDomain::parse(name) {
        Ok(domain) => settings.trust_domain = domain,
        Err(error) => {
            let diagnostic = Diagnostic::error(
                codes::TRUST_DOMAIN,
                format!("`{name}` is not a trust domain"),
            )
            .cause(error.to_string())
            .help("write the bare name in lower case, such as `acme.test`");
            reader.report(diagnostic, node.span);
            return None;
        }
    }
    Some(settings)
}

fn defaults(node: &Node, settings: &mut Settings, reader: &mut Reader<'_>) {
    let known = &["unmatched", "audit", "mask", "timeout"];
    let Some(fields) = reader.fields(node, "`defaults`", known) else {
        return;
    };
    if let Some(node) = fields.get("unmatched")
        && let Some(unmatched) = reader.choice(node, "`unmatched`", UNMATCHED)
    {
        settings.unmatched = unmatched;
    }
    if let Some(node) = fields.get("audit")
        && let Some(audit) = reader.choice(node, "`audit`", AUDIT)
    {
        settings.audit = audit;
    }
    if let Some(node) = fields.written("mask") {
        settings.mask = mask::read(node, &settings.header_names, reader);
    }
    if let Some(node) = fields.get("timeout")
        && let Some(timeout) = timeout(node, reader)
    {
        settings.timeout = timeout;
    }
}

fn headers(node: &Node, reader: &mut Reader<'_>) -> (Vec<DeclaredHeader>, Vec<SmolStr>) {
    let (mut headers, mut names) = (Vec::new(), Vec::new());
    for entry in reader.map(node, "`headers`").unwrap_or_default() {
        names.push(SmolStr::new(&entry.key));
        let shape = reader.choice(&entry.value, "the shape of a header", SHAPES);
        if check_header(&entry.key, entry.key_span, reader)
            && let Some(shape) = shape
        {
            headers.push(DeclaredHeader {
                name: entry.key.as_str().into(),
                shape,
            });
        }
    }
    (headers, names)
}

fn check_header(name: &str, span: Span, reader: &mut Reader<'_>) -> bool {
    let lower = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    let cause = if name.is_empty() || !lower {
        "header names are written in lower case, with letters, digits, `-` and `_`"
    } else if HEADERS_REFUSED.contains(&name) || name.starts_with("palisade-") {
        "it carries a secret, or a claim that TLS has to prove"
    } else {
        return true;
    };
    let diagnostic = Diagnostic::error(
        codes::HEADER,
        format!("header `{name}` cannot be read by policies"),
    )
    .cause(cause)
    .help("declare another header, such as `x-change-id: single`");
    reader.report(diagnostic, span);
    false
}

/// Reads a duration such as `15s`, at most [`TIMEOUT_MAX`].
pub(crate) fn timeout(node: &Node, reader: &mut Reader<'_>) -> Option<Duration> {
    let text = reader.text(node, "`timeout`")?;
    let parsed = parse_duration(text);
    if let Some(duration) = parsed.filter(|d| !d.is_zero() && *d <= TIMEOUT_MAX) {
        return Some(duration);
    }
    let diagnostic = Diagnostic::error(codes::DURATION, format!("`{text}` is not a timeout"))
        .cause("it is a whole number with `ms`, `s`, `m` or `h`, above zero, at most 24h")
        .help("write for example `timeout: 15s`");
    reader.report(diagnostic, node.span);
    None
}

pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "h" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> (Option<Settings>, Vec<(u16, usize)>) {
        let mut found = Vec::new();
        let settings = read(&Source::new("palisade.yaml", text), &mut found);
        let found = found
            .iter()
            .map(|d| (d.code.0, d.location.as_ref().map_or(0, |l| l.line)))
            .collect();
        (settings, found)
    }

    #[test]
    fn settings_have_safe_defaults() {
        let (settings, found) = check("trust_domain: demo.test\n");
        let settings = settings.expect("valid");
        assert!(found.is_empty());
        assert_eq!(settings.timeout, TIMEOUT_DEFAULT);
        assert_eq!(settings.unmatched, Unmatched::NotFound);
        assert_eq!(settings.audit, AuditMode::Spool);
    }

    #[test]
    fn all_mistakes_of_the_settings_come_at_once() {
        let (settings, found) = check(
            "trust_domain: Demo.Test\nheader: {}\nheaders:\n  X-A: single\n  cookie: single\n  x-b: many\n\
             defaults:\n  timeout: 3 days\n  audit: strickt\n",
        );
        assert!(settings.is_none());
        for expected in [
            (codes::TRUST_DOMAIN, 1),
            (codes::UNKNOWN_KEY, 2),
            (codes::HEADER, 4),
            (codes::HEADER, 5),
            (codes::INVALID_VALUE, 6),
            (codes::DURATION, 8),
            (codes::INVALID_VALUE, 9),
        ] {
            assert!(found.contains(&expected), "{expected:?} in {found:?}");
        }
        assert_eq!(found.len(), 7);
        assert_eq!(check("headers: {}\n").1, [(codes::MISSING_KEY, 1)]);
        assert_eq!(check("- a\n").1, [(codes::WRONG_KIND, 1)]);
    }

    #[test]
    fn durations_are_bounded_on_both_sides() {
        let timeout = |text: &str| {
            let (settings, found) = check(&format!(
                "trust_domain: demo.test\ndefaults: {{timeout: {text}}}\n"
            ));
            (settings.map(|s| s.timeout), found.len())
        };
        assert_eq!(timeout("24h"), (Some(TIMEOUT_MAX), 0));
        assert_eq!(timeout("1ms"), (Some(Duration::from_millis(1)), 0));
        for bad in ["25h", "0s", "15", "1d", "-1s", "99999999999999999999s"] {
            assert_eq!(timeout(bad), (Some(TIMEOUT_DEFAULT), 1), "{bad}");
        }
    }
}
