//! How the audit service is, in the Prometheus text format: what came in, what lags behind
//! it, what it takes on disk, what is damaged and what alarms.

use std::{
    fmt::{Display, Write as _},
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{Router, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use palisade_audit::disk::Room;

use super::{AuditRole, broken};
use crate::control::api::Problem;

/// The content type of the format.
pub(super) const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Least time between two looks at how much is on disk.
const MEASURED_EVERY: Duration = Duration::from_secs(60);

/// Lines of the format.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.sample(name, value);
    }

    fn flag(&mut self, name: &str, help: &str, is: bool) {
        self.gauge(name, help, u8::from(is));
    }
}

impl AuditRole {
    pub(super) fn metric_routes(&self) -> Router {
        let role = self.clone();
        Router::new().route(
            "/v1/audit/metrics",
            get(async move || {
                let text = role.metrics().await?;
                Ok::<_, Problem>(([(CONTENT_TYPE, KIND)], text).into_response())
            }),
        )
    }

    /// Everything that is measured. Looks at the folders of log and index.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) async fn metrics(&self) -> Result<String, Problem> {
        let role = self.clone();
        let made = tokio::task::spawn_blocking(move || {
            let mut out = Text::default();
            role.of_the_log(&mut out);
            role.of_the_disk(&mut out);
            role.of_the_index(&mut out);
            role.of_reporters(&mut out);
            role.of_messages(&mut out);
            role.of_the_archive(&mut out);
            out.head("palisade_build_info", "gauge", "The build.");
            let version = env!("CARGO_PKG_VERSION");
            out.sample(&format!("palisade_build_info{{version=\"{version}\"}}"), 1);
            out.0
        });
        Ok(made.await.map_err(|e| broken(&e.to_string()))?)
    }

    fn of_the_log(&self, out: &mut Text) {
        let (len, checkpoint) = (self.log.len(), self.log.checkpoint());
        let name = "palisade_log_records_total";
        out.head(
            name,
            "counter",
            "Records that came into the log since it began.",
        );
        out.sample(name, len);
        let dropped: u64 = self.log.lacking().iter().map(|l| l.records()).sum();
        let name = "palisade_log_dropped_records_total";
        out.head(
            name,
            "counter",
            "Records that were dropped when their time was over.",
        );
        out.sample(name, dropped);
        out.gauge(
            "palisade_log_checkpointed_records",
            "Records under the latest signed checkpoint.",
            checkpoint.size,
        );
        out.gauge(
            "palisade_log_checkpoint_timestamp_seconds",
            "When the latest checkpoint was signed, seconds since 1970.",
            seconds(checkpoint.time.as_microsecond()),
        );
        if let Some(cosigned) = self.witnesses.cosigned() {
            out.gauge(
                "palisade_log_cosigned_records",
                "Records under the latest checkpoint that witnesses cosigned.",
                cosigned.size,
            );
        }
        if let Some(entry) = len.checked_sub(1).and_then(|n| self.log.read(n).ok()) {
            let delay = entry
                .envelope
                .received_us
                .saturating_sub(entry.record.time_us);
            out.gauge(
                "palisade_log_receive_delay_seconds",
                "From when the newest record happened until it was received.",
                seconds(delay.max(0)),
            );
        }
        if let Some((ended_us, intact)) = self.verifying.last() {
            out.gauge(
                "palisade_log_verified_timestamp_seconds",
                "When the last verification over the API ended, seconds since 1970.",
                seconds(ended_us),
            );
            out.flag(
                "palisade_log_verified_intact",
                "1 when that found every signed byte as it was signed.",
                intact,
            );
        }
    }

    fn of_the_disk(&self, out: &mut Text) {
        let health = self.log.health();
        out.gauge(
            "palisade_log_bytes",
            "Bytes of the log on disk, with its tiles and checkpoints.",
            self.sizes.log.of(&self.dir.join("log")),
        );
        out.flag(
            "palisade_log_disk_low",
            "1 while the disk has too little room.",
            health.room != Room::Enough,
        );
        out.flag(
            "palisade_log_failing",
            "1 while records cannot be written.",
            health.failing.is_some(),
        );
        out.flag(
            "palisade_log_unsigned",
            "1 while checkpoints cannot be signed and kept.",
            health.unsigned.is_some(),
        );
        out.flag(
            "palisade_log_dead",
            "1 once the thread that writes records is gone.",
            health.dead,
        );
        out.gauge(
            "palisade_log_stalled_seconds",
            "How long the present fsync has not come back, once that is a stall.",
            health.stalled.unwrap_or_default().as_secs_f64(),
        );
        out.gauge(
            "palisade_log_fsync_longest_seconds",
            "The longest fsync since the start.",
            health.fsync.longest.as_secs_f64(),
        );
        let (name, fsync) = ("palisade_log_fsync_seconds", &health.fsync);
        if fsync.counts.is_empty() {
            return;
        }
        out.head(name, "histogram", "How long fsyncs of records took.");
        let mut all = 0_u64;
        let bounds = fsync.bounds.iter().map(ToString::to_string);
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&fsync.counts) {
            all += count;
            out.sample(&format!("{name}_bucket{{le=\"{bound}\"}}"), all);
        }
        out.sample(&format!("{name}_sum"), fsync.seconds);
        out.sample(&format!("{name}_count"), all);
    }

    fn of_the_index(&self, out: &mut Text) {
        let index = self.store.status();
        out.gauge(
            "palisade_log_index_records",
            "Records that can be searched.",
            index.searchable,
        );
        out.gauge(
            "palisade_log_index_behind_records",
            "Records of the log that cannot be searched yet.",
            index.log_len.saturating_sub(index.searchable),
        );
        out.gauge(
            "palisade_log_index_bytes",
            "Bytes of the index on disk.",
            self.sizes.index.of(&self.dir.join("index")),
        );
        out.gauge(
            "palisade_log_index_remaking_buckets",
            "Damaged parts of the index that are being made again.",
            index.remaking,
        );
        out.gauge(
            "palisade_log_index_unreadable_records",
            "Records that could not be read when they were indexed.",
            index.unreadable,
        );
        out.flag(
            "palisade_log_index_stalled",
            "1 while the index does not get on.",
            index.stalled.is_some(),
        );
    }

    fn of_reporters(&self, out: &mut Text) {
        let (faults, more) = self.watch.faults();
        let faults = u64::try_from(faults.len()).unwrap_or(u64::MAX);
        out.gauge(
            "palisade_log_gaps",
            "Stretches of records that have not arrived.",
            self.log.gaps().len(),
        );
        out.gauge(
            "palisade_log_silent_reporters",
            "Reporters that stopped sending records.",
            self.watch.silent().len(),
        );
        out.gauge(
            "palisade_log_contradictions",
            "Stretches of records that are not what their reporter signed, since the start.",
            faults.saturating_add(more),
        );
        out.gauge(
            "palisade_log_damaged_keys",
            "Keys of persons that are damaged.",
            self.vault.keeping().damaged,
        );
    }

    fn of_messages(&self, out: &mut Text) {
        out.gauge(
            "palisade_log_open_alerts",
            "Alerts that nobody has answered for.",
            self.alerts.open_count(),
        );
        out.gauge(
            "palisade_log_alerts_behind_records",
            "Records that the alert rules have not seen yet.",
            self.log.len().saturating_sub(self.alerts.position()),
        );
        let waiting = self.alerts.outbox().waiting();
        let name = "palisade_log_waiting_messages";
        if !waiting.is_empty() {
            out.head(name, "gauge", "Messages that wait for a target.");
        }
        // Names of targets have letters, digits, `-` and `_`.
        for (target, (messages, _)) in waiting {
            out.sample(&format!("{name}{{target=\"{target}\"}}"), messages);
        }
        if let Some(syslog) = self.forward.as_ref().map(super::Forward::status) {
            out.gauge(
                "palisade_log_syslog_behind_records",
                "Records that the syslog receiver may not have.",
                self.log.len().saturating_sub(syslog.position),
            );
            out.flag(
                "palisade_log_syslog_connected",
                "1 while the syslog receiver is connected.",
                syslog.connected,
            );
        }
    }

    /// Nothing where no segment goes anywhere.
    fn of_the_archive(&self, out: &mut Text) {
        let Some(health) = self.log.archive().map(|archive| archive.health()) else {
            return;
        };
        out.flag(
            "palisade_archive_failing",
            "1 while a segment cannot be had from the archive, or not be put there.",
            health.fault.is_some(),
        );
        let name = "palisade_archive_failed_total";
        out.head(name, "counter", "Exchanges that came to nothing.");
        out.sample(name, health.failed);
        let name = "palisade_archive_fetched_segments_total";
        out.head(name, "counter", "Segments that were fetched.");
        out.sample(name, health.fetched);
        let name = "palisade_archive_fetched_bytes_total";
        out.head(name, "counter", "Their bytes.");
        out.sample(name, health.fetched_bytes);
        out.gauge(
            "palisade_archive_cached_bytes",
            "Bytes of what was fetched that are on the disk.",
            health.cached_bytes,
        );
    }
}

/// Microseconds as seconds.
fn seconds(us: i64) -> String {
    let (whole, rest) = (us.div_euclid(1_000_000), us.rem_euclid(1_000_000));
    format!("{whole}.{rest:06}")
}

/// What folders take on disk.
#[derive(Default)]
pub(super) struct Sizes {
    log: Size,
    index: Size,
}

/// Bytes of a folder, measured once a minute at most: it can have very many files.
#[derive(Default)]
struct Size(Mutex<Option<(Instant, u64)>>);

impl Size {
    fn of(&self, dir: &Path) -> u64 {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = last.filter(|(at, _)| at.elapsed() < MEASURED_EVERY);
        let (at, bytes) = fresh.unwrap_or_else(|| (Instant::now(), bytes_of(dir)));
        *last = Some((at, bytes));
        bytes
    }
}

/// Bytes of the files below a folder; of what comes and goes meanwhile, some.
fn bytes_of(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(about) if about.is_dir() => bytes_of(&entry.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
