//! Signing keys that never leave a device: PKCS #11 (OASIS, 2.40 and 3.x), Ed25519 by
//! `CKM_EDDSA`.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::{
        Mechanism,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};

/// DER of an `OCTET STRING` of 32 bytes, before these.
const OCTETS: [u8; 2] = [0x04, 0x20];

/// How long a device that failed is left alone: a call to one that is away may take long, and
/// records are waiting.
const REST: Duration = Duration::from_secs(1);

/// Longest PIN, in bytes.
const PIN_LEN_MAX: usize = 255;

/// Which key of which device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceKey {
    /// The vendor's library.
    pub module: PathBuf,
    /// Label of the token.
    pub token: String,
    /// Label of both halves of the key.
    pub label: String,
    /// File with the PIN of the token's user; white space at its end does not count.
    pub pin: PathBuf,
}

/// A key that was found, and the session that signs with it.
pub(super) struct Device {
    place: DeviceKey,
    pub(super) public: [u8; 32],
    state: Mutex<State>,
}

/// How the device is.
enum State {
    Open(Open),
    /// It failed then, and why.
    Failed(Instant, String),
}

struct Open {
    session: Session,
    key: ObjectHandle,
}

impl Device {
    /// Finds both halves of the key.
    ///
    /// # Errors
    /// In words, with the step that failed.
    pub(super) fn open(place: &DeviceKey) -> io::Result<Self> {
        let open = Open::new(place)?;
        let public = open.public(place)?;
        Ok(Self {
            place: place.clone(),
            public,
            state: Mutex::new(State::Open(open)),
        })
    }

    /// Signs, in a new session where the old one has ended. What does not verify is no
    /// signature, whatever the device says.
    pub(super) fn sign(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let signed = match &*state {
            State::Failed(since, why) if since.elapsed() < REST => {
                return Err(io::Error::other(why.clone()));
            }
            State::Open(open) => open.sign(message),
            State::Failed(..) => Err(failed("there is no session")),
        };
        let signed = signed.or_else(|_| {
            let open = Open::new(&self.place)?;
            let signed = open.sign(message);
            *state = State::Open(open);
            signed
        });
        let verified = signed.and_then(|signature| {
            UnparsedPublicKey::new(&ED25519, &self.public)
                .verify(message, &signature)
                .map_err(|_| failed("what the device signed does not verify"))?;
            Ok(signature)
        });
        if let Err(e) = &verified {
            *state = State::Failed(Instant::now(), e.to_string());
        }
        verified
    }
}

impl Open {
    fn new(place: &DeviceKey) -> io::Result<Self> {
        let step = |what: &'static str| move |e: Error| failed(&format!("{what}: {e}"));
        let library = Pkcs11::new(&place.module).map_err(step("the module does not load"))?;
        let args = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        match library.initialize(args) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(e) => return Err(step("the module does not start")(e)),
        }
        let slot = slot(&library, &place.token).map_err(step("its tokens cannot be listed"))?;
        let slot = slot.ok_or_else(|| failed(&format!("there is no token `{}`", place.token)))?;
        let session = library
            .open_ro_session(slot)
            .map_err(step("the token gives no session"))?;
        match session.login(UserType::User, Some(&pin(place)?)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(e) => return Err(step("the token refuses the PIN")(e)),
        }
        let key = one(&session, ObjectClass::PRIVATE_KEY, place)?;
        Ok(Self { session, key })
    }

    fn public(&self, place: &DeviceKey) -> io::Result<[u8; 32]> {
        let key = one(&self.session, ObjectClass::PUBLIC_KEY, place)?;
        let read = self
            .session
            .get_attributes(key, &[AttributeType::EcPoint])
            .map_err(|e| failed(&format!("its public half cannot be read: {e}")))?;
        let point = read.into_iter().find_map(|attribute| match attribute {
            Attribute::EcPoint(point) => Some(point),
            _ => None,
        });
        let point = point.unwrap_or_default();
        // The standard asks for DER; some devices give the bytes alone.
        let bytes = point.strip_prefix(&OCTETS).unwrap_or(&point);
        bytes
            .try_into()
            .map_err(|_| failed("its public half is no Ed25519 key"))
    }

    fn sign(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
        let signed = self.session.sign(&mechanism, self.key, message);
        signed.map_err(|e| failed(&format!("the token does not sign: {e}")))
    }
}

fn slot(library: &Pkcs11, token: &str) -> Result<Option<Slot>, Error> {
    for slot in library.get_slots_with_initialized_token()? {
        if library.get_token_info(slot)?.label().trim_end() == token {
            return Ok(Some(slot));
        }
    }
    Ok(None)
}

fn pin(place: &DeviceKey) -> io::Result<AuthPin> {
    let path = place.pin.display();
    let text = fs::read_to_string(&place.pin).map_err(|e| failed(&format!("PIN `{path}`: {e}")))?;
    let pin = text.trim_end();
    match pin.is_empty() || pin.len() > PIN_LEN_MAX {
        true => Err(failed(&format!(
            "PIN `{path}`: it has {} bytes, not 1 to {PIN_LEN_MAX}",
            pin.len()
        ))),
        false => Ok(AuthPin::new(pin.into())),
    }
}

/// The one object of this class that has the label of the key.
fn one(session: &Session, class: ObjectClass, place: &DeviceKey) -> io::Result<ObjectHandle> {
    let template = [
        Attribute::Class(class),
        Attribute::KeyType(KeyType::EC_EDWARDS),
        Attribute::Label(place.label.as_bytes().to_vec()),
    ];
    let half = match class {
        ObjectClass::PRIVATE_KEY => "private",
        _ => "public",
    };
    let found = session
        .find_objects(&template)
        .map_err(|e| failed(&format!("its keys cannot be listed: {e}")))?;
    match found.as_slice() {
        [key] => Ok(*key),
        all => Err(failed(&format!(
            "token `{}` has {} {half} Ed25519 keys `{}`, not one",
            place.token,
            all.len(),
            place.label
        ))),
    }
}

fn failed(why: &str) -> io::Error {
    io::Error::other(why)
}
