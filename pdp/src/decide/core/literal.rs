//! What Cedar's constructors of moments, durations and addresses say.

use std::net::IpAddr;

use cedar_policy_core::{
    ast::{Expr, ExprKind, Literal, Name, PartialValue, Value, ValueKind},
    extensions::Extensions,
};

use super::Term;

/// Addresses from one to another, as `ip("10.0.0.0/8")` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Network {
    v6: bool,
    low: u128,
    high: u128,
}

impl Network {
    /// An address, or one with the length of its prefix.
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let (v6, bits, width) = match address.parse().ok()? {
            IpAddr::V4(ip) => (false, u128::from(ip.to_bits()), 32),
            IpAddr::V6(ip) => (true, ip.to_bits(), 128),
        };
        let host = 128 - width + prefix.unwrap_or(width).min(width);
        let mask = u128::MAX.checked_shr(host).unwrap_or(0);
        Some(Self {
            v6,
            low: bits & !mask,
            high: bits | mask,
        })
    }

    /// Whether every address of it is one of `other`.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        self.v6 == other.v6 && other.low <= self.low && self.high <= other.high
    }

    /// Whether no address is of both.
    pub(crate) fn is_apart_from(&self, other: &Self) -> bool {
        self.v6 != other.v6 || self.high < other.low || other.high < self.low
    }
}

/// What a constructor says that is called with a literal.
pub(super) fn constructed(expr: &Expr) -> Option<Term> {
    let ExprKind::ExtensionFunctionApp { fn_name, args } = expr.expr_kind() else {
        return None;
    };
    let [argument] = args.as_slice() else {
        return None;
    };
    let ExprKind::Lit(Literal::String(text)) = argument.expr_kind() else {
        return None;
    };
    match fn_name.to_string().as_str() {
        "datetime" => moment(text).map(Term::Moment),
        "duration" => milliseconds(call("duration", &[text_value(text)])?).map(Term::Duration),
        "ip" => Network::parse(text).map(Term::Network),
        _ => None,
    }
}

/// Milliseconds since the Unix epoch, by Cedar's own reading.
fn moment(text: &str) -> Option<i64> {
    let epoch = call("datetime", &[text_value("1970-01-01")])?;
    let moment = call("datetime", &[text_value(text)])?;
    milliseconds(call("durationSince", &[moment, epoch])?)
}

fn milliseconds(duration: Value) -> Option<i64> {
    match call("toMilliseconds", &[duration])?.value {
        ValueKind::Lit(Literal::Long(n)) => Some(n),
        _ => None,
    }
}

fn text_value(text: &str) -> Value {
    Value::from(smol_str::SmolStr::new(text))
}

/// What an extension function gives for these values; `None` where it fails.
fn call(function: &str, arguments: &[Value]) -> Option<Value> {
    let name = Name::parse_unqualified_name(function).ok()?;
    let function = Extensions::all_available().func(&name).ok()?;
    match function.call(arguments).ok()? {
        PartialValue::Value(value) => Some(value),
        PartialValue::Residual(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        Network::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn networks_hold_what_their_prefix_says() {
        for (inner, outer) in [
            ("10.0.0.7", "10.0.0.0/8"),
            ("10.0.0.7/16", "10.0.0.0/8"),
            ("255.255.255.255", "0.0.0.0/0"),
            ("fd00::1", "fd00::/8"),
            ("ffff::", "::/0"),
            ("10.0.0.1", "10.0.0.1/32"),
        ] {
            assert!(network(inner).is_within(&network(outer)), "{inner} {outer}");
            assert!(!network(inner).is_apart_from(&network(outer)));
        }
        for (a, b) in [
            ("11.0.0.0", "10.0.0.0/8"),
            ("9.255.255.255", "10.0.0.0/8"),
            ("::1", "0.0.0.0/0"),
            ("10.0.0.1", "::ffff:10.0.0.1"),
        ] {
            assert!(network(a).is_apart_from(&network(b)), "{a} {b}");
            assert!(!network(a).is_within(&network(b)));
        }
        assert!(!network("10.0.0.0/8").is_within(&network("10.0.0.0/16")));
        assert!(Network::parse("10.0.0.0/x").is_none());
    }

    #[test]
    fn moments_and_durations_are_milliseconds() {
        assert_eq!(moment("1970-01-02"), Some(86_400_000));
        assert_eq!(moment("1970-01-01T01:00:00+0100"), Some(0));
        assert_eq!(moment("1969-12-31T23:59:59.999Z"), Some(-1));
        assert_eq!(moment("yesterday"), None);
    }
}
