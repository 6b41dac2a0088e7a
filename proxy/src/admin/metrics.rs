//! Metrics in the Prometheus text format, added up over the workers.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write},
    sync::{Arc, PoisonError},
};

use palisade_mesh::sink::SinkHealth;

use super::View;
use crate::{
    shadow::Counts,
    telemetry::{Count, Gauges, Histogram, MODES, Seen, Sum},
};

/// Every metric of the proxy, one scrape.
pub(super) fn render(view: &View) -> String {
    let mut out = Text::default();
    let gauges = &view.gauges;
    decisions(&mut out, view);
    self_checks(&mut out, view);
    shadow(&mut out, view);
    durations(&mut out, gauges);
    out.single(
        "palisade_requests_total",
        "counter",
        "Requests that came to the inbound listener.",
        sum(gauges, |g| &g.requests),
    );
    out.single(
        "palisade_connections_open",
        "gauge",
        "Open connections.",
        sum(gauges, |g| &g.connections),
    );
    out.single(
        "palisade_requests_in_flight",
        "gauge",
        "Requests between decision and last byte.",
        sum(gauges, |g| &g.in_flight),
    );
    records(&mut out, gauges);
    sink(&mut out, &view.shared.sink.health());
    events(&mut out, gauges);
    identity(&mut out, view);
    kill_list(&mut out, view);
    out.0
}

fn sum(gauges: &[Arc<Gauges>], of: fn(&Gauges) -> &Count) -> u64 {
    gauges.iter().map(|g| of(g).value()).sum()
}

fn decisions(out: &mut Text, view: &View) {
    let service = view
        .shared
        .config
        .inbound
        .as_ref()
        .map_or("", |i| &i.service);
    let totals = counts(&view.gauges, |g| &g.decisions);
    out.head(
        "palisade_decisions_total",
        "counter",
        "Decisions and refusals, by outcome, reason and caller.",
    );
    for (key, count) in totals {
        let labels = [
            ("decision", key.decision),
            ("reason", key.reason),
            ("service", service),
            ("source_service", &key.source),
        ];
        out.sample("palisade_decisions_total", &labels, count);
    }
    out.head(
        "palisade_decision_cache_total",
        "counter",
        "Decisions, by whether they came out of the cache.",
    );
    for (result, of) in [
        ("hit", (|g: &Gauges| &g.cache_hits) as fn(&Gauges) -> &Count),
        ("miss", |g| &g.cache_misses),
    ] {
        out.sample(
            "palisade_decision_cache_total",
            &[("result", result)],
            sum(&view.gauges, of),
        );
    }
    let mut total = Sum::default();
    view.gauges
        .iter()
        .for_each(|g| g.decision_time.add_to(&mut total));
    out.head(
        "palisade_decision_duration_seconds",
        "histogram",
        "From the request's arrival to its decision.",
    );
    out.histogram("palisade_decision_duration_seconds", &[], &total);
}

/// Of the revision in force; a new one begins to count anew.
fn self_checks(out: &mut Text, view: &View) {
    let live = view.shared.policy.load();
    let Some(live) = live.as_ref() else {
        return;
    };
    let found = live.snapshot().self_check();
    let name = "palisade_engine_self_checks_total";
    out.head(
        name,
        "counter",
        "Decisions compared with Cedar's own authorizer; any that differs is an alarm.",
    );
    let agreed = found.checked.saturating_sub(found.mismatched);
    out.sample(name, &[("result", "agreed")], agreed);
    out.sample(name, &[("result", "differed")], found.mismatched);
}

/// What is tried beside the revision in force, and what came of it.
fn shadow(out: &mut Text, view: &View) {
    let found = Counts::sum(view.gauges.iter().map(|g| &g.shadow));
    out.single(
        "palisade_shadow_evaluations_total",
        "counter",
        "Requests that a revision tried beside the one in force was asked about.",
        found.evaluated,
    );
    let name = "palisade_shadow_flips_total";
    out.head(
        name,
        "counter",
        "Requests whose fate would change, by how and by what was tried.",
    );
    let permits = sum(&view.gauges, |g| &g.shadow_permits);
    for (direction, of, count) in [
        ("newly_allowed", "revision", found.newly_allowed),
        ("newly_denied", "revision", found.newly_denied),
        ("newly_undecided", "revision", found.newly_undecided),
        ("newly_allowed", "permit", permits),
    ] {
        out.sample(name, &[("direction", direction), ("of", of)], count);
    }
    out.single(
        "palisade_shadow_errors_total",
        "counter",
        "Engines of tried revisions that failed; each ends the trial in its worker.",
        found.errors,
    );
    let mut total = Sum::default();
    view.gauges
        .iter()
        .for_each(|g| g.shadow_time.add_to(&mut total));
    let name = "palisade_shadow_duration_seconds";
    out.head(
        name,
        "histogram",
        "What the tried revision adds to a request.",
    );
    out.histogram(name, &[], &total);
    if let Some(candidate) = view.shared.policy.candidate() {
        let versions = candidate.versions();
        let (digest, revision) = (versions.policy.to_string(), versions.sequence.to_string());
        let name = "palisade_candidate_info";
        out.head(
            name,
            "gauge",
            "The policy revision tried beside the one in force.",
        );
        let labels = [("digest", digest.as_str()), ("revision", revision.as_str())];
        out.sample(name, &labels, 1);
    }
}

