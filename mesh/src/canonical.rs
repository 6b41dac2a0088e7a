//! The canonical request: one spelling for the router, the PDP, the record and
//! the upstream.
//!
//! A request is parsed once and canonicalised once; what cannot be
//! canonicalised without guessing is refused. The grammar, strict by choice
//! (RFC 3986 sections 3.3 and 6.2, RFC 9110 sections 4.2 and 7.2):
//!
//! ```text
//! method  = "GET" / "HEAD" / "OPTIONS" / "POST" / "PUT" / "PATCH" / "DELETE"
//! host    = reg-name / IPv4 / "[" IPv6 "]"      ; lower case, no port, no user,
//!                                               ; no trailing dot, at most 255
//! path    = "*" / 1*( "/" segment )             ; "*" only for OPTIONS
//! segment = *( unreserved / sub-delim / ":" / "@" / pct )   ; but no ";"
//! pct     = "%" 2UPHEX                          ; never an unreserved character,
//!                                               ; "/", "\", "%", ";" or a control;
//!                                               ; runs of them are UTF-8
//! query   = *( %x21-7E ) without "#"            ; kept apart, never matched
//! ```
//!
//! On the way there: `%` escapes of unreserved characters are decoded, hex
//! digits become upper case, runs of `/` become one, `.` and `..` segments are
//! resolved. Refused: `..` above the root, `\`, `;`, encoded separators,
//! double encoding, controls, invalid UTF-8, non-ASCII.

use std::borrow::Cow;

use smol_str::SmolStr;

/// Longest path accepted, in bytes, as received.
pub const PATH_LEN_MAX: usize = 8 * 1024;
/// Longest query accepted, in bytes.
pub const QUERY_LEN_MAX: usize = 8 * 1024;
/// Longest host accepted, in bytes.
pub const HOST_LEN_MAX: usize = 255;
/// Most segments a path may have.
pub const SEGMENTS_MAX: usize = 64;

/// A request method; there are no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "RFC 9110 section 9.3 says what each is")]
pub enum Method {
    Delete,
    Get,
    Head,
    Options,
    Patch,
    Post,
    Put,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 7] = [
        Self::Delete,
        Self::Get,
        Self::Head,
        Self::Options,
        Self::Patch,
        Self::Post,
        Self::Put,
    ];

    /// Parses the exact, upper-case name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.as_str() == name)
    }

    /// The name, which is also the id of the Cedar action.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "DELETE",
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Post => "POST",
            Self::Put => "PUT",
        }
    }
}

/// A request target as received, not yet trusted.
#[derive(Debug, Clone, Copy)]
pub struct RawRequest<'a> {
    /// Method name.
    pub method: &'a str,
    /// Authority of an absolute-form target, or HTTP/2's `:authority`.
    pub authority: Option<&'a str>,
    /// The `Host` field, when there is one.
    pub host: Option<&'a str>,
    /// Path without the query.
    pub path: &'a str,
    /// Query without its `?`.
    pub query: Option<&'a str>,
}

/// A request in its only spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalRequest {
    /// Method.
    pub method: Method,
    /// Host, lower case, without port.
    pub host: SmolStr,
    /// Path without the query.
    pub path: SmolStr,
    /// Query without its `?`, as received.
    pub query: Option<SmolStr>,
    /// Whether the path differs from what was received.
    pub rewritten: bool,
}

impl CanonicalRequest {
    /// Canonicalises `raw`, or says why it must be refused.
    pub fn new(raw: RawRequest<'_>) -> Result<Self, Refusal> {
        let method = Method::parse(raw.method).ok_or(Refusal::MethodUnknown)?;
        let host = host_of(raw.authority, raw.host)?;
        let path = canonical_path(raw.path)?;
        if path == "*" && method != Method::Options {
            return Err(Refusal::PathAmbiguous("`*` is a target of OPTIONS only"));
        }
        if let Some(query) = raw.query {
            check_query(query)?;
        }
        Ok(Self {
            method,
            host,
            rewritten: path != raw.path,
            path: SmolStr::from(path),
            query: raw.query.map(SmolStr::new),
        })
    }
}

