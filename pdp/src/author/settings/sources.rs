//! `sources:` of `palisade.yaml`: who else contributes to the repository, and for which
//! namespaces it may speak.

use std::{collections::BTreeMap, path::Path, time::Duration};

use palisade_mesh::{
    diagnostic::Diagnostic,
    place::{At, POLL_DEFAULT, POLL_MAX, POLL_MIN, Place, Written},
    yaml::Source,
};
use smol_str::SmolStr;

use super::{
    super::{codes, files, services::is_name},
    parse_duration,
};
use crate::{
    author::yaml::{Entry, Node, Reader, parse},
    bundle::trust::Keys,
};

/// Most sources of a repository.
pub const SOURCES_MAX: usize = 32;

/// Kinds of keys that a signer can have (`ALLOWED SIGNERS` in ssh-keygen(1)).
const KEY_KINDS: [&str; 3] = ["ssh-", "sk-ssh-", "ecdsa-sha2-"];

const KEYS: &[&str] = &[
    "namespaces",
    "folder",
    "file",
    "git",
    "https",
    "oci",
    "ref",
    "subdir",
    "poll",
    "signers",
];

/// A source that contributes to a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contributor {
    /// Its name; its files stand in the bundle under it.
    pub name: SmolStr,
    /// Namespaces that it may speak for.
    pub namespaces: Vec<SmolStr>,
    /// Where it is.
    pub place: Place,
    /// The same as it is written, so that a bundle does not tell where it was built.
    pub written: String,
    /// Who may sign it; empty where no signature is asked for.
    pub signers: Vec<String>,
}

impl Contributor {
    /// Its signers, one a line.
    pub fn signers(&self) -> Option<String> {
        let lines = self.signers.iter().map(|s| format!("{s}\n"));
        (!self.signers.is_empty()).then(|| lines.collect())
    }
}

/// The sources that the settings `text` names, as far as they can be read; folders start at
/// `base`.
pub fn contributors(text: &str, base: &Path) -> Vec<Contributor> {
    let mut found = Vec::new();
    let source = Source::new(files::SETTINGS, text);
    let Some(root) = parse(&source, &mut found) else {
        return Vec::new();
    };
    let mut reader = Reader::new(&source, &mut found);
    let mut contributors = match reader.map(&root, "`palisade.yaml`") {
        Some(entries) => match entries.iter().find(|e| e.key == "sources") {
            Some(entry) => read(&entry.value, &mut reader),
            None => Vec::new(),
        },
        None => Vec::new(),
    };
    contributors.iter_mut().for_each(|c| c.place.resolve(base));
    contributors
}

/// Reads the map of sources.
pub(super) fn read(node: &Node, reader: &mut Reader<'_>) -> Vec<Contributor> {
    let entries = reader.map(node, "`sources`").unwrap_or_default();
    if entries.len() > SOURCES_MAX {
        let diagnostic = Diagnostic::error(codes::TOO_MANY_SOURCES, "too many sources")
            .cause(format!("a repository has at most {SOURCES_MAX}"))
            .help("put the namespaces of several teams into one source");
        reader.report(diagnostic, node.span);
        return Vec::new();
    }
    let read = entries.iter().filter_map(|entry| one(entry, reader));
    let mut contributors: Vec<Contributor> = read.collect();
    contributors.sort_by(|a, b| a.name.cmp(&b.name));
    let mut owners: BTreeMap<SmolStr, SmolStr> = BTreeMap::new();
    for contributor in &contributors {
        for namespace in &contributor.namespaces {
            let first = owners.insert(namespace.clone(), contributor.name.clone());
            if let Some(first) = first {
                let diagnostic = Diagnostic::error(
                    codes::SOURCE_NAMESPACES,
                    format!("two sources may speak for namespace `{namespace}`"),
                )
                .cause(format!("`{first}` and `{}` both name it", contributor.name))
                .help("give each namespace to one source");
                let span = entries
                    .iter()
                    .find(|e| e.key == contributor.name)
                    .map_or(node.span, |e| e.key_span);
                reader.report(diagnostic, span);
            }
        }
    }
    contributors
}

