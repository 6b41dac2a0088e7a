//! Reads queries: a recursive descent over the text that keeps the place of
//! everything, so that each mistake can be shown where it is.
//!
//! ```text
//! query = [ any ] { "|" stage }
//! any   = all { "OR" all }
//! all   = not { [ "AND" ] not }
//! not   = { "-" | "not" | "NOT" } ( "(" any ")" | test )
//! test  = field ":" value
//! value = quoted | "[" number " TO " number "]" | word
//! stage = "count" [ by ] | "first" "," "last" by | "timeline" duration [ "by" field ]
//!       | "sort" [ "-" ] key | "top" number
//! by    = "by" field { "," field }
//! key   = "count" | "first" | "last" | field
//! ```

use std::sync::Arc;

use palisade_mesh::diagnostic::{Diagnostic, Location, did_you_mean};

use super::{
    Expr, QUERY_DEPTH_MAX, QUERY_LEN_MAX, QUERY_TESTS_MAX, Query,
    field::{FIELDS, Field, Kind},
    pattern::is_special,
    rows::RowFilter,
    time::Bound,
    value::Demand,
};

mod stages;

type Span = (usize, usize);
type Parsed<T> = Result<T, Diagnostic>;

/// The bounds of time, which are not tests of a record.
const BOUNDS: &[&str] = &["last", "since", "until"];

pub(super) fn query(text: &str) -> Parsed<Query> {
    let text: Arc<str> = text.into();
    let mut parser = Parser {
        text: Arc::clone(&text),
        at: 0,
        depth: 0,
        tests: 0,
    };
    if text.len() > QUERY_LEN_MAX {
        return Err(parser
            .error(
                7107,
                format!("the query is longer than {QUERY_LEN_MAX} bytes"),
                (0, 0),
            )
            .help("split it, or use wildcards instead of long lists"));
    }
    parser.skip_space();
    let mut bounds = Bounds::default();
    let filter = if parser.done() || parser.peek() == Some('|') {
        Expr::All(Vec::new())
    } else {
        let tree = parser.any()?;
        parser.lower(tree, true, &mut bounds)?
    };
    let (stage, stage_span) = match parser.stages()? {
        Some((stage, span)) => (Some(stage), span),
        None => (None, (0, 0)),
    };
    Ok(Query {
        filter,
        since: bounds.since,
        until: bounds.until,
        stage,
        text,
        rows: RowFilter::everything(),
        bounds_span: bounds.span.unwrap_or((0, 0)),
        stage_span,
    })
}

/// A tree that still has time bounds in it.
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Test(&'static Field, Demand),
    Since(Bound, Span),
    Until(Bound, Span),
}

#[derive(Default)]
struct Bounds {
    since: Option<Bound>,
    until: Option<Bound>,
    span: Option<Span>,
}

struct Parser {
    text: Arc<str>,
    at: usize,
    depth: usize,
    tests: usize,
}

impl Parser {
    fn any(&mut self) -> Parsed<Node> {
        let mut parts = vec![self.all()?];
        while self.keyword("OR") {
            parts.push(self.all()?);
        }
        Ok(single_or(parts, Node::Any))
    }

    fn all(&mut self) -> Parsed<Node> {
        let mut parts = vec![self.not()?];
        loop {
            self.skip_space();
            let ends =
                self.done() || matches!(self.peek(), Some(')' | '|')) || self.peek_word() == "OR";
            if ends {
                return Ok(single_or(parts, Node::All));
            }
            self.keyword("AND");
            parts.push(self.not()?);
        }
    }

    fn not(&mut self) -> Parsed<Node> {
        self.skip_space();
        let start = self.at;
        let negated = self.eat('-') || self.keyword("not") || self.keyword("NOT");
        if negated {
            self.deeper(start)?;
            let inner = self.not()?;
            self.depth -= 1;
            return Ok(Node::Not(Box::new(inner)));
        }
        if !self.eat('(') {
            return self.test();
        }
        self.deeper(start)?;
        let inner = self.any()?;
        self.depth -= 1;
        self.skip_space();
        if !self.eat(')') {
            return Err(self
                .error(7101, "a parenthesis is not closed", (start, start + 1))
                .label("opened here")
                .help("add `)`"));
        }
        Ok(inner)
    }

    fn deeper(&mut self, start: usize) -> Parsed<()> {
        self.depth += 1;
        if self.depth > QUERY_DEPTH_MAX {
            return Err(self.error(
                7107,
                format!("the query is nested deeper than {QUERY_DEPTH_MAX} levels"),
                (start, start + 1),
            ));
        }
        Ok(())
    }