/// Why a request is answered by us before it reaches the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 400: the authority and the `Host` field disagree.
    #[error("authority and `Host` name different hosts")]
    HostConflict,
    /// 400: not a host.
    #[error("invalid host: {0}")]
    HostInvalid(&'static str),
    /// 400: no host at all.
    #[error("request names no host")]
    HostMissing,
    /// 501: not one of [`Method::ALL`].
    #[error("method is not implemented")]
    MethodUnknown,
    /// 400: the path has more than one reading.
    #[error("ambiguous path: {0}")]
    PathAmbiguous(&'static str),
    /// 414: path or query too long.
    #[error("target exceeds its length limit")]
    TargetTooLong,
    /// 400: the query has bytes it must not have.
    #[error("invalid query: {0}")]
    QueryInvalid(&'static str),
}

impl Refusal {
    /// Status code of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::HostConflict
            | Self::HostInvalid(_)
            | Self::HostMissing
            | Self::PathAmbiguous(_)
            | Self::QueryInvalid(_) => 400,
            Self::TargetTooLong => 414,
            Self::MethodUnknown => 501,
        }
    }

    /// The constant word for records.
    pub fn reason(self) -> &'static str {
        match self {
            Self::HostConflict => "host_conflict",
            Self::HostInvalid(_) => "host_invalid",
            Self::HostMissing => "host_missing",
            Self::MethodUnknown => "method_unknown",
            Self::PathAmbiguous(_) => "path_ambiguous",
            Self::TargetTooLong => "target_too_long",
            Self::QueryInvalid(_) => "query_invalid",
        }
    }
}

fn host_of(authority: Option<&str>, host: Option<&str>) -> Result<SmolStr, Refusal> {
    match (authority, host) {
        (Some(authority), Some(host)) => {
            let canonical = canonical_host(authority)?;
            if canonical_host(host)? == canonical {
                Ok(canonical)
            } else {
                Err(Refusal::HostConflict)
            }
        }
        (Some(one), None) | (None, Some(one)) => canonical_host(one),
        (None, None) => Err(Refusal::HostMissing),
    }
}

/// Canonicalises a host, dropping its port.
pub fn canonical_host(raw: &str) -> Result<SmolStr, Refusal> {
    if raw.len() > HOST_LEN_MAX + ":65535".len() {
        return Err(Refusal::HostInvalid("longer than 255 bytes"));
    }
    if raw.contains('@') {
        return Err(Refusal::HostInvalid("user information is not allowed"));
    }
    let (name, port) = split_port(raw)?;
    if let Some(port) = port
        && (port.is_empty() || port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err(Refusal::HostInvalid("port is not a number"));
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Err(Refusal::HostMissing);
    }
    if name.len() > HOST_LEN_MAX {
        return Err(Refusal::HostInvalid("longer than 255 bytes"));
    }
    if name.starts_with('[') {
        let inner = name.trim_start_matches('[').trim_end_matches(']');
        inner
            .parse::<std::net::Ipv6Addr>()
            .map_err(|_| Refusal::HostInvalid("not an IPv6 address"))?;
    } else {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if !name.bytes().all(fits) || name.split('.').any(str::is_empty) {
            return Err(Refusal::HostInvalid("not a host name"));
        }
    }
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Ok(SmolStr::from(name.to_ascii_lowercase()))
    } else {
        Ok(SmolStr::new(name))
    }
}

fn split_port(raw: &str) -> Result<(&str, Option<&str>), Refusal> {
    if raw.starts_with('[') {
        let end = raw
            .find(']')
            .ok_or(Refusal::HostInvalid("`[` is not closed"))?;
        let (name, rest) = raw.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((name, Some(port))),
            None if rest.is_empty() => Ok((name, None)),
            None => Err(Refusal::HostInvalid("characters after `]`")),
        };
    }
    match raw.split_once(':') {
        Some((name, port)) => Ok((name, Some(port))),
        None => Ok((raw, None)),
    }
}

/// Canonicalises a path; borrows when it already is canonical.
pub fn canonical_path(raw: &str) -> Result<Cow<'_, str>, Refusal> {
    if raw.len() > PATH_LEN_MAX {
        return Err(Refusal::TargetTooLong);
    }
    if raw == "*" {
        return Ok(Cow::Borrowed(raw));
    }
    if !raw.starts_with('/') {
        return Err(Refusal::PathAmbiguous("does not start with `/`"));
    }
    let segments = raw.bytes().filter(|b| *b == b'/').count();
    if segments > SEGMENTS_MAX {
        return Err(Refusal::PathAmbiguous("more than 64 segments"));
    }
    let decoded = decode(raw)?;
    if needs_resolving(&decoded) {
        return Ok(Cow::Owned(resolve_segments(&decoded)?));
    }
    Ok(decoded)
}

