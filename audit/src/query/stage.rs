//! What stands after `|`: how matching records are summed up.

use std::fmt;

use super::{field::Field, time::SECOND_US};

/// Groups shown when `top` is not written.
pub const TOP_DEFAULT: usize = 20;
/// Most groups that can be asked for.
pub const TOP_MAX: usize = 1000;
/// Most fields that records are grouped by.
pub const BY_MAX: usize = 4;
/// Most steps of a timeline.
pub const STEPS_MAX: i64 = 5000;

/// A summary of the matching records, and which part of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// What is summed up.
    pub summary: Summary,
    /// The order of the groups; the summary's own where nothing is said.
    pub sort: Option<Sort>,
    /// How many groups are wanted, from the first in that order.
    pub top: usize,
}

/// How records are summed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Summary {
    /// How many there are of each combination of values, most first; without fields
    /// everything is counted into one number.
    Count {
        /// The fields.
        by: Vec<&'static Field>,
    },
    /// When each combination of values was first and last seen, and how often; the
    /// latest first.
    FirstLast {
        /// The fields.
        by: Vec<&'static Field>,
    },
    /// How many there are in each step of time, oldest first.
    Timeline {
        /// Length of a step, microseconds.
        step_us: i64,
        /// Told apart by the values of this field.
        by: Option<&'static Field>,
    },
}

/// An order of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    /// What is compared.
    pub key: SortKey,
    /// Whether the greatest comes first.
    pub descending: bool,
}

/// What groups are compared by. Equal ones stand in the order of their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortKey {
    /// How many records are in them.
    Count,
    /// When they were first seen.
    First,
    /// When they were last seen.
    Last,
    /// The value of this field: the how-manieth of those that are grouped by.
    Value(usize, &'static Field),
}

impl Stage {
    /// The summary in its own order.
    pub fn new(summary: Summary) -> Self {
        Self {
            summary,
            sort: None,
            top: TOP_DEFAULT,
        }
    }

    /// The order that was asked for, or the summary's own.
    pub fn order(&self) -> Sort {
        let key = match &self.summary {
            Summary::FirstLast { .. } => SortKey::Last,
            Summary::Count { .. } | Summary::Timeline { .. } => SortKey::Count,
        };
        self.sort.unwrap_or(Sort {
            key,
            descending: true,
        })
    }
}

impl Summary {
    /// The fields that records are grouped by.
    pub fn by(&self) -> &[&'static Field] {
        match self {
            Self::Count { by } | Self::FirstLast { by } => by,
            Self::Timeline { by, .. } => by.as_slice(),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.summary {
            Summary::Count { .. } => f.write_str("count")?,
            Summary::FirstLast { .. } => f.write_str("first, last")?,
            Summary::Timeline { step_us, .. } => write!(f, "timeline {}s", step_us / SECOND_US)?,
        }
        for (i, field) in self.summary.by().iter().enumerate() {
            write!(f, "{}{}", if i == 0 { " by " } else { ", " }, field.name)?;
        }
        if let Some(sort) = &self.sort {
            write!(f, " | sort {sort}")?;
        }
        if self.top != TOP_DEFAULT {
            write!(f, " | top {}", self.top)?;
        }
        Ok(())
    }
}

impl fmt::Display for Sort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.descending { "-" } else { "" };
        let key = match self.key {
            SortKey::Count => "count",
            SortKey::First => "first",
            SortKey::Last => "last",
            SortKey::Value(_, field) => field.name,
        };
        write!(f, "{sign}{key}")
    }
}