fn one(entry: &Entry, reader: &mut Reader<'_>) -> Option<Contributor> {
    let named = is_name(&entry.key) && !files::FOLDERS.contains(&entry.key.as_str());
    if !named {
        let diagnostic = Diagnostic::error(
            codes::SOURCE_NAME,
            format!("`{}` is not the name of a source", entry.key),
        )
        .cause(format!(
            "it has lower-case letters, digits and `-`, at most 63 of them, and is none of {}",
            files::FOLDERS.join(", ")
        ))
        .help("write for example `shop-team`");
        reader.report(diagnostic, entry.key_span);
    }
    let fields = reader.fields(&entry.value, "a source", KEYS)?;
    let namespaces = match fields.get("namespaces") {
        Some(node) => namespaces(node, reader),
        None => {
            reader.missing(
                entry.key_span,
                "a source",
                "namespaces",
                "namespaces: [shop]",
            );
            Vec::new()
        }
    };
    let mut text = |key: &str| {
        let node = fields.get(key)?;
        reader.text(node, &format!("`{key}`"))
    };
    let written = Written {
        folder: text("folder"),
        file: text("file"),
        git: text("git"),
        https: text("https"),
        oci: text("oci"),
        reference: text("ref"),
        subdir: text("subdir"),
    };
    let at = At::written(&written)
        .map_err(|error| {
            let diagnostic = Diagnostic::error(codes::SOURCE_PLACE, error.to_string()).help(
                "write for example `git: https://git.acme.test/shop/policy.git` and `ref: main`",
            );
            reader.report(diagnostic, entry.key_span);
        })
        .ok();
    let poll = fields
        .get("poll")
        .map_or(Some(POLL_DEFAULT), |node| poll(node, reader));
    let kind = at.as_ref().map_or(Signer::Commit, Signer::of);
    let signers = fields
        .get("signers")
        .map_or(Vec::new(), |node| signers(node, kind, reader));
    if let (At::Folder(_), false) = (at.as_ref()?, signers.is_empty()) {
        let diagnostic = Diagnostic::error(codes::SOURCE_SIGNER, "a folder cannot be signed")
            .help("take `signers` out, or name a git repository or a bundle");
        reader.report(diagnostic, entry.key_span);
    }
    (named && !namespaces.is_empty()).then_some(())?;
    let at = at?;
    Some(Contributor {
        name: entry.key.as_str().into(),
        namespaces,
        written: at.to_string(),
        place: Place {
            poll: poll?,
            ..Place::new(at)
        },
        signers,
    })
}

fn namespaces(node: &Node, reader: &mut Reader<'_>) -> Vec<SmolStr> {
    let mut namespaces = Vec::new();
    let texts = reader.texts(node, "`namespaces`");
    if texts.is_empty() {
        let diagnostic = Diagnostic::error(codes::SOURCE_NAMESPACES, "a source has no namespace")
            .cause("it could say nothing")
            .help("name the namespaces that are its own: `namespaces: [shop]`");
        reader.report(diagnostic, node.span);
    }
    for (text, span) in texts {
        if is_name(text) {
            namespaces.push(text.into());
            continue;
        }
        let diagnostic = Diagnostic::error(codes::NAME, format!("`{text}` is not a namespace"))
            .cause("it has lower-case letters, digits and `-`, at most 63 of them")
            .help("write the part before `/` of a service's name, such as `shop`");
        reader.report(diagnostic, span);
    }
    namespaces
}

fn poll(node: &Node, reader: &mut Reader<'_>) -> Option<Duration> {
    let text = reader.text(node, "`poll`")?;
    let parsed = parse_duration(text);
    if let Some(poll) = parsed.filter(|p| (POLL_MIN..=POLL_MAX).contains(p)) {
        return Some(poll);
    }
    let diagnostic = Diagnostic::error(
        codes::DURATION,
        format!("`{text}` is no time between two questions"),
    )
    .cause("it is a whole number with `ms`, `s`, `m` or `h`, from 1s to 24h")
    .help("write for example `poll: 30s`");
    reader.report(diagnostic, node.span);
    None
}

/// What a signer signs.
#[derive(Debug, Clone, Copy)]
enum Signer {
    /// Commits of a git repository.
    Commit,
    /// Content of bundles.
    Bundle,
}

impl Signer {
    fn of(at: &At) -> Self {
        match at {
            At::Folder(_) | At::Git(_) => Self::Commit,
            At::File(_) | At::Https(_) | At::Oci(_) => Self::Bundle,
        }
    }

