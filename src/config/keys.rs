//! Every key of the configuration in one table.
//!
//! The structs beside it are what is read; this is what is told about it: the
//! annotated files, the JSON Schema, the reference page, the names in the
//! environment. A test asks the reader for its keys and compares, so a key that is
//! added there and not here is found.

mod table;

pub use table::KEYS;

/// Keys that cannot change while a proxy runs, with all that stands in them.
pub const FIXED: [&str; 12] = [
    "trust_domain",
    "name",
    "state_dir",
    "demo",
    "privacy",
    "proxy.instance",
    "proxy.identity",
    "proxy.spiffe_id",
    "proxy.policy",
    "proxy.policy_trust",
    "proxy.records",
    "proxy.engine",
];

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Where it stands, such as `proxy.inbound.listen`; `[]` marks the items of a list.
    pub path: &'static str,
    /// What can stand there.
    pub kind: Kind,
    /// What holds when it is not written.
    pub fallback: Fallback,
    /// What it is for, one or two sentences.
    pub about: &'static str,
}

/// What can stand at a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `IP:PORT`.
    Address,
    /// `true` or `false`.
    Bool,
    /// A size, such as `65536` or `64KiB`.
    Bytes,
    /// Exactly one of its keys.
    Choice,
    /// A whole number from 0.
    Count,
    /// A span of time, such as `90s` or `1h 30m`.
    Duration,
    /// Maps, one below the other.
    List,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A file or folder; relative ones start at the file's own folder.
    Path,
    /// `IP:PORT`, or `mesh` for where the directory says.
    Place,
    /// A map of further keys.
    Section,
    /// A path or an address, or a map of further keys.
    Source,
    /// A text.
    Text,
    /// A list of texts.
    Texts,
    /// A word that stands alone, in place of the map of a choice: `policy: mesh`.
    Word,
}

/// What holds when a key is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// This value.
    Is(&'static str),
    /// This file in the state folder.
    InState(&'static str),
    /// It is off; the text is an example.
    Off(&'static str),
    /// It must be written; the text is an example.
    Required(&'static str),
    /// A section that may be left out, and that the annotated files show.
    Shown,
    /// What the first text says; the second one is an example.
    Told(&'static str, &'static str),
}

impl Key {
    /// The last part of its path.
    pub fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }

    /// The path it stands in; empty for the file itself.
    pub fn parent(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(parent, _)| parent)
    }

    /// Whether its value must never be shown.
    pub fn is_secret(&self) -> bool {
        let name = self.name();
        let named = ["token", "secret", "password"];
        // Whoever has the address of a webhook may write there, and arguments may be keys.
        self.path == "audit.deliver" || named.iter().any(|word| name.ends_with(word))
    }

    /// Whether further keys stand in it.
    pub fn is_map(&self) -> bool {
        matches!(self.kind, Kind::Choice | Kind::Section | Kind::Source)
    }

    /// Whether a running proxy refuses a file that changes it (`PLS5311`); every other key
    /// that it reads applies at once.
    pub fn is_fixed(&self) -> bool {
        FIXED.iter().any(|fixed| {
            let rest = self.path.strip_prefix(fixed);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    /// Its name in the environment: `PALISADE_PROXY__INBOUND__LISTEN`. Items of a list
    /// have none, for a list is given whole; nor does a word that stands for one.
    pub fn variable(&self) -> Option<String> {
        let whole = !self.path.contains("[]") && self.kind != Kind::Word;
        whole.then(|| format!("PALISADE_{}", self.path.replace('.', "__").to_uppercase()))
    }

    /// The default as a reader of the reference page wants it.
    pub fn default_text(&self) -> String {
        match self.fallback {
            Fallback::Is(value) if self.is_map() && value.is_empty() => "its keys' own".into(),
            Fallback::Is(value) => format!("`{value}`"),
            Fallback::InState(file) => format!("`{file}` in the state folder"),
            Fallback::Off(_) | Fallback::Shown => "none".into(),
            Fallback::Required(_) => "required".into(),
            Fallback::Told(text, _) => text.into(),
        }
    }

    /// A value that can stand there.
    pub fn example(&self) -> &'static str {
        match self.fallback {
            Fallback::Is(text)
            | Fallback::InState(text)
            | Fallback::Off(text)
            | Fallback::Required(text)
            | Fallback::Told(_, text) => text,
            Fallback::Shown => "",
        }
    }
}

impl Kind {
    /// What can stand there, in words.
    pub fn text(self) -> String {
        match self {
            Self::Address => "`IP:PORT`".into(),
            Self::Bool => "`true` or `false`".into(),
            Self::Bytes => "size".into(),
            Self::Choice => "exactly one of its keys".into(),
            Self::Count => "whole number".into(),
            Self::Duration => "span of time".into(),
            Self::List => "list of maps".into(),
            Self::OneOf(words) => words
                .iter()
                .map(|w| format!("`{w}`"))
                .collect::<Vec<_>>()
                .join(", "),
            Self::Path => "path".into(),
            Self::Place => "`IP:PORT` or `mesh`".into(),
            Self::Section => "map".into(),
            Self::Source => "path, address or map".into(),
            Self::Text => "text".into(),
            Self::Texts => "list of texts".into(),
            Self::Word => "alone, in place of the keys".into(),
        }
    }
}

/// The key at `path`.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.path == path)
}

/// The keys that stand directly in `parent`; the file itself is the empty path.
pub fn children(parent: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |k| k.parent() == parent)
}

#[cfg(test)]
mod tests;
