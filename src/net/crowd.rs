//! How many connections a control listener holds, in all and of one identity.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use palisade_mesh::spiffe_id::SpiffeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections that one control listener holds open.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Of them of one identity, once it has proven itself: every replica of a service has
/// the same one, and a rotation overlaps the old with the new.
pub const CONNECTIONS_PER_IDENTITY_MAX: usize = 4096;

/// The connections of one listener.
#[derive(Debug, Clone)]
pub struct Crowd {
    room: Arc<Semaphore>,
    per_identity_max: usize,
    held: Arc<Mutex<HashMap<SpiffeId, usize>>>,
}

/// Room for one connection whose peer has not proven itself yet.
#[derive(Debug)]
pub struct Room {
    crowd: Crowd,
    permit: OwnedSemaphorePermit,
}

/// The place of a peer; given back when dropped.
#[derive(Debug)]
pub struct Place {
    crowd: Crowd,
    id: SpiffeId,
    _permit: OwnedSemaphorePermit,
}

impl Default for Crowd {
    fn default() -> Self {
        Self::new(CONNECTIONS_MAX, CONNECTIONS_PER_IDENTITY_MAX)
    }
}

impl Crowd {
    /// With room for `max` connections, `per_identity_max` of one identity.
    pub fn new(max: usize, per_identity_max: usize) -> Self {
        Self {
            room: Arc::new(Semaphore::new(max)),
            per_identity_max,
            held: Arc::default(),
        }
    }

    /// Room for one more; none when it is full.
    pub fn enter(&self) -> Option<Room> {
        let permit = self.room.clone().try_acquire_owned().ok()?;
        Some(Room {
            crowd: self.clone(),
            permit,
        })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<SpiffeId, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    /// The place of `id`; none when it holds its share.
    pub fn of(self, id: &SpiffeId) -> Option<Place> {
        let mut held = self.crowd.held();
        let count = held.entry(id.clone()).or_default();
        if *count >= self.crowd.per_identity_max {
            return None;
        }
        *count += 1;
        drop(held);
        Some(Place {
            crowd: self.crowd,
            id: id.clone(),
            _permit: self.permit,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.crowd.held();
        if let Some(count) = held.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://acme.test/{name}")).unwrap()
    }

    #[test]
    fn both_limits_hold_on_both_sides_and_room_comes_back() {
        let crowd = Crowd::new(3, 2);
        let first = crowd.enter().unwrap().of(&id("a")).unwrap();
        let _second = crowd.enter().unwrap().of(&id("a")).unwrap();
        assert!(
            crowd.enter().unwrap().of(&id("a")).is_none(),
            "a has its share"
        );
        let _third = crowd.enter().unwrap().of(&id("b")).unwrap();
        assert!(crowd.enter().is_none(), "the listener is full");
        drop(first);
        assert!(crowd.enter().unwrap().of(&id("a")).is_some());
        drop(_second);
        assert_eq!(crowd.held().len(), 1, "who holds nothing takes no room");
    }
}