    fn is_one(self, text: &str) -> bool {
        if text.contains(['\n', '\r']) {
            return false;
        }
        if let Self::Bundle = self {
            return Keys::parse("signers", text).is_ok_and(|keys| keys.trusted().count() == 1);
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        let kind = |w: &&str| KEY_KINDS.iter().any(|k| w.starts_with(k));
        let at = words.iter().position(kind);
        at.is_some_and(|at| at >= 1 && at + 1 < words.len())
    }

    fn refusal(self) -> Diagnostic {
        let diagnostic = Diagnostic::error(codes::SOURCE_SIGNER, "this is not a signer");
        match self {
            Self::Commit => diagnostic
                .cause("who signs commits is a line of an allowed-signers file: who, the kind of key, the key")
                .help("write for example `- alice@acme.test ssh-ed25519 AAAAC3…`"),
            Self::Bundle => diagnostic
                .cause("who signs bundles is a name and a public key")
                .help("write for example `- alice ed25519:11qYAYKxCrfV…`, as `palisade bundle keygen` prints it"),
        }
    }
}

fn signers(node: &Node, kind: Signer, reader: &mut Reader<'_>) -> Vec<String> {
    let mut signers = Vec::new();
    for (text, span) in reader.texts(node, "`signers`") {
        match kind.is_one(text) {
            true => signers.push(text.to_owned()),
            false => reader.report(kind.refusal(), span),
        }
    }
    signers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> (Vec<Contributor>, Vec<u16>) {
        let mut found = Vec::new();
        let source = Source::new("palisade.yaml", text);
        let root = parse(&source, &mut found).unwrap();
        let read = read(&root, &mut Reader::new(&source, &mut found));
        (read, found.iter().map(|d| d.code.0).collect())
    }

    #[test]
    fn a_source_has_a_name_a_place_and_namespaces() {
        let (read, found) = check(
            "shop:\n  namespaces: [shop, web]\n  git: https://git.acme.test/shop.git\n  ref: main\n  poll: 30s\n  signers: [\"alice@acme.test ssh-ed25519 AAAA\"]\n",
        );
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(read[0].name, "shop");
        assert_eq!(
            read[0].place.to_string(),
            "git+https://git.acme.test/shop.git#main"
        );
        assert_eq!(read[0].place.poll, Duration::from_secs(30));
        assert_eq!(
            read[0].signers().as_deref(),
            Some("alice@acme.test ssh-ed25519 AAAA\n")
        );
    }

    #[test]
    fn who_signs_bundles_is_a_name_and_a_key() {
        let key = "alice ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        let (read, found) = check(&format!(
            "shop: {{namespaces: [shop], oci: \"r.acme.test/shop:prod\", signers: [\"{key}\"]}}\n"
        ));
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(read[0].signers, [key]);
    }

    #[test]
    fn what_is_no_source_is_refused() {
        for (text, code) in [
            (
                "policies: {namespaces: [a], folder: x}\n",
                codes::SOURCE_NAME,
            ),
            ("Shop: {namespaces: [a], folder: x}\n", codes::SOURCE_NAME),
            ("shop: {folder: x}\n", codes::MISSING_KEY),
            (
                "shop: {namespaces: [], folder: x}\n",
                codes::SOURCE_NAMESPACES,
            ),
            ("shop: {namespaces: [a]}\n", codes::SOURCE_PLACE),
            (
                "shop: {namespaces: [a], git: \"ssh://x/y\"}\n",
                codes::SOURCE_PLACE,
            ),
            (
                "shop: {namespaces: [a], folder: x, poll: 500ms}\n",
                codes::DURATION,
            ),
            (
                "shop: {namespaces: [a], git: \"https://x/y\", signers: [alice]}\n",
                codes::SOURCE_SIGNER,
            ),
            (
                "shop: {namespaces: [a], folder: x, signers: [\"a ssh-ed25519 A\"]}\n",
                codes::SOURCE_SIGNER,
            ),
            (
                "shop: {namespaces: [a], oci: \"r.acme.test/p:x\", signers: [\"a ssh-ed25519 A\"]}\n",
                codes::SOURCE_SIGNER,
            ),
            (
                "a: {namespaces: [n], folder: x}\nb: {namespaces: [n], folder: y}\n",
                codes::SOURCE_NAMESPACES,
            ),
            ("shop: {namespaces: [a], fodler: x}\n", codes::UNKNOWN_KEY),
        ] {
            let (_, found) = check(text);
            assert!(found.contains(&code), "{text}: {found:?}");
        }
    }

    #[test]
    fn sources_are_bounded_on_both_sides() {
        let many = |n: usize| {
            let lines = (0..n).map(|i| format!("s{i}: {{namespaces: [n{i}], folder: x}}\n"));
            check(&lines.collect::<String>())
        };
        assert_eq!(many(SOURCES_MAX).0.len(), SOURCES_MAX);
        assert_eq!(many(SOURCES_MAX + 1).1, [codes::TOO_MANY_SOURCES]);
    }
}
