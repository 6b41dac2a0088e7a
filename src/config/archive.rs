//! Section `audit.archive`: where old segments of the log go.

use std::path::PathBuf;

#[cfg(feature = "full")]
use http::Uri;
#[cfg(feature = "full")]
use palisade_audit::archive::{After, CACHE_BYTES, CACHE_BYTES_MIN};
#[cfg(feature = "full")]
use palisade_mesh::diagnostic::Diagnostic;
use serde::Deserialize;

/// Section `audit.archive`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveSection {
    /// `s3://BUCKET/PREFIX`, or `file:///FOLDER`.
    pub url: String,
    /// How old a segment is when it goes. Default: 30 days.
    #[serde(default = "default_after")]
    pub after: String,
    /// Bytes of what was fetched that stay on the disk. Default: 4 GiB.
    #[serde(default, deserialize_with = "palisade_proxy::config::optional_size")]
    pub cache: Option<u64>,
    /// Address of the S3 server. Default: that of AWS for the region.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// File of credentials. Default: the environment.
    pub credentials: Option<PathBuf>,
    /// Roots that its certificate is under. Default: the system's.
    pub ca: Option<PathBuf>,
}

/// Where segments go.
#[cfg(feature = "full")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder.
    Folder(PathBuf),
    /// A bucket, and what the names of its objects begin with.
    Bucket(String, String),
}

#[cfg(feature = "full")]
impl ArchiveSection {
    /// Where segments go.
    ///
    /// # Errors
    /// `PLS7580` for what is no such place.
    pub fn place(&self) -> Result<Place, Diagnostic> {
        let url = &self.url;
        let none = || {
            Diagnostic::error(7580, format!("`{url}` is no place for an archive"))
                .help("`s3://BUCKET/PREFIX`, or `file:///FOLDER` with the whole path")
        };
        if let Some(path) = url.strip_prefix("file://") {
            let path = PathBuf::from(path);
            let whole = path.is_absolute() && path.components().count() > 1;
            return whole.then_some(Place::Folder(path)).ok_or_else(none);
        }
        let rest = url.strip_prefix("s3://").ok_or_else(none)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
        let named = (3..=63).contains(&bucket.len()) && bucket.chars().all(is_name);
        let is_part = |part: &str| !part.is_empty() && part != "." && part != "..";
        let clean = prefix.is_empty() || prefix.split('/').all(is_part);
        let plain = prefix
            .chars()
            .all(|c| c.is_ascii_graphic() && !"?#%\\".contains(c));
        (named && clean && plain)
            .then(|| Place::Bucket(bucket.to_owned(), prefix.to_owned()))
            .ok_or_else(none)
    }

    /// How old a segment is when it goes.
    ///
    /// # Errors
    /// `PLS7580` for what is no such time.
    pub fn after(&self) -> Result<After, Diagnostic> {
        let after = After::parse(&self.after)?;
        match after.is_none() {
            false => Ok(after),
            true => Err(
                Diagnostic::error(7580, format!("segments cannot go after `{}`", self.after))
                    .help("a day at least; by hand they go at any time: palisade audit archive run --after '0 days'"),
            ),
        }
    }

    /// Bytes of the cache.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.unwrap_or(CACHE_BYTES)
    }

    /// Whether the endpoint is spoken to without TLS.
    pub fn is_plain(&self) -> bool {
        let endpoint = self.endpoint.as_deref();
        endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
    }

    /// What does not fit together.
    pub fn check(&self) -> Vec<Diagnostic> {
        let wrong = |cause: String, help: &str| {
            Diagnostic::error(7580, "`audit.archive` cannot be used")
                .cause(cause)
                .help(help.to_owned())
        };
        let mut found: Vec<Diagnostic> = self.after().err().into_iter().collect();
        if self.cache_bytes() < CACHE_BYTES_MIN {
            found.push(wrong(
                format!("a cache of {} bytes is too small", self.cache_bytes()),
                "256MiB or more: some segments must fit",
            ));
        }
        let of_bucket = self.endpoint.is_some()
            || self.region.is_some()
            || self.credentials.is_some()
            || self.ca.is_some();
        match self.place() {
            Err(told) => found.push(told),
            Ok(Place::Folder(_)) if of_bucket => found.push(wrong(
                "`endpoint`, `region`, `credentials` and `ca` are about a bucket".into(),
                "leave them out, or give a URL that begins with s3://",
            )),
            Ok(Place::Folder(_)) => {}
            Ok(Place::Bucket(..)) if self.endpoint.is_none() && self.region.is_none() => {
                found.push(wrong(
                    "a bucket has neither `endpoint` nor `region`".into(),
                    "region: eu-central-1",
                ));
            }
            Ok(Place::Bucket(..)) => {}
        }
        found.extend(self.endpoint.as_deref().and_then(endpoint));
        found
    }
}