fn durations(out: &mut Text, gauges: &[Arc<Gauges>]) {
    let name = "http_server_request_duration_seconds";
    out.head(name, "histogram", "Requests served by the application.");
    for ((method, status), total) in histograms(gauges, |g| &g.served) {
        let status = status.to_string();
        let labels = [
            ("http_request_method", method),
            ("http_response_status_code", status.as_str()),
        ];
        out.histogram(name, &labels, &total);
    }
    let name = "http_client_request_duration_seconds";
    out.head(
        name,
        "histogram",
        "Requests of the application to other services.",
    );
    for ((service, status), total) in histograms(gauges, |g| &g.called) {
        let status = status.to_string();
        let labels = [
            ("server_service", service.as_str()),
            ("http_response_status_code", status.as_str()),
        ];
        out.histogram(name, &labels, &total);
    }
}

fn records(out: &mut Text, gauges: &[Arc<Gauges>]) {
    let name = "palisade_audit_records_total";
    out.head(
        name,
        "counter",
        "Records left, by how durable they must be.",
    );
    for (at, mode) in MODES.iter().enumerate() {
        let of = |g: &Arc<Gauges>| g.records.get(at).map_or(0, Count::value);
        out.sample(name, &[("mode", mode)], gauges.iter().map(of).sum::<u64>());
    }
    let mut waits = Sum::default();
    gauges.iter().for_each(|g| g.strict_wait.add_to(&mut waits));
    let name = "palisade_audit_strict_wait_seconds";
    out.head(
        name,
        "histogram",
        "Waits of `strict` requests for their record to be on disk.",
    );
    out.histogram(name, &[], &waits);
}

/// Where records are kept until the audit service has them.
fn sink(out: &mut Text, health: &SinkHealth) {
    let yes = u64::from;
    let gauges: [(&str, &str, u64); 9] = [
        (
            "palisade_spool_records",
            "Records that wait for the audit service.",
            health.waiting,
        ),
        (
            "palisade_spool_bytes",
            "Bytes of the spool on disk.",
            health.bytes,
        ),
        (
            "palisade_spool_bytes_max",
            "Bytes the spool may have on disk; 0 without a spool.",
            health.bytes_max,
        ),
        (
            "palisade_spool_disk_low",
            "1 while the disk has too little room.",
            yes(health.low),
        ),
        (
            "palisade_spool_failing",
            "1 while records cannot be written.",
            yes(health.failing),
        ),
        (
            "palisade_spool_dead",
            "1 once the thread that writes records is gone.",
            yes(health.dead),
        ),
        (
            "palisade_spool_files_restored",
            "Files that were removed or replaced while in use.",
            health.restored,
        ),
        (
            "palisade_spool_files_damaged",
            "Files of records of which something cannot be read.",
            health.damaged,
        ),
        (
            "palisade_spool_records_refused",
            "Records that the audit service refused and that were set aside.",
            health.refused,
        ),
    ];
    for (name, help, value) in gauges {
        out.single(name, "gauge", help, value);
    }
    let name = "palisade_spool_dropped_total";
    out.head(
        name,
        "counter",
        "Records refused for want of room, by mode.",
    );
    for (mode, count) in MODES.iter().zip(health.dropped) {
        out.sample(name, &[("mode", mode)], count);
    }
    let name = "palisade_spool_stalled_seconds";
    out.head(
        name,
        "gauge",
        "How long the present fsync has not come back, once that is a stall.",
    );
    out.sample(name, &[], health.stalled.unwrap_or_default().as_secs_f64());
    let name = "palisade_spool_fsync_longest_seconds";
    out.head(name, "gauge", "The longest fsync since the start.");
    out.sample(name, &[], health.fsync.longest.as_secs_f64());
    if !health.fsync.counts.is_empty() {
        let name = "palisade_spool_fsync_seconds";
        out.head(name, "histogram", "How long fsyncs of records took.");
        let total = Sum {
            bounds: health.fsync.bounds,
            counts: health.fsync.counts.clone(),
            seconds: health.fsync.seconds,
        };
        out.histogram(name, &[], &total);
    }
}

fn events(out: &mut Text, gauges: &[Arc<Gauges>]) {
    let mut last = "";
    for ((family, reason), count) in counts(gauges, |g| &g.events) {
        if family != last {
            out.head(family, "counter", "Things that happened, by reason.");
            last = family;
        }
        out.sample(family, &[("reason", reason)], count);
    }
}

