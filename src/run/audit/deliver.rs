//! What is brought to people: messages of JSON to a webhook or a program, one after the
//! other for each target, again and again until they are taken or a day old.
//!
//! What waits is on disk. A message has an id that does not change, so that whoever gets it
//! twice, as after a crash between taking and noting it, can tell.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Uri, header::CONTENT_TYPE};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use super::reads::Reads;
use crate::{
    config::alerts::DeliverSection,
    control::api::{Fact, FactState},
    net::web::{Ask, Web},
    render,
};

/// Messages that wait, of all targets; beyond, the oldest is given up.
const WAITING_MAX: usize = 1000;
/// Ids of messages that were taken lately.
const TAKEN_MAX: usize = 1000;
/// How long a message is tried.
const AGE_MAX_US: i64 = 24 * 3600 * 1_000_000;
/// First and longest time between two tries.
const PAUSE_US: (i64, i64) = (1_000_000, 300 * 1_000_000);
/// Time between two looks at what waits.
const EVERY: Duration = Duration::from_millis(250);
/// How long a target may lag before that is worth a warning.
const LATE_US: i64 = 60 * 1_000_000;
/// Longest answer of a webhook that is read, and longest secret, in bytes.
const ANSWER_LEN_MAX: usize = 64 << 10;
/// Time and signature of a message.
const SIGNATURE: HeaderName = HeaderName::from_static("palisade-signature");
/// Id of a message.
const ID: HeaderName = HeaderName::from_static("palisade-delivery");

/// Where messages go.
struct Target {
    timeout: Duration,
    way: Way,
}

enum Way {
    Exec(Vec<String>),
    Webhook {
        uri: Uri,
        web: Web,
        key: Option<Box<hmac::Key>>,
    },
}

/// A message for one target.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Parcel {
    id: String,
    to: String,
    body: Value,
    since_us: i64,
    next_us: i64,
    tries: u32,
    #[serde(default)]
    fault: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    waiting: VecDeque<Parcel>,
    /// `ID TARGET` of what was taken.
    taken: VecDeque<String>,
}

/// What waits, and who it goes to. Clones are one.
#[derive(Clone)]
pub(super) struct Outbox(Arc<Inner>);

struct Inner {
    targets: BTreeMap<String, Target>,
    file: PathBuf,
    clock: Clock,
    state: Mutex<State>,
}

impl Outbox {
    /// Reads what waits in `file`, for these targets.
    ///
    /// # Errors
    /// When a secret or roots cannot be read, or `file` cannot.
    pub(super) fn open(
        sections: &[DeliverSection],
        file: PathBuf,
        clock: &Clock,
    ) -> Result<Self, Diagnostic> {
        let mut targets = BTreeMap::new();
        for section in sections {
            targets.insert(section.name.clone(), Target::new(section)?);
        }
        let mut state: State = read(&file)
            .map_err(|e| unkept(&file, &e))?
            .unwrap_or_default();
        // Nobody is there any more who could take it.
        state
            .waiting
            .retain(|parcel| targets.contains_key(&parcel.to));
        Ok(Self(Arc::new(Inner {
            targets,
            file,
            clock: clock.clone(),
            state: Mutex::new(state),
        })))
    }

    /// Whether there is nobody to bring anything to.
    pub(super) fn is_idle(&self) -> bool {
        self.0.targets.is_empty()
    }

    /// Names of all targets.
    pub(super) fn names(&self) -> Vec<String> {
        self.0.targets.keys().cloned().collect()
    }

