//! The tantivy schema, made from the table of fields, and the document of an
//! item.
//!
//! Nothing is stored but the position in the log. Ids and trace ids are not
//! terms, which would double the index: a column holds half of each, and the
//! log settles the rest.

use tantivy::{
    IndexSettings, IndexSortByField, Order, TantivyDocument,
    schema::{
        Field as Column, IndexRecordOption, IpAddrOptions, NumericOptions, Schema,
        TextFieldIndexing, TextOptions,
    },
};

use crate::{
    item::Item,
    query::{FIELDS, Field, Kind, field::Value, mapped},
};

/// Raised when documents are made differently from the same fields.
const LAYOUT: u32 = 1;

/// Column of the time, which segments are sorted by, newest first.
pub(super) const TIME: &str = "_time";
/// Column of the upper half of the id.
pub(super) const ID: &str = "_id";
/// Column of the lowest 32 bits of the trace id.
pub(super) const TRACE: &str = "_trace";
/// Column of how far behind a decision its outcome stands in the log.
pub(super) const ENDED: &str = "_ended";
/// Column that is set when the document replaces one made before its outcome
/// was known.
pub(super) const LATE: &str = "_late";
/// Column of the position in the log.
pub(super) const ENTRY: &str = "entry";

/// The schema and where its fields are.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) schema: Schema,
    /// In the order of [`FIELDS`]; ids and trace ids have none.
    columns: Vec<Option<Column>>,
    time: Column,
    pub(super) id: Column,
    pub(super) trace: Column,
    ended: Column,
    late: Column,
}

impl Layout {
    pub(super) fn new() -> Self {
        let mut schema = Schema::builder();
        let columns = FIELDS
            .iter()
            .map(|field| match field.kind {
                Kind::Id | Kind::Trace => None,
                Kind::Ip => {
                    Some(schema.add_ip_addr_field(field.name, IpAddrOptions::default().set_fast()))
                }
                kind if kind.is_number() => {
                    let fast = NumericOptions::default().set_fast();
                    let options = if field.countable {
                        fast.set_indexed()
                    } else {
                        fast
                    };
                    Some(schema.add_u64_field(field.name, options))
                }
                _ => Some(schema.add_text_field(field.name, text_options(field))),
            })
            .collect();
        let fast = || NumericOptions::default().set_fast();
        Self {
            columns,
            time: schema.add_i64_field(TIME, fast()),
            id: schema.add_u64_field(ID, fast()),
            trace: schema.add_u64_field(TRACE, fast()),
            ended: schema.add_u64_field(ENDED, fast()),
            late: schema.add_u64_field(LATE, fast()),
            schema: schema.build(),
        }
    }

    /// Settings of every bucket: sorted by time, newest first.
    pub(super) fn settings() -> IndexSettings {
        IndexSettings {
            sort_by_field: Some(IndexSortByField {
                field: TIME.into(),
                order: Order::Desc,
            }),
            ..IndexSettings::default()
        }
    }

    /// Changes whenever an index made earlier cannot be used any more.
    pub(super) fn fingerprint() -> u32 {
        let fields: Vec<_> = FIELDS
            .iter()
            .map(|field| (field.name, field.kind, field.countable))
            .collect();
        crc32fast::hash(format!("{LAYOUT} {fields:?}").as_bytes())
    }

    /// Where `field` stands, if it has a column of its own.
    pub(super) fn column(&self, field: &Field) -> Option<Column> {
        let at = FIELDS.iter().position(|f| f.name == field.name)?;
        self.columns.get(at).copied().flatten()
    }

    /// The document of an item; `late` when it replaces an earlier one.
    pub(super) fn document(&self, item: &Item, late: bool) -> TantivyDocument {
        let mut document = TantivyDocument::default();
        document.add_i64(self.time, item.time_us);
        for (field, column) in FIELDS.iter().zip(&self.columns) {
            field.values(item, &mut |value| match (value, column) {
                (Value::Text(text), Some(column)) => document.add_text(*column, text),
                (Value::Number(number), Some(column)) => document.add_u64(*column, number),
                (Value::Ip(ip), Some(column)) => document.add_ip_addr(*column, mapped(ip)),
                (Value::Id(id), _) => document.add_u64(self.id, id_column(id)),
                (Value::Trace(trace), _) => document.add_u64(self.trace, trace_column(trace)),
                _ => {}
            });
        }
        if let Some((at, _)) = item.outcome {
            document.add_u64(self.ended, at.saturating_sub(item.at));
        }
        if late {
            document.add_u64(self.late, 1);
        }
        document
    }
}

/// The part of an id that its column holds: time and 16 random bits.
pub(super) fn id_column(id: u128) -> u64 {
    u64::try_from(id >> 64).unwrap_or(u64::MAX)
}

/// The part of a trace id that its column holds; the low end, because 64-bit
/// tracers leave the high end zero.
pub(super) fn trace_column(trace: [u8; 16]) -> u64 {
    u64::try_from(u128::from_be_bytes(trace) & u128::from(u32::MAX)).unwrap_or(0)
}

fn text_options(field: &Field) -> TextOptions {
    let indexing = TextFieldIndexing::default()
        .set_tokenizer("raw")
        .set_fieldnorms(false)
        .set_index_option(IndexRecordOption::Basic);
    let options = TextOptions::default().set_indexing_options(indexing);
    if field.countable {
        options.set_fast("raw")
    } else {
        options
    }
}
