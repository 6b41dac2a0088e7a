//! What a test demands of a field's values, and how it is read and printed.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use palisade_mesh::diagnostic::did_you_mean;

use super::{
    SUBJECT,
    field::{DENIALS, Field, Kind, Value},
    pattern::Pattern,
};

/// Fewest characters of an id that are worth looking for: six name a span of
/// about seventeen minutes.
pub const ID_PREFIX_MIN: usize = 6;

/// Fewest hex digits by which a revision is named, so that a shorter number is
/// the revision's number.
pub const DIGEST_PREFIX_MIN: usize = 8;

/// A demand on the values of one field; it holds when one value meets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// There is a value.
    Exists,
    /// One of the field's words.
    Word(&'static str),
    /// Text that matches.
    Text(Pattern),
    /// A number between these, both included.
    Range(u64, u64),
    /// An address in this network.
    Network(Network),
    /// An id that begins like this.
    Id(IdPrefix),
    /// This trace id.
    Trace([u8; 16]),
}

/// An IP network; IPv4 is mapped into IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// Leading bits that count, in the address's own family.
    bits: u8,
}

/// The first characters of a ULID, and the ids that have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdPrefix {
    text: String,
    /// Lowest id with the prefix.
    pub lowest: u128,
    /// Highest id with the prefix.
    pub highest: u128,
}

/// Why a value was not understood, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadValue {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl Demand {
    /// Whether `value`, of a field of this `kind`, meets it.
    pub(crate) fn accepts(&self, kind: Kind, value: Value<'_>) -> bool {
        match (self, value) {
            (Self::Exists, _) => true,
            (Self::Word(word), Value::Text(text)) => {
                text == *word || (*word == "deny" && DENIALS.contains(&text))
            }
            (Self::Text(pattern), Value::Text(text)) if kind == Kind::Name => {
                pattern.matches_name(text)
            }
            (Self::Text(pattern), Value::Text(text)) => pattern.matches(text),
            (Self::Range(low, high), Value::Number(n)) => (*low..=*high).contains(&n),
            (Self::Network(network), Value::Ip(ip)) => network.contains(ip),
            (Self::Id(prefix), Value::Id(id)) => prefix.contains(id),
            (Self::Trace(wanted), Value::Trace(trace)) => *wanted == trace,
            _ => false,
        }
    }

    /// Reads what stands after `field:`. A quoted value has no wildcards.
    /// Also says which field is meant: `revision:12` asks for the number.
    pub(crate) fn read(
        field: &'static Field,
        word: &str,
        quoted: bool,
    ) -> Result<(&'static Field, Self), BadValue> {
        if !quoted && Pattern::parse(word).is_wildcard_alone() {
            return Ok((field, Self::Exists));
        }
        let demand = match field.kind {
            Kind::Choice(words) => read_choice(field, words, word)?,
            Kind::Keyword if field.name == SUBJECT => Self::Text(read_person(word, quoted)?),
            Kind::Keyword | Kind::Name => Self::Text(read_text(word, quoted)),
            Kind::Upper => Self::Text(rewritten(word, quoted, str::to_uppercase)),
            Kind::Hex => read_hex(field, word, quoted)?,
            Kind::Number | Kind::Duration { .. } | Kind::Size => read_range(field.kind, word)?,
            Kind::Ip => Self::Network(Network::read(word)?),
            Kind::Id => Self::Id(IdPrefix::read(word)?),
            Kind::Trace => Self::Trace(read_trace(word)?),
            Kind::Revision => return read_revision(field, word, quoted),
        };
        Ok((field, demand))
    }

    /// Prints it as the value of a field of this `kind`.
    pub(crate) fn write(&self, kind: Kind, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists => f.write_str("*"),
            Self::Word(word) => f.write_str(word),
            Self::Text(pattern) => write!(f, "{pattern}"),
            Self::Range(low, high) if low == high => write_number(kind, *low, f),
            Self::Range(low, u64::MAX) => {
                f.write_str(">=")?;
                write_number(kind, *low, f)
            }
            Self::Range(0, high) => {
                f.write_str("<=")?;
                write_number(kind, *high, f)
            }
            Self::Range(low, high) => {
                f.write_str("[")?;
                write_number(kind, *low, f)?;
                f.write_str(" TO ")?;
                write_number(kind, *high, f)?;
                f.write_str("]")
            }
            Self::Network(network) => write!(f, "{network}"),
            Self::Id(prefix) => f.write_str(&prefix.text),
            Self::Trace(trace) => f.write_str(&crate::merkle::hex(trace)),
        }
    }
}

