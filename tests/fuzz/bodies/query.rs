//! The query language: any text is either understood or told what is wrong, at a
//! place that is in it.

use palisade_audit::query::{QUERY_LEN_MAX, Query};

/// Checks one input.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match Query::parse(text) {
        Ok(query) => {
            let printed = query.to_string();
            let _ = query.filter();
            if printed.len() > QUERY_LEN_MAX {
                return;
            }
            let again = Query::parse(&printed).expect("what is printed is a query");
            assert_eq!(again.to_string(), printed, "{text:?}");
            assert_eq!(again, query, "{text:?}");
        }
        Err(diagnostic) => {
            let _ = diagnostic.to_string();
            if let Some(place) = &diagnostic.location {
                assert!(place.offset <= text.len(), "{place:?}");
            }
        }
    }
}
