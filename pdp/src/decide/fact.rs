//! The values of a context's fields: taken from a request, or from a record.
//!
//! A fact exists only when something asks for its field, so a request costs
//! what its slice reads and no more.

use std::{borrow::Cow, net::IpAddr, ops::Range};

use http::HeaderValue;
use jiff::Timestamp;
use palisade_mesh::{catalogue::HeaderShape, decision::Question};

use super::{
    field::{Field, Form, Header, Layout},
    known::Known,
};

pub(crate) const US_PER_SECOND: i64 = 1_000_000;
pub(crate) const US_PER_HOUR: i64 = 3_600 * US_PER_SECOND;
const US_PER_DAY: i64 = 24 * US_PER_HOUR;

/// The value of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fact<'a> {
    /// The attribute is not there.
    Absent,
    Bool(bool),
    Ip(IpAddr),
    Long(i64),
    /// Seconds since the Unix epoch, within the years 0 to 9999.
    Moment(i64),
    Text(Cow<'a, str>),
    /// A set; may hold repeats.
    Texts(Vec<Cow<'a, str>>),
    /// It is there but cannot be put to Cedar without guessing.
    Unfit,
    /// The record does not say.
    Unknown,
}

/// Something that knows the values of fields.
pub(crate) trait Facts {
    /// The value of `field`.
    fn fact(&self, field: Field) -> Fact<'_>;
}

/// The facts of a request at hand, in a context of one form: what only the other
/// form has is absent, whatever the request says, as a gRPC call is an HTTP request, too.
pub(crate) struct Live<'q> {
    question: &'q Question<'q>,
    layout: &'q Layout,
    form: Form,
    known: Known,
}

impl<'q> Live<'q> {
    pub(crate) fn new(question: &'q Question<'q>, layout: &'q Layout, form: Form) -> Self {
        Self::knowing(question, layout, form, Known::ALL)
    }

    /// As [`Live::new`], of which only `known` is known.
    pub(crate) fn knowing(
        question: &'q Question<'q>,
        layout: &'q Layout,
        form: Form,
        known: Known,
    ) -> Self {
        Self {
            question,
            layout,
            form,
            known,
        }
    }

    fn header(&self, header: &Header) -> Fact<'q> {
        let Some(name) = &header.name else {
            return Fact::Absent;
        };
        let mut lines = self.question.headers.get_all(name).iter();
        let Some(first) = lines.next() else {
            return Fact::Absent;
        };
        match (header.shape, lines.next()) {
            (HeaderShape::Single, None) => text_of(first).map_or(Fact::Unfit, Fact::from),
            (HeaderShape::Single, Some(_)) => Fact::Unfit,
            (HeaderShape::List, _) => {
                list_of(self.question.headers.get_all(name).iter()).map_or(Fact::Unfit, Fact::Texts)
            }
        }
    }
}

impl Facts for Live<'_> {
    fn fact(&self, field: Field) -> Fact<'_> {
        if !field.is_in(self.form) {
            return Fact::Absent;
        }
        if !self.known.has(field) {
            return Fact::Unfit;
        }
        let q = self.question;
        let tls = &q.connection.tls;
        match field {
            Field::GrpcMethod => grpc_of(&q.request.path).map_or(Fact::Unfit, |(_, m)| m.into()),
            Field::GrpcService => grpc_of(&q.request.path).map_or(Fact::Unfit, |(s, _)| s.into()),
            Field::Header(i) => self
                .layout
                .header(i)
                .map_or(Fact::Absent, |h| self.header(h)),
            Field::HttpHost => q.request.host.as_str().into(),
            Field::HttpMethod => q.request.method.as_str().into(),
            Field::HttpPath => q.request.path.as_str().into(),
            Field::HttpQuery => optional(q.request.query.as_deref()),
            Field::Jwt | Field::User => Fact::Absent,
            // A dual-stack socket shows an IPv4 peer as `::ffff:a.b.c.d`; policies mean `a.b.c.d`.
            Field::SourceIp => Fact::Ip(q.connection.source.ip().to_canonical()),
            Field::SourcePort => Fact::Long(q.connection.source.port().into()),
            Field::TimeHour | Field::TimeNow | Field::TimeWeekday => clock_fact(field, q.now_us),
            Field::TlsAlpn => optional(tls.alpn.as_deref()),
            Field::TlsMtls => Fact::Bool(tls.mtls),
            Field::TlsSni => optional(tls.sni.as_deref()),
            Field::TlsVersion => tls.version.into(),
        }
    }
}

impl<'a> From<&'a str> for Fact<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl Fact<'_> {
    /// Appends the value so that different values give different bytes; false
    /// when there is no value to speak of.
    pub(crate) fn write_key(&self, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Absent => out.push(0),
            Self::Bool(b) => out.extend([1, u8::from(*b)]),
            Self::Ip(IpAddr::V4(ip)) => {
                out.push(2);
                out.extend(ip.octets());
            }
            Self::Ip(IpAddr::V6(ip)) => {
                out.push(3);
                out.extend(ip.octets());
            }
            Self::Long(n) | Self::Moment(n) => {
                out.push(4);
                out.extend(n.to_le_bytes());
            }
            Self::Text(text) => {
                out.push(5);
                write_text(text, out);
            }
            Self::Texts(texts) => {
                out.push(6);
                out.extend(texts.len().to_le_bytes());
                texts.iter().for_each(|t| write_text(t, out));
            }
            Self::Unfit | Self::Unknown => return false,
        }
        true
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend(text.len().to_le_bytes());
    out.extend(text.as_bytes());
}

fn optional(text: Option<&str>) -> Fact<'_> {
    text.map_or(Fact::Absent, Fact::from)
}

