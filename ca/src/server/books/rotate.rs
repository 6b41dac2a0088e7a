//! What operators ask of the authorities, and whom that has to wait for.

use std::collections::{HashMap, HashSet};

use super::{Books, Step};
use crate::{
    authority::{Authority, KeyId, Kind, State, orders::Orders, plan::Awaited},
    server::{CaError, RotateError, acks::Missing},
};

impl Books {
    /// Asks for the replacement of the authority that signs; the plan does the rest.
    pub(in crate::server) async fn replace(&mut self, kind: Kind) -> Result<KeyId, RotateError> {
        let old = self.signing(kind).ok_or(RotateError::Underway)?;
        let orders = match kind {
            Kind::Root => Orders {
                root: Some(old),
                ..self.orders.clone()
            },
            Kind::Intermediate => Orders {
                intermediate: Some(old),
                ..self.orders.clone()
            },
        };
        self.order(&[], Some(orders)).await?;
        Ok(old)
    }

    /// Taints the root that signs and every intermediate under it. A bundle names
    /// roots alone, so a stolen intermediate goes with its root. The successor is
    /// made first: from the taint on nobody is without one.
    pub(in crate::server) async fn taint(
        &mut self,
        reason: &str,
        revoke_now: bool,
    ) -> Result<KeyId, RotateError> {
        let root = self.signing(Kind::Root).ok_or(RotateError::Underway)?;
        if self.first(Kind::Root, State::Prepared).is_none() {
            self.take(Step::PrepareRoot).await?;
        }
        let under = self.live.iter().filter(|(a, _)| a.issuer == root);
        let moves: Vec<_> = under
            .map(|(a, _)| (a.key_id, State::Tainted, reason))
            .filter(|(id, _, _)| !self.is_tainted(*id))
            .collect();
        let orders = Orders {
            revoke_now,
            ..self.orders.clone()
        };
        self.order(&moves, Some(orders)).await?;
        Ok(root)
    }

    /// Revokes what is tainted without waiting any longer.
    pub(in crate::server) async fn hurry(&mut self) -> Result<KeyId, RotateError> {
        let tainted = self
            .first(Kind::Root, State::Tainted)
            .ok_or(RotateError::Nothing("tainted"))?;
        let orders = Orders {
            revoke_now: true,
            ..self.orders.clone()
        };
        self.order(&[], Some(orders)).await?;
        Ok(tainted)
    }

    /// Makes the next authority and publishes it, and no more.
    pub(in crate::server) async fn prepare(&mut self, kind: Kind) -> Result<KeyId, RotateError> {
        if self.first(kind, State::Prepared).is_none() {
            let step = match kind {
                Kind::Root => Step::PrepareRoot,
                Kind::Intermediate => Step::PrepareIntermediate {
                    root: self.signing(Kind::Root).ok_or(RotateError::Underway)?,
                },
            };
            self.take(step).await?;
        }
        Ok(self
            .first(kind, State::Prepared)
            .ok_or(CaError::NoAuthority)?)
    }

    /// Lets the prepared authority sign. A root that somebody does not know yet is
    /// refused, unless `now`.
    pub(in crate::server) async fn activate(
        &mut self,
        kind: Kind,
        now: bool,
    ) -> Result<KeyId, RotateError> {
        let next = self
            .first(kind, State::Prepared)
            .ok_or(RotateError::Nothing("prepared"))?;
        if kind == Kind::Root && !now {
            let missing = self.lacking(next);
            if !self.is_settled(&missing) {
                return Err(RotateError::Missing(missing));
            }
        }
        self.take(Step::Activate(next)).await?;
        Ok(next)
    }

