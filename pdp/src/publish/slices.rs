//! The slices of one revision, as they are asked for.

use std::{
    collections::VecDeque,
    sync::{Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use palisade_mesh::{catalogue::ServiceId, spiffe_id::SpiffeId, wire::policy::Bundle};
use prost::Message;

use crate::{bundle::slice, compiled::Compiled};

/// Slices that are remembered: instances of one service come at about the same time.
const REMEMBERED_MAX: usize = 16;

/// Cuts slices and remembers the last ones.
#[derive(Debug, Default)]
pub(crate) struct Slices {
    whole: OnceLock<Option<Bundle>>,
    lately: Mutex<VecDeque<(Option<ServiceId>, Bytes)>>,
}

impl Slices {
    /// The slice for the proxy with this identity; the whole where nothing can be left
    /// out.
    pub(crate) fn of(&self, compiled: &Compiled, identity: &SpiffeId) -> Bytes {
        let service = compiled.catalogue.by_identity(identity);
        let id = service.map(|service| service.id.clone());
        let known = self.lately().iter().find(|(of, _)| *of == id).cloned();
        if let Some((_, bytes)) = known {
            return bytes;
        }
        let whole = self
            .whole
            .get_or_init(|| Bundle::decode(compiled.bundle.clone()).ok());
        let Some(whole) = whole else {
            return compiled.bundle.clone();
        };
        let bytes = slice::of(compiled, whole, identity);
        let mut lately = self.lately();
        if lately.len() >= REMEMBERED_MAX {
            lately.pop_front();
        }
        lately.push_back((id, bytes.clone()));
        bytes
    }

    fn lately(&self) -> std::sync::MutexGuard<'_, VecDeque<(Option<ServiceId>, Bytes)>> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
