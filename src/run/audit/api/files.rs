//! The bytes of an export, page by page.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use palisade_audit::{
    export::{Object, ParquetFile, lacks, ocsf_event, write_csv, write_csv_head, write_jsonl},
    index::Coverage,
    row::Row,
};
use serde_json::Value;

use super::asked::Format;

/// A file on its way.
pub(super) enum FileBytes {
    /// Its head was sent once that is so.
    Csv(bool),
    Jsonl,
    Ocsf,
    /// None once its end was sent.
    Parquet(Option<Box<ParquetFile<Pool>>>, Pool),
}

/// What a Parquet file gives from time to time, until it is sent on.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<u8>>>);

impl Pool {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Pool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pool.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl FileBytes {
    pub(super) fn new(format: Format) -> io::Result<Self> {
        Ok(match format {
            Format::Csv => Self::Csv(false),
            Format::Jsonl => Self::Jsonl,
            Format::Ocsf => Self::Ocsf,
            Format::Parquet => {
                let pool = Pool::default();
                let file = ParquetFile::new(pool.clone()).map_err(io::Error::other)?;
                Self::Parquet(Some(Box::new(file)), pool)
            }
        })
    }

    /// What there is to send after these rows; of Parquet nothing for a while.
    pub(super) fn page(&mut self, rows: &[Row]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Self::Csv(begun) = self
            && !std::mem::replace(begun, true)
        {
            write_csv_head(&mut bytes)?;
        }
        for row in rows {
            let Value::Object(row) = serde_json::to_value(row)? else {
                return Err(io::Error::other("bug: a row is no object"));
            };
            self.row(&row, &mut bytes)?;
        }
        if let Self::Parquet(_, pool) = self {
            bytes = pool.take();
        }
        Ok(bytes)
    }

    fn row(&mut self, row: &Object, bytes: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Csv(_) => write_csv(row, bytes)?,
            Self::Jsonl => write_jsonl(row, bytes)?,
            // Records of other classes are no events of OCSF.
            Self::Ocsf => {
                if let Some(Value::Object(event)) = ocsf_event(row) {
                    write_jsonl(&event, bytes)?;
                }
            }
            Self::Parquet(Some(file), _) => file.row(row).map_err(io::Error::other)?,
            Self::Parquet(None, _) => return Err(io::Error::other("bug: rows after the end")),
        }
        Ok(())
    }

    /// What stands after all rows, with what a Parquet file says about itself.
    pub(super) fn end(
        &mut self,
        query: &str,
        records: u64,
        coverage: &Coverage,
    ) -> io::Result<Vec<u8>> {
        let Self::Parquet(file, pool) = self else {
            return Ok(Vec::new());
        };
        if let Some(file) = file.take() {
            let lacks = lacks(&serde_json::to_value(coverage)?);
            let facts = [
                ("palisade.query", query.to_owned()),
                ("palisade.from", coverage.from.clone()),
                ("palisade.to", coverage.to.clone()),
                ("palisade.records", records.to_string()),
                ("palisade.complete", coverage.complete.to_string()),
                ("palisade.gaps", serde_json::to_string(&coverage.gaps)?),
                ("palisade.lacks", serde_json::to_string(&lacks)?),
            ];
            file.finish(&facts).map_err(io::Error::other)?;
        }
        Ok(pool.take())
    }
}