    /// Puts a message up for delivery, once for each target and id; on disk when this
    /// returns. What finds no room, and what has to give way, is given back: target and id.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn put(
        &self,
        id: &str,
        to: &[String],
        body: &Value,
    ) -> io::Result<Vec<(String, String)>> {
        let now_us = self.0.clock.now_us();
        let mut state = self.0.state();
        let mut lost = Vec::new();
        for name in to.iter().filter(|name| self.0.targets.contains_key(*name)) {
            let mark = format!("{id} {name}");
            let waits = state.waiting.iter().any(|p| p.id == id && p.to == *name);
            if waits || state.taken.contains(&mark) {
                continue;
            }
            if state.waiting.len() >= WAITING_MAX {
                lost.extend(state.waiting.pop_front().map(|p| (p.to, p.id)));
            }
            state.waiting.push_back(Parcel {
                id: id.to_owned(),
                to: name.clone(),
                body: body.clone(),
                since_us: now_us,
                next_us: now_us,
                tries: 0,
                fault: None,
            });
        }
        keep(&self.0.file, &*state)?;
        Ok(lost)
    }

    /// Brings a message to one target, once.
    ///
    /// # Errors
    /// In words, why it was not taken.
    pub(super) async fn bring(&self, id: &str, to: &str, body: &Value) -> Result<(), String> {
        match self.0.targets.get(to) {
            Some(target) => target.take(id, body, self.0.clock.now_us()).await,
            None => Err("there is no such target".to_owned()),
        }
    }

    /// Delivers, for ever; what is given up is recorded.
    pub(super) async fn run(self, reads: Reads, actor: String) {
        loop {
            self.round(&reads, &actor).await;
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Tries the oldest message of each target that is due.
    async fn round(&self, reads: &Reads, actor: &str) {
        let now_us = self.0.clock.now_us();
        let due: Vec<Parcel> = {
            let state = self.0.state();
            let mut first: BTreeMap<&str, &Parcel> = BTreeMap::new();
            for parcel in &state.waiting {
                first.entry(&parcel.to).or_insert(parcel);
            }
            let due = first.into_values().filter(|p| p.next_us <= now_us);
            due.cloned().collect()
        };
        let tried = due.iter().map(|p| self.bring(&p.id, &p.to, &p.body));
        let answers = futures_util::future::join_all(tried).await;
        for (parcel, answer) in due.iter().zip(answers) {
            if let Some(fault) = self.settle(parcel, answer) {
                tracing::error!(target = parcel.to, %fault, "message is given up");
                let (object, detail) = (format!("{} {}", parcel.to, parcel.id), fault);
                let told = reads.acted(actor, "undelivered", &object, &detail).await;
                if let Err(error) = told {
                    tracing::error!(%error, "what was not delivered left no record");
                }
            }
        }
    }

    /// Notes what became of a try; why it is given up, if it is.
    fn settle(&self, parcel: &Parcel, answer: Result<(), String>) -> Option<String> {
        let now_us = self.0.clock.now_us();
        let mut state = self.0.state();
        let is_it = |p: &Parcel| p.id == parcel.id && p.to == parcel.to;
        let at = state.waiting.iter().position(is_it)?;
        let given_up = match answer {
            Ok(()) => {
                state.waiting.remove(at);
                state
                    .taken
                    .push_back(format!("{} {}", parcel.id, parcel.to));
                if state.taken.len() > TAKEN_MAX {
                    state.taken.pop_front();
                }
                None
            }
            Err(fault) if now_us.saturating_sub(parcel.since_us) > AGE_MAX_US => {
                state.waiting.remove(at);
                Some(fault)
            }
            Err(fault) => {
                let (first, most) = PAUSE_US;
                let pause = first.saturating_mul(1 << parcel.tries.min(20)).min(most);
                if let Some(waiting) = state.waiting.get_mut(at) {
                    waiting.tries += 1;
                    waiting.next_us = now_us.saturating_add(pause);
                    waiting.fault = Some(fault);
                }
                None
            }
        };
        if let Err(error) = keep(&self.0.file, &*state) {
            tracing::error!(%error, "what waits for delivery cannot be kept");
        }
        given_up
    }

    /// What waits for each target, and why.
    pub(super) fn waiting(&self) -> BTreeMap<String, (usize, Option<String>)> {
        let state = self.0.state();
        let mut waiting: BTreeMap<String, (usize, Option<String>)> = BTreeMap::new();
        for parcel in &state.waiting {
            let (n, fault) = waiting.entry(parcel.to.clone()).or_default();
            *n += 1;
            if fault.is_none() {
                fault.clone_from(&parcel.fault);
            }
        }
        waiting
    }

    /// What is to be told of targets that do not take what is brought to them.
    pub(super) fn check(&self) -> Vec<Fact> {
        let now_us = self.0.clock.now_us();
        let state = self.0.state();
        let late = |name: &&String| {
            let of = |p: &&Parcel| p.to == **name;
            let first = state.waiting.iter().find(of);
            first.is_some_and(|p| p.fault.is_some() && now_us - p.since_us > LATE_US)
        };
        let late: Vec<&String> = self.0.targets.keys().filter(late).collect();
        let fact = |name: &&String| {
            let of = |p: &&Parcel| p.to == **name;
            let n = state.waiting.iter().filter(of).count();
            let fault = state.waiting.iter().find(of).and_then(|p| p.fault.clone());
            let n = render::count(n, "message waits", "messages wait");
            Fact::not_ok("audit", FactState::Warning, 7933, format!("{n} for `{name}`"))
                .cause(fault.unwrap_or_default())
                .fix("see that the target is there and takes what it gets: palisade audit alerts test RULE --deliver")
        };
        late.iter().map(fact).collect()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target {
    fn new(section: &DeliverSection) -> Result<Self, Diagnostic> {
        let way = match (section.uri()?, &section.exec) {
            (Some(uri), _) => Way::Webhook {
                uri,
                web: Web::new(section.ca.as_deref(), None)?,
                key: section
                    .secret
                    .as_deref()
                    .map(secret)
                    .transpose()?
                    .map(Box::new),
            },
            (None, argv) => Way::Exec(argv.clone().unwrap_or_default()),
        };
        Ok(Self {
            timeout: section.timeout,
            way,
        })
    }

    async fn take(&self, id: &str, body: &Value, now_us: i64) -> Result<(), String> {
        let taken = async {
            match &self.way {
                Way::Exec(argv) => execute(argv, body).await,
                Way::Webhook { uri, web, key } => {
                    post(uri, web, key.as_deref(), id, body, now_us).await
                }
            }
        };
        let late = || format!("it took longer than {}", render::duration(self.timeout));
        tokio::time::timeout(self.timeout, taken)
            .await
            .unwrap_or_else(|_| Err(late()))
    }
}

async fn post(
    uri: &Uri,
    web: &Web,
    key: Option<&hmac::Key>,
    id: &str,
    body: &Value,
    now_us: i64,
) -> Result<(), String> {
    let body = body.to_string();
    let text = |value: &str| HeaderValue::from_str(value).map_err(|e| e.to_string());
    let mut ask = Ask::new(Method::POST, uri.clone(), ANSWER_LEN_MAX)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header(ID, text(id)?);
    if let Some(key) = key {
        ask = ask.header(SIGNATURE, text(&signature(key, now_us / 1_000_000, &body))?);
    }
    ask.body = Bytes::from(body);
    let reply = web.send(ask).await;
    let reply = reply.map_err(|d| d.cause.unwrap_or(d.message))?;
    match reply.status.is_success() {
        true => Ok(()),
        false => Err(format!("it answered {}", reply.status)),
    }
}

/// `t=SECONDS,v1=HEX`: HMAC-SHA-256 over `SECONDS.BODY`, so that a message that is sent
/// again later by somebody else can be told by its time.
fn signature(key: &hmac::Key, now_s: i64, body: &str) -> String {
    let tag = hmac::sign(key, format!("{now_s}.{body}").as_bytes());
    format!("t={now_s},v1={}", render::hex(tag.as_ref()))
}

/// Runs a program with the message on its standard input, and nothing of our environment
/// but where programs are.
async fn execute(argv: &[String], body: &Value) -> Result<(), String> {
    let (program, args) = argv.split_first().ok_or("there is no program")?;
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("`{program}` cannot be started: {e}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read may have what it needs; its status tells.
        let _ = stdin.write_all(body.to_string().as_bytes()).await;
    }
    let status = child.wait().await.map_err(|e| e.to_string())?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("`{program}` ended with {status}")),
    }
}

fn secret(file: &Path) -> Result<hmac::Key, Diagnostic> {
    let bad = |cause: String| {
        Diagnostic::error(7936, format!("`{}` has no secret", file.display()))
            .cause(cause)
            .help("16 bytes at least, in a file that only this service can read")
    };
    let text = fs::read(file).map_err(|e| bad(e.to_string()))?;
    let text = text.trim_ascii_end();
    match text.len() {
        16..=ANSWER_LEN_MAX => Ok(hmac::Key::new(hmac::HMAC_SHA256, text)),
        n => Err(bad(format!("it has {n} bytes"))),
    }
}

/// Reads what [`keep`] wrote; none where nothing was.
pub(super) fn read<T: DeserializeOwned>(file: &Path) -> io::Result<Option<T>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Puts `state` on disk, whole or not at all.
pub(super) fn keep(file: &Path, state: &impl Serialize) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let draft = file.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut out = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    serde_json::to_writer(&mut out, state)?;
    out.sync_all()?;
    fs::rename(&draft, file)
}

