//! The store through its door: damage, other logs, ids, tail, summaries.