fn read_text(word: &str, quoted: bool) -> Pattern {
    if quoted {
        Pattern::literal(word)
    } else {
        Pattern::parse(word)
    }
}

/// A person, who has a pseudonym as a whole: a part of a name would find nobody, and would
/// stand in the record of the read.
fn read_person(word: &str, quoted: bool) -> Result<Pattern, BadValue> {
    let pattern = read_text(word, quoted);
    match pattern.as_literal() {
        Some(_) => Ok(pattern),
        None => Err(BadValue {
            message: "a person is named whole".into(),
            help: Some(
                "write the name, in quotes where it has a `*`, or `subject:*` for anybody".into(),
            ),
        }),
    }
}

fn rewritten(word: &str, quoted: bool, rewrite: impl Fn(&str) -> String) -> Pattern {
    let mut pattern = read_text(word, quoted);
    pattern.map_text(rewrite);
    pattern
}

/// Hex, also with colons between the bytes. What they leave may be a lone wildcard, or
/// nothing.
fn read_hex(field: &Field, word: &str, quoted: bool) -> Result<Demand, BadValue> {
    let pattern = rewritten(word, quoted, |text| text.replace(':', "").to_lowercase());
    if pattern.is_wildcard_alone() {
        return Ok(Demand::Exists);
    }
    if pattern.as_literal() == Some("") {
        return Err(BadValue {
            message: format!("`{word}` has no digit"),
            help: Some(format!("write `{}:*` for any value", field.name)),
        });
    }
    Ok(Demand::Text(pattern))
}

fn read_choice(
    field: &Field,
    words: &'static [&'static str],
    word: &str,
) -> Result<Demand, BadValue> {
    let wanted = word.to_lowercase().replace('-', "_");
    if let Some(found) = words.iter().find(|w| **w == wanted) {
        return Ok(Demand::Word(found));
    }
    Err(BadValue {
        message: format!("`{}` has no value `{word}`", field.name),
        help: Some(match did_you_mean(&wanted, words.iter().copied()) {
            Some(near) => format!("did you mean `{}:{near}`?", field.name),
            None => format!("one of {}", words.join(", ")),
        }),
    })
}

fn read_range(kind: Kind, word: &str) -> Result<Demand, BadValue> {
    if let Some((low, high)) = word
        .strip_prefix('[')
        .and_then(|w| w.strip_suffix(']'))
        .and_then(|inner| inner.split_once(" TO "))
    {
        let low = match low.trim() {
            "*" => 0,
            text => read_number(kind, text)?,
        };
        let high = match high.trim() {
            "*" => u64::MAX,
            text => read_number(kind, text)?,
        };
        return range(low, high);
    }
    if let Some(text) = word.strip_prefix(">=") {
        return range(read_number(kind, text)?, u64::MAX);
    }
    if let Some(text) = word.strip_prefix("<=") {
        return range(0, read_number(kind, text)?);
    }
    if let Some(text) = word.strip_prefix('>') {
        let above = read_number(kind, text)?.checked_add(1);
        return above.map_or_else(|| Err(empty_range()), |low| range(low, u64::MAX));
    }
    if let Some(text) = word.strip_prefix('<') {
        let below = read_number(kind, text)?.checked_sub(1);
        return below.map_or_else(|| Err(empty_range()), |high| range(0, high));
    }
    if let Some(hundred) = word
        .strip_suffix("xx")
        .and_then(|digit| digit.parse::<u64>().ok())
        .filter(|hundred| kind == Kind::Number && (1..=9).contains(hundred))
    {
        return range(hundred * 100, hundred * 100 + 99);
    }
    let exact = read_number(kind, word)?;
    range(exact, exact)
}

fn range(low: u64, high: u64) -> Result<Demand, BadValue> {
    if low > high {
        return Err(empty_range());
    }
    Ok(Demand::Range(low, high))
}

fn empty_range() -> BadValue {
    BadValue {
        message: "no number is in this range".into(),
        help: Some("write the lower bound first, as in `[200 TO 299]`".into()),
    }
}

const DURATIONS: &[(&str, u64)] = &[
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1000),
    ("ns", 1),
];

const SIZES: &[(&str, u64)] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];

