//! A token and the key on it, by PKCS #11 (OASIS, 2.40 and 3.x); Ed25519 is `CKM_EDDSA`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

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
};

use super::{DeviceKey, pin::Pin};

/// DER of an `OCTET STRING` of 32 bytes, before these.
const OCTETS: [u8; 2] = [0x04, 0x20];

/// Modules of this process. One that was loaded stays: it may have threads.
static MODULES: Mutex<Option<HashMap<PathBuf, Pkcs11>>> = Mutex::new(None);

/// Why there is no key or no signature.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// It may come back.
    #[error("{0}")]
    Away(String),
    /// Somebody has to do something.
    #[error("{0}")]
    Wrong(String),
}

/// A key that was found, and the session that signs with it.
pub(super) struct Token {
    session: Session,
    key: ObjectHandle,
}

impl Token {
    /// Logs in, and finds the key. A PIN that was refused is noted in `notes`.
    pub(super) fn open(place: &DeviceKey, notes: &Path) -> Result<Self, Refusal> {
        let library = module(&place.module)?;
        Self::on(&library, place, notes).inspect_err(|refusal| {
            if matches!(refusal, Refusal::Away(_)) {
                // The next try finds a module that looks for its devices anew.
                let _ = library.clone().finalize();
            }
        })
    }

    fn on(library: &Pkcs11, place: &DeviceKey, notes: &Path) -> Result<Self, Refusal> {
        let args = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        match library.initialize(args) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(e) => return Err(away("the module does not start", &e)),
        }
        let slot = slot(library, &place.token)?;
        let session = library
            .open_ro_session(slot)
            .map_err(|e| away("the token gives no session", &e))?;
        log_in(library, slot, &session, place, notes)?;
        let key = one(&session, ObjectClass::PRIVATE_KEY, place)?;
        Ok(Self { session, key })
    }

    /// The public half.
    pub(super) fn public(&self, place: &DeviceKey) -> Result<[u8; 32], Refusal> {
        let key = one(&self.session, ObjectClass::PUBLIC_KEY, place)?;
        let read = self
            .session
            .get_attributes(key, &[AttributeType::EcPoint])
            .map_err(|e| away("the public half cannot be read", &e))?;
        let point = read.into_iter().find_map(|attribute| match attribute {
            Attribute::EcPoint(point) => Some(point),
            _ => None,
        });
        let point = point.unwrap_or_default();
        // The standard asks for DER; some devices give the bytes alone.
        let bytes = match point.strip_prefix(&OCTETS) {
            Some(rest) if rest.len() == 32 => rest,
            _ => &point,
        };
        let wrong = |_| Refusal::Wrong("the public half is no Ed25519 key".into());
        bytes.try_into().map_err(wrong)
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
        let signed = self.session.sign(&mechanism, self.key, message);
        signed.map_err(|e| away("the token does not sign", &e))
    }
}

fn module(path: &Path) -> Result<Pkcs11, Refusal> {
    if cfg!(target_feature = "crt-static") {
        return Err(Refusal::Wrong(
            "this program is linked statically and loads no module: use one for the system's C library".into(),
        ));
    }
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    let modules = modules.get_or_insert_default();
    if let Some(module) = modules.get(path) {
        return Ok(module.clone());
    }
    let wrong = |e: Error| {
        let path = path.display();
        Refusal::Wrong(format!("module `{path}` does not load: {}", words(&e)))
    };
    let module = Pkcs11::new(path).map_err(wrong)?;
    modules.insert(path.to_owned(), module.clone());
    Ok(module)
}

/// The slot of the one token of this label. Others may be broken.
fn slot(library: &Pkcs11, label: &str) -> Result<Slot, Refusal> {
    let slots = library
        .get_slots_with_initialized_token()
        .map_err(|e| away("tokens cannot be listed", &e))?;
    let of_label = |slot: &Slot| {
        let info = library.get_token_info(*slot);
        info.is_ok_and(|info| info.label().trim_end() == label)
    };
    let found: Vec<Slot> = slots.into_iter().filter(of_label).collect();
    match found.as_slice() {
        [slot] => Ok(*slot),
        [] => Err(Refusal::Away(format!("there is no token `{label}`"))),
        all => Err(Refusal::Wrong(format!(
            "{} tokens are called `{label}`",
            all.len()
        ))),
    }
}

/// Logs in, unless one more wrong PIN would lock the token, or this one was refused.
fn log_in(
    library: &Pkcs11,
    slot: Slot,
    session: &Session,
    place: &DeviceKey,
    notes: &Path,
) -> Result<(), Refusal> {
    let pin = Pin::read(&place.pin, notes).map_err(|e| Refusal::Wrong(e.to_string()))?;
    let info = library.get_token_info(slot);
    if info.is_ok_and(|info| info.user_pin_final_try() || info.user_pin_locked()) {
        return Err(Refusal::Wrong(format!(
            "token `{}` is locked, or would be by one more wrong PIN: log in with its vendor's tool first",
            place.token
        )));
    }
    match session.login(UserType::User, Some(&pin.secret())) {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
            pin.taken();
            Ok(())
        }
        Err(e) if refuses_pin(&e) => {
            pin.refused();
            let token = &place.token;
            Err(Refusal::Wrong(format!(
                "token `{token}` refuses the PIN: {}",
                words(&e)
            )))
        }
        Err(e) => Err(away("nobody can log in", &e)),
    }
}

fn refuses_pin(error: &Error) -> bool {
    let Error::Pkcs11(value, _) = error else {
        return false;
    };
    matches!(
        value,
        RvError::PinIncorrect
            | RvError::PinInvalid
            | RvError::PinLenRange
            | RvError::PinExpired
            | RvError::PinLocked
            | RvError::UserPinNotInitialized
    )
}

/// The one object of this class that has the label of the key.
fn one(session: &Session, class: ObjectClass, place: &DeviceKey) -> Result<ObjectHandle, Refusal> {
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
        .map_err(|e| away("keys cannot be listed", &e))?;
    match found.as_slice() {
        [key] => Ok(*key),
        all => Err(Refusal::Wrong(format!(
            "token `{}` has {} {half} Ed25519 keys `{}`, not one",
            place.token,
            all.len(),
            place.label
        ))),
    }
}

fn away(what: &str, error: &Error) -> Refusal {
    Refusal::Away(format!("{what}: {}", words(error)))
}

/// The standard's name of what a module returned; its own words are paragraphs.
fn words(error: &Error) -> String {
    match error {
        Error::Pkcs11(value, function) => format!("{function:?} gives {value:?}"),
        other => other.to_string(),
    }
}
