//! Where a policy source is, as configuration and `palisade.yaml` write it.
//!
//! One text (`policies`, `release.palisade`, `git+https://git.acme.test/policy.git#main`,
//! `https://cdn.acme.test/policy.palisade`, `oci://registry.acme.test/policy:prod`), or a map
//! that also has what the text has no room for.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How often a source is asked where nothing is said. What is wrong with it is known
/// within this and [`SILENCE`].
pub const POLL_DEFAULT: Duration = Duration::from_secs(3);
/// Shortest time between two questions.
pub const POLL_MIN: Duration = Duration::from_secs(1);
/// Longest time between two questions.
pub const POLL_MAX: Duration = Duration::from_hours(24);
/// How much later than it should a source may answer before it counts as silent.
pub const SILENCE: Duration = Duration::from_secs(2);
/// How the name of a bundle file ends.
pub const BUNDLE_ENDING: &str = "palisade";
/// Longest address or reference.
pub const ADDRESS_LEN_MAX: usize = 2_048;

/// A policy source: where it is, and how it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where.
    pub at: At,
    /// Time between two questions, [`POLL_MIN`] to [`POLL_MAX`].
    pub poll: Duration,
    /// File with the credentials of the server: one `https://USER:PASSWORD@HOST` a line.
    pub credentials: Option<PathBuf>,
    /// PEM file with the roots that the server's certificate is under; else the system's.
    pub ca: Option<PathBuf>,
}

/// Where a policy source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// A folder of this host; watched.
    Folder(PathBuf),
    /// A bundle file of this host, whose name ends in [`BUNDLE_ENDING`]; watched.
    File(PathBuf),
    /// A reference of a git repository.
    Git(GitAt),
    /// A bundle file on a web server.
    Https(String),
    /// A bundle in a registry: `HOST[:PORT]/REPOSITORY:TAG` or `…@sha256:DIGEST`.
    Oci(String),
}

/// A reference of a git repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitAt {
    /// `https://…` or `file:///…`.
    pub url: String,
    /// A branch, a tag, a whole name such as `refs/heads/main`, or a commit id; `HEAD` is the
    /// server's default branch.
    pub reference: String,
    /// Folder of the policy repository in it; empty for the root.
    pub subdir: String,
}

/// Why a text is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlaceError(String);

/// The keys of a place that is written as a map.
#[derive(Debug, Clone, Default)]
pub struct Written<'t> {
    /// A folder.
    pub folder: Option<&'t str>,
    /// A bundle file.
    pub file: Option<&'t str>,
    /// Address of a git repository.
    pub git: Option<&'t str>,
    /// Address of a bundle file.
    pub https: Option<&'t str>,
    /// Address in a registry.
    pub oci: Option<&'t str>,
    /// Which reference; git only.
    pub reference: Option<&'t str>,
    /// Which folder in it; git only.
    pub subdir: Option<&'t str>,
}

impl Place {
    /// A place that is asked as often as usual.
    pub fn new(at: At) -> Self {
        Self {
            at,
            poll: POLL_DEFAULT,
            credentials: None,
            ca: None,
        }
    }

    /// Makes every path start at `base`.
    pub fn resolve(&mut self, base: &Path) {
        let absolute = |path: &mut PathBuf| *path = base.join(&*path);
        if let At::Folder(path) | At::File(path) = &mut self.at {
            absolute(path);
        }
        let files = self.credentials.iter_mut().chain(&mut self.ca);
        files.for_each(absolute);
    }

    /// The folder, where it is one.
    pub fn folder(&self) -> Option<&Path> {
        match &self.at {
            At::Folder(folder) => Some(folder),
            At::File(_) | At::Git(_) | At::Https(_) | At::Oci(_) => None,
        }
    }

    /// Whether what is there is a bundle: whole, and perhaps signed.
    pub fn is_bundle(&self) -> bool {
        matches!(self.at, At::File(_) | At::Https(_) | At::Oci(_))
    }
}

impl<P: Into<PathBuf>> From<P> for Place {
    fn from(path: P) -> Self {
        Self::new(At::local(path.into()))
    }
}

impl At {
    /// A folder, or a bundle file by its name.
    fn local(path: PathBuf) -> Self {
        match path.extension().is_some_and(|e| e == BUNDLE_ENDING) {
            true => Self::File(path),
            false => Self::Folder(path),
        }
    }

    /// Reads a place that is written as one text.
    ///
    /// # Errors
    /// When it is an address of a kind that is not known, or malformed.
    pub fn parse(text: &str) -> Result<Self, PlaceError> {
        if let Some(rest) = text.strip_prefix("git+") {
            let (url, reference) = rest.split_once('#').unwrap_or((rest, "HEAD"));
            return git(url, reference, "").map(Self::Git);
        }
        if text.starts_with("https://") {
            return https(text).map(Self::Https);
        }
        if let Some(rest) = text.strip_prefix("oci://") {
            return oci(rest).map(Self::Oci);
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(PlaceError(format!(
                "`{scheme}://` is no kind of source: write a folder, a file that ends in `.palisade`, `git+https://…#REF`, `git+file:///…#REF`, `https://…` or `oci://…`"
            )));
        }
        if text.is_empty() {
            return Err(PlaceError("a source cannot be empty".to_owned()));
        }
        Ok(Self::local(PathBuf::from(text)))
    }

