//! Finds running meshes and asks them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use palisade_mesh::diagnostic::{Diagnostic, did_you_mean};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use super::{About, api::Problem};
use crate::net::uds;

/// How long a process may take to say who it is.
const ABOUT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest answer that is read at once.
const ANSWER_LEN_MAX: usize = 256 << 20;

/// A running mesh: every process of it that answered.
#[derive(Debug)]
pub struct Mesh {
    processes: Vec<(About, PathBuf)>,
}

impl Mesh {
    /// Finds the mesh called `name`, or the only one that runs.
    ///
    /// # Errors
    /// `PLS9101` when none runs, `PLS9102` when there are several to choose from,
    /// `PLS9103` when none has that name, `PLS9108` when others may have put them there.
    pub async fn find(name: Option<&str>) -> Result<Self, Diagnostic> {
        let mut processes = Vec::new();
        let folder = super::folder();
        match uds::check_private(&folder) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(untrusted(&error));
            }
            // Without a folder nothing runs.
            _ => {}
        }
        for socket in sockets(&folder) {
            let about = timeout(ABOUT_TIMEOUT, get::<About>(&socket, "/v1/about")).await;
            if let Ok(Ok(about)) = about {
                processes.push((about, socket));
            }
        }
        let mut names: Vec<String> = processes.iter().map(|(a, _)| a.mesh.clone()).collect();
        names.sort();
        names.dedup();
        let chosen = choose(&names, name)?;
        processes.retain(|(about, _)| about.mesh == chosen);
        Ok(Self { processes })
    }

    /// Every process of the mesh.
    pub fn processes(&self) -> impl Iterator<Item = &About> {
        self.processes.iter().map(|(about, _)| about)
    }

    /// Gets `path` from the process that runs `role`.
    ///
    /// # Errors
    /// What the mesh answered, or that nobody runs the role.
    pub async fn get<T: DeserializeOwned>(&self, role: &str, path: &str) -> Result<T, Diagnostic> {
        get(self.socket(role)?, path).await
    }

    /// Gets `path` from every process that runs `role`.
    ///
    /// # Errors
    /// The first error that a process answered.
    pub async fn get_all<T: DeserializeOwned>(
        &self,
        role: &str,
        path: &str,
    ) -> Result<Vec<T>, Diagnostic> {
        let mut all = Vec::new();
        for (about, socket) in &self.processes {
            if about.roles.iter().any(|r| r == role) {
                all.push(get(socket, path).await?);
            }
        }
        Ok(all)
    }

    /// Posts `body` to `path` of the process that runs `role`.
    ///
    /// # Errors
    /// As [`Mesh::get`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        role: &str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Diagnostic> {
        let body = serde_json::to_vec(body).map_err(|e| broken(&e))?;
        ask(self.socket(role)?, "POST", path, body.into()).await
    }

    /// Posts `body` and hands each line of the streamed answer to `line`, until it
    /// says stop or the stream ends.
    ///
    /// # Errors
    /// As [`Mesh::get`].
    pub async fn stream(
        &self,
        role: &str,
        path: &str,
        body: &impl Serialize,
        mut line: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), Diagnostic> {
        let mut buffer = Vec::new();
        let lines = |data: &[u8]| {
            buffer.extend_from_slice(data);
            while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                let rest = buffer.split_off(end + 1);
                let whole = std::mem::replace(&mut buffer, rest);
                if !line(whole.trim_ascii_end()) {
                    return false;
                }
            }
            true
        };
        self.bytes(role, path, body, lines).await
    }

    /// Posts `body` and hands the streamed answer to `take` as it arrives, until that
    /// says stop or the stream ends.
    ///
    /// # Errors
    /// As [`Mesh::get`].
    pub async fn bytes(
        &self,
        role: &str,
        path: &str,
        body: &impl Serialize,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), Diagnostic> {
        let body = serde_json::to_vec(body).map_err(|e| broken(&e))?;
        let mut answer = send(self.socket(role)?, "POST", path, body.into()).await?;
        if answer.status() != StatusCode::OK {
            return Err(problem(answer).await);
        }
        while let Some(frame) = answer.body_mut().frame().await {
            if let Ok(data) = frame.map_err(|e| gone(&e))?.into_data()
                && !take(&data)
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The proxy called `name`.
    ///
    /// # Errors
    /// `PLS5330` when none of that name runs here.
    pub fn proxy(&self, name: &str) -> Result<Process<'_>, Diagnostic> {
        let of = |about: &About| super::socket(&about.mesh, &format!("proxy-{name}"));
        let found = self.processes.iter().find(|(about, at)| *at == of(about));
        if let Some((_, socket)) = found {
            return Ok(Process { socket });
        }
        let names: Vec<&str> = self
            .processes
            .iter()
            .filter_map(|(about, socket)| {
                let file = socket.file_name()?.to_str()?;
                let rest = file.strip_prefix(&about.mesh)?.strip_prefix(".proxy-")?;
                rest.strip_suffix(".sock")
            })
            .collect();
        let near = did_you_mean(name, names.iter().copied());
        let none = Diagnostic::error(5330, format!("no proxy called `{name}` runs here")).help(
            near.map_or_else(
                || "see which do: palisade status".to_owned(),
                |near| format!("did you mean `{near}`?"),
            ),
        );
        Err(match names.is_empty() {
            true => none,
            false => none.cause(format!("running: {}", names.join(", "))),
        })
    }

    fn socket(&self, role: &str) -> Result<&Path, Diagnostic> {
        let running = self
            .processes
            .iter()
            .find(|(a, _)| a.roles.iter().any(|r| r == role));
        running.map(|(_, socket)| socket.as_path()).ok_or_else(|| {
            Diagnostic::error(9104, format!("no running process has the role `{role}`"))
                .help(format!("start it: palisade run {role} --config FILE"))
        })
    }
}