/// What is wrong with the address of a server.
#[cfg(feature = "full")]
fn endpoint(text: &str) -> Option<Diagnostic> {
    let told = |cause: &str| {
        Diagnostic::error(7580, format!("`{text}` is no address of an S3 server"))
            .cause(cause)
            .help("as in `https://s3.example.org`; plain HTTP is spoken with this host only")
    };
    let uri = text.parse::<Uri>().ok();
    let uri = uri.filter(|uri| uri.query().is_none() && uri.host().is_some());
    let Some(uri) = uri else {
        return Some(told("it is no URL of a server"));
    };
    if uri.authority().is_some_and(|at| at.as_str().contains('@')) {
        // It is not repeated here, for it may have a password.
        return Some(
            Diagnostic::error(7580, "an address of an S3 server says who we are")
                .cause("`endpoint` has something before an `@`")
                .help("leave that out; who we are is said by `credentials` or the environment"),
        );
    }
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), _) => None,
        (Some("http"), Some(host)) if crate::net::web::is_this_host(host) => None,
        (Some("http"), _) => Some(told("it would be spoken to without TLS")),
        _ => Some(told("it begins with neither https:// nor http://")),
    }
}

fn default_after() -> String {
    "30 days".to_owned()
}

#[cfg(all(test, feature = "full"))]
mod tests {
    use crate::config::Config;

    fn codes(archive: &str) -> Vec<u16> {
        let text = format!(
            "trust_domain: acme.test\naudit:\n  listen: 127.0.0.1:0\n  archive: {{ {archive} }}\n"
        );
        let found = Config::parse("m.yaml", &text).err().unwrap_or_default();
        found.iter().map(|d| d.code.0).collect()
    }

    /// Both sides of each rule.
    #[test]
    fn an_archive_is_checked_before_anything_starts() {
        for good in [
            "url: 'file:///mnt/archive'",
            "url: 's3://acme-audit', region: eu-central-1",
            "url: 's3://acme-audit/log/a', endpoint: 'https://s3.acme.test', credentials: c, ca: r.pem",
            "url: 's3://acme-audit', endpoint: 'http://127.0.0.1:9000', after: 1 day, cache: 256MiB",
            "url: 's3://acme-audit', endpoint: 'http://[::1]:9000', after: 2y, cache: 1GiB",
        ] {
            assert_eq!(codes(good), [0_u16; 0], "{good}");
        }
        for bad in [
            "url: /mnt/archive",
            "url: 'file://'",
            "url: 'file:///'",
            "url: 'file://mnt'",
            "url: 'file:///mnt', region: eu-central-1",
            "url: 's3://acme-audit'",
            "url: 's3://Acme', region: a",
            "url: 's3://acme-audit/../b', region: a",
            "url: 's3://acme-audit//b', region: a",
            "url: 's3://acme-audit', endpoint: 'http://s3.acme.test'",
            "url: 's3://acme-audit', endpoint: s3.acme.test",
            "url: 's3://acme-audit', endpoint: 'https://key:secret@s3.acme.test'",
            "url: 'file:///mnt', after: soon",
            "url: 'file:///mnt', after: 0 days",
            "url: 'file:///mnt', cache: 255MiB",
        ] {
            assert_eq!(codes(bad), [7580], "{bad}");
        }
        assert_eq!(codes("url: 'file:///mnt', allow_http: true"), [8003]);
    }
}