    /// Reads a place that is written as a map.
    ///
    /// # Errors
    /// When it names none or several kinds, or one of its texts is malformed.
    pub fn written(written: &Written<'_>) -> Result<Self, PlaceError> {
        let (reference, subdir) = (written.reference, written.subdir);
        let Written {
            folder,
            file,
            git: url,
            https: web,
            oci: name,
            ..
        } = *written;
        let at = match (folder, file, url, web, name) {
            (Some(folder), None, None, None, None) if !folder.is_empty() => {
                Self::Folder(PathBuf::from(folder))
            }
            (None, Some(file), None, None, None) if !file.is_empty() => {
                Self::File(PathBuf::from(file))
            }
            (None, None, Some(url), None, None) => {
                let url = url.strip_prefix("git+").unwrap_or(url);
                let (url, named) = url
                    .split_once('#')
                    .map_or((url, None), |(u, r)| (u, Some(r)));
                if named.is_some() && reference.is_some() {
                    return Err(PlaceError(
                        "the reference is written twice: in the address and as `ref`".to_owned(),
                    ));
                }
                let reference = reference.or(named).unwrap_or("HEAD");
                return git(url, reference, subdir.unwrap_or_default()).map(Self::Git);
            }
            (None, None, None, Some(url), None) => Self::Https(https(url)?),
            (None, None, None, None, Some(name)) => {
                Self::Oci(oci(name.strip_prefix("oci://").unwrap_or(name))?)
            }
            _ => {
                return Err(PlaceError(
                    "name exactly one of `folder`, `file`, `git`, `https` and `oci`".to_owned(),
                ));
            }
        };
        match reference.or(subdir) {
            Some(_) => Err(PlaceError(
                "`ref` and `subdir` go with `git` only".to_owned(),
            )),
            None => Ok(at),
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) | Self::File(path) => write!(f, "{}", path.display()),
            Self::Git(git) => {
                write!(f, "git+{}#{}", git.url, git.reference)?;
                match git.subdir.as_str() {
                    "" => Ok(()),
                    subdir => write!(f, " in {subdir}"),
                }
            }
            Self::Https(url) => f.write_str(url),
            Self::Oci(name) => write!(f, "oci://{name}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.at.fmt(f)
    }
}

fn git(url: &str, reference: &str, subdir: &str) -> Result<GitAt, PlaceError> {
    let local = url.strip_prefix("file://");
    if local.is_some_and(|path| !path.starts_with('/')) {
        return Err(PlaceError(format!(
            "`{url}` is no address of a git repository: a path after `file://` begins with `/`"
        )));
    }
    if local.is_none() {
        https(url)?;
    }
    plain("address", url)?;
    if !is_reference(reference) {
        return Err(PlaceError(format!(
            "`{reference}` is no git reference: write a branch, a tag or a commit id"
        )));
    }
    let subdir = subdir.trim_end_matches('/');
    let inside = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\\');
    if !subdir.is_empty() && (!subdir.split('/').all(inside) || plain("folder", subdir).is_err()) {
        return Err(PlaceError(format!(
            "`{subdir}` is no folder in a repository: write it from its root, such as `policy/prod`"
        )));
    }
    Ok(GitAt {
        url: url.to_owned(),
        reference: reference.to_owned(),
        subdir: subdir.to_owned(),
    })
}

/// Rules of `git check-ref-format`, and nothing that an option could be mistaken for.
fn is_reference(text: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty() && !p.starts_with('.') && !p.ends_with('.') && !p.ends_with(".lock")
    };
    text.len() <= ADDRESS_LEN_MAX
        && !text.starts_with('-')
        && text != "@"
        && !text.contains("..")
        && !text.contains("@{")
        && text.split('/').all(part)
        && text
            .chars()
            .all(|c| !c.is_control() && !c.is_whitespace() && !"~^:?*[\\".contains(c))
}

fn https(url: &str) -> Result<String, PlaceError> {
    let parsed = url
        .parse::<http::Uri>()
        .ok()
        .filter(|u| u.scheme_str() == Some("https"));
    let authority = parsed.as_ref().and_then(http::Uri::authority);
    match authority {
        Some(authority) if authority.as_str().contains('@') => Err(PlaceError(
            "an address cannot hold a name or password, for it is shown: put them into a file and name it under `credentials`".to_owned(),
        )),
        Some(authority) if !authority.host().is_empty() && plain("address", url).is_ok() => {
            Ok(url.to_owned())
        }
        _ => Err(PlaceError(format!("`{url}` is no `https://HOST/…` address"))),
    }
}

/// A name in a registry (OCI distribution 1.1, "Pulling manifests").
fn oci(name: &str) -> Result<String, PlaceError> {
    oci_name(name).map(|_| name.to_owned()).ok_or_else(|| {
        PlaceError(format!(
            "`oci://{name}` is no place in a registry: write `oci://HOST/REPOSITORY:TAG` or `oci://HOST/REPOSITORY@sha256:DIGEST`"
        ))
    })
}

