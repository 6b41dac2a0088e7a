//! What holds of every canonical path and host, whichever target comes to one.

use palisade_mesh::canonical::{canonical_host, canonical_path};

/// What holds of every canonical path.
pub fn check_path(path: &str) {
    assert_eq!(canonical_path(path).as_deref(), Ok(path), "not idempotent");
    assert!(path == "*" || path.starts_with('/'), "{path:?}");
    assert!(path.bytes().all(|b| (0x21..0x7f).contains(&b)), "{path:?}");
    for form in ["//", "\\", ";", "?", "#"] {
        assert!(!path.contains(form), "{path:?} holds {form:?}");
    }
    assert!(
        !path.split('/').any(|s| s == "." || s == ".."),
        "{path:?} holds a dot segment"
    );
    let mut rest = path;
    let mut decoded = Vec::new();
    while let Some((before, after)) = rest.split_once('%') {
        decoded.extend_from_slice(before.as_bytes());
        let digits = after.get(..2).expect("two digits follow `%`");
        assert!(
            digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')),
            "{path:?}"
        );
        let byte = u8::from_str_radix(digits, 16).expect("checked");
        assert!(
            !byte.is_ascii_alphanumeric() && !byte.is_ascii_control(),
            "{path:?} escapes {byte:#x}"
        );
        assert!(!b"/\\%;.-_~".contains(&byte), "{path:?} escapes {byte:#x}");
        decoded.push(byte);
        rest = after.get(2..).unwrap_or_default();
    }
    decoded.extend_from_slice(rest.as_bytes());
    assert!(
        std::str::from_utf8(&decoded).is_ok(),
        "{path:?} hides bytes"
    );
}

/// What holds of every canonical host.
pub fn check_host(host: &str) {
    assert_eq!(canonical_host(host).as_deref(), Ok(host), "not idempotent");
    assert!(!host.is_empty() && host.len() <= 255, "{host:?}");
    assert!(!host.bytes().any(|b| b.is_ascii_uppercase()), "{host:?}");
    assert!(
        !host.ends_with('.') && !host.contains(['@', '/']),
        "{host:?}"
    );
    if host.contains(':') {
        assert!(host.starts_with('[') && host.ends_with(']'), "{host:?}");
    }
}
