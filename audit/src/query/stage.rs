//! What stands after `|`: how matching records are summed up.

use std::fmt;

use super::{field::Field, time::SECOND_US};

/// Groups shown when `top` is not written.
pub const TOP_DEFAULT: usize = 20;
/// Most groups that can be asked for.
pub const TOP_MAX: usize = 1000;
/// Most fields in one `count by`.
pub const BY_MAX: usize = 3;

/// A summary of the matching records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// How many there are of each combination of values, most first.
    Count {
        /// The fields; none counts everything into one number.
        by: Vec<&'static Field>,
        /// How many groups are wanted.
        top: usize,
    },
    /// How many there are in each step of time, oldest first.
    Timeline {
        /// Length of a step, microseconds.
        step_us: i64,
    },
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { by, top } => {
                f.write_str("count")?;
                for (i, field) in by.iter().enumerate() {
                    write!(f, "{}{}", if i == 0 { " by " } else { ", " }, field.name)?;
                }
                if *top != TOP_DEFAULT {
                    write!(f, " | top {top}")?;
                }
                Ok(())
            }
            Self::Timeline { step_us } => write!(f, "timeline {}s", step_us / SECOND_US),
        }
    }
}