    fn test(&mut self) -> Parsed<Node> {
        let start = self.at;
        self.tests += 1;
        if self.tests > QUERY_TESTS_MAX {
            return Err(self.error(
                7107,
                format!("the query has more than {QUERY_TESTS_MAX} tests"),
                (start, self.text.len()),
            ));
        }
        let name = self.name();
        let name_span = (start, self.at);
        if name.is_empty() || !self.eat(':') {
            return Err(self.no_test(start));
        }
        if BOUNDS.contains(&name.as_str()) {
            return self.bound(&name, start);
        }
        let Some(field) = Field::find(&name) else {
            return Err(self.unknown_field(&name, name_span));
        };
        let value_start = self.at;
        let (word, quoted) = self.value(field)?;
        let span = (value_start, self.at);
        if word.is_empty() {
            return Err(self
                .error(7101, format!("`{name}:` has no value"), name_span)
                .help(format!(
                    "write `{name}:*` for any value, `-{name}:*` for none"
                )));
        }
        let (field, demand) = Demand::read(field, &word, quoted).map_err(|bad| {
            let told = self.error(7104, bad.message, span);
            match bad.help {
                Some(help) => told.help(help),
                None => told,
            }
        })?;
        Ok(Node::Test(field, demand))
    }

    fn bound(&mut self, name: &str, start: usize) -> Parsed<Node> {
        let (word, _) = self.word()?;
        let span = (start, self.at);
        let bound = match name {
            "last" => Bound::read_last(&word),
            _ => Bound::read(&word),
        };
        match (bound, name) {
            (Some(bound), "until") => Ok(Node::Until(bound, span)),
            (Some(bound), _) => Ok(Node::Since(bound, span)),
            (None, "last") => Err(self
                .error(7104, format!("`{word}` is not a length of time"), span)
                .help("as in `last:15m`, `last:24h` or `last:7d`")),
            (None, _) => Err(self
                .error(7104, format!("`{word}` is not a time"), span)
                .help("as in `2026-10-01`, `2026-10-01T08:00:00Z`, `-2h`, `today` or `yesterday`")),
        }
    }

    /// Takes the time bounds out of the tree. They bound the whole query, so
    /// they make no sense inside an alternative or a negation.
    fn lower(&self, node: Node, outermost: bool, bounds: &mut Bounds) -> Parsed<Expr> {
        Ok(match node {
            Node::All(parts) => Expr::all(self.lower_parts(parts, outermost, bounds)?),
            Node::Any(parts) => Expr::any(self.lower_parts(parts, false, bounds)?),
            Node::Not(inner) => Expr::not(self.lower(*inner, false, bounds)?),
            Node::Test(field, demand) => Expr::Test(field, demand),
            Node::Since(bound, span) => {
                self.set(&mut bounds.since, bound, span, outermost)?;
                bounds.span.get_or_insert(span);
                Expr::All(Vec::new())
            }
            Node::Until(bound, span) => {
                self.set(&mut bounds.until, bound, span, outermost)?;
                bounds.span.get_or_insert(span);
                Expr::All(Vec::new())
            }
        })
    }

    fn lower_parts(
        &self,
        parts: Vec<Node>,
        outermost: bool,
        bounds: &mut Bounds,
    ) -> Parsed<Vec<Expr>> {
        parts
            .into_iter()
            .map(|part| self.lower(part, outermost, bounds))
            .collect()
    }

    fn set(
        &self,
        slot: &mut Option<Bound>,
        bound: Bound,
        span: Span,
        outermost: bool,
    ) -> Parsed<()> {
        if !outermost {
            return Err(self
                .error(7105, "a time bound stands inside OR or NOT", span)
                .help(
                    "it bounds the whole query: put the rest in parentheses and this beside it",
                ));
        }
        if slot.replace(bound).is_some() {
            return Err(self
                .error(7105, "the same end of the time is bounded twice", span)
                .help("keep one of `last:` and `since:`, and one `until:`"));
        }
        Ok(())
    }

    // What went wrong.

    fn error(&self, code: u16, message: impl Into<String>, (from, to): Span) -> Diagnostic {
        // A span of one byte may stand for a longer character.
        let to = self.text.ceil_char_boundary(to);
        let span = Location::span(
            "query",
            Arc::clone(&self.text),
            from,
            to.saturating_sub(from),
        );
        Diagnostic::error(code, message).at(span)
    }

    fn unknown_field(&self, name: &str, span: Span) -> Diagnostic {
        let names = FIELDS.iter().map(|f| f.name).chain(BOUNDS.iter().copied());
        let help = match (name, did_you_mean(name, names)) {
            ("spiffe", _) => "write `principal:spiffe://…` for a caller".into(),
            ("time" | "created" | "date" | "timestamp", _) => {
                "bound the time with `last:`, `since:` and `until:`".into()
            }
            (_, Some(near)) => format!("did you mean `{near}:`?"),
            _ => "every field: docs/reference/audit-query.md".into(),
        };
        self.error(7102, format!("unknown field `{name}`"), span)
            .label("no such field")
            .help(help)
    }