/// What is said of a file of state that cannot be read.
pub(super) fn unkept(file: &Path, why: &io::Error) -> Diagnostic {
    Diagnostic::error(7934, format!("`{}` cannot be read", file.display()))
        .cause(why.to_string())
        .help("mend or move it: without it, alerts begin at the end of the log, and what waited for delivery is gone")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 4231, section 4.3, through our form of it.
    #[test]
    fn messages_are_signed_with_their_time() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"Jefe");
        let said = signature(&key, 1, "{}");
        let tag = hmac::sign(&key, b"1.{}");
        assert_eq!(said, format!("t=1,v1={}", render::hex(tag.as_ref())));
        let known = hmac::sign(&key, b"what do ya want for nothing?");
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(render::hex(known.as_ref()), expected);
    }

    fn target(name: &str, argv: &[&str]) -> DeliverSection {
        DeliverSection {
            name: name.into(),
            webhook: None,
            secret: None,
            ca: None,
            exec: Some(argv.iter().map(|a| (*a).to_owned()).collect()),
            timeout: Duration::from_secs(5),
        }
    }

    #[tokio::test]
    async fn what_is_not_taken_waits_across_a_restart_and_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let (clock, file) = (Clock::system(), dir.path().join("outbox.json"));
        let open =
            |argv: &[&str]| Outbox::open(&[target("a", argv)], file.clone(), &clock).unwrap();
        let outbox = open(&["/bin/false"]);
        let body = serde_json::json!({ "kind": "alert" });
        let to = ["a".to_owned(), "gone".to_owned()];
        for _ in 0..2 {
            assert_eq!(outbox.put("1", &to, &body).unwrap(), []);
        }
        assert_eq!(outbox.waiting()["a"].0, 1);
        let answer = outbox.bring("1", "a", &body).await;
        assert!(answer.clone().unwrap_err().contains("exit status: 1"));
        let parcel = outbox.0.state().waiting[0].clone();
        assert_eq!(outbox.settle(&parcel, answer), None);
        drop(outbox);

        let out = dir.path().join("got");
        let script = format!("cat > {}", out.display());
        let outbox = open(&["/bin/sh", "-c", &script]);
        assert!(outbox.waiting()["a"].1.is_some());
        let parcel = outbox.0.state().waiting[0].clone();
        let answer = outbox.bring(&parcel.id, &parcel.to, &parcel.body).await;
        assert_eq!(outbox.settle(&parcel, answer), None);
        assert_eq!(fs::read_to_string(&out).unwrap(), body.to_string());
        assert!(outbox.waiting().is_empty());
        outbox.put("1", &to, &body).unwrap();
        assert!(
            outbox.waiting().is_empty(),
            "the same message a second time"
        );
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended_and_what_finds_no_room_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let (clock, file) = (Clock::system(), dir.path().join("outbox.json"));
        let mut slow = target("a", &["/bin/sleep", "60"]);
        slow.timeout = Duration::from_millis(50);
        let outbox = Outbox::open(&[slow], file, &clock).unwrap();
        let (to, body) = (["a".to_owned()], serde_json::json!({}));
        assert!(
            outbox
                .bring("x", "a", &body)
                .await
                .unwrap_err()
                .contains("longer than")
        );
        {
            let mut state = outbox.0.state();
            let parcel = |n: usize| Parcel {
                id: n.to_string(),
                to: "a".into(),
                body: body.clone(),
                since_us: 0,
                next_us: 0,
                tries: 0,
                fault: None,
            };
            state.waiting = (0..WAITING_MAX - 1).map(parcel).collect();
        }
        assert_eq!(outbox.put("new", &to, &body).unwrap(), []);
        let lost = outbox.put("newer", &to, &body).unwrap();
        assert_eq!(lost, [("a".to_owned(), "0".to_owned())]);
        // After a day it is given up.
        let old = outbox.0.state().waiting[0].clone();
        assert!(outbox.settle(&old, Err("no".into())).is_some());
    }

    #[test]
    fn a_secret_is_long_enough() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        for (text, good) in [("x".repeat(15), false), ("x".repeat(16) + "\n", true)] {
            fs::write(&file, text).unwrap();
            assert_eq!(secret(&file).is_ok(), good);
        }
    }
}
