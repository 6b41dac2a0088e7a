//! Header hygiene: what is removed from requests and responses, and what is set.
//!
//! Identity comes from TLS alone (invariant 7). Fields that claim an identity,
//! a decision or a hop are *managed*: removed from every request, whoever sent
//! it, and set anew by us. Managed are
//!
//! - `x-palisade-*` and `palisade-*`,
//! - `forwarded`, `x-forwarded-*` (with `x-forwarded-client-cert`),
//! - the spellings of these with `_`, which some applications read as `-`.
//!
//! Some applications read `user_id` and `user-id` as one field (CGI, WSGI, PHP), so
//! a name with `_` is refused unless `limits.header_underscores` says otherwise.
//!
//! Also removed: hop-by-hop fields and those that `Connection` names (RFC 9110
//! section 7.6.1), `expect` (we answer it ourselves), an invalid `traceparent`,
//! and the `_` spelling of any field that policies may read. All this happens
//! before the decision, so the policy sees what the application sees.
//!
//! The application receives `x-forwarded-client-cert` (Envoy's format),
//! `palisade-decision-id`, and the caller's `traceparent` if it is valid.

use http::{HeaderMap, HeaderName, header::HOST};
pub use palisade_mesh::fields::{HeaderFault, Hop, clean_request, is_managed};
use palisade_mesh::{
    canonical::{CanonicalRequest, RawRequest, Refusal},
    decision::DecisionId,
    fields::{doom_named_by_connection, is_framing, is_hop_by_hop},
};

/// On every answer, and on every request to the application.
pub(crate) const DECISION_ID: HeaderName = HeaderName::from_static("palisade-decision-id");
/// On every request from a proxy to a proxy: the id under which the caller's side
/// recorded it.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("palisade-request-id");
/// On every answer that is a refusal of ours; its value is the reason.
pub(crate) const REFUSED: HeaderName = HeaderName::from_static("palisade-refused");
/// Who the caller is, in Envoy's format.
pub(crate) const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// W3C trace context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Removes from an application's response what only we may say, and what is
/// meant for one hop.
pub(crate) fn clean_response(headers: &mut HeaderMap) {
    let foreign = |name: &HeaderName| {
        let name = name.as_str();
        is_hop_by_hop(name) || is_ours(name)
    };
    clean(headers, foreign);
}

/// Removes from a peer proxy's response what is meant for one hop; what it says
/// of the decision is passed on, its identity is proven.
pub(crate) fn clean_peer_response(headers: &mut HeaderMap) {
    clean(headers, |name| is_hop_by_hop(name.as_str()));
}

fn clean(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let mut doomed: Vec<HeaderName> = headers.keys().filter(|n| unwanted(n)).cloned().collect();
    if doomed.is_empty() {
        return;
    }
    doom_named_by_connection(headers, &mut doomed);
    for name in &doomed {
        headers.remove(name);
    }
}

fn is_ours(name: &str) -> bool {
    let ours = |name: &str| name.starts_with("palisade-") || name.starts_with("x-palisade-");
    ours(name) || (name.contains('_') && ours(&name.replace('_', "-")))
}

/// Removes managed and framing fields from trailers (RFC 9110 section 6.5.1).
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    let unwanted = |name: &HeaderName| {
        let name = name.as_str();
        is_managed(name) || is_hop_by_hop(name) || is_framing(name) || name == "authorization"
    };
    let doomed: Vec<HeaderName> = trailers.keys().filter(|n| unwanted(n)).cloned().collect();
    for name in &doomed {
        trailers.remove(name);
    }
}

/// The trace a caller wants the request to belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) trace_id: [u8; 16],
    pub(crate) span_id: [u8; 8],
}

/// Reads `traceparent` (W3C Trace Context, section 3.2); one that is not valid
/// is removed with its `tracestate`.
pub(crate) fn take_trace(headers: &mut HeaderMap) -> Option<Trace> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let first = values.next()?;
    let alone = values.next().is_none();
    let trace = alone.then(|| parse_trace(first.as_bytes())).flatten();
    if trace.is_none() {
        headers.remove(TRACEPARENT);
        headers.remove(TRACESTATE);
    }
    trace
}

/// The one id that a field says, if it says one.
pub(crate) fn id_in(headers: &HeaderMap, name: &HeaderName) -> Option<DecisionId> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let alone = values.next().is_none();
    alone
        .then(|| DecisionId::parse(first.to_str().ok()?))
        .flatten()
}

