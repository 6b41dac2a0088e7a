//! Annotated configuration files, one for each role: every key with what it is for
//! and its default.

use std::fmt::Write;

use super::keys::{self, Fallback, Key, Kind};

/// Columns of a comment.
const WIDTH: usize = 96;

/// What a file is for: one role, or the control plane in one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Template {
    /// The control plane in one process: ca, agent, pdp and audit.
    All,
    /// The SPIFFE Workload API of a host.
    Agent,
    /// The decision log.
    Audit,
    /// The certificate authority.
    Ca,
    /// The policy decision point.
    Pdp,
    /// One proxy, beside one application.
    Proxy,
}

impl Template {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::All,
        Self::Agent,
        Self::Audit,
        Self::Ca,
        Self::Pdp,
        Self::Proxy,
    ];

    /// Its name, as `palisade run` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Agent => "agent",
            Self::Audit => "audit",
            Self::Ca => "ca",
            Self::Pdp => "pdp",
            Self::Proxy => "proxy",
        }
    }

    /// Sections that its roles read.
    pub fn sections(self) -> &'static [&'static str] {
        match self {
            Self::All => &["ca", "agent", "pdp", "audit"],
            Self::Agent => &["agent"],
            Self::Audit => &["audit"],
            Self::Ca => &["ca"],
            Self::Pdp => &["pdp"],
            Self::Proxy => &["proxy"],
        }
    }

    /// Whether its file shows `key`, which stands in no section: a section of its roles, or
    /// what every role reads.
    pub fn shows(self, key: &Key) -> bool {
        let everybody = key.kind != Kind::Section || matches!(key.path, "privacy" | "spool");
        everybody || self.sections().contains(&key.name())
    }
}

/// The annotated file of `template`.
pub fn annotated(template: Template) -> String {
    let name = template.name();
    let mut out = format!(
        "# Configuration of `palisade run {name}`: every key with its default. What is commented out\n\
         # is off, or has a default that depends on other keys; the example beside it is not the\n\
         # default. Relative paths start at this file's folder. Unknown keys are refused: palisade\n\
         # config check FILE. Made by: palisade config init {name}\n"
    );
    if template == Template::Proxy {
        out.push_str(
            "# The file is read again when it changes, and on SIGHUP. What is marked [fixed] cannot change\n\
             # while the process runs: a file that changes it is refused, whole. All else applies at once,\n\
             # without a request lost.\n",
        );
    }
    for key in keys::children("") {
        if template.shows(key) && key.path != "demo" {
            out.push('\n');
            write_key(&mut out, key, &Place::of(template));
        }
    }
    out
}

/// Where a line goes.
#[derive(Debug, Clone, Default)]
struct Place {
    /// Before the comment sign, or before the key where there is none.
    before: String,
    /// After the comment sign.
    after: String,
    commented: bool,
    /// Whether keys that cannot change while the role runs are marked.
    marked: bool,
}

impl Place {
    fn of(template: Template) -> Self {
        Self {
            marked: template == Template::Proxy,
            ..Self::default()
        }
    }

    fn line(&self, out: &mut String, text: &str) {
        let sign = if self.commented { "# " } else { "" };
        let _ = writeln!(out, "{}{sign}{}{text}", self.before, self.after);
    }

    fn deeper(&self) -> Self {
        let mut place = self.clone();
        match place.commented {
            true => place.after.push_str("  "),
            false => place.before.push_str("  "),
        }
        place
    }

    fn commented(&self) -> Self {
        Self {
            commented: true,
            ..self.clone()
        }
    }
}

/// Whether the annotated files show `key` as it is read, not commented out.
fn is_live(key: &Key) -> bool {
    let choice = keys::find(key.parent()).is_some_and(|p| p.kind == Kind::Choice);
    let first = keys::children(key.parent()).next();
    match key.fallback {
        Fallback::Is(_) | Fallback::Required(_) | Fallback::Shown => true,
        Fallback::InState(_) | Fallback::Off(_) | Fallback::Told(..) => {
            choice && first.is_some_and(|f| f.path == key.path)
        }
    }
}

fn write_key(out: &mut String, key: &Key, place: &Place) {
    let live = is_live(key);
    let room = WIDTH.saturating_sub(place.before.len() + place.after.len() + 4);
    let about = match key.fallback {
        Fallback::InState(_) | Fallback::Told(..) => {
            format!("{} Default: {}", key.about, key.default_text())
        }
        _ => key.about.to_owned(),
    };
    let mark = if place.marked && key.is_fixed() {
        " [fixed]"
    } else {
        ""
    };
    for line in wrap(&format!("{about}{mark}"), room) {
        place.line(out, &format!("# {line}"));
    }
    let place = if live {
        place.clone()
    } else {
        place.commented()
    };
    match key.kind {
        Kind::Choice | Kind::Section => {
            let inner = place.deeper();
            if keys::children(key.path).any(is_live) {
                place.line(out, &format!("{}:", key.name()));
            } else {
                place.line(out, &format!("{}: {{}}", key.name()));
                inner.line(out, "# Any of these, in place of `{}`:");
            }
            let (words, children): (Vec<&Key>, Vec<&Key>) =
                keys::children(key.path).partition(|k| k.kind == Kind::Word);
            for child in children {
                write_key(out, child, &inner);
            }
            let instead = place.commented();
            for word in words {
                for line in wrap(&format!("Or, in place of the keys: {}", word.about), room) {
                    inner.line(out, &format!("# {line}"));
                }
                instead.line(out, &format!("{}: {}", key.name(), word.name()));
            }
        }
        Kind::Source => {
            place.line(out, &format!("{}: {}", key.name(), key.example()));
            let map = place.commented();
            map.line(out, "Or, in place of the text, a map of these:");
            map.line(out, &format!("{}:", key.name()));
            for child in keys::children(key.path) {
                write_key(out, child, &map.deeper());
            }
        }
        Kind::List => {
            place.line(out, &format!("{}: {}", key.name(), key.example()));
            write_item(out, key, &place.commented());
        }
        _ => place.line(out, &format!("{}: {}", key.name(), key.example())),
    }
}

/// An item of a list, commented out.
fn write_item(out: &mut String, list: &Key, place: &Place) {
    place.line(out, "Each of them, in place of `[]`:");
    let mut sign = "- ";
    for child in keys::children(&format!("{}[]", list.path)) {
        let default = match child.fallback {
            Fallback::Required(_) => String::new(),
            _ => format!(" Default: {}", child.default_text()),
        };
        for line in wrap(&format!("{}{default}", child.about), WIDTH - 12) {
            place.line(out, &format!("  # {line}"));
        }
        place.line(
            out,
            &format!("  {sign}{}: {}", child.name(), child.example()),
        );
        sign = "  ";
    }
}

/// `text` in lines of at most `width` characters, broken at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
