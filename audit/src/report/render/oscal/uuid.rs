//! UUIDs that follow from the evidence (RFC 9562, version 5): nothing of them is drawn by lot,
//! so that the same evidence has the same names.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::{
    merkle::{hex, sha256},
    report::{RenderError, Report},
};

/// UUIDs of ours are named under this one (RFC 9562, section 5.5); it was drawn by lot.
const UUIDS: [u8; 16] = [
    0x5c, 0x1e, 0x0b, 0x7d, 0x3a, 0x94, 0x4f, 0x62, 0x8f, 0xd1, 0x26, 0xb7, 0x90, 0x4e, 0xc3, 0x58,
];

/// Names for the parts of a document.
pub(super) struct Uuids {
    document: [u8; 16],
}

impl Uuids {
    /// Those of the evidence that a report shows: when it was made does not matter.
    pub(super) fn of(report: &Report) -> Result<Self, RenderError> {
        let mut content = report.clone();
        content.header.made.clear();
        let content = hex(&sha256(&serde_json::to_vec(&content)?));
        let mark = &report.header.checkpoint;
        let evidence = v5(&UUIDS, &format!("{}\n{}", report.header.log, mark.root));
        let document = v5(&evidence, &content);
        Ok(Self { document })
    }

    /// That of the document.
    pub(super) fn document(&self) -> String {
        text_of(&self.document)
    }

    /// That of a part.
    pub(super) fn named(&self, part: &str) -> String {
        text_of(&v5(&self.document, part))
    }

    /// A reference to a resource of the document.
    pub(super) fn link(&self, resource: &str) -> String {
        format!("#{}", self.named(resource))
    }
}

/// The UUID of a name (RFC 9562, section 5.5).
fn v5(namespace: &[u8; 16], name: &str) -> [u8; 16] {
    let input = [namespace.as_slice(), name.as_bytes()].concat();
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &input);
    let mut uuid = [0; 16];
    for (to, from) in uuid.iter_mut().zip(hash.as_ref()) {
        *to = *from;
    }
    let [.., version, _, variant, _, _, _, _, _, _, _] = &mut uuid;
    *version = *version & 0x0f | 0x50;
    *variant = *variant & 0x3f | 0x80;
    uuid
}

fn text_of(uuid: &[u8; 16]) -> String {
    let mut text = hex(uuid);
    for at in [8, 13, 18, 23] {
        text.insert(at, '-');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uuid_of_a_name_is_that_of_the_standard() {
        // RFC 9562, appendix A.4: the DNS namespace and `www.example.com`.
        let dns = [
            0x6b, 0xa7, 0xb8, 0x10, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4,
            0x30, 0xc8,
        ];
        let uuid = text_of(&v5(&dns, "www.example.com"));
        assert_eq!(uuid, "2ed6657d-e927-568b-95e1-2665a8aea6a2");
    }
}
