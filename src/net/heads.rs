//! Signs the heads of record streams with the SVID of the part that keeps them.

use palisade_audit::heads::{HeadSignature, HeadSigner};
use palisade_mesh::svid::{Identity, Signed};

/// Signs with the SVID that is in force.
pub struct SvidSigner(pub Identity);

impl HeadSigner for SvidSigner {
    fn sign(&self, message: &[u8]) -> Option<HeadSignature> {
        let Signed {
            scheme,
            signature,
            certificates,
        } = self.0.sign(message)?;
        Some(HeadSignature {
            scheme,
            signature,
            certificates: certificates.iter().map(|c| c.to_vec()).collect(),
        })
    }
}
