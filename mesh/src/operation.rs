//! Operations: what a request *is*, the only resource Cedar sees.
//!
//! An operation is a method and a path template, optionally on certain hosts;
//! never a header, query or weight. The grammar of a template:
//!
//! ```text
//! template = 1*( "/" part ) [ "/" "{*" name "}" ]
//! part     = literal / "{" name "}"
//! literal  = a canonical path segment (see `canonical`)
//! name     = 1*( ALPHA / DIGIT / "_" )
//! ```
//!
//! `{name}` takes one segment that is not empty, `{*name}` takes what is left
//! (at least one character). Operations of a service must not overlap, so a
//! request has at most one; [`OperationTable::new`] refuses a table in which
//! two could match the same request.

use rustc_hash::FxHashMap;
use smol_str::SmolStr;

use crate::{
    canonical::{CanonicalRequest, Method, canonical_path},
    personal::Mask,
    wire::record::AuditMode,
};

/// A named kind of request of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Entity id: `TRUST_DOMAIN/NAMESPACE/SERVICE/NAME`.
    pub id: SmolStr,
    /// Name within the service.
    pub name: SmolStr,
    /// Methods, sorted; never empty.
    pub methods: Vec<Method>,
    /// Hosts it is limited to; empty means all of the service's.
    pub hosts: Vec<SmolStr>,
    /// Path template.
    pub template: Template,
    /// Business action such as `orders:refund`; otherwise the method is the action.
    pub action: Option<SmolStr>,
    /// How durable its records must be; otherwise as the service says.
    pub audit: Option<AuditMode>,
    /// What its records leave out, where that is more than the service says; what the
    /// service says is in it.
    pub mask: Mask,
}

/// A parsed path template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: SmolStr,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(SmolStr),
    One,
    Rest,
}

impl Template {
    /// Parses a template; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let body = text.strip_prefix('/').ok_or(TemplateError::NoSlash)?;
        let mut parts = Vec::new();
        for (i, segment) in body.split('/').enumerate() {
            if parts.last() == Some(&Part::Rest) {
                return Err(TemplateError::RestNotLast);
            }
            parts.push(part(segment, i == 0 && body.is_empty())?);
        }
        Ok(Self {
            text: text.into(),
            parts,
        })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether every path that matches `other` matches this one.
    pub fn covers(&self, other: &Self) -> bool {
        let (mut own, mut theirs) = (self.parts.iter(), other.parts.iter());
        loop {
            match (own.next(), theirs.next()) {
                (None, None) => return true,
                // `{*rest}` needs at least one character.
                (Some(Part::Rest), Some(Part::Literal(l))) => {
                    return !l.is_empty() || theirs.len() > 0;
                }
                (Some(Part::Rest), Some(_)) => return true,
                (Some(Part::One), Some(Part::One)) => {}
                (Some(Part::One), Some(Part::Literal(l))) if !l.is_empty() => {}
                (Some(Part::Literal(a)), Some(Part::Literal(b))) if a == b => {}
                _ => return false,
            }
        }
    }

    /// Whether some path matches both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mut a, mut b) = (self.parts.iter(), other.parts.iter());
        loop {
            match (a.next(), b.next()) {
                (None, None) => return true,
                (Some(Part::Rest), Some(Part::Literal(l)))
                | (Some(Part::Literal(l)), Some(Part::Rest)) => {
                    // `{*rest}` needs at least one character.
                    return !l.is_empty() || a.len() + b.len() > 0;
                }
                (Some(Part::Rest), Some(_)) | (Some(_), Some(Part::Rest)) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some(Part::Literal(x)), Some(Part::Literal(y))) if x != y => return false,
                (Some(Part::Literal(l)), Some(Part::One))
                | (Some(Part::One), Some(Part::Literal(l)))
                    if l.is_empty() =>
                {
                    return false;
                }
                _ => {}
            }
        }
    }
}

fn part(segment: &str, root: bool) -> Result<Part, TemplateError> {
    if let Some(inner) = segment.strip_prefix('{') {
        let inner = inner.strip_suffix('}').ok_or(TemplateError::Unclosed)?;
        let (name, part) = match inner.strip_prefix('*') {
            Some(name) => (name, Part::Rest),
            None => (inner, Part::One),
        };
        let valid =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        return if valid {
            Ok(part)
        } else {
            Err(TemplateError::BadName)
        };
    }
    let path = format!("/{segment}");
    let canonical = root || canonical_path(&path).is_ok_and(|p| p == path);
    if segment.contains(['{', '}']) || !canonical {
        return Err(TemplateError::NotCanonical);
    }
    Ok(Part::Literal(segment.into()))
}

