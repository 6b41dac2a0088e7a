//! How the audit service is: what `status` and `check` say of log, index, witnesses and of
//! those who report.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use palisade_audit::{disk::Room, log::Log, privacy::Keeping, watch::Watch};

use super::{AuditRole, forward::Forward, state::Lost, witness::Witnessing};
use crate::{
    control::{
        api::{Fact, FactState},
        status::{ArchiveState, AuditStatus, ago},
    },
    render::{count, thousands},
    run::keeping,
};

/// Shortest time between two looks at what reporters said.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Age of the last checkpoint, with records waiting, that is worth a warning.
const CHECKPOINT_LATE: Duration = Duration::from_secs(30);

impl AuditRole {
    pub(super) fn status(&self) -> AuditStatus {
        let checkpoint = self.log.checkpoint();
        let index = self.store.status();
        AuditStatus {
            folder: self.dir.display().to_string(),
            records: self.log.len(),
            checkpointed: checkpoint.size,
            key: self.log.verifier().to_string(),
            root: BASE64.encode(checkpoint.root),
            checkpoint_us: checkpoint.time.as_microsecond(),
            indexed: index.searchable,
            gaps: self.log.gaps().len(),
            syslog: self.forward.as_ref().map(Forward::status),
            archive: self.log.archive().map(|archive| ArchiveState {
                url: archive.url().to_owned(),
                fault: archive.health().fault,
            }),
            open_alerts: self.alerts.open_count(),
            cosigned: self.witnesses.cosigned().map(|checkpoint| checkpoint.size),
            witnesses: self.witnesses.status(),
            witnessing: self.witnessing.get().map(Witnessing::status),
        }
    }

    pub(super) fn check(&self) -> Vec<Fact> {
        let status = self.status();
        let when = ago(&self.clock, status.checkpoint_us);
        let waiting = status.records - status.checkpointed.min(status.records);
        let late = u128::try_from(self.clock.now_us() - status.checkpoint_us).unwrap_or_default()
            > CHECKPOINT_LATE.as_micros();
        let mut facts = vec![if waiting > 0 && late {
            Fact::not_ok(
                "audit",
                FactState::Error,
                7202,
                format!("{waiting} records are under no checkpoint"),
            )
            .cause(match self.log.health().unsigned {
                Some(why) => format!("{why}; the last one was signed {when}"),
                None => format!("the last one was signed {when}"),
            })
            .fix("see the log of the audit service; the disk may be full, or the device that signs away")
        } else {
            let records = thousands(status.checkpointed);
            Fact::ok(
                "audit",
                format!("{records} records under a checkpoint signed {when}"),
            )
        }];
        if let Some(gap) = self.log.gaps().first() {
            let missing = format!(
                "{} to {} of {} have not arrived",
                gap.missing.from, gap.missing.to, gap.stream
            );
            facts.push(
                Fact::not_ok(
                    "audit",
                    FactState::Warning,
                    7523,
                    format!("{} in the records", count(status.gaps, "gap", "gaps")),
                )
                .cause(missing)
                .fix("see the reporter's spool: its records may still be on the way"),
            );
        }
        facts.extend(self.segments());
        facts.extend(self.reporters());
        facts.extend(keys(&self.vault.keeping()));
        facts.extend(self.witnesses.check());
        facts.extend(self.lost.iter().filter_map(Lost::fact));
        facts.extend(self.alerts.check());
        facts.extend(self.schedules.check());
        facts.extend(self.retention.check());
        facts.extend(self.archiving.check(&self.log));
        facts.extend(self.forward.as_ref().map(Forward::check));
        facts.extend(
            self.witnessing
                .get()
                .map(Witnessing::check)
                .unwrap_or_default(),
        );
        let health = self.log.health();
        let room = health.room;
        facts.extend(keeping::facts("audit", "the log", &health.into()));
        let behind = status.records.saturating_sub(status.indexed);
        facts.push(match self.store.status().stalled {
            None => Fact::ok(
                "audit",
                match behind {
                    0 => "index is up to date".into(),
                    n => format!("index is {} behind", count(n, "record", "records")),
                },
            ),
            Some(why) if room != Room::Enough => Fact::not_ok(
                "audit",
                FactState::Warning,
                7608,
                "the index waits, so that the log has what room there is",
            )
            .cause(why)
            .fix("make room on the disk; the index then catches up"),
            Some(why) => Fact::not_ok("audit", FactState::Error, 7203, "the index does not get on")
                .cause(why),
        });
        facts.extend(self.gate.get().map(|g| g.check()).unwrap_or_default());
        facts
    }

    /// What is to be told of records of the log that cannot be had.
    fn segments(&self) -> Option<Fact> {
        let damaged = self.log.damaged();
        // What an archive has lost is told with it.
        let unreadable = match self.log.archive() {
            Some(_) => 0,
            None => self.store.status().unreadable,
        };
        if damaged.is_empty() && unreadable == 0 {
            return None;
        }
        let cause = match damaged.first() {
            Some(first) => first.to_string(),
            None => "the log of the audit service names the first".to_owned(),
        };
        let segments = count(damaged.len(), "segment is", "segments are");
        let records = count(unreadable, "record", "records");
        let text = format!(
            "{segments} damaged or gone since the start, and the index lacks {records} that cannot be read"
        );
        Some(
            Fact::not_ok("audit", FactState::Error, 7214, text)
                .cause(cause)
                .fix("find out who could write there, and name the places: palisade audit verify. A copy that is put back is read again"),
        )
    }

