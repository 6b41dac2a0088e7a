//! A canonical host in the forms that a forwarded request needs.

use std::cell::RefCell;

use bytes::Bytes;
use http::{HeaderValue, uri::Authority};
use smol_str::SmolStr;

/// A canonical host as field value and as authority.
#[derive(Clone)]
pub(crate) struct HostForms {
    host: SmolStr,
    pub(crate) value: HeaderValue,
    pub(crate) authority: Authority,
}

impl HostForms {
    fn new(host: &SmolStr) -> Option<Self> {
        let bytes = Bytes::copy_from_slice(host.as_bytes());
        Some(Self {
            host: host.clone(),
            value: HeaderValue::from_maybe_shared(bytes.clone()).ok()?,
            authority: Authority::from_maybe_shared(bytes).ok()?,
        })
    }
}

/// The forms of the host last seen on a connection; most know only one.
#[derive(Default)]
pub(crate) struct HostCache(RefCell<Option<HostForms>>);

impl HostCache {
    /// The forms of `host`; a canonical host always has them.
    pub(crate) fn forms(&self, host: &SmolStr) -> Option<HostForms> {
        let mut kept = self.0.borrow_mut();
        if kept.as_ref().is_none_or(|k| k.host != *host) {
            *kept = HostForms::new(host);
        }
        kept.clone()
    }
}