/// What is wrong with a path template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{}` or odd characters in a name.
    #[error("a parameter is `{{name}}` or `{{*name}}` with letters, digits and `_`")]
    BadName,
    /// It does not start with a slash.
    #[error("a path template starts with `/`")]
    NoSlash,
    /// A literal that no canonical path contains.
    #[error(
        "a literal segment must be spelled as in a canonical path, and a parameter must be a whole segment"
    )]
    NotCanonical,
    /// Something follows `{*name}`.
    #[error("`{{*name}}` takes all that is left and must be last")]
    RestNotLast,
    /// `{` without `}`.
    #[error("`{{` is not closed in its segment")]
    Unclosed,
}

/// The operations of one service, ready to be matched.
#[derive(Debug, Clone, Default)]
pub struct OperationTable {
    operations: Vec<Operation>,
    nodes: Vec<Node>,
    /// What any of them leaves out.
    mask: Mask,
}

#[derive(Debug, Clone, Default)]
struct Node {
    literals: FxHashMap<SmolStr, usize>,
    one: Option<usize>,
    rest: Vec<usize>,
    here: Vec<usize>,
}

impl OperationTable {
    /// Builds the table; the error lists every overlapping pair by index.
    pub fn new(operations: Vec<Operation>) -> Result<Self, Vec<(usize, usize)>> {
        let overlaps = overlaps(&operations);
        if !overlaps.is_empty() {
            return Err(overlaps);
        }
        let mask = operations
            .iter()
            .fold(Mask::NONE, |mask, operation| mask.and(&operation.mask));
        let mut table = Self {
            operations,
            nodes: vec![Node::default()],
            mask,
        };
        for index in 0..table.operations.len() {
            table.insert(index);
        }
        Ok(table)
    }

    /// The operation that `request` is, if any.
    pub fn find(&self, request: &CanonicalRequest) -> Option<&Operation> {
        let rest = request.path.strip_prefix('/')?;
        let index = self.descend(0, Some(rest), request)?;
        self.operations.get(index)
    }

    /// What records of any operation leave out beyond what the service says; none where
    /// no operation adds to that.
    pub fn mask(&self) -> &Mask {
        &self.mask
    }

    /// All operations, in the order they were written.
    pub fn iter(&self) -> std::slice::Iter<'_, Operation> {
        self.operations.iter()
    }

    fn insert(&mut self, index: usize) {
        let Some(operation) = self.operations.get(index) else {
            return;
        };
        let parts = operation.template.parts.clone();
        let mut at = 0;
        for part in parts {
            if part == Part::Rest {
                if let Some(node) = self.nodes.get_mut(at) {
                    node.rest.push(index);
                }
                return;
            }
            at = self.child(at, &part);
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.here.push(index);
        }
    }

    fn child(&mut self, at: usize, part: &Part) -> usize {
        let fresh = self.nodes.len();
        let Some(node) = self.nodes.get_mut(at) else {
            return at;
        };
        let child = match part {
            Part::Literal(l) => *node.literals.entry(l.clone()).or_insert(fresh),
            Part::One | Part::Rest => *node.one.get_or_insert(fresh),
        };
        if child == fresh {
            self.nodes.push(Node::default());
        }
        child
    }

    /// Each node is visited at most once per depth, so a match costs at most the
    /// size of the table.
    fn descend(&self, at: usize, rest: Option<&str>, request: &CanonicalRequest) -> Option<usize> {
        let node = self.nodes.get(at)?;
        let Some(rest) = rest else {
            return self.applicable(&node.here, request);
        };
        let (segment, after) = match rest.split_once('/') {
            Some((segment, after)) => (segment, Some(after)),
            None => (rest, None),
        };
        if let Some(child) = node.literals.get(segment)
            && let Some(found) = self.descend(*child, after, request)
        {
            return Some(found);
        }
        if let Some(child) = node.one
            && !segment.is_empty()
            && let Some(found) = self.descend(child, after, request)
        {
            return Some(found);
        }
        if rest.is_empty() {
            return None;
        }
        self.applicable(&node.rest, request)
    }

    fn applicable(&self, candidates: &[usize], request: &CanonicalRequest) -> Option<usize> {
        candidates.iter().copied().find(|i| {
            self.operations.get(*i).is_some_and(|o| {
                o.methods.contains(&request.method)
                    && (o.hosts.is_empty() || o.hosts.contains(&request.host))
            })
        })
    }
}