fn read_number(kind: Kind, text: &str) -> Result<u64, BadValue> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (scale, per) = match kind {
        Kind::Duration { unit_ns } => {
            let unit = if unit == "µs" { "us" } else { unit };
            (unit_of(DURATIONS, unit), unit_ns)
        }
        Kind::Size if !unit.is_empty() => (unit_of(SIZES, unit), 1),
        _ => (unit.is_empty().then_some(1), 1),
    };
    scale
        .and_then(|scale| scaled(number, scale, per))
        .ok_or_else(|| BadValue {
            message: format!("`{text}` is not {}", noun(kind)),
            help: Some(match kind {
                Kind::Duration { unit_ns: 1 } => "write a unit, as in `50us` or `800ns`".into(),
                Kind::Duration { .. } => {
                    "write a unit, as in `10ms` or `1.5s`; the finest is 1us".into()
                }
                Kind::Size => "as in `512`, `64KiB` or `1.5MB`".into(),
                _ => "a whole number, as in `200`, `>=400` or `[200 TO 299]`".into(),
            }),
        })
}

fn noun(kind: Kind) -> &'static str {
    match kind {
        Kind::Duration { .. } => "a duration",
        Kind::Size => "a size",
        _ => "a number",
    }
}

fn unit_of(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, scale)| *scale)
}

/// `number * scale / per`, when that is whole.
fn scaled(number: &str, scale: u64, per: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let tens = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let value = digits.checked_mul(u128::from(scale))?;
    let divisor = tens.checked_mul(u128::from(per))?;
    if value.checked_rem(divisor)? != 0 {
        return None;
    }
    u64::try_from(value / divisor).ok()
}

fn write_number(kind: Kind, number: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Kind::Duration { unit_ns } = kind else {
        return write!(f, "{number}");
    };
    let ns = u128::from(number) * u128::from(unit_ns);
    let (unit, scale) = DURATIONS
        .iter()
        .find(|(_, scale)| ns % u128::from(*scale) == 0 && ns >= u128::from(*scale))
        .copied()
        .unwrap_or(("ns", 1));
    write!(f, "{}{unit}", ns / u128::from(scale))
}

fn read_trace(word: &str) -> Result<[u8; 16], BadValue> {
    let number = (word.len() == 32 && word.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u128::from_str_radix(word, 16).ok())
        .flatten();
    number.map(u128::to_be_bytes).ok_or_else(|| BadValue {
        message: format!("`{word}` is not a trace id"),
        help: Some("write all 32 hex digits, as in `traceparent`".into()),
    })
}

fn read_revision(
    field: &'static Field,
    word: &str,
    quoted: bool,
) -> Result<(&'static Field, Demand), BadValue> {
    let bad = || BadValue {
        message: format!("`{word}` names no revision"),
        help: Some("its number, as in `revision:12`, or at least eight hex digits".into()),
    };
    if word.len() < DIGEST_PREFIX_MIN && !word.contains('*') {
        let number = word.parse().map_err(|_| bad())?;
        let sequence = Field::find("sequence").unwrap_or(field);
        return Ok((sequence, Demand::Range(number, number)));
    }
    let pattern = rewritten(word, quoted, str::to_lowercase);
    match pattern.as_literal() {
        Some(digest) if !digest.bytes().all(|b| b.is_ascii_hexdigit()) => Err(bad()),
        Some(digest) if digest.len() < 64 => Ok((field, Demand::Text(pattern.then_anything()))),
        _ => Ok((field, Demand::Text(pattern))),
    }
}

impl Network {
    /// Lowest and highest address, IPv4 mapped into IPv6.
    pub(crate) fn bounds(&self) -> (Ipv6Addr, Ipv6Addr) {
        let (address, bits) = match self.address {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped(), self.bits + 96),
            IpAddr::V6(v6) => (v6, self.bits),
        };
        let free = u128::MAX.checked_shr(bits.into()).unwrap_or(0);
        let low = address.to_bits() & !free;
        (Ipv6Addr::from_bits(low), Ipv6Addr::from_bits(low | free))
    }

    fn contains(&self, ip: IpAddr) -> bool {
        let (low, high) = self.bounds();
        (low..=high).contains(&mapped(ip))
    }
}

/// As IPv6, which is how addresses stand in the index.
pub(crate) fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

impl Network {
    fn read(text: &str) -> Result<Self, BadValue> {
        let bad = || BadValue {
            message: format!("`{text}` is not an IP address or network"),
            help: Some("as in `10.0.3.7`, `10.0.0.0/8` or `2001:db8::/32`".into()),
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|b| *b <= width).ok_or_else(bad)?,
            None => width,
        };
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = if self.address.is_ipv4() { 32 } else { 128 };
        self.address.fmt(f)?;
        if self.bits < width {
            write!(f, "/{}", self.bits)?;
        }
        Ok(())
    }
}

impl IdPrefix {
    /// Whether `id` begins like this.
    pub fn contains(&self, id: u128) -> bool {
        (self.lowest..=self.highest).contains(&id)
    }

