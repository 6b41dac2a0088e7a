//! What every control of every pack has.

use super::PACKS;
use crate::{query::Query, report::package::tests::Stage};

/// Whoever tests a control can ask again for what it shows, and is shown a number or a row, also
/// of a log of which little is known.
#[tokio::test(flavor = "multi_thread")]
async fn every_control_has_evidence_and_says_how_to_ask_again() {
    let stage = Stage::of(std::iter::empty()).await;
    for (report, _, controls) in PACKS {
        let sections = stage.made(report).0.sections;
        for control in controls {
            let section = sections.iter().find(|s| s.id == control.id).unwrap();
            let named = format!("{report} {}", control.id);
            assert!(
                !section.queries.is_empty() || !section.commands.is_empty(),
                "{named}: nothing to ask again"
            );
            let rows = section.table.as_ref().map_or(0, |table| table.rows.len());
            assert!(
                !section.figures.is_empty() || rows > 0,
                "{named}: no figure and no row"
            );
            for query in &section.queries {
                assert!(Query::parse(query).is_ok(), "{named}: {query}");
            }
            for command in &section.commands {
                assert!(command.starts_with("palisade "), "{named}: {command}");
            }
        }
    }
}
