//! Parquet: the columns of [`columns`](super::columns()), zstd, in row groups of a bounded size.

use std::{io::Write, sync::Arc};

use jiff::Timestamp;
use parquet::{
    basic::{Compression, ZstdLevel},
    data_type::{BoolType, ByteArray, ByteArrayType, Int64Type},
    errors::ParquetError as Failed,
    file::{
        metadata::KeyValue,
        properties::WriterProperties,
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    schema::parser::parse_message_type,
};
use serde_json::Value;

use super::{Column, ColumnKind, Object, columns};

/// Rows of one row group; so many are in memory at once.
pub const GROUP_ROWS: usize = 16_384;

/// A Parquet file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the Parquet file cannot be written: {0}")]
pub struct ParquetError(#[from] Failed);

/// A Parquet file that is being written.
pub struct ParquetFile<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Vec<Cells>,
    rows: usize,
}

/// The cells of a column in the row group at hand.
struct Cells {
    column: Column,
    data: Data,
    /// How much of a cell there is: Parquet's definition levels.
    defined: Vec<i16>,
    /// Which texts begin a list: Parquet's repetition levels.
    repeated: Vec<i16>,
}

enum Data {
    Flags(Vec<bool>),
    Numbers(Vec<i64>),
    Texts(Vec<ByteArray>),
}

impl<W: Write + Send> ParquetFile<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// When `out` does not take it.
    pub fn new(out: W) -> Result<Self, ParquetError> {
        let schema = Arc::new(parse_message_type(&schema())?);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(format!("palisade {}", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            writer: SerializedFileWriter::new(out, schema, Arc::new(properties))?,
            columns: columns().map(Cells::new).collect(),
            rows: 0,
        })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// When a full row group cannot be written.
    pub fn row(&mut self, row: &Object) -> Result<(), ParquetError> {
        for cells in &mut self.columns {
            cells.add(row.get(cells.column.name));
        }
        self.rows += 1;
        match self.rows >= GROUP_ROWS {
            true => self.group(),
            false => Ok(()),
        }
    }

    /// Ends the file, with `facts` about it beside the data.
    ///
    /// # Errors
    /// When the rest cannot be written.
    pub fn finish(mut self, facts: &[(&str, String)]) -> Result<W, ParquetError> {
        self.group()?;
        for (key, value) in facts {
            let fact = KeyValue::new((*key).to_owned(), value.clone());
            self.writer.append_key_value_metadata(fact);
        }
        Ok(self.writer.into_inner()?)
    }

    fn group(&mut self) -> Result<(), ParquetError> {
        if std::mem::take(&mut self.rows) == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for cells in &mut self.columns {
            let Some(mut column) = group.next_column()? else {
                break;
            };
            cells.write(&mut column)?;
            column.close()?;
            *cells = Cells::new(cells.column);
        }
        group.close()?;
        Ok(())
    }
}

impl Cells {
    fn new(column: Column) -> Self {
        Self {
            data: match column.kind {
                ColumnKind::Flag => Data::Flags(Vec::new()),
                ColumnKind::Number | ColumnKind::Time => Data::Numbers(Vec::new()),
                ColumnKind::Json | ColumnKind::Text | ColumnKind::Texts => Data::Texts(Vec::new()),
            },
            column,
            defined: Vec::new(),
            repeated: Vec::new(),
        }
    }

    fn add(&mut self, value: Option<&Value>) {
        match (&mut self.data, self.column.kind, value) {
            (Data::Texts(texts), ColumnKind::Texts, Some(Value::Array(items))) => {
                if items.is_empty() {
                    self.defined.push(1);
                    self.repeated.push(0);
                }
                for (i, item) in items.iter().enumerate() {
                    texts.push(text_of(item));
                    self.defined.push(2);
                    self.repeated.push(i16::from(i > 0));
                }
                return;
            }
            (Data::Texts(texts), ColumnKind::Json, Some(value)) => {
                texts.push(value.to_string().into_bytes().into());
                self.defined.push(1);
            }
            (Data::Texts(texts), ColumnKind::Text, Some(value)) => {
                texts.push(text_of(value));
                self.defined.push(1);
            }
            (Data::Flags(flags), _, Some(Value::Bool(flag))) => {
                flags.push(*flag);
                self.defined.push(1);
            }
            (Data::Numbers(numbers), ColumnKind::Time, Some(Value::String(time))) => {
                match time.parse::<Timestamp>() {
                    Ok(time) => {
                        numbers.push(time.as_microsecond());
                        self.defined.push(1);
                    }
                    Err(_) => self.defined.push(0),
                }
            }
            (Data::Numbers(numbers), ColumnKind::Number, Some(Value::Number(number))) => {
                // Parquet keeps an unsigned number in the bits of a signed one.
                numbers.push(number.as_u64().unwrap_or_default().cast_signed());
                self.defined.push(1);
            }
            _ => self.defined.push(0),
        }
        if self.column.kind == ColumnKind::Texts {
            self.repeated.push(0);
        }
    }

    fn write(&self, column: &mut SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let defined = Some(self.defined.as_slice());
        match &self.data {
            Data::Flags(flags) => column
                .typed::<BoolType>()
                .write_batch(flags, defined, None)?,
            Data::Numbers(numbers) => column
                .typed::<Int64Type>()
                .write_batch(numbers, defined, None)?,
            Data::Texts(texts) => {
                let lists = self.column.kind == ColumnKind::Texts;
                let repeated = lists.then_some(self.repeated.as_slice());
                column
                    .typed::<ByteArrayType>()
                    .write_batch(texts, defined, repeated)?
            }
        };
        Ok(())
    }
}

fn text_of(value: &Value) -> ByteArray {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.into_bytes().into()
}

fn schema() -> String {
    let fields: String = columns()
        .map(|Column { name, kind }| match kind {
            ColumnKind::Flag => format!("OPTIONAL BOOLEAN {name};\n"),
            ColumnKind::Json => format!("OPTIONAL BYTE_ARRAY {name} (JSON);\n"),
            ColumnKind::Number => format!("OPTIONAL INT64 {name} (INTEGER(64,false));\n"),
            ColumnKind::Text => format!("OPTIONAL BYTE_ARRAY {name} (STRING);\n"),
            ColumnKind::Texts => format!(
                "OPTIONAL GROUP {name} (LIST) {{ REPEATED GROUP list {{ REQUIRED BYTE_ARRAY element (STRING); }} }}\n"
            ),
            ColumnKind::Time => format!("OPTIONAL INT64 {name} (TIMESTAMP(MICROS,true));\n"),
        })
        .collect();
    format!("message palisade_record {{\n{fields}}}")
}