fn identity(out: &mut Text, view: &View) {
    let name = "palisade_svid_not_after_timestamp_seconds";
    out.head(name, "gauge", "End of the certificate in use.");
    let id = view.shared.identity.id().to_string();
    let end = view.shared.identity.not_after_s();
    out.sample(name, &[("spiffe_id", id.as_str())], end);
    if let Some(versions) = view.versions() {
        let (digest, revision) = (versions.policy.to_string(), versions.sequence.to_string());
        out.head(
            "palisade_bundle_info",
            "gauge",
            "The policy revision in force.",
        );
        let labels = [("digest", digest.as_str()), ("revision", revision.as_str())];
        out.sample("palisade_bundle_info", &labels, 1);
    }
    out.head("palisade_build_info", "gauge", "The build.");
    let version = env!("CARGO_PKG_VERSION");
    out.sample("palisade_build_info", &[("version", version)], 1);
}

fn kill_list(out: &mut Text, view: &View) {
    let live = view.shared.policy.load();
    let Some(snapshot) = live.as_ref().map(|live| live.snapshot()) else {
        return;
    };
    let sequence = snapshot.versions().kill_list;
    let name = "palisade_kill_list_sequence";
    out.single(name, "gauge", "Number of the kill list in force.", sequence);
    if let Some(signed_us) = snapshot.kill_list_signed_us() {
        let name = "palisade_kill_list_age_seconds";
        out.head(name, "gauge", "Since the authority signed the kill list.");
        let age_us = view.shared.clock.now_us().saturating_sub(signed_us).max(0);
        out.sample(name, &[], age_us / 1_000_000);
    }
}

fn counts<K: Ord + Clone>(
    gauges: &[Arc<Gauges>],
    of: fn(&Gauges) -> &Arc<Seen<K, Count>>,
) -> BTreeMap<K, u64> {
    let mut totals = BTreeMap::new();
    for worker in gauges {
        let seen = of(worker).lock().unwrap_or_else(PoisonError::into_inner);
        for (key, count) in seen.iter() {
            *totals.entry(key.clone()).or_default() += count.value();
        }
    }
    totals
}

fn histograms<K: Ord + Clone>(
    gauges: &[Arc<Gauges>],
    of: fn(&Gauges) -> &Arc<Seen<K, Histogram>>,
) -> BTreeMap<K, Sum> {
    let mut totals: BTreeMap<K, Sum> = BTreeMap::new();
    for worker in gauges {
        let seen = of(worker).lock().unwrap_or_else(PoisonError::into_inner);
        for (key, histogram) in seen.iter() {
            histogram.add_to(totals.entry(key.clone()).or_default());
        }
    }
    totals
}

/// Text in the exposition format. Writing to a string does not fail.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.sample(name, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        self.labels(labels, None);
        let _ = writeln!(self.0, " {value}");
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], total: &Sum) {
        let mut below = 0;
        let bounds = total.bounds.iter().map(Some).chain([None]);
        for (bound, count) in bounds.zip(&total.counts) {
            below += count;
            let bound = bound.map_or_else(|| "+Inf".to_owned(), f64::to_string);
            let _ = write!(self.0, "{name}_bucket");
            self.labels(labels, Some(&bound));
            let _ = writeln!(self.0, " {below}");
        }
        let _ = write!(self.0, "{name}_sum");
        self.labels(labels, None);
        let _ = write!(self.0, " {}\n{name}_count", total.seconds);
        self.labels(labels, None);
        let _ = writeln!(self.0, " {below}");
    }

    fn labels(&mut self, labels: &[(&str, &str)], bound: Option<&str>) {
        let all = labels.iter().copied().chain(bound.map(|b| ("le", b)));
        let mut open = '{';
        for (name, value) in all {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(self.0, "{open}{name}=\"{value}\"");
            open = ',';
        }
        if open == ',' {
            self.0.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T93: a label cannot break out of its quotes.
    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        text.sample("x", &[("a", "b\"\\\nc")], 1);
        assert_eq!(text.0, "x{a=\"b\\\"\\\\\\nc\"} 1\n");
    }

    #[test]
    fn buckets_are_cumulative() {
        let mut text = Text::default();
        let total = Sum {
            bounds: &[0.5, 1.0],
            counts: vec![1, 2, 3],
            seconds: 2.5,
        };
        text.histogram("h", &[("m", "GET")], &total);
        assert_eq!(
            text.0,
            "h_bucket{m=\"GET\",le=\"0.5\"} 1\nh_bucket{m=\"GET\",le=\"1\"} 3\nh_bucket{m=\"GET\",le=\"+Inf\"} 6\nh_sum{m=\"GET\"} 2.5\nh_count{m=\"GET\"} 6\n"
        );
    }
}
