//! The file of a roll-up.
//!
//! ```text
//! head     magic 8 · making 16 · from i64 · to i64 · documents u64
//!          first entry u64 · last entry u64 · rows u32, u32::MAX where none are kept
//! texts    for each field: lists u32 · for each list: texts u16 · for each text: length u16, bytes
//! columns  for each field: width u8 · for each row: number of its list, so many bytes wide
//! cells    counts, first times after `from`, last times after the first: width u8 · values
//! crc32    of everything before it
//! ```
//! Numbers are little-endian. A width is 0 where every value is 0.

use crate::query::Window;

use super::{super::tally::Cell, KEY};

/// Changes with the format, and with [`KEY`].
const MAGIC: [u8; 8] = *b"palirol1";
const NOT_KEPT: u32 = u32::MAX;
const CRC_LEN: usize = 4;

/// What a span comes to.
#[derive(Debug, PartialEq)]
pub(super) struct Block {
    pub(super) head: Head,
    /// The rows; none where they were not worth keeping.
    pub(super) rows: Option<Rows>,
}

/// Of which span of which bucket, and what it has to be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Which making of the bucket.
    pub(super) making: u128,
    pub(super) span: Window,
    /// Documents of the span when it was made, those that were replaced included.
    pub(super) documents: u64,
    /// Positions in the log of the first and last record.
    pub(super) first_entry: u64,
    pub(super) last_entry: u64,
}

/// Every combination of values that occurs.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Rows {
    /// For each field the lists of values that a record has there; rows name them by number.
    pub(super) lists: Vec<Vec<Vec<String>>>,
    /// For each field the number of each row's list.
    pub(super) columns: Vec<Numbers>,
    counts: Numbers,
    firsts: Numbers,
    lengths: Numbers,
    from_us: i64,
    len: usize,
}

/// Numbers of one width.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Numbers {
    width: usize,
    bytes: Vec<u8>,
}