    /// The id itself, when all of it is given.
    pub fn whole(&self) -> Option<u128> {
        (self.lowest == self.highest).then_some(self.lowest)
    }

    /// The prefix, upper case.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl IdPrefix {
    /// Whether a text is an id or begins one.
    pub fn is_in(text: &str) -> bool {
        Self::read(text).is_ok()
    }

    pub(crate) fn read(text: &str) -> Result<Self, BadValue> {
        const WHOLE: usize = 26;
        let bad = |help: &str| BadValue {
            message: format!("`{text}` is not a decision id"),
            help: Some(help.into()),
        };
        if text.len() < ID_PREFIX_MIN {
            return Err(bad("write at least its first six characters"));
        }
        if text.len() > WHOLE {
            return Err(bad("an id has 26 characters"));
        }
        let mut value = 0_u128;
        let mut spelled = String::with_capacity(text.len());
        for c in text.chars() {
            let digit =
                crockford(c).ok_or_else(|| bad("an id is made of digits and letters without U"))?;
            if spelled.is_empty() && digit > 7 {
                return Err(bad("an id begins with a digit from 0 to 7"));
            }
            value = (value << 5) | u128::from(digit);
            spelled.push(c.to_ascii_uppercase());
        }
        let free = 5 * (WHOLE - text.len());
        let lowest = value << free;
        Ok(Self {
            text: spelled,
            lowest,
            highest: lowest | ((1 << free) - 1),
        })
    }
}

/// Crockford's base 32, forgiving `I`, `L` and `O`.
fn crockford(c: char) -> Option<u8> {
    const ALPHABET: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let c = match c.to_ascii_uppercase() {
        'I' | 'L' => '1',
        'O' => '0',
        other => other,
    };
    ALPHABET.find(c).and_then(|i| u8::try_from(i).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(field: &str, word: &str) -> Result<Demand, BadValue> {
        Demand::read(Field::find(field).unwrap(), word, false).map(|(_, demand)| demand)
    }

    #[test]
    fn numbers_durations_and_sizes_are_read_in_their_units() {
        let check = |field: &str, word: &str, low: u64, high: u64| {
            assert_eq!(
                read(field, word),
                Ok(Demand::Range(low, high)),
                "{field}:{word}"
            );
        };
        check("status", "404", 404, 404);
        check("status", ">=400", 400, u64::MAX);
        check("status", "<400", 0, 399);
        check("status", "4xx", 400, 499);
        check("status", "[200 TO 299]", 200, 299);
        check("status", "[* TO 299]", 0, 299);
        check("latency", ">10ms", 10_001, u64::MAX);
        check("latency", "1.5s", 1_500_000, 1_500_000);
        check("decision_ns", "<=50us", 0, 50_000);
        check("bytes", ">=1.5KiB", 1536, u64::MAX);
    }

    #[test]
    fn values_that_mean_nothing_are_refused() {
        for (field, word) in [
            ("status", "x"),
            ("status", "<0"),
            ("status", "[3 TO 2]"),
            ("status", "99999999999999999999"),
            ("status", "10ms"),
            ("latency", "10"),
            ("latency", "0.5us"),
            ("latency", "1.s"),
            ("bytes", "3 apples"),
            ("source", "10.0.0.0/33"),
            ("source", "web"),
            ("id", "01JD8"),
            ("id", "81JD8K2XQ4"),
            ("id", "01JD8K2XQ4U"),
            ("trace", "4bf9"),
            ("revision", "beef"),
            ("revision", "not-a-digest"),
            ("decision", "maybe"),
        ] {
            assert!(read(field, word).is_err(), "{field}:{word}");
        }
    }

    #[test]
    fn an_id_prefix_holds_exactly_the_ids_that_begin_with_it() {
        let id = ulid::Ulid::from_string("01JD8K2XQ4ABCDEFGH01234567").unwrap();
        for n in ID_PREFIX_MIN..=26 {
            let prefix = IdPrefix::read(&id.to_string()[..n]).unwrap();
            assert!(prefix.contains(u128::from(id)));
            assert_eq!(prefix.whole().is_some(), n == 26);
            let other = IdPrefix::read(&format!("{}Z", &id.to_string()[..n - 1])).unwrap();
            assert!(!other.contains(u128::from(id)));
        }
    }

    #[test]
    fn a_network_holds_its_addresses() {
        let net = Network::read("10.0.0.0/8").unwrap();
        assert!(net.contains("10.255.0.1".parse().unwrap()));
        assert!(!net.contains("11.0.0.1".parse().unwrap()));
        let all = Network::read("::/0").unwrap();
        assert!(all.contains("2001:db8::1".parse().unwrap()));
    }
}
