//! Where messages go: a webhook that may ask for their signature, or a program.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, process::Stdio, time::Duration};

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Uri, header::CONTENT_TYPE};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use palisade_mesh::diagnostic::Diagnostic;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::{
    config::alerts::DeliverSection,
    net::web::{Ask, Web},
    render,
};

/// Longest secret, in bytes.
const SECRET_LEN_MAX: usize = 64 << 10;
/// Time and signature of a message.
const SIGNATURE: HeaderName = HeaderName::from_static("palisade-signature");
/// Id of a message.
const ID: HeaderName = HeaderName::from_static("palisade-delivery");

/// Where messages go.
pub(super) struct Target {
    timeout: Duration,
    pub(super) way: Way,
}

pub(super) enum Way {
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

impl Target {
    pub(super) fn new(section: &DeliverSection) -> Self {
        Self {
            timeout: section.timeout,
            way: Way::new(section).unwrap_or_else(|why| Way::Unusable(Box::new(why))),
        }
    }

    pub(super) async fn take(&self, id: &str, body: &Value, now_us: i64) -> Result<(), String> {
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
pub(super) fn signature(key: &hmac::Key, now_s: i64, body: &str) -> String {
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
pub(super) async fn execute(argv: &[String], body: &Value) -> Result<(), String> {
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

pub(super) fn secret(file: &Path) -> Result<hmac::Key, Diagnostic> {
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
