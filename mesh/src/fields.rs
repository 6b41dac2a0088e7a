//! Header hygiene of requests: what is removed before anybody decides, and what is refused.
//!
//! The same for a proxy and for whoever asks the PDP about a request that another
//! proxy received: a policy must see what our own proxy would show it. What is
//! *managed* (identity, decision, hop) is removed whoever sent it, and so are
//! hop-by-hop fields, those that `Connection` names (RFC 9110 section 7.6.1), `expect`,
//! and the `_` spelling of any field that policies may read.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, TE, TRANSFER_ENCODING, UPGRADE},
};

use crate::catalogue::{DeclaredHeader, HeaderShape};

/// Why a request's fields are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderFault {
    /// Declared `single`, sent more than once.
    Repeated,
    /// A transfer coding other than `chunked`.
    TransferCoding,
    /// A name with `_`.
    Underscore,
}

/// Whether a field name, in lower case, is ours alone to set.
pub fn is_managed(name: &str) -> bool {
    if name.bytes().any(|b| b == b'_') {
        return has_managed_prefix(&name.replace('_', "-"));
    }
    has_managed_prefix(name)
}

fn has_managed_prefix(name: &str) -> bool {
    match name.as_bytes().first() {
        Some(b'f') => name == "forwarded",
        Some(b'p') => name.starts_with("palisade-"),
        Some(b'x') => name.starts_with("x-palisade-") || name.starts_with("x-forwarded-"),
        _ => false,
    }
}

/// Whether a field is meant for one hop (RFC 9110 section 7.6.1).
pub fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Fields that frame or address the message; `Connection` cannot name them away.
pub fn is_framing(name: &str) -> bool {
    matches!(name, "host" | "content-length" | "trailer")
}

/// What a request's hop-by-hop fields asked for, before they were removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// The protocol of an upgrade request.
    pub upgrade: Option<HeaderValue>,
}

impl Hop {
    /// Whether the request opens a WebSocket (RFC 6455 section 4.1).
    pub fn is_websocket(&self) -> bool {
        self.upgrade
            .as_ref()
            .is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(b"websocket"))
    }
}

/// Removes from a request what must not reach policy or application; names with
/// `_` are refused unless `underscores` are accepted.
///
/// # Errors
/// When the fields have more than one reading.
pub fn clean_request(
    headers: &mut HeaderMap,
    declared: &[DeclaredHeader],
    underscores: bool,
) -> Result<Hop, HeaderFault> {
    check_transfer_coding(headers)?;
    let mut hop = Hop::default();
    // Most requests have nothing to remove, and then nothing is allocated.
    let mut doomed: Vec<HeaderName> = Vec::new();
    let mut trailers_welcome = false;
    for name in headers.keys() {
        let text = name.as_str();
        let underscored = text.contains('_');
        if underscored && !underscores {
            return Err(HeaderFault::Underscore);
        }
        if is_hop_by_hop(text)
            || text == "expect"
            || has_managed_prefix(text)
            || (underscored && is_twin(text, declared))
        {
            doomed.push(name.clone());
        }
    }
    if !doomed.is_empty() {
        trailers_welcome = headers.get(TE).is_some_and(|te| te == "trailers");
        hop.upgrade = requested_upgrade(headers);
        doom_named_by_connection(headers, &mut doomed);
        for name in &doomed {
            headers.remove(name);
        }
    }
    if trailers_welcome {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let mut single = declared.iter().filter(|d| d.shape == HeaderShape::Single);
    if single.any(|d| headers.get_all(d.name.as_str()).iter().count() > 1) {
        return Err(HeaderFault::Repeated);
    }
    Ok(hop)
}

/// Whether `name` with `-` for `_` is managed, or is read by policies.
fn is_twin(name: &str, declared: &[DeclaredHeader]) -> bool {
    let plain = name.replace('_', "-");
    has_managed_prefix(&plain)
        || declared
            .iter()
            .any(|d| d.name != name && d.name.replace('_', "-") == plain)
}

/// hyper takes `gzip, chunked` for `chunked` and leaves the rest to us; what we
/// forward would then be mislabelled (RFC 9112 section 6.1).
fn check_transfer_coding(headers: &HeaderMap) -> Result<(), HeaderFault> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(HeaderFault::TransferCoding),
    }
}

fn requested_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let upgrade = headers.get(UPGRADE)?;
    connection_options(headers)
        .any(|o| o.eq_ignore_ascii_case("upgrade"))
        .then(|| upgrade.clone())
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
}

/// Adds the fields that `Connection` names to those that are removed.
pub fn doom_named_by_connection(headers: &HeaderMap, doomed: &mut Vec<HeaderName>) {
    doomed.extend(
        connection_options(headers)
            .filter_map(|option| HeaderName::from_bytes(option.as_bytes()).ok())
            .filter(|name| !is_framing(name.as_str())),
    );
}
