//! What was recorded of a context, read in place: replays read hundreds of thousands a
//! second, so no tree is built and texts stay where they are.

use std::{borrow::Cow, fmt};

use palisade_mesh::catalogue::HeaderShape;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::Value;

use super::{
    super::{
        fact::{Fact, Facts, moment_text},
        field::{Field, Form, Layout},
    },
    DECIDED_US,
};

/// Records within records of a context, and the name at the end.
const DEPTH: usize = 3;

/// The facts of a recorded context.
#[derive(Debug, Default)]
pub(crate) struct Recorded<'t> {
    facts: Vec<(Field, Fact<'t>)>,
    /// Protocol of the context.
    form: Option<Form>,
    /// When the decision was made, if that mattered.
    pub(crate) decided_us: Option<i64>,
}

impl<'t> Recorded<'t> {
    /// Reads what [`write`](super::write) wrote; what is not of the right type was not
    /// recorded, and of two under one name the last counts.
    ///
    /// # Errors
    /// When the text is no JSON object.
    pub(crate) fn parse(text: &'t str, form: Form, layout: &Layout) -> Result<Self, String> {
        let mut recorded = Self {
            form: Some(form),
            ..Self::default()
        };
        let mut json = serde_json::Deserializer::from_str(text);
        let whole = Whole {
            recorded: &mut recorded,
            form,
            layout,
        };
        let read = json.deserialize_map(whole).and_then(|()| json.end());
        read.map_err(|e| e.to_string())?;
        Ok(recorded)
    }
}

impl Facts for Recorded<'_> {
    fn fact(&self, field: Field) -> Fact<'_> {
        match self.facts.iter().find(|(known, _)| *known == field) {
            Some((_, fact)) => fact.clone(),
            // The other protocol's record is never part of a context.
            None if self.form.is_some_and(|form| !field.is_in(form)) => Fact::Absent,
            None => Fact::Unknown,
        }
    }
}

/// The object itself.
struct Whole<'r, 't> {
    recorded: &'r mut Recorded<'t>,
    form: Form,
    layout: &'r Layout,
}

impl<'t> Whole<'_, 't> {
    fn put(&mut self, path: &[&str], value: Read<'t>) {
        let field = self.layout.find(path);
        let Some(field) = field.filter(|field| field.is_in(self.form)) else {
            return;
        };
        self.recorded.facts.retain(|(known, _)| *known != field);
        if let Some(fact) = fact_of(field, value, self.layout) {
            self.recorded.facts.push((field, fact));
        }
    }
}

impl<'de> Visitor<'de> for Whole<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(Word(name)) = map.next_key()? {
            if name == DECIDED_US {
                self.recorded.decided_us = map.next_value::<Value>()?.as_i64();
                continue;
            }
            let place = Place {
                whole: &mut self,
                path: [&name, "", ""],
                depth: 1,
            };
            map.next_value_seed(place)?;
        }
        Ok(())
    }
}

/// A value somewhere in it.
struct Place<'p, 'w, 'r, 't> {
    whole: &'w mut Whole<'r, 't>,
    path: [&'p str; DEPTH],
    depth: usize,
}

impl<'t> Place<'_, '_, '_, 't> {
    fn put(self, value: Read<'t>) {
        let path = self.path.get(..self.depth).unwrap_or_default();
        self.whole.put(path, value);
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_, '_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_, '_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.put(Read::Null);
        Ok(())
    }

    fn visit_bool<E>(self, b: bool) -> Result<(), E> {
        self.put(Read::Bool(b));
        Ok(())
    }

    fn visit_i64<E>(self, n: i64) -> Result<(), E> {
        self.put(Read::Long(n));
        Ok(())
    }

    fn visit_u64<E>(self, n: u64) -> Result<(), E> {
        self.put(i64::try_from(n).map_or(Read::Other, Read::Long));
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.put(Read::Other);
        Ok(())
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<(), E> {
        self.put(Read::Text(Cow::Borrowed(text)));
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.put(Read::Text(Cow::Owned(text.to_owned())));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut texts = Some(Vec::new());
        while let Some(Member(text)) = list.next_element()? {
            texts = texts.zip(text).map(|(mut texts, text)| {
                texts.push(text);
                texts
            });
        }
        self.put(texts.map_or(Read::Other, Read::Texts));
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { whole, path, depth } = self;
        whole.put(path.get(..depth).unwrap_or_default(), Read::Other);
        while let Some(Word(name)) = map.next_key()? {
            let mut below = path;
            let Some(last) = below.get_mut(depth) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            *last = &name;
            map.next_value_seed(Place {
                whole: &mut *whole,
                path: below,
                depth: depth + 1,
            })?;
        }
        Ok(())
    }
}

/// A value as far as a fact can be made of it.
enum Read<'t> {
    Null,
    Bool(bool),
    Long(i64),
    Text(Cow<'t, str>),
    Texts(Vec<Cow<'t, str>>),
    Other,
}

/// A text, where it stands if nothing in it is escaped.
struct Word<'t>(Cow<'t, str>);

impl<'de: 't, 't> Deserialize<'de> for Word<'t> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        match Member::deserialize(json)? {
            Member(Some(text)) => Ok(Self(text)),
            Member(None) => Err(serde::de::Error::custom("expected a text")),
        }
    }
}

/// A member of a list, if it is a text.
struct Member<'t>(Option<Cow<'t, str>>);

impl<'de: 't, 't> Deserialize<'de> for Member<'t> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(TextOrNot).map(Self)
    }
}

struct TextOrNot;

impl<'de> Visitor<'de> for TextOrNot {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

fn fact_of<'t>(field: Field, value: Read<'t>, layout: &Layout) -> Option<Fact<'t>> {
    let is_list = |i| layout.header(i).map(|h| h.shape) == Some(HeaderShape::List);
    Some(match (field, value) {
        (_, Read::Null) => Fact::Absent,
        (Field::Jwt | Field::User, _) => return None,
        (Field::SourceIp, Read::Text(text)) => Fact::Ip(text.parse().ok()?),
        (Field::SourcePort | Field::TimeHour | Field::TimeWeekday, Read::Long(n)) => Fact::Long(n),
        (Field::TimeNow, Read::Text(text)) => {
            let at: jiff::Timestamp = text.parse().ok()?;
            moment_text(at.as_second())?;
            Fact::Moment(at.as_second())
        }
        (Field::TlsMtls, Read::Bool(b)) => Fact::Bool(b),
        (Field::Header(i), Read::Texts(texts)) if is_list(i) => Fact::Texts(texts),
        (Field::Header(i), Read::Text(_)) if is_list(i) => return None,
        (
            Field::SourceIp
            | Field::SourcePort
            | Field::TimeHour
            | Field::TimeWeekday
            | Field::TimeNow
            | Field::TlsMtls,
            _,
        ) => return None,
        (_, Read::Text(text)) => Fact::Text(text),
        _ => return None,
    })
}
