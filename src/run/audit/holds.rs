//! Legal holds, ordered on the local socket; each change of them is a record.

use axum::{
    Json, Router,
    extract::ConnectInfo,
    routing::{get, post},
};
use palisade_audit::holds::{
    HOLD_ADD_FAILED, HOLD_ADDED, HOLD_RELEASE_FAILED, HOLD_RELEASED, Hold, Holds, Ordered,
};
use palisade_mesh::{
    decision::DecisionIds,
    diagnostic::Diagnostic,
    wire::record::{Admin, record::Body},
};
use serde::{Deserialize, Serialize};

use super::{
    AuditRole, Reader,
    sums::records_of,
    unnamed::{About, reason},
};
use crate::control::{
    api::{Answer, Problem},
    server::PeerUid,
};

/// What `audit hold add` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct AddHold {
    /// Which records.
    pub query: String,
    /// Why.
    pub reason: String,
    /// When it ends by itself, RFC 3339; never where nothing is said.
    pub until: Option<String>,
}

/// What `audit hold release` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReleaseHold {
    /// Its id.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// The holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct HoldList {
    /// All that have not ended, oldest first.
    pub holds: Vec<Hold>,
}

impl AuditRole {
    pub(super) fn hold_routes(&self) -> Router {
        let (of_list, of_add, of_release) = (self.clone(), self.clone(), self.clone());
        Router::new()
            .route(
                "/v1/audit/holds",
                get(move |ConnectInfo(uid): ConnectInfo<PeerUid>| async move {
                    of_list.list_holds(&Reader::local(uid)).await
                }),
            )
            .route(
                "/v1/audit/holds/add",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<AddHold>| async move {
                        let order = |role: Self| async move { role.add_hold(uid.to_string(), q).await };
                        of_add.in_turn(order).await
                    },
                ),
            )
            .route(
                "/v1/audit/holds/release",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<ReleaseHold>| async move {
                        let order =
                            |role: Self| async move { role.release_hold(&uid.to_string(), q).await };
                        of_release.in_turn(order).await
                    },
                ),
            )
    }

    pub(super) async fn list_holds(self, reader: &Reader) -> Answer<HoldList> {
        let holds = self.holds.active(self.clock.now_us());
        self.reads.note(reader, "holds", "", holds.len()).await?;
        Ok(Json(HoldList { holds }))
    }

    async fn add_hold(self, actor: String, asked: AddHold) -> Result<Hold, Problem> {
        let reason = self.reason(&asked.reason, &About::of(&asked.query))?;
        let query = records_of(self.asked(&asked.query)?)?;
        let now_us = self.clock.now_us();
        // Relative times are those of this moment: a hold does not move on with the clock.
        let (from_us, to_us) = query.bounds(now_us);
        let hold = Hold {
            id: DecisionIds::new().next(now_us).to_string(),
            query: query.without_time().to_string(),
            from_us,
            to_us,
            reason,
            by: actor,
            since_us: now_us,
            until_us: asked.until.as_deref().map(until).transpose()?,
        };
        self.holds.check(&hold)?;
        self.note_hold(HOLD_ADDED, &hold.by, &hold, &hold.reason)
            .await?;
        let added = hold.clone();
        if let Err(told) = change(&self.holds, move |holds| holds.add(added)).await {
            self.note_hold(HOLD_ADD_FAILED, &hold.by, &hold, &told.message)
                .await?;
            return Err(told.into());
        }
        Ok(hold)
    }

    async fn release_hold(self, actor: &str, asked: ReleaseHold) -> Result<Hold, Problem> {
        let reason = reason(&asked.reason)?;
        let now_us = self.clock.now_us();
        let active = self.holds.active(now_us);
        let Some(hold) = active.into_iter().find(|hold| hold.id == asked.id) else {
            return self.release_missing(actor, &asked, &reason).await;
        };
        self.names_none_of(&reason, &About::of(&hold.query))?;
        self.note_hold(HOLD_RELEASED, actor, &hold, &reason).await?;
        if let Err(told) = change(&self.holds, move |holds| holds.release(&asked.id)).await {
            self.note_hold(HOLD_RELEASE_FAILED, actor, &hold, &told.message)
                .await?;
            return Err(told.into());
        }
        Ok(hold)
    }

    /// Releases a hold that is in force by the log and not in the file.
    async fn release_missing(
        &self,
        actor: &str,
        asked: &ReleaseHold,
        reason: &str,
    ) -> Result<Hold, Problem> {
        let now_us = self.clock.now_us();
        let log = self.log.clone();
        let ordered = tokio::task::spawn_blocking(move || log.holds(now_us)).await;
        let ordered = ordered.map_err(|e| super::broken(&e.to_string()))?;
        let ordered = ordered.map_err(|e| super::broken(&e.to_string()))?;
        let Some(Ordered { id, told }) = ordered.into_iter().find(|held| held.id == asked.id)
        else {
            return Err(Problem::from(
                Diagnostic::error(7566, format!("there is no hold `{}`", asked.id))
                    .help("see which there are: palisade audit hold list"),
            ));
        };
        self.names_none_of(reason, &About::of(&told))?;
        let admin = Admin {
            actor: actor.to_owned(),
            verb: HOLD_RELEASED.to_owned(),
            object: id.clone(),
            detail: format!("{reason}, of one that the file did not have: {told}"),
        };
        self.reads.keep(Body::Admin(admin)).await?;
        Ok(Hold {
            id,
            query: told,
            from_us: None,
            to_us: None,
            reason: reason.to_owned(),
            by: actor.to_owned(),
            since_us: now_us,
            until_us: None,
        })
    }

    async fn note_hold(
        &self,
        verb: &str,
        actor: &str,
        hold: &Hold,
        reason: &str,
    ) -> Result<(), Diagnostic> {
        let admin = Admin {
            actor: actor.to_owned(),
            verb: verb.to_owned(),
            object: hold.id.clone(),
            detail: hold.told(reason),
        };
        self.reads.keep(Body::Admin(admin)).await
    }
}

/// Changes the holds beside the runtime's own threads.
async fn change<T: Send + 'static>(
    holds: &std::sync::Arc<Holds>,
    change: impl FnOnce(&Holds) -> Result<T, Diagnostic> + Send + 'static,
) -> Result<T, Diagnostic> {
    let holds = holds.clone();
    let changed = tokio::task::spawn_blocking(move || change(&holds)).await;
    changed.map_err(|e| super::broken(&e.to_string()))?
}

fn until(text: &str) -> Result<i64, Diagnostic> {
    let day = || {
        let date: jiff::civil::Date = text.parse().ok()?;
        let end = date
            .tomorrow()
            .ok()?
            .to_zoned(jiff::tz::TimeZone::UTC)
            .ok()?;
        Some(end.timestamp())
    };
    let moment = text.parse::<jiff::Timestamp>().ok().or_else(day);
    moment.map(|t| t.as_microsecond()).ok_or_else(|| {
        Diagnostic::error(7566, format!("`{text}` is no moment"))
            .help("a day or a time in UTC: --until 2027-12-31")
    })
}
