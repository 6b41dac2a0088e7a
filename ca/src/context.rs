//! Byte strings that are signed or chained, built so that they have one reading.

/// Joins a domain and fields, each preceded by its length: no two different
/// lists give the same bytes, and no list of one domain equals one of another.
pub(crate) fn framed(domain: &str, fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in std::iter::once(&domain.as_bytes()).chain(fields) {
        bytes.extend_from_slice(&(field.len() as u64).to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_a_byte_between_fields_changes_the_result() {
        assert_ne!(framed("d", &[b"ab", b"c"]), framed("d", &[b"a", b"bc"]));
        assert_ne!(framed("da", &[b"b"]), framed("d", &[b"ab"]));
        assert_ne!(framed("d", &[b""]), framed("d", &[]));
    }
}