    /// What is to be told of those who report: silence, and words that do not agree.
    fn reporters(&self) -> Vec<Fact> {
        let mut facts = Vec::new();
        let silent = self.watch.silent();
        if let Some(first) = silent.first() {
            let n = count(silent.len(), "reporter has", "reporters have");
            let text = format!("{n} stopped sending records");
            let since = ago(&self.clock, first.heard_us);
            let who = format!(
                "{} (boot {}) was last heard {since}",
                first.reporter, first.boot
            );
            facts.push(
                Fact::not_ok("audit", FactState::Error, 7526, text)
                    .cause(who)
                    .fix("see that it runs and reaches the audit service; what it has kept arrives then. All of them: palisade audit gaps"),
            );
        }
        if let Some(unread) = self.watch.unread() {
            let n = count(
                unread.records,
                "record was stepped over",
                "records were stepped over",
            );
            facts.push(
                Fact::not_ok(
                    "audit",
                    FactState::Error,
                    7528,
                    format!("{n}, which may say something of who reports"),
                )
                .cause(unread.why)
                .fix("find what is damaged with `palisade audit verify`"),
            );
        }
        let uncompared = self.watch.uncompared();
        if uncompared > 0 {
            let n = count(
                uncompared,
                "stretch of records was",
                "stretches of records were",
            );
            facts.push(
                Fact::not_ok(
                    "audit",
                    FactState::Warning,
                    7529,
                    format!("{n} not compared with what their reporter signed"),
                )
                .cause("more was out of order or open than is followed, or waited for its certificate than is kept")
                .fix("compare them with `palisade audit verify`"),
            );
        }
        let (faults, more) = self.watch.faults();
        if let Some(first) = faults.first() {
            let n = more.saturating_add(u64::try_from(faults.len()).unwrap_or(u64::MAX));
            let n = count(n, "stretch of records is", "stretches of records are");
            let text = format!("{n} not what their reporter signed");
            facts.push(
                Fact::not_ok("audit", FactState::Error, 7527, text)
                    .cause(first.what.clone())
                    .fix("they were changed between the reporter and the log: keep both, and find the place with `palisade audit verify`"),
            );
        }
        facts
    }
}

/// What is to be told of the keys of persons.
fn keys(keeping: &Keeping) -> Vec<Fact> {
    let mut facts = Vec::new();
    let unsealed = match keeping.unsealed {
        0 => "what names a new person then has a pseudonym alone".to_owned(),
        n => {
            let values = count(n, "value has", "values have");
            format!("since the start {values} a pseudonym alone")
        }
    };
    let mut tell = |state, code, text: String, cause: &str, fix: &str| {
        facts.push(
            Fact::not_ok("audit", state, code, text)
                .cause(cause)
                .fix(fix),
        );
    };
    if keeping.damaged > 0 {
        let text = format!(
            "{} damaged",
            count(keeping.damaged, "key of a person is", "keys of persons are")
        );
        let fix = "put back `audit.subjects/keys` from before, if nobody was erased since; what is sealed is readable again then";
        tell(FactState::Error, 7571, text, &unsealed, fix);
    }
    let (used, max) = (u64::from(keeping.used), u64::from(keeping.max));
    let room = format!(
        "{} of {} persons have a key",
        thousands(used),
        thousands(max)
    );
    let fix = "seal fewer fields, or only those that name persons: `privacy.seal`";
    if used >= max {
        tell(FactState::Error, 7572, room, &unsealed, fix);
    } else if used * 5 >= max * 4 {
        tell(FactState::Warning, 7572, room, &unsealed, fix);
    } else if keeping.damaged == 0 && keeping.unsealed > 0 {
        let text = "a key of a person cannot be used".to_owned();
        let fix = "see the log of the audit service, and the health of its disk";
        tell(FactState::Error, 7571, text, &unsealed, fix);
    }
    if keeping.doomed > 0 {
        let text = format!(
            "{} not finished",
            count(keeping.doomed, "erasure is", "erasures are")
        );
        let cause = "it was ordered, and its key is not overwritten yet";
        let fix = "it is tried again every two seconds; the log of the audit service says what it waits for";
        tell(FactState::Warning, 7573, text, cause, fix);
    }
    facts
}

/// Keeps the watch at the end of the log.
pub(super) async fn follow(watch: Arc<Watch>, log: Log) {
    let mut grown = log.subscribe();
    loop {
        let reading = watch.clone();
        match tokio::task::spawn_blocking(move || reading.catch_up()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "the watch over reporters cannot read the log")
            }
            Err(_) => return,
        }
        tokio::time::sleep(WATCH_EVERY).await;
        if grown.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On both sides of each limit.
    #[test]
    fn keys_are_told_before_there_are_none_left() {
        let keeping = Keeping {
            used: 79,
            max: 100,
            damaged: 0,
            doomed: 0,
            unsealed: 0,
        };
        let told = |keeping: Keeping| -> Vec<(FactState, u16)> {
            let facts = keys(&keeping).into_iter();
            facts.map(|f| (f.state, f.code.unwrap())).collect()
        };
        assert_eq!(told(keeping), []);
        let used = |used| told(Keeping { used, ..keeping });
        assert_eq!(used(80), [(FactState::Warning, 7572)]);
        assert_eq!(used(99), [(FactState::Warning, 7572)]);
        assert_eq!(used(100), [(FactState::Error, 7572)]);
        let changed = |change: &dyn Fn(&mut Keeping)| {
            let mut keeping = keeping;
            change(&mut keeping);
            told(keeping)
        };
        assert_eq!(changed(&|k| k.damaged = 1), [(FactState::Error, 7571)]);
        assert_eq!(changed(&|k| k.unsealed = 1), [(FactState::Error, 7571)]);
        assert_eq!(changed(&|k| k.doomed = 1), [(FactState::Warning, 7573)]);
    }
}
