//! What overrides the file: `PALISADE_*` in the environment, then `--set` flags.
//!
//! They are laid over the tree of the file before it is read, so a mistake in one of
//! them is told with all others, and each value can say who set it.

use palisade_mesh::{
    diagnostic::{Diagnostic, Location, did_you_mean},
    yaml::{self, Entry, Node, Source, Span, Value},
};

use super::{
    CODES,
    keys::{self, Fallback, KEYS, Key, Kind},
};

/// What stands for a value that must not be shown.
const HIDDEN: &str = "(hidden)";
/// What diagnostics call the place of overrides.
const PLACE: &str = "environment and flags";

/// Who set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody: it is the default.
    Default,
    /// This variable of the environment.
    Environment(String),
    /// This line of the file.
    File(usize),
    /// A `--set` flag.
    Flag,
}

/// A value and who set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Path of the key.
    pub path: &'static str,
    /// The value as it is written, or what holds instead.
    pub value: String,
    /// Who set it.
    pub origin: Origin,
}

/// Values that stand over those of the file, weakest first.
#[derive(Debug, Clone, Default)]
pub struct Overrides(Vec<Override>);

#[derive(Debug, Clone)]
struct Override {
    key: &'static Key,
    value: String,
    origin: Origin,
}

impl Overrides {
    /// Takes what the environment says about the configuration: `PALISADE_` and the path
    /// of a key, in capitals, with `__` for each dot.
    ///
    /// # Errors
    /// A variable with `__` that names no key. Others are none of ours: Kubernetes sets
    /// `PALISADE_SERVICE_HOST` for a service called palisade.
    pub fn from_environment(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Vec<Diagnostic>> {
        let (mut known, mut found) = (Vec::new(), Vec::new());
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix("PALISADE_") else {
                continue;
            };
            let is = |key: &&Key| key.variable().as_ref() == Some(&name);
            match KEYS.iter().find(is) {
                Some(key) => known.push(Override {
                    key,
                    value,
                    origin: Origin::Environment(name),
                }),
                None if rest.contains("__") => found.push(unknown_variable(&name)),
                None => {}
            }
        }
        known.sort_by_key(|o| o.key.path);
        if found.is_empty() {
            Ok(Self(known))
        } else {
            Err(found)
        }
    }

    /// Adds `KEY=VALUE` flags, which override all else.
    ///
    /// # Errors
    /// Every flag that is none, or names no key.
    pub fn with_flags(mut self, flags: &[String]) -> Result<Self, Vec<Diagnostic>> {
        let mut found = Vec::new();
        for flag in flags {
            match flag.split_once('=') {
                Some((path, value)) => match keys::find(path).filter(|k| k.variable().is_some()) {
                    Some(key) => self.0.push(Override {
                        key,
                        value: value.to_owned(),
                        origin: Origin::Flag,
                    }),
                    None => found.push(unknown_key(path)),
                },
                None => found.push(
                    Diagnostic::error(8103, format!("`--set {flag}` has no value"))
                        .help("write the key's path and its value: --set proxy.workers=4"),
                ),
            }
        }
        if found.is_empty() {
            Ok(self)
        } else {
            Err(found)
        }
    }

    /// Lays the values over `root`. The text that is returned is that of the file,
    /// followed by a line for each override, so that a mistake in one has a place.
    pub(super) fn apply(
        &self,
        file: &Source,
        root: &mut Node,
        found: &mut Vec<Diagnostic>,
    ) -> Source {
        let mut text = file.text.to_string();
        for each in &self.0 {
            if !text.ends_with('\n') {
                text.push('\n');
            }
            let name = match &each.origin {
                Origin::Environment(name) => name.clone(),
                _ => format!("--set {}", each.key.path),
            };
            let key_span = Span::new(text.len(), name.len());
            let start = text.len() + name.len() + 1;
            let shown = match each.key.is_secret() {
                true => HIDDEN,
                false => &each.value,
            };
            text.push_str(&format!("{name}={shown}\n"));
            let span = Span::new(start, shown.len());
            let node = match each.key.kind {
                Kind::Choice | Kind::List | Kind::Section | Kind::Source | Kind::Texts => {
                    let source = Source::new(name.as_str(), each.value.as_str());
                    match yaml::parse(&source, CODES, found) {
                        Some(node) => shifted(node, start),
                        None => continue,
                    }
                }
                _ => Node {
                    span,
                    value: Value::Scalar(each.value.clone()),
                    pruned: false,
                },
            };
            put(root, each.key, node, key_span);
        }
        Source::new(file.path.clone(), text)
    }

