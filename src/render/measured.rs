//! What log, index and reports cost, as `audit bench` prints it.

use std::path::Path;

use super::{
    DIM, WARN, count, fact, line, paint,
    snippet::clean,
    table::{Table, col},
    thousands,
};
use crate::cli::audit::bench::{Figure, Report};

/// Prints a report for people.
pub(crate) fn print(report: &Report, dir: &Path) {
    let wait = &report.acknowledged;
    fact(
        "made up",
        &[
            count(report.records, "record", "records"),
            count(report.decisions, "decision", "decisions"),
            format!("in {}", clean(&dir.display().to_string())),
        ],
    );
    fact(
        "disk",
        &[
            format!("log {:.0} bytes a record", report.log_bytes),
            format!("index {:.1} bytes a record", report.index_bytes),
        ],
    );
    fact(
        "durable",
        &[
            format!("p50 {}", time(wait.p50_us as f64 * 1e3)),
            format!("p99 {}", time(wait.p99_us as f64 * 1e3)),
            format!("longest {}", time(wait.longest_us as f64 * 1e3)),
            format!(
                "{} of {}",
                count(wait.groups, "group", "groups"),
                count(wait.records, "record", "records")
            ),
        ],
    );
    let mut table = Table::new(&[
        col(""),
        col("what").short(),
        col("CPU").right(),
        col("first").right().optional(),
        col("clock").right(),
        col("a second").right().optional(),
    ]);
    for figure in &report.figures {
        table.row(row(figure).map(Into::into));
    }
    table.print();
    if report.debug_build {
        line(&paint(
            WARN,
            "this is a debug build: an optimised one is some ten times as fast",
        ));
    }
    let what = "CPU is that of one, in the mean; a second: how many of them one core does; \
                the clock runs for other programs, too";
    line(&paint(DIM, what));
}

fn row(figure: &Figure) -> [String; 6] {
    let cpu = figure.each.cpu_ns;
    [
        figure.group.to_owned(),
        figure.what.clone(),
        time(cpu),
        figure.first_cpu_ns.map(time).unwrap_or_default(),
        time(figure.each.wall_ns),
        thousands((1e9 / cpu.max(1.0)) as u64),
    ]
}

/// Nanoseconds in a unit that suits them.
fn time(ns: f64) -> String {
    match ns {
        ..1e3 => format!("{ns:.0} ns"),
        1e3..1e6 => format!("{:.2} µs", ns / 1e3),
        1e6..1e9 => format!("{:.2} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_have_a_unit_that_suits_them() {
        let check = |ns, expected: &str| assert_eq!(time(ns), expected);
        check(999.0, "999 ns");
        check(1_500.0, "1.50 µs");
        check(2_000_000.0, "2.00 ms");
        check(61e9, "61.00 s");
    }
}