/// First pass: refuses what has two readings, settles `%` escapes.
fn decode(raw: &str) -> Result<Cow<'_, str>, Refusal> {
    let plain = |b: u8| is_unreserved(b) || b == b'/' || is_kept(b);
    if raw.bytes().all(plain) {
        return Ok(Cow::Borrowed(raw));
    }
    let mut out = String::with_capacity(raw.len());
    let mut run = Vec::new();
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let decoded = escape(bytes.next(), bytes.next())?;
            if decoded >= 0x80 {
                run.push(decoded);
                push_escaped(&mut out, decoded);
                continue;
            }
            end_run(&mut run)?;
            push_decoded(&mut out, decoded)?;
            continue;
        }
        end_run(&mut run)?;
        if !plain(byte) {
            return Err(Refusal::PathAmbiguous(match byte {
                b'\\' => "backslash",
                b';' => "path parameter (`;`)",
                0x80.. => "non-ASCII byte",
                _ => "character that a path must not hold",
            }));
        }
        out.push(char::from(byte));
    }
    end_run(&mut run)?;
    if out == raw {
        return Ok(Cow::Borrowed(raw));
    }
    Ok(Cow::Owned(out))
}

fn escape(high: Option<u8>, low: Option<u8>) -> Result<u8, Refusal> {
    let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
    match (digit(high), digit(low)) {
        (Some(high), Some(low)) => Ok(u8::try_from(high * 16 + low).unwrap_or_default()),
        _ => Err(Refusal::PathAmbiguous("invalid percent encoding")),
    }
}

/// Writes a decoded ASCII byte: as itself when it is unreserved, escaped when
/// it could be mistaken for syntax.
fn push_decoded(out: &mut String, byte: u8) -> Result<(), Refusal> {
    match byte {
        b'/' | b'\\' => Err(Refusal::PathAmbiguous("encoded separator")),
        b'%' => Err(Refusal::PathAmbiguous("double encoding")),
        b';' => Err(Refusal::PathAmbiguous("path parameter (`;`)")),
        0..=0x1f | 0x7f => Err(Refusal::PathAmbiguous("encoded control character")),
        byte if is_unreserved(byte) => {
            out.push(char::from(byte));
            Ok(())
        }
        byte => {
            push_escaped(out, byte);
            Ok(())
        }
    }
}

fn push_escaped(out: &mut String, byte: u8) {
    let hex = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    out.push('%');
    out.push(hex(byte >> 4).to_ascii_uppercase());
    out.push(hex(byte & 15).to_ascii_uppercase());
}

fn end_run(run: &mut Vec<u8>) -> Result<(), Refusal> {
    if std::str::from_utf8(run).is_err() {
        return Err(Refusal::PathAmbiguous("invalid UTF-8"));
    }
    run.clear();
    Ok(())
}

fn needs_resolving(path: &str) -> bool {
    path.contains("//") || path.contains("/.")
}

/// Second pass: merges slashes, resolves `.` and `..`.
fn resolve_segments(path: &str) -> Result<String, Refusal> {
    let mut out: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in path.split('/').skip(1) {
        directory = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                if out.pop().is_none() {
                    return Err(Refusal::PathAmbiguous("`..` above the root"));
                }
            }
            name => out.push(name),
        }
    }
    let mut joined = String::with_capacity(path.len());
    for segment in &out {
        joined.push('/');
        joined.push_str(segment);
    }
    if directory || out.is_empty() {
        joined.push('/');
    }
    Ok(joined)
}