fn text_of(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

/// The members of a list field (RFC 9110 section 5.6.1): every line, cut at commas,
/// without the blanks around a member; empty members do not count.
fn list_of<'h>(lines: impl Iterator<Item = &'h HeaderValue>) -> Option<Vec<Cow<'h, str>>> {
    let mut members = Vec::new();
    for line in lines {
        let cut = text_of(line)?
            .split(',')
            .map(|m| m.trim_matches([' ', '\t']));
        members.extend(cut.filter(|m| !m.is_empty()).map(Cow::Borrowed));
    }
    Some(members)
}

/// Splits `/package.Service/Method`.
pub(crate) fn grpc_of(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let whole = !service.is_empty() && !method.is_empty() && !method.contains('/');
    whole.then_some((service, method))
}

/// Whether a path names a gRPC method.
pub(crate) fn is_grpc_path(path: &str) -> bool {
    grpc_of(path).is_some()
}

/// What a field of the clock says at a moment; any other field is unknown to it.
pub(crate) fn clock_fact(field: Field, now_us: i64) -> Fact<'static> {
    match field {
        Field::TimeHour => Fact::Long(hour_of(now_us)),
        Field::TimeNow => moment_of(now_us),
        Field::TimeWeekday => Fact::Long(weekday_of(now_us)),
        _ => Fact::Unknown,
    }
}

/// When a field of the clock next says something else; none for any other field.
pub(crate) fn next_tick(field: Field, now_us: i64) -> Option<i64> {
    tick(field, now_us).map(|tick| tick.end)
}

/// While a field of the clock says what it says now; none for any other field.
pub(crate) fn tick(field: Field, now_us: i64) -> Option<Range<i64>> {
    let step = match field {
        Field::TimeNow => US_PER_SECOND,
        Field::TimeHour | Field::TimeWeekday => US_PER_HOUR,
        _ => return None,
    };
    let number = now_us.div_euclid(step);
    let end = number.saturating_add(1).checked_mul(step)?;
    Some(end.saturating_sub(step)..end)
}

pub(crate) fn hour_of(now_us: i64) -> i64 {
    now_us.rem_euclid(US_PER_DAY) / US_PER_HOUR
}

/// Monday is 1, Sunday 7; the epoch was a Thursday.
pub(crate) fn weekday_of(now_us: i64) -> i64 {
    (now_us.div_euclid(US_PER_DAY) + 3).rem_euclid(7) + 1
}

fn moment_of(now_us: i64) -> Fact<'static> {
    let second = now_us.div_euclid(US_PER_SECOND);
    if moment_text(second).is_some() {
        Fact::Moment(second)
    } else {
        Fact::Unfit
    }
}

/// `2026-11-20T15:00:00Z`, the only spelling Cedar and we use; `None` outside the
/// years 0 to 9999.
pub(crate) fn moment_text(second: i64) -> Option<String> {
    let text = Timestamp::from_second(second).ok()?.to_string();
    (text.len() == "2026-11-20T15:00:00Z".len()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_readings_are_utc() {
        let at = |text: &str| -> i64 { text.parse::<Timestamp>().unwrap().as_microsecond() };
        for (text, hour, weekday) in [
            ("1970-01-01T00:00:00Z", 0, 4),
            ("1969-12-31T23:59:59Z", 23, 3),
            ("2026-11-20T15:59:59.999Z", 15, 5),
            ("2026-11-22T00:00:00Z", 0, 7),
            ("2026-11-23T00:00:00Z", 0, 1),
        ] {
            assert_eq!(
                (hour_of(at(text)), weekday_of(at(text))),
                (hour, weekday),
                "{text}"
            );
        }
    }

    #[test]
    fn moments_outside_four_digit_years_are_unfit() {
        assert_eq!(
            moment_text(1_795_186_800).as_deref(),
            Some("2026-11-20T15:00:00Z")
        );
        let last = "9999-12-30T00:00:00Z".parse::<Timestamp>().unwrap();
        assert!(moment_text(last.as_second()).is_some());
        assert_eq!(moment_of(-70_000_000_000 * US_PER_SECOND), Fact::Unfit);
    }

    #[test]
    fn grpc_paths_have_two_parts() {
        assert_eq!(
            grpc_of("/shop.v1.Stock/Reserve"),
            Some(("shop.v1.Stock", "Reserve"))
        );
        for path in ["/", "/a", "/a/", "//b", "/a/b/c", "*"] {
            assert_eq!(grpc_of(path), None, "{path}");
        }
    }

    #[test]
    fn a_list_is_every_member_of_every_line() {
        let lines = [
            HeaderValue::from_static("a, b,,"),
            HeaderValue::from_static(" c"),
        ];
        assert_eq!(list_of(lines.iter()).unwrap(), ["a", "b", "c"]);
        let bad = [HeaderValue::from_bytes(b"\xff").unwrap()];
        assert_eq!(list_of(bad.iter()), None);
    }

    #[test]
    fn different_values_have_different_keys() {
        let facts = [
            Fact::Absent,
            Fact::Bool(false),
            Fact::Long(0),
            Fact::from(""),
            Fact::from("a"),
            Fact::Texts(vec![]),
            Fact::Texts(vec!["a".into()]),
            Fact::Texts(vec!["a".into(), "".into()]),
            Fact::Ip("10.0.0.1".parse().unwrap()),
        ];
        let mut keys = std::collections::HashSet::new();
        for fact in &facts {
            let mut key = Vec::new();
            assert!(fact.write_key(&mut key));
            assert!(keys.insert(key), "{fact:?}");
        }
        assert!(!Fact::Unfit.write_key(&mut Vec::new()));
    }
}