fn overlaps(operations: &[Operation]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (i, a) in operations.iter().enumerate() {
        for (j, b) in operations.iter().enumerate().skip(i + 1) {
            let methods = a.methods.iter().any(|m| b.methods.contains(m));
            let hosts = a.hosts.is_empty()
                || b.hosts.is_empty()
                || a.hosts.iter().any(|h| b.hosts.contains(h));
            if methods && hosts && a.template.overlaps(&b.template) {
                found.push((i, j));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn operation(name: &str, method: Method, template: &str) -> Operation {
        Operation {
            id: name.into(),
            name: name.into(),
            methods: vec![method],
            hosts: Vec::new(),
            template: Template::parse(template).expect(template),
            action: None,
            audit: None,
            mask: Mask::NONE,
        }
    }

    fn request(method: Method, path: &str) -> CanonicalRequest {
        CanonicalRequest {
            method,
            host: "orders".into(),
            path: path.into(),
            query: None,
            rewritten: false,
        }
    }

    fn shop() -> OperationTable {
        OperationTable::new(vec![
            operation("list", Method::Get, "/orders"),
            operation("create", Method::Post, "/orders"),
            operation("read", Method::Get, "/orders/{id}"),
            operation("refund", Method::Post, "/orders/{id}/refund"),
            operation("root", Method::Get, "/"),
            operation("files", Method::Get, "/files/{*path}"),
        ])
        .expect("no overlaps")
    }

    #[test]
    fn a_template_covers_what_matches_no_more() {
        for (wide, narrow, covers) in [
            ("/a", "/a", true),
            ("/a/{x}", "/a/{y}", true),
            ("/a/{x}", "/a/b", true),
            ("/{*rest}", "/a/{x}/c", true),
            ("/a/{*rest}", "/a/{*more}", true),
            ("/a/{*rest}", "/a/{x}", true),
            ("/{*rest}", "/", false),
            ("/a/{x}", "/a/{*rest}", false),
            ("/a/{x}", "/a/b/c", false),
            ("/a/{x}", "/a/", false),
            ("/a/b", "/a/{x}", false),
            ("/a/b", "/a/c", false),
        ] {
            let parse = |text| Template::parse(text).unwrap();
            assert_eq!(
                parse(wide).covers(&parse(narrow)),
                covers,
                "{wide} {narrow}"
            );
        }
    }

    fn check(method: Method, path: &str, expected: Option<&str>) {
        let table = shop();
        let found = table.find(&request(method, path)).map(|o| o.name.as_str());
        assert_eq!(found, expected, "{method:?} {path}");
    }

    #[test]
    fn a_request_is_at_most_one_operation() {
        check(Method::Get, "/orders", Some("list"));
        check(Method::Post, "/orders", Some("create"));
        check(Method::Get, "/orders/42", Some("read"));
        check(Method::Post, "/orders/42/refund", Some("refund"));
        check(Method::Get, "/", Some("root"));
        check(Method::Get, "/files/a/b.txt", Some("files"));
        check(Method::Get, "/files/", None);
        check(Method::Get, "/files", None);
        check(Method::Get, "/orders/", None);
        check(Method::Get, "/orders/42/", None);
        check(Method::Delete, "/orders/42", None);
        check(Method::Get, "/orders/42/refund", None);
    }

    #[test]
    fn overlapping_operations_are_refused() {
        let overlapping = OperationTable::new(vec![
            operation("read", Method::Get, "/orders/{id}"),
            operation("search", Method::Get, "/orders/search"),
            operation("search-post", Method::Post, "/orders/search"),
        ]);
        assert_eq!(overlapping.err(), Some(vec![(0, 1)]));
    }

    #[test]
    fn a_malformed_template_says_what_is_wrong() {
        for (text, expected) in [
            ("orders", TemplateError::NoSlash),
            ("/orders/{id", TemplateError::Unclosed),
            ("/orders/{}", TemplateError::BadName),
            ("/orders/{*rest}/x", TemplateError::RestNotLast),
            ("/orders/x{id}", TemplateError::NotCanonical),
            ("/orders/%61", TemplateError::NotCanonical),
            ("/orders/../x", TemplateError::NotCanonical),
        ] {
            assert_eq!(Template::parse(text), Err(expected), "{text}");
        }
    }

    proptest! {
        /// `overlaps` is what it says: a path matching both exists only if it says so.
        #[test]
        fn no_path_matches_two_templates_that_do_not_overlap(
            a in "(/(a|b|\\{x\\})){1,3}(/\\{\\*r\\})?",
            b in "(/(a|b|\\{x\\})){1,3}(/\\{\\*r\\})?",
            path in "(/(a|b|c)){1,5}/?",
        ) {
            let both = [operation("a", Method::Get, &a), operation("b", Method::Get, &b)];
            let matches = |o: &Operation| {
                let table = OperationTable::new(vec![o.clone()]).expect("one operation");
                table.find(&request(Method::Get, &path)).is_some()
            };
            if both.iter().all(matches) {
                prop_assert!(both[0].template.overlaps(&both[1].template));
            }
        }
    }
}