fn check_query(query: &str) -> Result<(), Refusal> {
    if query.len() > QUERY_LEN_MAX {
        return Err(Refusal::TargetTooLong);
    }
    if query.bytes().all(|b| matches!(b, 0x21..=0x7e) && b != b'#') {
        Ok(())
    } else {
        Err(Refusal::QueryInvalid(
            "character that a query must not hold",
        ))
    }
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The rest of `pchar` (RFC 3986 section 3.3) that stays as it is; `;` does not.
fn is_kept(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(raw: &str, expected: &str) {
        assert_eq!(canonical_path(raw).as_deref(), Ok(expected), "{raw:?}");
    }

    fn check_refused(raw: &str) {
        assert!(canonical_path(raw).is_err(), "{raw:?} was accepted");
    }

    /// Attacks T1, T2, T4, T8: many spellings, one path.
    #[test]
    fn spellings_of_one_path_become_equal() {
        check("/admin", "/admin");
        check("/public/../admin", "/admin");
        check("/public/./../admin", "/admin");
        check("//admin", "/admin");
        check("/public//../admin", "/admin");
        check("/public/%2e%2e/admin", "/admin");
        check("/public/%2E./admin", "/admin");
        check("/%61dmin", "/admin");
        check("/admin*", "/admin*");
        check("/admin/*", "/admin/*");
        check("/a/.", "/a/");
        check("/a/b/..", "/a/");
        check("/", "/");
        check("//", "/");
        check("/a%20b", "/a%20b");
        check("/caf%c3%a9", "/caf%C3%A9");
        check("/admin%23x", "/admin%23x");
        check("/admin%3fx", "/admin%3Fx");
        check("/...", "/...");
        check("/a/.b", "/a/.b");
    }

    /// Attacks T3, T5, T6, T10, T11, T13: no guessing.
    #[test]
    fn what_has_two_readings_is_refused() {
        for raw in [
            "",
            "admin",
            "/public%2f..%2fadmin",
            "/public%2F..%2Fadmin",
            "/public%5c..%5cadmin",
            "/%252e%252e%252f",
            "\\admin",
            "/public\\..\\admin",
            "/admin;x=1/y",
            "/a;b/admin",
            "/public/..;/admin",
            "/a%3bb",
            "/%zz",
            "/%",
            "/%4",
            "/caf\u{e9}",
            "/%c0%af",
            "/%e9",
            "/%00",
            "/%0a",
            "/a b",
            "/a\"b",
            "/..",
            "/a/../../b",
            "/a#x",
            "/a?x",
        ] {
            check_refused(raw);
        }
    }

    #[test]
    fn length_limits_hold_on_both_sides() {
        let longest = format!("/{}", "a".repeat(PATH_LEN_MAX - 1));
        check(&longest, &longest);
        assert_eq!(
            canonical_path(&format!("{longest}a")),
            Err(Refusal::TargetTooLong)
        );
        let deepest = "/a".repeat(SEGMENTS_MAX);
        check(&deepest, &deepest);
        check_refused(&format!("{deepest}/a"));
    }

    /// Attacks T14, T15.
    #[test]
    fn hosts_have_one_spelling() {
        for raw in [
            "admin.example.com",
            "Admin.EXAMPLE.com.",
            "admin.example.com:8443",
        ] {
            assert_eq!(
                canonical_host(raw).as_deref(),
                Ok("admin.example.com"),
                "{raw}"
            );
        }
        assert_eq!(canonical_host("[::1]:80").as_deref(), Ok("[::1]"));
        for raw in [
            "",
            ".",
            "a@b",
            "a b",
            "a:b",
            "a:",
            "caf\u{e9}",
            "[::1",
            "[::1]x",
            "[zz]",
            "a..b",
            "a/b",
        ] {
            assert!(canonical_host(raw).is_err(), "{raw:?} was accepted");
        }
    }

    #[test]
    fn two_hosts_must_agree() {
        let raw = RawRequest {
            method: "GET",
            authority: Some("a.test:8443"),
            host: Some("A.test"),
            path: "/",
            query: None,
        };
        assert_eq!(
            CanonicalRequest::new(raw).map(|r| r.host),
            Ok("a.test".into())
        );
        let raw = RawRequest {
            host: Some("b.test"),
            ..raw
        };
        assert_eq!(CanonicalRequest::new(raw), Err(Refusal::HostConflict));
        let raw = RawRequest {
            authority: None,
            host: None,
            ..raw
        };
        assert_eq!(CanonicalRequest::new(raw), Err(Refusal::HostMissing));
    }

    /// Attacks T17, T18.
    #[test]
    fn methods_are_exact_and_the_asterisk_is_for_options() {
        let raw = RawRequest {
            method: "get",
            authority: None,
            host: Some("a"),
            path: "/",
            query: None,
        };
        assert_eq!(CanonicalRequest::new(raw), Err(Refusal::MethodUnknown));
        let raw = RawRequest {
            method: "OPTIONS",
            path: "*",
            ..raw
        };
        assert!(CanonicalRequest::new(raw).is_ok());
        let raw = RawRequest {
            method: "GET",
            ..raw
        };
        assert!(CanonicalRequest::new(raw).is_err());
    }

    proptest! {
        /// A canonical path is its own canonical form.
        #[test]
        fn canonicalising_is_idempotent(raw in "/([a-zA-Z0-9._~%/;:@!*-]|%[0-9a-fA-F]{2}|/\\.\\.?/){0,40}") {
            if let Ok(once) = canonical_path(&raw) {
                let twice = canonical_path(&once).map(Cow::into_owned);
                prop_assert_eq!(twice, Ok(once.into_owned()));
            }
        }

        /// No input panics, and no output holds a dot segment or a doubled slash.
        #[test]
        fn output_never_holds_what_was_resolved(raw in "\\PC{0,60}") {
            if let Ok(path) = canonical_path(&raw) {
                prop_assert!(!path.contains("//") && !path.split('/').any(|s| s == "." || s == ".."));
            }
        }
    }
}
