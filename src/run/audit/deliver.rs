//! What is brought to people: messages of JSON to a webhook or a program, one after the
//! other for each target, again and again until they are taken or a day old.
//!
//! What waits is on disk. A message has an id that does not change, so that whoever gets it
//! twice, as after a crash between taking and noting it, can tell.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Uri, header::CONTENT_TYPE};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use palisade_audit::alert::UNDELIVERED;
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
/// Longest secret, in bytes.
const SECRET_LEN_MAX: usize = 64 << 10;
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
    /// Its secret or its roots cannot be read: nothing can be brought there, and nothing
    /// else is held up.
    Unusable(Box<Diagnostic>),
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
    /// Reads what waits in `file`, for these targets; what nobody is there for any more is
    /// `lost`.
    pub(super) fn open(
        sections: &[DeliverSection],
        file: PathBuf,
        clock: &Clock,
        lost: &mut Vec<Lost>,
    ) -> Self {
        let each = sections.iter();
        let targets: BTreeMap<String, Target> =
            each.map(|s| (s.name.clone(), Target::new(s))).collect();
        let mut state: State = read(&file, lost).unwrap_or_default();
        let all = std::mem::take(&mut state.waiting).into_iter();
        let (waiting, gone): (VecDeque<_>, VecDeque<_>) =
            all.partition(|parcel| targets.contains_key(&parcel.to));
        state.waiting = waiting;
        lost.extend(gone.iter().map(|parcel| Lost {
            verb: UNDELIVERED,
            object: format!("{} {}", parcel.to, parcel.id),
            detail: "the target is not there any more".to_owned(),
        }));
        Self(Arc::new(Inner {
            targets,
            file,
            clock: clock.clone(),
            state: Mutex::new(state),
        }))
    }

    /// Puts what waits on disk as it is, once what is lost of it is recorded.
    pub(super) fn keep(&self) {
        if let Err(error) = keep(&self.0.file, &*self.0.state()) {
            tracing::error!(%error, "what waits for delivery cannot be kept");
        }
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

    /// The same, and records what is given back, by `reads` as done by its actor.
    ///
    /// # Errors
    /// As [`Outbox::put`].
    pub(super) async fn tell(
        &self,
        id: &str,
        to: &[String],
        body: &Value,
        (reads, actor): (&Reads, &str),
    ) -> io::Result<()> {
        for (target, id) in self.put(id, to, body)? {
            let object = format!("{target} {id}");
            record(reads, actor, &object, "more waited than is kept").await;
        }
        Ok(())
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

    /// Delivers, for ever; what is given up is recorded. Each target goes its own way: one
    /// that hangs holds up no other.
    pub(super) async fn run(self, reads: Reads, actor: String) {
        let each = self
            .0
            .targets
            .keys()
            .map(|name| self.serve(name, &reads, &actor));
        futures_util::future::join_all(each).await;
    }

    async fn serve(&self, name: &str, reads: &Reads, actor: &str) {
        loop {
            if let Some(parcel) = self.due(name) {
                let answer = self.bring(&parcel.id, &parcel.to, &parcel.body).await;
                if let Some(fault) = self.settle(&parcel, answer) {
                    tracing::error!(target = parcel.to, %fault, "message is given up");
                    let object = format!("{} {}", parcel.to, parcel.id);
                    record(reads, actor, &object, &fault).await;
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// The oldest message of a target, if it is to be tried now.
    fn due(&self, name: &str) -> Option<Parcel> {
        let now_us = self.0.clock.now_us();
        let state = self.0.state();
        let first = state.waiting.iter().find(|p| p.to == name)?;
        let wait_us = first.next_us.saturating_sub(now_us);
        // No pause is longer: a clock that was ahead had set the time.
        (wait_us <= 0 || wait_us > PAUSE_US.1).then(|| first.clone())
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
                    waiting.tries = waiting.tries.saturating_add(1);
                    waiting.since_us = waiting.since_us.min(now_us);
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
        let unusable = self.0.targets.iter().filter_map(|(name, target)| {
            let Way::Unusable(why) = &target.way else {
                return None;
            };
            let text = format!("nothing can be delivered to `{name}`");
            let cause = why.cause.clone().unwrap_or_default();
            Some(
                Fact::not_ok("audit", FactState::Warning, 7936, text)
                    .cause(format!("{}: {cause}", why.message))
                    .fix("mend the file, and start the audit service again; what waits is kept"),
            )
        });
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
        unusable.chain(late.iter().map(fact)).collect()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target {
    fn new(section: &DeliverSection) -> Self {
        Self {
            timeout: section.timeout,
            way: Way::new(section).unwrap_or_else(|why| Way::Unusable(Box::new(why))),
        }
    }

    async fn take(&self, id: &str, body: &Value, now_us: i64) -> Result<(), String> {
        let taken = async {
            match &self.way {
                Way::Exec(argv) => execute(argv, body).await,
                Way::Unusable(why) => Err(why.message.clone()),
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

impl Way {
    fn new(section: &DeliverSection) -> Result<Self, Diagnostic> {
        Ok(match (section.uri()?, &section.exec) {
            (Some(uri), _) => Self::Webhook {
                uri,
                web: Web::new(section.ca.as_deref(), None)?,
                key: section
                    .secret
                    .as_deref()
                    .map(secret)
                    .transpose()?
                    .map(Box::new),
            },
            (None, argv) => Self::Exec(argv.clone().unwrap_or_default()),
        })
    }
}

/// Records that a message was given up.
async fn record(reads: &Reads, actor: &str, object: &str, why: &str) {
    if let Err(error) = reads.acted(actor, UNDELIVERED, object, why).await {
        tracing::error!(%error, "what was not delivered left no record");
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
    // The status says whether it was taken, whatever else is answered.
    let mut ask = Ask::new(Method::POST, uri.clone(), 0)
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

/// A program and what it has started, in a group of their own: they are ended together when
/// nobody waits for it any more.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0.take() {
            let _ = killpg(leader, Signal::SIGKILL);
        }
    }
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
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("`{program}` cannot be started: {e}"))?;
    let leader = child.id().and_then(|id| i32::try_from(id).ok());
    let mut group = Group(leader.map(Pid::from_raw));
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read may have what it needs; its status tells.
        let _ = stdin.write_all(body.to_string().as_bytes()).await;
    }
    let status = child.wait().await.map_err(|e| e.to_string())?;
    // It has ended by itself; what it left behind it meant to.
    group.0 = None;
    match status.success() {
        true => Ok(()),
        false => Err(format!("`{program}` ended with {status}")),
    }
}

fn secret(file: &Path) -> Result<hmac::Key, Diagnostic> {
    let bad = |cause: String| {
        Diagnostic::error(7936, format!("`{}` has no secret", file.display()))
            .cause(cause)
            .help("16 bytes at least, in a file that only this service can read: chmod 600")
    };
    let mode = fs::metadata(file).map_err(|e| bad(e.to_string()))?.mode();
    if mode & 0o007 != 0 {
        return Err(bad(format!(
            "everybody may use it: its mode is {:03o}",
            mode & 0o777
        )));
    }
    let text = fs::read(file).map_err(|e| bad(e.to_string()))?;
    // One line break is the editor's; a blank is part of it.
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    match text.len() {
        16..=SECRET_LEN_MAX => Ok(hmac::Key::new(hmac::HMAC_SHA256, text)),
        n => Err(bad(format!("it has {n} bytes"))),
    }
}

/// Something that is found lost at the start.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    /// The verb of its record.
    pub(super) verb: &'static str,
    /// What.
    pub(super) object: String,
    /// Why, and what is left of it.
    pub(super) detail: String,
}

/// Verb of the record of a file of state that could not be read.
const STATE_LOST: &str = "state_lost";

impl Lost {
    /// What `check` says of it, until the next start.
    pub(super) fn fact(&self) -> Option<Fact> {
        let text = format!("`{}` could not be read, and began anew", self.object);
        (self.verb == STATE_LOST).then(|| {
            Fact::not_ok("audit", FactState::Warning, 7934, text)
                .cause(self.detail.clone())
                .fix("see what was open or waited in the file that is kept; this is told until the next start")
        })
    }
}

/// Reads what [`keep`] wrote; none where nothing was. What cannot be read is put aside, so
/// that the log starts all the same, and is `lost`.
pub(super) fn read<T: DeserializeOwned>(file: &Path, lost: &mut Vec<Lost>) -> Option<T> {
    let read = match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| e.to_string()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => Err(e.to_string()),
    };
    read.map_err(|why| {
        let aside = file.with_extension("json.bad");
        let kept = match fs::rename(file, &aside) {
            Ok(()) => format!("kept as `{}`", aside.display()),
            Err(e) => format!("not kept: {e}"),
        };
        tracing::error!(file = %file.display(), %why, kept, "state is lost");
        lost.push(Lost {
            verb: STATE_LOST,
            object: file.display().to_string(),
            detail: format!("{why}; {kept}"),
        });
    })
    .ok()
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use palisade_audit::{
        local::LocalSink,
        log::{Log, LogOptions},
    };
    use palisade_mesh::spiffe_id::TrustDomain;

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
        let open = |argv: &[&str]| {
            let mut lost = Vec::new();
            let outbox = Outbox::open(&[target("a", argv)], file.clone(), &clock, &mut lost);
            assert!(lost.is_empty(), "{lost:?}");
            outbox
        };
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
        let outbox = Outbox::open(&[slow], file, &clock, &mut Vec::new());
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
    fn a_secret_is_long_enough_and_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        let x15 = "x".repeat(15);
        for (text, good) in [
            (x15.clone(), false),
            (x15.clone() + "\n", false),
            (x15.clone() + "x\n", true),
            (x15.clone() + "x\r\n", true),
            // A blank is part of it.
            (x15 + " \n", true),
        ] {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
            assert_eq!(secret(&file).is_ok(), good);
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let why = secret(&file).unwrap_err().cause.unwrap();
        assert!(why.contains("everybody"), "{why}");
    }

    /// Neither a file that is damaged nor a secret that is not there keeps the log from
    /// starting; both are told.
    #[tokio::test]
    async fn what_cannot_be_read_is_put_aside_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let (clock, file) = (Clock::system(), dir.path().join("outbox.json"));
        fs::write(&file, b"{\"waiting\": [").unwrap();
        let mut hook = target("hook", &[]);
        hook.exec = None;
        hook.webhook = Some("https://hooks.acme.test/".into());
        hook.secret = Some(dir.path().join("nowhere"));
        let mut lost = Vec::new();
        let outbox = Outbox::open(&[hook], file.clone(), &clock, &mut lost);
        assert!(lost[0].fact().is_some() && dir.path().join("outbox.json.bad").exists());
        let facts = outbox.check();
        assert_eq!(facts.len(), 1, "{facts:?}");
        let brought = outbox.bring("1", "hook", &serde_json::json!({})).await;
        assert!(brought.unwrap_err().contains("nowhere"));

        // What waits for a target that is gone is lost, and nothing else is.
        let body = serde_json::json!({});
        outbox.put("1", &["hook".to_owned()], &body).unwrap();
        drop(outbox);
        let mut lost = Vec::new();
        let outbox = Outbox::open(&[], file, &clock, &mut lost);
        assert_eq!(lost[0].verb, UNDELIVERED);
        assert_eq!(lost[0].object, "hook 1");
        assert!(lost[0].fact().is_none() && outbox.waiting().is_empty());
    }

    /// A clock that was ahead neither holds a message back nor gives it up.
    #[tokio::test]
    async fn times_of_a_clock_that_was_ahead_hold_nothing_back() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(jiff::Timestamp::from_second(2_000_000_000).unwrap());
        let file = dir.path().join("outbox.json");
        let outbox = Outbox::open(
            &[target("a", &["/bin/false"])],
            file,
            &clock,
            &mut Vec::new(),
        );
        let (to, body) = (["a".to_owned()], serde_json::json!({}));
        outbox.put("1", &to, &body).unwrap();
        clock.set_back(Duration::from_secs(1_000_000));
        let parcel = outbox.due("a").unwrap();
        assert_eq!(outbox.settle(&parcel, Err("no".into())), None);
        assert!(outbox.due("a").is_none(), "a pause as ever");
        clock.advance(Duration::from_secs(2));
        assert_eq!(outbox.due("a").unwrap().since_us, 1_999_000_000_000_000);
    }

    /// What a program started ends with it, when it is not waited for any longer.
    #[tokio::test]
    async fn a_program_is_ended_with_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; wait", pid.display());
        let argv = ["/bin/sh", "-c", &script].map(str::to_owned);
        let body = serde_json::json!({});
        let mut running = Box::pin(execute(&argv, &body));
        let started = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                let tick = tokio::time::sleep(Duration::from_millis(10));
                tokio::select! {
                    ended = &mut running => panic!("it has ended: {ended:?}"),
                    () = tick => {}
                }
                let read = fs::read_to_string(&pid).unwrap_or_default();
                if let Some(pid) = read.strip_suffix('\n') {
                    return pid.to_owned();
                }
            }
        });
        let started = started.await.unwrap();
        drop(running);
        let stat = format!("/proc/{started}/stat");
        let gone = tokio::time::timeout(Duration::from_secs(20), async {
            // What nobody waits for stays as a zombie, where nobody adopts it.
            while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z")) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        gone.await.unwrap();
    }

    /// One target that hangs holds up no other.
    #[tokio::test]
    async fn a_target_that_hangs_holds_up_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("got");
        let script = format!("cat >> {}; echo >> {}", out.display(), out.display());
        let mut sections = [
            target("hangs", &["/bin/sleep", "600"]),
            target("takes", &["/bin/sh", "-c", &script]),
        ];
        sections.iter_mut().for_each(|s| s.timeout *= 60);
        let (file, clock) = (dir.path().join("outbox.json"), Clock::system());
        let outbox = Outbox::open(&sections, file, &clock, &mut Vec::new());
        let domain = TrustDomain::parse("acme.test").unwrap();
        let options = LogOptions::new(domain.clone());
        let log = Log::open(&dir.path().join("log"), options, clock.clone()).unwrap();
        let us = domain.role("audit");
        let sink = LocalSink::new(log, us.clone(), clock.clone());
        let reads = Reads::new(sink, us, false, clock);
        let delivering = tokio::spawn(outbox.clone().run(reads, "us".into()));
        let taken = tokio::time::timeout(Duration::from_secs(60), async {
            for n in 1..=2 {
                let body = serde_json::json!({});
                outbox.put(&n.to_string(), &outbox.names(), &body).unwrap();
                let lines = || fs::read_to_string(&out).unwrap_or_default().lines().count();
                while lines() < n {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        });
        taken.await.unwrap();
        delivering.abort();
    }

    /// The status says whether a message is taken, however much is answered.
    #[tokio::test]
    async fn a_long_answer_is_an_answer() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = io::Read::read(&mut stream, &mut request);
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
            let _ = io::Write::write_all(&mut stream, head);
            let _ = io::Write::write_all(&mut stream, &vec![b'x'; 1_000_000]);
        });
        let mut hook = target("hook", &[]);
        (hook.exec, hook.webhook) = (None, Some(url));
        let body = serde_json::json!({});
        assert_eq!(Target::new(&hook).take("1", &body, 0).await, Ok(()));
    }
}