impl Rows {
    /// The rows of `cells`, whose keys are numbers of `lists`.
    pub(super) fn new(
        lists: Vec<Vec<Vec<String>>>,
        cells: &[([u32; KEY.len()], Cell)],
        from_us: i64,
    ) -> Self {
        let column = |at: usize| {
            Numbers::new(
                cells
                    .iter()
                    .map(move |(key, _)| key.get(at).copied().map_or(0, u64::from)),
            )
        };
        let after = |us: i64, start: i64| u64::try_from(us.saturating_sub(start)).unwrap_or(0);
        Self {
            lists,
            columns: (0..KEY.len()).map(column).collect(),
            counts: Numbers::new(cells.iter().map(|(_, cell)| cell.count)),
            firsts: Numbers::new(cells.iter().map(|(_, cell)| after(cell.first_us, from_us))),
            lengths: Numbers::new(
                cells
                    .iter()
                    .map(|(_, cell)| after(cell.last_us, cell.first_us)),
            ),
            from_us,
            len: cells.len(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// What is known of a row.
    pub(super) fn cell(&self, row: usize) -> Cell {
        let first_us = self.from_us.saturating_add_unsigned(self.firsts.get(row));
        Cell {
            count: self.counts.get(row),
            first_us,
            last_us: first_us.saturating_add_unsigned(self.lengths.get(row)),
        }
    }
}

impl Numbers {
    fn new(values: impl Iterator<Item = u64> + Clone) -> Self {
        let most = values.clone().max().unwrap_or(0);
        let bits = u64::BITS - most.leading_zeros();
        let width = usize::try_from(bits.div_ceil(8)).unwrap_or(8);
        let mut bytes = Vec::new();
        for value in values {
            bytes.extend(value.to_le_bytes().into_iter().take(width));
        }
        Self { width, bytes }
    }

    /// The value of a row; 0 beyond the last.
    pub(super) fn get(&self, row: usize) -> u64 {
        let at = row.saturating_mul(self.width);
        let bytes = self.bytes.get(at..at.saturating_add(self.width));
        let digits = bytes.unwrap_or_default().iter().rev();
        digits.fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn write(&self, into: &mut Vec<u8>) {
        into.extend(u8::try_from(self.width));
        into.extend_from_slice(&self.bytes);
    }
}

impl Block {
    pub(super) fn encode(&self) -> Vec<u8> {
        let head = &self.head;
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&head.making.to_le_bytes());
        out.extend_from_slice(&head.span.from_us.to_le_bytes());
        out.extend_from_slice(&head.span.to_us.to_le_bytes());
        for number in [head.documents, head.first_entry, head.last_entry] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        match &self.rows {
            None => out.extend_from_slice(&NOT_KEPT.to_le_bytes()),
            Some(rows) => rows.encode(&mut out),
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads one back; none where it is not whole, or not of this format.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_at_checked(bytes.len().checked_sub(CRC_LEN)?)?;
        (crc32fast::hash(body).to_le_bytes() == crc).then_some(())?;
        let mut left = Reader(body);
        (left.array::<8>()? == MAGIC).then_some(())?;
        let head = Head {
            making: u128::from_le_bytes(left.array()?),
            span: Window {
                from_us: i64::from_le_bytes(left.array()?),
                to_us: i64::from_le_bytes(left.array()?),
            },
            documents: left.u64()?,
            first_entry: left.u64()?,
            last_entry: left.u64()?,
        };
        let rows = match left.u32()? {
            NOT_KEPT => None,
            // A row is of one record at least.
            len if u64::from(len) > head.documents => return None,
            len => Some(Rows::decode(&mut left, len, head.span.from_us)?),
        };
        left.0.is_empty().then_some(Self { head, rows })
    }
}

impl Rows {
    fn encode(&self, out: &mut Vec<u8>) {
        let len = u32::try_from(self.len).unwrap_or(NOT_KEPT);
        out.extend_from_slice(&len.to_le_bytes());
        for lists in &self.lists {
            out.extend_from_slice(&u32::try_from(lists.len()).unwrap_or(0).to_le_bytes());
            for list in lists {
                out.extend_from_slice(&u16::try_from(list.len()).unwrap_or(0).to_le_bytes());
                for text in list {
                    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_le_bytes());
                    out.extend_from_slice(text.as_bytes());
                }
            }
        }
        for numbers in self
            .columns
            .iter()
            .chain([&self.counts, &self.firsts, &self.lengths])
        {
            numbers.write(out);
        }
    }

    fn decode(left: &mut Reader<'_>, len: u32, from_us: i64) -> Option<Self> {
        let len = usize::try_from(len).ok()?;
        let mut lists = Vec::with_capacity(KEY.len());
        for _ in KEY {
            lists.push(left.lists()?);
        }
        let mut columns = Vec::with_capacity(KEY.len());
        for of_field in &lists {
            let numbers = left.numbers(len)?;
            // Every number names a list.
            let most = (0..len).map(|row| numbers.get(row)).max().unwrap_or(0);
            (len == 0 || usize::try_from(most).ok()? < of_field.len()).then_some(())?;
            columns.push(numbers);
        }
        Some(Self {
            lists,
            columns,
            counts: left.numbers(len)?,
            firsts: left.numbers(len)?,
            lengths: left.numbers(len)?,
            from_us,
            len,
        })
    }
}

/// Bytes that were not read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.0.split_at_checked(len)?;
        self.0 = left;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn lists(&mut self) -> Option<Vec<Vec<String>>> {
        let mut lists = Vec::new();
        for _ in 0..self.u32()? {
            let mut list = Vec::new();
            for _ in 0..self.u16()? {
                let len = self.u16()?;
                let text = std::str::from_utf8(self.take(len.into())?).ok()?;
                list.push(text.to_owned());
            }
            lists.push(list);
        }
        Some(lists)
    }

    fn numbers(&mut self, len: usize) -> Option<Numbers> {
        let [width] = self.array()?;
        let width = usize::from(width);
        (width <= 8).then_some(())?;
        let bytes = self.take(len.checked_mul(width)?)?.to_vec();
        Some(Numbers { width, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Block {
        let mut lists = vec![vec![Vec::new()]; KEY.len()];
        lists[9] = vec![
            Vec::new(),
            vec!["a".to_owned(), "b\u{202e}\n".to_owned()],
            vec!["c".to_owned()],
        ];
        let mut key = [0; KEY.len()];
        let cell = |count, first_us, last_us| Cell {
            count,
            first_us,
            last_us,
        };
        let mut cells = vec![(key, cell(1, 1000, 1000))];
        key[9] = 2;
        cells.push((key, cell(300, 2000, 90_000_000_000)));
        Block {
            head: Head {
                making: 7,
                span: Window {
                    from_us: 1000,
                    to_us: 100_000_000_000,
                },
                documents: 302,
                first_entry: 3,
                last_entry: 900,
            },
            rows: Some(Rows::new(lists, &cells, 1000)),
        }
    }

    #[test]
    fn a_block_is_read_back_as_it_was_written() {
        let written = block();
        let read = Block::decode(&written.encode()).unwrap();
        assert_eq!(read, written);
        let rows = read.rows.unwrap();
        assert_eq!(rows.columns[9].get(1), 2);
        assert_eq!(rows.cell(1).count, 300);
        assert_eq!(rows.cell(1).last_us, 90_000_000_000);
        let nothing = Block {
            rows: None,
            ..block()
        };
        assert_eq!(Block::decode(&nothing.encode()), Some(nothing));
    }

    /// No bit can change, and nothing can be cut off or added, unnoticed.
    #[test]
    fn a_damaged_block_is_none() {
        let bytes = block().encode();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(Block::decode(&damaged), None, "byte {at}");
            assert_eq!(Block::decode(&bytes[..at]), None, "{at} bytes");
        }
        assert_eq!(Block::decode(&[bytes.as_slice(), b"x"].concat()), None);
    }

    /// Whoever makes the checksum again makes no reader fail.
    #[test]
    fn a_forged_block_is_none_or_within_its_bounds() {
        let bytes = block().encode();
        let body = bytes.len() - CRC_LEN;
        for at in 8..body {
            for bit in 0..8 {
                let mut forged = bytes[..body].to_vec();
                forged[at] ^= 1 << bit;
                let crc = crc32fast::hash(&forged);
                forged.extend_from_slice(&crc.to_le_bytes());
                let Some(rows) = Block::decode(&forged).and_then(|b| b.rows) else {
                    continue;
                };
                for row in 0..rows.len().min(10) {
                    let _ = rows.cell(row);
                    for (numbers, lists) in rows.columns.iter().zip(&rows.lists) {
                        assert!((numbers.get(row) as usize) < lists.len());
                    }
                }
            }
        }
    }
}