    fn uncountable(&self, field: &Field, span: Span) -> Diagnostic {
        let instead = match field.name {
            "path" => "; count by `route`",
            _ => "",
        };
        self.error(
            7108,
            format!(
                "`{}` has too many different values to count{instead}",
                field.name
            ),
            span,
        )
    }

    /// A word that is no `field:value`.
    fn no_test(&mut self, start: usize) -> Diagnostic {
        self.at = start;
        while self.peek().is_some_and(|c| !is_special(c)) {
            self.bump();
        }
        let word = self.text.get(start..self.at).unwrap_or_default().to_owned();
        if word.is_empty() {
            return match self.peek() {
                None => self.error(7101, "the query ends too early", (start, start)),
                Some(c) => self
                    .error(
                        7101,
                        format!("`{c}` is not expected here"),
                        (start, start + c.len_utf8()),
                    )
                    .help("write `field:value`"),
            };
        }
        let told = self
            .error(
                7103,
                format!("`{word}` does not say which field is meant"),
                (start, self.at),
            )
            .label("a bare word");
        told.help(match word.as_str() {
            "or" | "and" | "Or" | "And" => format!("write `{}` in capitals", word.to_uppercase()),
            ":" => "write a field before the colon".into(),
            _ => suggestion(&word),
        })
    }

    // The text, character by character.

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn done(&self) -> bool {
        self.rest().is_empty()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let hit = self.peek() == Some(wanted);
        if hit {
            self.bump();
        }
        hit
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.bump();
        }
    }

    fn peek_word(&self) -> &str {
        let rest = self.rest();
        let end = rest.find(is_special).unwrap_or(rest.len());
        rest.get(..end).unwrap_or_default()
    }

    fn keyword(&mut self, word: &str) -> bool {
        self.skip_space();
        let hit = self.peek_word() == word;
        if hit {
            self.at += word.len();
        }
        hit
    }

    fn name(&mut self) -> String {
        let start = self.at;
        while self
            .peek()
            .is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '.')
        {
            self.bump();
        }
        self.text.get(start..self.at).unwrap_or_default().to_owned()
    }

    fn value(&mut self, field: &Field) -> Parsed<(String, bool)> {
        let ranged = field.kind.is_number() && self.peek() == Some('[');
        if !ranged {
            return self.word();
        }
        let start = self.at;
        while let Some(c) = self.bump() {
            if c == ']' {
                let word = self.text.get(start..self.at).unwrap_or_default();
                return Ok((word.to_owned(), false));
            }
        }
        Err(self
            .error(7101, "a range is not closed", (start, start + 1))
            .help("as in `[200 TO 299]`"))
    }

    /// A quoted text, without its escapes, or a bare word as it stands.
    fn word(&mut self) -> Parsed<(String, bool)> {
        let start = self.at;
        if !self.eat('"') {
            while self.peek().is_some_and(|c| !is_special(c)) {
                // An escaped character belongs to the word, whatever it is.
                if self.bump() == Some('\\') {
                    self.bump();
                }
            }
            let word = self.text.get(start..self.at).unwrap_or_default();
            return Ok((word.to_owned(), false));
        }
        let mut word = String::new();
        while let Some(c) = self.bump() {
            match c {
                '"' => return Ok((word, true)),
                '\\' => word.extend(self.bump()),
                other => word.push(other),
            }
        }
        Err(self
            .error(7101, "a quotation is not closed", (start, start + 1))
            .label("opened here")
            .help("add `\"`"))
    }
}

fn single_or(mut parts: Vec<Node>, make: impl Fn(Vec<Node>) -> Node) -> Node {
    match parts.len() {
        1 => parts.swap_remove(0),
        _ => make(parts),
    }
}

/// Which field a bare word may be meant for.
fn suggestion(word: &str) -> String {
    let lower = word.to_lowercase();
    for field in FIELDS {
        if let Kind::Choice(words) = field.kind
            && words.contains(&lower.as_str())
        {
            return format!("did you mean `{}:{lower}`?", field.name);
        }
    }
    if word.starts_with('/') {
        return format!("did you mean `path:{word}`?");
    }
    if word.len() == 3 && word.bytes().all(|b| b.is_ascii_digit()) {
        return format!("did you mean `status:{word}`?");
    }
    if super::IdPrefix::read(word).is_ok() && word.len() >= 8 {
        return format!("did you mean `id:{word}`?");
    }
    format!(
        "there is no full-text search; try `principal:{word}`, `service:{word}` or `reason:{word}`"
    )
}