    /// Ends the retiring authority, a root with all under it. What somebody still
    /// shows is refused, unless `now`.
    pub(in crate::server) async fn retire(
        &mut self,
        kind: Kind,
        now: bool,
    ) -> Result<KeyId, RotateError> {
        let old = self
            .first(kind, State::Retiring)
            .ok_or(RotateError::Nothing("retiring"))?;
        let gone: Vec<&Authority> = self
            .live
            .iter()
            .map(|(a, _)| a)
            .filter(|a| a.key_id == old || a.issuer == old)
            .collect();
        if gone.iter().any(|a| a.state == State::Active) {
            return Err(RotateError::StillSigning);
        }
        let ids: HashSet<KeyId> = gone.iter().map(|a| a.key_id).collect();
        let missing = self
            .acks
            .showing(&ids, self.place(old), self.clock.now_us());
        if !now && !self.is_settled(&missing) {
            return Err(RotateError::Missing(missing));
        }
        let moves: Vec<_> = gone
            .iter()
            .filter(|a| State::may_become(a.state, State::Retired))
            .map(|a| (a.key_id, State::Retired, "told to retire"))
            .collect();
        self.order(&moves, None).await?;
        Ok(old)
    }

    /// Retires what has ended without being replaced, as the first step of a repair.
    pub(in crate::server) async fn retire_ended(&mut self) -> Result<usize, CaError> {
        let now_s = self.now_s();
        let ended = self.live.iter().filter(|(a, _)| a.not_after_s <= now_s);
        let moves: Vec<_> = ended
            .map(|(a, _)| {
                let after = if a.state == State::Tainted {
                    State::Revoked
                } else {
                    State::Retired
                };
                (a.key_id, after, "ended before it was replaced")
            })
            .collect();
        if !moves.is_empty() {
            self.move_to(&moves).await?;
        }
        Ok(moves.len())
    }

    /// What waits for acknowledgements, and for whose.
    pub(in crate::server) fn awaited(&self) -> Option<(Awaited, Vec<Missing>)> {
        let awaited = self.look(&self.authorities(), &HashMap::new(), |view| view.awaited())?;
        let missing = match awaited.state {
            State::Tainted => self.showing_tainted(),
            _ => self.lacking(awaited.authority),
        };
        Some((awaited, missing))
    }

    /// Every authority that is not over, roots first, and since when it is in its state.
    pub(in crate::server) fn dated(&self) -> Vec<(Authority, i64)> {
        let dated = |a: Authority| (self.since_us(a.key_id), a);
        let authorities = self.authorities().into_iter().map(dated);
        authorities.map(|(since_us, a)| (a, since_us)).collect()
    }

    /// Since when an authority is in its state, microseconds since the Unix epoch.
    pub(in crate::server) fn since_us(&self, id: KeyId) -> i64 {
        self.journal.since_us(id).unwrap_or_default()
    }

    /// Who does not hold a bundle with this root.
    pub(super) fn lacking(&self, root: KeyId) -> Vec<Missing> {
        self.acks.lacking(self.place(root), self.clock.now_us())
    }

    /// Who still shows a certificate of a tainted authority.
    pub(super) fn showing_tainted(&self) -> Vec<Missing> {
        let tainted: HashSet<KeyId> = self
            .live
            .iter()
            .filter(|(a, _)| a.state == State::Tainted)
            .map(|(a, _)| a.key_id)
            .collect();
        // From the trust state on that tells of the replacement.
        let place = match self.signing(Kind::Intermediate) {
            Some(next) => self.place(next),
            None => (self.epoch, self.sequence),
        };
        self.acks.showing(&tainted, place, self.clock.now_us())
    }

    pub(super) fn is_settled(&self, missing: &[Missing]) -> bool {
        self.acks.is_settled(missing, self.clock.now_us())
    }

    /// The first trust state that shows the present state of an authority.
    fn place(&self, id: KeyId) -> (u64, u64) {
        let sequence = self.placed.get(&id).copied();
        (self.epoch, sequence.unwrap_or(self.first_sequence))
    }

    fn signing(&self, kind: Kind) -> Option<KeyId> {
        self.first(kind, State::Active)
    }

    fn first(&self, kind: Kind, state: State) -> Option<KeyId> {
        let found = self.live.iter().find(|(a, _)| a.is(kind, state));
        found.map(|(a, _)| a.key_id)
    }

    fn is_tainted(&self, id: KeyId) -> bool {
        self.find(id).is_ok_and(|(a, _)| a.state == State::Tainted)
    }
}
