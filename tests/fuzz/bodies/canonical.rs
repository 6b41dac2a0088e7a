//! The canonicaliser: method, authority, host, path and query of a request, one a
//! line. What has a canonical form has one only, and none of the forms in it that
//! have two readings.

use palisade_mesh::canonical::{CanonicalRequest, RawRequest};

#[path = "../canonical_form.rs"]
mod form;

use form::{check_host, check_path};

/// Checks one input.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut lines = text.splitn(5, '\n');
    let method = lines.next().unwrap_or_default();
    let authority = lines.next().filter(|a| !a.is_empty());
    let host = lines.next().filter(|h| !h.is_empty());
    let path = lines.next().unwrap_or_default();
    let query = lines.next();
    let raw = RawRequest {
        method,
        authority,
        host,
        path,
        query,
    };
    let Ok(request) = CanonicalRequest::new(raw) else {
        return;
    };
    check_path(&request.path);
    check_host(&request.host);
    assert_eq!(request.method.as_str(), method);
    assert_eq!(request.query.as_deref(), query);
    assert_eq!(request.rewritten, request.path != path);
    let again = CanonicalRequest::new(RawRequest {
        method,
        authority: None,
        host: Some(&request.host),
        path: &request.path,
        query,
    });
    let same = |a: &CanonicalRequest| (a.host.clone(), a.path.clone(), a.query.clone());
    assert_eq!(
        again.as_ref().map(same),
        Ok(same(&request)),
        "not its own form"
    );
}
