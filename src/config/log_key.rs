//! Section `audit.log_key`: the device that signs checkpoints.

use std::path::PathBuf;

#[cfg(feature = "full")]
use palisade_audit::note::DeviceKey;
use serde::Deserialize;

/// Section `audit.log_key`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogKeySection {
    /// The vendor's PKCS #11 library.
    pub pkcs11: PathBuf,
    /// Label of the token.
    pub token: String,
    /// Label of the Ed25519 key, both halves.
    pub label: String,
    /// File with the PIN of the token's user.
    pub pin: PathBuf,
}

impl LogKeySection {
    /// The files, for [`super::Config`] to find them beside its own.
    pub(super) fn paths(&mut self) -> [&mut PathBuf; 2] {
        [&mut self.pkcs11, &mut self.pin]
    }

    /// The key, as the log finds it.
    #[cfg(feature = "full")]
    pub fn device(&self) -> DeviceKey {
        DeviceKey {
            module: self.pkcs11.clone(),
            token: self.token.clone(),
            label: self.label.clone(),
            pin: self.pin.clone(),
        }
    }
}