    /// The value of every key of `root`, over which these were laid, and who set it.
    /// Sections that are not there have none.
    pub(super) fn effective(&self, file: &Source, root: &Node) -> Vec<Effective> {
        KEYS.iter()
            .filter(|key| !key.is_map() || is_word(root, key))
            .filter(|key| !key.path.contains("[]"))
            .filter(|key| is_there(root, key))
            .map(|key| self.effective_value(file, root, key))
            .collect()
    }

    fn effective_value(&self, file: &Source, root: &Node, key: &'static Key) -> Effective {
        let within = |o: &&Override| {
            key.path == o.key.path || key.path.starts_with(&format!("{}.", o.key.path))
        };
        let (value, origin) = match find(root, key.path) {
            Some(node) => {
                let origin = match self.0.iter().rev().find(within) {
                    Some(over) => over.origin.clone(),
                    None => Origin::File(file.span(node.span).line),
                };
                let value = if key.is_secret() {
                    HIDDEN.to_owned()
                } else {
                    written(node)
                };
                (value, origin)
            }
            None => (fallback(root, key), Origin::Default),
        };
        Effective {
            path: key.path,
            value,
            origin,
        }
    }
}

/// Gives diagnostics about overrides a place of their own, and those about the file its
/// own text again.
pub(super) fn relocate(found: &mut [Diagnostic], file: &Source, whole: &Source) {
    let len = file.text.len();
    let added = whole.text.get(len..).unwrap_or_default();
    for diagnostic in found {
        let Some(at) = diagnostic
            .location
            .as_mut()
            .filter(|at| at.text == whole.text)
        else {
            continue;
        };
        *at = if at.offset >= len && !added.is_empty() {
            Location::span(
                PLACE,
                added.trim_start_matches('\n'),
                at.offset - (whole.text.len() - added.trim_start_matches('\n').len()),
                at.len,
            )
        } else {
            Location::span(file.path.clone(), file.text.clone(), at.offset, at.len)
        };
    }
}

/// The node at `path`, unless there is nothing.
pub(super) fn find<'n>(root: &'n Node, path: &str) -> Option<&'n Node> {
    let mut node = root;
    for step in path.split('.') {
        let Value::Map(entries) = &node.value else {
            return None;
        };
        node = &entries.iter().find(|e| e.key == step)?.value;
    }
    (!matches!(node.value, Value::Null)).then_some(node)
}

/// Whether the role that reads `key` is configured: every section above it is written,
/// or is there without being written. Of a choice, only what was chosen.
fn is_there(root: &Node, key: &Key) -> bool {
    let mut parent = keys::find(key.parent());
    let chosen = parent.is_none_or(|p| !matches!(p.kind, Kind::Choice | Kind::Source))
        || find(root, key.path).is_some();
    while let Some(section) = parent {
        let written = entry(root, section.path);
        if !written && !matches!(section.fallback, Fallback::Is(_)) {
            return false;
        }
        parent = keys::find(section.parent());
    }
    chosen
}

/// Whether a text stands in place of the keys of `key`.
fn is_word(root: &Node, key: &Key) -> bool {
    let node = find(root, key.path).map(|n| &n.value);
    matches!(key.kind, Kind::Choice | Kind::Source) && matches!(node, Some(Value::Scalar(_)))
}

