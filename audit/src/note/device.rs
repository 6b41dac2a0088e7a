//! Signing keys that never leave a device.
//!
//! A device can be slow, be away, and hang. So it has a thread of its own, which alone talks
//! to it, and whoever wants a signature waits for the thread, as long as they can.

use std::{
    io,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

mod pin;
mod token;

use token::{Refusal, Token};

/// Longest wait for a signature.
pub const SIGN_WAIT: Duration = Duration::from_secs(5);

/// How long a device that failed is left alone.
const REST: Duration = Duration::from_secs(1);

/// Signatures that are waited for.
const ORDERS: usize = 16;

/// Which key of which device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceKey {
    /// The vendor's library, PKCS #11.
    pub module: PathBuf,
    /// Label of the token.
    pub token: String,
    /// Label of both halves of the key.
    pub label: String,
    /// File with the PIN of the token's user; white space at its end does not count.
    pub pin: PathBuf,
}

/// A key, by the thread that talks to its device.
pub(super) struct Device {
    pub(super) public: [u8; 32],
    orders: SyncSender<Order>,
}

struct Order {
    message: Vec<u8>,
    answer: SyncSender<io::Result<Vec<u8>>>,
}

/// A signature that is on its way.
pub(crate) struct Signing {
    since: Instant,
    answer: Receiver<io::Result<Vec<u8>>>,
    /// It came, and nobody has taken it.
    come: Mutex<Option<io::Result<Vec<u8>>>>,
}

impl Device {
    /// Finds the key; one that is `known` may be away, and is looked for again when it is to
    /// sign. A refusal is noted in `notes`.
    ///
    /// # Errors
    /// In words, with the step that failed.
    pub(super) fn open(
        place: &DeviceKey,
        notes: PathBuf,
        known: Option<[u8; 32]>,
    ) -> io::Result<Self> {
        let (orders, taken) = sync_channel(ORDERS);
        let (found, finding) = sync_channel(1);
        let place = place.clone();
        std::thread::Builder::new()
            .name("log-key".into())
            .spawn(move || {
                let mut desk = Desk {
                    place,
                    notes,
                    state: State::Failed(None, String::new()),
                };
                // Who asked may have gone on without it.
                let _ = found.send(desk.find());
                desk.run(&taken);
            })?;
        let public = match (finding.recv_timeout(SIGN_WAIT), known) {
            (Ok(Ok(public)), _) => public,
            (Ok(Err(Refusal::Away(why))), Some(known)) => {
                tracing::error!(why, "the device that signs the log is away");
                known
            }
            (Ok(Err(refusal)), _) => return Err(io::Error::other(refusal.to_string())),
            (Err(_), Some(known)) => {
                tracing::error!("the device that signs the log does not answer");
                known
            }
            (Err(_), None) => return Err(late(SIGN_WAIT)),
        };
        Ok(Self { public, orders })
    }

    /// Asks for a signature.
    ///
    /// # Errors
    /// When too many are waited for.
    pub(super) fn begin(&self, message: &[u8]) -> io::Result<Signing> {
        let (answer, come) = sync_channel(1);
        let order = Order {
            message: message.to_vec(),
            answer,
        };
        self.orders.try_send(order).map_err(|e| match e {
            TrySendError::Full(_) => io::Error::other("the device has too much to sign"),
            TrySendError::Disconnected(_) => gone(),
        })?;
        Ok(Signing {
            since: Instant::now(),
            answer: come,
            come: Mutex::new(None),
        })
    }

    /// What the device signed, if it is a signature. What does not verify is none, whatever
    /// the device says.
    pub(super) fn checked(&self, message: &[u8], signature: Vec<u8>) -> io::Result<Vec<u8>> {
        UnparsedPublicKey::new(&ED25519, &self.public)
            .verify(message, &signature)
            .map_err(|_| io::Error::other("what the device signed is no signature of the log"))?;
        Ok(signature)
    }
}

impl Signing {
    /// Waits for it, at most until it has taken `limit` in all.
    pub(super) fn wait(self, limit: Duration) -> io::Result<Vec<u8>> {
        let come = self
            .come
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(come) = come {
            return come;
        }
        let left = limit.saturating_sub(self.since.elapsed());
        match self.answer.recv_timeout(left) {
            Ok(come) => come,
            Err(RecvTimeoutError::Timeout) => Err(late(limit)),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }

    /// Whether it has come, or never will.
    pub(crate) fn is_done(&self) -> bool {
        let mut come = self.come.lock().unwrap_or_else(PoisonError::into_inner);
        if come.is_none() {
            *come = match self.answer.try_recv() {
                Ok(answer) => Some(answer),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => Some(Err(gone())),
            };
        }
        come.is_some()
    }

    /// How long it has taken.
    pub(crate) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
}

/// Who talks to the device.
struct Desk {
    place: DeviceKey,
    notes: PathBuf,
    state: State,
}

/// How the device is.
enum State {
    Open(Token),
    /// It failed then, and why; at first it was not asked.
    Failed(Option<Instant>, String),
}

impl Desk {
    fn run(&mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            // Who asked may have given up.
            let _ = order.answer.send(self.sign(&order.message));
        }
    }

    fn find(&mut self) -> Result<[u8; 32], Refusal> {
        let opened = Token::open(&self.place, &self.notes);
        let found = opened.and_then(|token| Ok((token.public(&self.place)?, token)));
        let (public, token) = found.inspect_err(|refusal| {
            self.state = State::Failed(Some(Instant::now()), refusal.to_string());
        })?;
        self.state = State::Open(token);
        Ok(public)
    }

    /// Signs, in a new session where the old one has ended.
    fn sign(&mut self, message: &[u8]) -> io::Result<Vec<u8>> {
        match &self.state {
            State::Failed(Some(since), why) if since.elapsed() < REST => {
                return Err(io::Error::other(why.clone()));
            }
            State::Open(token) => {
                if let Ok(signature) = token.sign(message) {
                    return Ok(signature);
                }
            }
            State::Failed(..) => {}
        }
        // Its session ends before the module is begun anew.
        self.state = State::Failed(None, String::new());
        match Token::open(&self.place, &self.notes) {
            Ok(token) => {
                let signed = token.sign(message);
                self.state = State::Open(token);
                signed.map_err(|refusal| io::Error::other(refusal.to_string()))
            }
            Err(refusal) => {
                let why = refusal.to_string();
                self.state = State::Failed(Some(Instant::now()), why.clone());
                Err(io::Error::other(why))
            }
        }
    }
}

fn late(limit: Duration) -> io::Error {
    let why = format!("the device has not answered for {} s", limit.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, why)
}

fn gone() -> io::Error {
    io::Error::other("the thread that talks to the device has ended")
}