/// The parts of a place in a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OciName<'t> {
    /// `HOST[:PORT]`.
    pub registry: &'t str,
    /// Path of the repository.
    pub repository: &'t str,
    /// A tag, or a digest with its algorithm.
    pub reference: &'t str,
}

/// Takes `HOST[:PORT]/REPOSITORY:TAG` or `…@sha256:DIGEST` apart.
pub fn oci_name(name: &str) -> Option<OciName<'_>> {
    let (registry, path) = name.split_once('/')?;
    let (repository, reference) = match path.split_once('@') {
        Some((repository, digest)) => (repository, digest),
        None => path.rsplit_once(':')?,
    };
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let component = |part: &str| {
        part.starts_with(lower)
            && part.ends_with(lower)
            && part.chars().all(|c| lower(c) || "._-".contains(c))
    };
    let tag = |t: &str| {
        (1..=128).contains(&t.len())
            && t.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && t.chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let digest = |d: &str| {
        d.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64
                && hex
                    .chars()
                    .all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
        })
    };
    let referenced = if path.contains('@') {
        digest(reference)
    } else {
        tag(reference)
    };
    let host = registry.parse::<http::uri::Authority>().ok()?;
    let whole = !host.host().is_empty()
        && !registry.contains('@')
        && repository.len() <= 255
        && repository.split('/').all(component)
        && referenced;
    whole.then_some(OciName {
        registry,
        repository,
        reference,
    })
}

fn plain(what: &str, text: &str) -> Result<(), PlaceError> {
    if text.len() > ADDRESS_LEN_MAX {
        return Err(PlaceError(format!(
            "the {what} is longer than {ADDRESS_LEN_MAX} bytes"
        )));
    }
    match text.chars().find(|c| c.is_control() || c.is_whitespace()) {
        Some(_) => Err(PlaceError(format!(
            "the {what} holds a space or a control character"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let shown = At::parse(text).ok().map(|at| at.to_string());
        assert_eq!(shown.as_deref(), expected, "{text}");
    }

    #[test]
    fn a_text_is_a_folder_or_an_address_of_a_known_kind() {
        check("policies", Some("policies"));
        check("/srv/policy", Some("/srv/policy"));
        check("git+file:///srv/p.git", Some("git+file:///srv/p.git#HEAD"));
        check(
            "git+https://git.acme.test/p#v1",
            Some("git+https://git.acme.test/p#v1"),
        );
        check(
            "https://cdn.acme.test/p.palisade",
            Some("https://cdn.acme.test/p.palisade"),
        );
        check(
            "oci://r.acme.test:5000/a/b:prod",
            Some("oci://r.acme.test:5000/a/b:prod"),
        );
        let digest = format!("oci://r.acme.test/a@sha256:{}", "0".repeat(64));
        check(&digest, Some(&digest));
        for bad in [
            "",
            "http://acme.test/p",
            "ssh://git@acme.test/p",
            "git+http://acme.test/p",
            "git+ext::sh -c id",
            "git+file://host/p",
            "git+https://user:word@acme.test/p",
            "git+https://acme.test/p#--upload-pack=id",
            "git+https://acme.test/p#a..b",
            "git+https://acme.test/p#",
            "https://user:word@acme.test/p",
            "https:///p",
            "oci://r.acme.test/a",
            "oci://r.acme.test/A:x",
            "oci://r.acme.test/a@sha256:00",
            "oci://user@r.acme.test/a:x",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn a_map_names_one_kind_and_a_folder_stays_inside() {
        let at = |written| At::written(&written).map(|at| at.to_string()).ok();
        let git = Written {
            git: Some("https://acme.test/p"),
            ..Written::default()
        };
        let with = |reference, subdir| Written {
            reference,
            subdir,
            ..git.clone()
        };
        let shown = at(with(Some("main"), Some("policy/prod/")));
        assert_eq!(
            shown.as_deref(),
            Some("git+https://acme.test/p#main in policy/prod")
        );
        for bad in ["../x", "a//b", "/a", "a/../b", "a b"] {
            assert_eq!(at(with(None, Some(bad))), None, "{bad}");
        }
        assert_eq!(at(Written::default()), None);
        let two = Written {
            folder: Some("p"),
            ..git.clone()
        };
        assert_eq!(at(two), None);
        let folder_with_ref = Written {
            folder: Some("p"),
            reference: Some("main"),
            ..Written::default()
        };
        assert_eq!(at(folder_with_ref), None);
        let twice = Written {
            git: Some("https://acme.test/p#main"),
            reference: Some("main"),
            ..Written::default()
        };
        assert_eq!(at(twice), None);
    }

    #[test]
    fn an_address_is_bounded_on_both_sides() {
        let long = |n: usize| {
            let head = "git+https://acme.test/";
            let url = "https://acme.test/".len();
            At::parse(&format!("{head}{}", "p".repeat(n - url))).is_ok()
        };
        assert!(long(ADDRESS_LEN_MAX));
        assert!(!long(ADDRESS_LEN_MAX + 1));
    }
}