/// One process of a mesh.
#[derive(Debug, Clone, Copy)]
pub struct Process<'m> {
    socket: &'m Path,
}

impl Process<'_> {
    /// Gets `path` from it.
    ///
    /// # Errors
    /// What it answered, or that it did not.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Diagnostic> {
        get(self.socket, path).await
    }

    /// Posts `body` to `path` of it.
    ///
    /// # Errors
    /// As [`Process::get`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Diagnostic> {
        let body = serde_json::to_vec(body).map_err(|e| broken(&e))?;
        ask(self.socket, "POST", path, body.into()).await
    }
}

fn sockets(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "sock"))
        .collect();
    found.sort();
    found
}

fn choose(names: &[String], asked: Option<&str>) -> Result<String, Diagnostic> {
    match (asked, names) {
        (None, [one]) => Ok(one.clone()),
        (_, []) => Err(Diagnostic::error(9101, "no mesh is running for this user")
            .cause(format!(
                "no process answers in `{}`",
                super::folder().display()
            ))
            .help("start one: palisade demo")),
        (None, several) => Err(Diagnostic::error(9102, "several meshes are running")
            .cause(format!("they are: {}", several.join(", ")))
            .help("say which: --mesh NAME")),
        (Some(asked), names) => names.iter().find(|n| *n == asked).cloned().ok_or_else(|| {
            let near = did_you_mean(asked, names.iter().map(String::as_str));
            Diagnostic::error(9103, format!("no mesh called `{asked}` is running"))
                .cause(format!("running: {}", names.join(", ")))
                .help(near.map_or("leave --mesh out".into(), |n| {
                    format!("did you mean `{n}`?")
                }))
        }),
    }
}

async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, Diagnostic> {
    ask(socket, "GET", path, Bytes::new()).await
}

async fn ask<T: DeserializeOwned>(
    socket: &Path,
    method: &str,
    path: &str,
    body: Bytes,
) -> Result<T, Diagnostic> {
    let answer = send(socket, method, path, body).await?;
    if answer.status() != StatusCode::OK {
        return Err(problem(answer).await);
    }
    let body = read(answer).await?;
    serde_json::from_slice(&body).map_err(|e| broken(&e))
}

async fn send(
    socket: &Path,
    method: &str,
    path: &str,
    body: Bytes,
) -> Result<http::Response<Incoming>, Diagnostic> {
    let stream = UnixStream::connect(socket).await.map_err(|e| broken(&e))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| broken(&e))?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "localhost")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|e| broken(&e))?;
    sender.send_request(request).await.map_err(|e| broken(&e))
}

async fn read(answer: http::Response<Incoming>) -> Result<Bytes, Diagnostic> {
    let body = http_body_util::Limited::new(answer.into_body(), ANSWER_LEN_MAX);
    Ok(body
        .collect()
        .await
        .map_err(|e| broken(e.as_ref()))?
        .to_bytes())
}

async fn problem(answer: http::Response<Incoming>) -> Diagnostic {
    let status = answer.status();
    match read(answer)
        .await
        .map(|body| serde_json::from_slice::<Problem>(&body))
    {
        Ok(Ok(problem)) => problem.into(),
        _ => broken(&status),
    }
}

fn untrusted(why: &io::Error) -> Diagnostic {
    Diagnostic::error(9108, "the folder of the control sockets cannot be trusted")
        .cause(why.to_string())
        .help("remove it, or set XDG_RUNTIME_DIR to a folder of your own")
}

/// What is told of an answer that has no end.
pub(crate) fn gone(why: &impl std::fmt::Display) -> Diagnostic {
    Diagnostic::error(9105, "the running mesh ended while it answered")
        .cause(why.to_string())
        .help("see whether it still runs: palisade status")
}

/// What is told of an answer that is not understood.
pub(crate) fn broken(why: &(impl std::fmt::Display + ?Sized)) -> Diagnostic {
    Diagnostic::error(9105, "the running mesh did not answer as expected")
        .cause(why.to_string())
        .help("see whether it still runs: palisade status")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_mesh_is_taken_and_several_must_be_named() {
        let names = ["demo".to_owned(), "prod".to_owned()];
        assert_eq!(choose(&names[..1], None).as_deref(), Ok("demo"));
        assert_eq!(choose(&names, Some("prod")).as_deref(), Ok("prod"));
        let code = |asked, names| choose(names, asked).unwrap_err().code.0;
        assert_eq!(code(None, &[]), 9101);
        assert_eq!(code(None, &names), 9102);
        assert_eq!(code(Some("prdo"), &names), 9103);
    }
}