fn parse_trace(text: &[u8]) -> Option<Trace> {
    let (version, rest) = text.split_at_checked(3)?;
    let (trace, rest) = rest.split_at_checked(33)?;
    let (span, flags) = rest.split_at_checked(17)?;
    let [version @ .., b'-'] = version else {
        return None;
    };
    let [trace @ .., b'-'] = trace else {
        return None;
    };
    let [span @ .., b'-'] = span else { return None };
    let version = hex::<1>(version)?;
    let known = version == [0] && flags.len() == 2;
    let future = version != [0] && version != [0xff] && flags.get(2).is_none_or(|b| *b == b'-');
    hex::<1>(flags.get(..2)?)?;
    let found = Trace {
        trace_id: hex(trace)?,
        span_id: hex(span)?,
    };
    let valid = (known || future) && found.trace_id != [0; 16] && found.span_id != [0; 8];
    valid.then_some(found)
}

fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let nibble = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(out)
}

/// Whether the caller speaks gRPC and expects its answers in that form.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"))
}

/// The request in its only spelling, the same on both sides of the proxy.
///
/// # Errors
/// When it has none.
pub fn canonical<B>(request: &http::Request<B>) -> Result<CanonicalRequest, Refusal> {
    let uri = request.uri();
    CanonicalRequest::new(RawRequest {
        method: request.method().as_str(),
        authority: uri.authority().map(http::uri::Authority::as_str),
        host: single_host(request.headers())?,
        path: uri.path(),
        query: uri.query(),
    })
}

/// The `Host` field; two of them are a conflict, not a choice.
fn single_host(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => Ok(None),
        (Some(one), None) => one
            .to_str()
            .map(Some)
            .map_err(|_| Refusal::HostInvalid("non-ASCII byte")),
        _ => Err(Refusal::HostConflict),
    }
}

#[cfg(test)]
mod tests {
    use palisade_mesh::catalogue::{DeclaredHeader, HeaderShape};
    use proptest::prelude::*;

    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    fn declared(name: &str, shape: HeaderShape) -> Vec<DeclaredHeader> {
        vec![DeclaredHeader {
            name: name.into(),
            shape,
        }]
    }