/// Whether the key of `path` is written, also with nothing after it.
fn entry(root: &Node, path: &str) -> bool {
    let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
    let node = match parent {
        "" => Some(root),
        parent => find(root, parent),
    };
    matches!(node.map(|n| &n.value), Some(Value::Map(entries)) if entries.iter().any(|e| e.key == name))
}

fn fallback(root: &Node, key: &Key) -> String {
    match key.fallback {
        Fallback::InState(file) => {
            let state = find(root, "state_dir").map_or("state".to_owned(), written);
            format!("{state}/{file}")
        }
        Fallback::Is(value) => value.to_owned(),
        Fallback::Told(text, _) => format!("({})", text.replace('`', "")),
        Fallback::Off(_) | Fallback::Required(_) | Fallback::Shown => "(none)".to_owned(),
    }
}

/// A value on one line, as YAML's flow style writes it.
fn written(node: &Node) -> String {
    let inner = |node: &Node| match &node.value {
        Value::Scalar(text) => format!("{text:?}"),
        _ => written(node),
    };
    match &node.value {
        Value::Null => "null".to_owned(),
        Value::Scalar(text) => text.clone(),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(inner).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|e| format!("{}: {}", e.key, inner(&e.value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

/// Puts `node` at `key`, making the maps above it. Of a choice, what was chosen before
/// gives way.
fn put(root: &mut Node, key: &Key, node: Node, key_span: Span) {
    let mut at = root;
    let mut path = String::new();
    let mut steps = key.path.split('.').peekable();
    while let Some(step) = steps.next() {
        let choice = keys::find(&path).is_some_and(|k| k.kind == Kind::Choice);
        if !matches!(at.value, Value::Map(_)) {
            at.value = Value::Map(Vec::new());
            at.span = node.span;
        }
        let Value::Map(entries) = &mut at.value else {
            return;
        };
        if choice {
            entries.retain(|e| e.key == step);
        }
        let index = entries.iter().position(|e| e.key == step);
        let index = index.unwrap_or_else(|| {
            entries.push(Entry {
                key: step.to_owned(),
                key_span,
                value: Node {
                    span: node.span,
                    value: Value::Null,
                    pruned: false,
                },
            });
            entries.len() - 1
        });
        let Some(entry) = entries.get_mut(index) else {
            return;
        };
        if steps.peek().is_none() {
            entry.key_span = key_span;
            entry.value = node;
            return;
        }
        at = &mut entry.value;
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(step);
    }
}

/// Moves every place in `node` by `offset` bytes.
fn shifted(mut node: Node, offset: usize) -> Node {
    node.span.start += offset;
    node.value = match node.value {
        Value::List(items) => Value::List(items.into_iter().map(|i| shifted(i, offset)).collect()),
        Value::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|mut e| {
                    e.key_span.start += offset;
                    e.value = shifted(e.value, offset);
                    e
                })
                .collect(),
        ),
        other => other,
    };
    node
}

fn unknown_variable(name: &str) -> Diagnostic {
    let all: Vec<String> = KEYS.iter().filter_map(Key::variable).collect();
    let unknown = Diagnostic::error(8101, format!("variable `{name}` names no key"))
        .cause("`PALISADE_` and the key's path in capitals, with `__` for each dot");
    match did_you_mean(name, all.iter().map(String::as_str)) {
        Some(near) => unknown.help(format!("did you mean `{near}`?")),
        None => unknown.help("palisade config show lists every key; unset the variable"),
    }
}

fn unknown_key(path: &str) -> Diagnostic {
    let unknown = Diagnostic::error(8102, format!("`--set {path}`: there is no such key"));
    match did_you_mean(path, KEYS.iter().map(|k| k.path)) {
        Some(near) => unknown.help(format!("did you mean `{near}`?")),
        None => unknown.help("palisade config schema lists every key"),
    }
}

#[cfg(test)]
mod tests;