    /// T30, T33: claims of identity, in every spelling.
    #[test]
    fn claims_of_identity_are_removed() {
        let mut headers = map(&[
            ("X-Palisade-Client-Id", "spiffe://evil/x"),
            ("palisade-decision-id", "1"),
            ("x_palisade_id", "1"),
            ("X_Forwarded_For", "1.2.3.4"),
            ("x-forwarded_client-cert", "URI=spiffe://evil/x"),
            ("x-forwarded-client-cert", "URI=spiffe://evil/x"),
            ("x-forwarded-for", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("accept", "*/*"),
            ("x-forward", "kept"),
            ("user_id", "kept"),
        ]);
        clean_request(&mut headers, &[], true).unwrap();
        assert_eq!(names(&headers), ["accept", "user_id", "x-forward"]);
    }

    /// T23: a second spelling of a name is no name.
    #[test]
    fn names_with_an_underscore_are_refused_unless_accepted() {
        let mut headers = map(&[("user_id", "1")]);
        let refused = clean_request(&mut headers, &[], false);
        assert_eq!(refused, Err(HeaderFault::Underscore));
        assert!(clean_request(&mut headers, &[], true).is_ok());
        assert_eq!(names(&headers), ["user_id"]);
    }

    /// T31: what `Connection` names goes, framing does not.
    #[test]
    fn connection_names_fields_away_but_not_framing() {
        let mut headers = map(&[
            ("connection", "close, x-secret, content-length, host"),
            ("x-secret", "1"),
            ("content-length", "5"),
            ("host", "a.test"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("expect", "100-continue"),
        ]);
        clean_request(&mut headers, &[], true).unwrap();
        assert_eq!(names(&headers), ["content-length", "host", "te"]);
    }

    #[test]
    fn an_upgrade_is_remembered_only_when_connection_says_so() {
        let mut headers = map(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert!(
            clean_request(&mut headers, &[], true)
                .unwrap()
                .is_websocket()
        );
        assert!(headers.is_empty());
        let mut headers = map(&[("upgrade", "websocket")]);
        assert_eq!(
            clean_request(&mut headers, &[], true).unwrap(),
            Hop::default()
        );
    }

    /// T72: hyper reads `gzip, chunked` as chunked; we do not.
    #[test]
    fn transfer_codings_other_than_chunked_are_refused() {
        for value in [
            "gzip, chunked",
            "identity",
            "chunked, chunked",
            "chunked;x=1",
        ] {
            let mut headers = map(&[("transfer-encoding", value)]);
            assert_eq!(
                clean_request(&mut headers, &[], true),
                Err(HeaderFault::TransferCoding),
                "{value}"
            );
        }
        let mut twice = map(&[
            ("transfer-encoding", "chunked"),
            ("transfer-encoding", "chunked"),
        ]);
        assert_eq!(
            clean_request(&mut twice, &[], true),
            Err(HeaderFault::TransferCoding)
        );
        let mut once = map(&[("transfer-encoding", "Chunked")]);
        assert!(clean_request(&mut once, &[], true).is_ok());
        assert!(once.is_empty());
    }

    /// T20, decision 10: a declared `single` header has one value or none.
    #[test]
    fn a_declared_header_has_its_shape_and_no_twin() {
        let single = declared("x-tenant", HeaderShape::Single);
        let mut headers = map(&[("x-tenant", "a"), ("x_tenant", "b")]);
        clean_request(&mut headers, &single, true).unwrap();
        assert_eq!(names(&headers), ["x-tenant"]);
        let mut headers = map(&[("x-tenant", "a"), ("x-tenant", "a")]);
        assert_eq!(
            clean_request(&mut headers, &single, true),
            Err(HeaderFault::Repeated)
        );
        let mut headers = map(&[("x-tenant", "a"), ("x-tenant", "b")]);
        assert!(
            clean_request(&mut headers, &declared("x-tenant", HeaderShape::List), true).is_ok()
        );
    }

    /// T34.
    #[test]
    fn an_application_cannot_speak_for_the_mesh() {
        let mut headers = map(&[
            ("palisade-decision-id", "x"),
            ("palisade-refused", "forbidden"),
            ("x-palisade-anything", "x"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("content-type", "text/plain"),
        ]);
        let mut peer = headers.clone();
        clean_response(&mut headers);
        assert_eq!(names(&headers), ["content-type"]);
        clean_peer_response(&mut peer);
        assert_eq!(
            names(&peer),
            [
                "content-type",
                "palisade-decision-id",
                "palisade-refused",
                "x-palisade-anything"
            ]
        );
    }

    /// T32.
    #[test]
    fn trailers_cannot_repeat_a_managed_header() {
        let mut trailers = map(&[
            ("x-palisade-id", "1"),
            ("x_forwarded_for", "1"),
            ("content-length", "1"),
            ("grpc-status", "0"),
            ("checksum", "1"),
        ]);
        clean_trailers(&mut trailers);
        assert_eq!(names(&trailers), ["checksum", "grpc-status"]);
    }

    #[test]
    fn a_trace_is_kept_only_when_it_is_valid() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut headers = map(&[("traceparent", good), ("tracestate", "a=b")]);
        let trace = take_trace(&mut headers).unwrap();
        assert_eq!(trace.span_id[0], 0xb7);
        assert_eq!(names(&headers), ["traceparent", "tracestate"]);
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            let mut headers = map(&[("traceparent", bad), ("tracestate", "a=b")]);
            assert_eq!(take_trace(&mut headers), None, "{bad}");
            assert!(headers.is_empty());
        }
        let future = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        assert!(take_trace(&mut map(&[("traceparent", future)])).is_some());
    }

    proptest! {
        /// No name that an application could read as a managed one survives.
        #[test]
        fn no_spelling_of_a_managed_name_survives(
            stem in "(x[-_]palisade[-_]|palisade[-_]|x[-_]forwarded[-_])[a-z]{1,5}",
            upper in proptest::collection::vec(any::<bool>(), 40),
        ) {
            let spelled: String = stem
                .chars()
                .zip(upper)
                .map(|(c, up)| if up { c.to_ascii_uppercase() } else { c })
                .collect();
            let mut headers = map(&[(&spelled, "x")]);
            clean_request(&mut headers, &[], true).unwrap();
            prop_assert!(headers.is_empty(), "{spelled}");
        }

        #[test]
        fn parsing_a_trace_never_panics(text in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse_trace(&text);
        }
    }
}
