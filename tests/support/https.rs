//! A web server over TLS on this host: files, and git repositories through `git http-backend`.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::Home;

/// A server that ends with its test.
pub struct Https {
    address: SocketAddr,
    shared: Arc<Shared>,
    ca: PathBuf,
}

struct Shared {
    tls: Arc<ServerConfig>,
    files: Mutex<HashMap<String, Vec<u8>>>,
    /// Folder of git repositories.
    repositories: PathBuf,
    /// Path and body of what was sent here.
    sent: Mutex<Vec<(String, Vec<u8>)>>,
    /// Value of `Authorization` that everybody has to send.
    asked_for: Mutex<Option<String>>,
    behaves: Mutex<Behaves>,
    changed: Condvar,
    ended: AtomicBool,
}

/// What becomes of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaves {
    /// It is answered.
    Answers,
    /// Its connection is cut.
    Cuts,
    /// It is taken, and nothing follows.
    Hangs,
}

/// A question as it came.
struct Asked {
    method: String,
    target: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

/// Status, fields and body of an answer.
type Answer = (String, Vec<String>, Vec<u8>);

impl Https {
    /// Serves files that are put there, and the repositories of the folder `git` of a home.
    pub fn start(home: &Home) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let ca = home.path("server.pem");
        fs::write(&ca, made.cert.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.unwrap())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            tls: Arc::new(tls),
            files: Mutex::default(),
            repositories: home.path("git"),
            sent: Mutex::default(),
            asked_for: Mutex::default(),
            behaves: Mutex::new(Behaves::Answers),
            changed: Condvar::new(),
            ended: AtomicBool::new(false),
        });
        let served = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let served = served.clone();
                if served.ended.load(Ordering::SeqCst) {
                    return;
                }
                // A client that goes away, or does not trust us, is no mistake of ours.
                thread::spawn(move || drop(served.exchange(stream)));
            }
        });
        Self {
            address,
            shared,
            ca,
        }
    }

    /// `https://localhost:PORT/PATH`.
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}/{path}", self.address.port())
    }

    /// PEM file that its certificate is under.
    pub fn ca(&self) -> &PathBuf {
        &self.ca
    }

    /// Puts a file there.
    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        let mut files = self.shared.files.lock().unwrap();
        files.insert(format!("/{path}"), bytes);
    }

    /// Bodies that were sent to a path, in their order.
    pub fn sent_to(&self, path: &str) -> Vec<Vec<u8>> {
        let sent = self.shared.sent.lock().unwrap();
        let of_it = sent.iter().filter(|(to, _)| *to == format!("/{path}"));
        of_it.map(|(_, body)| body.clone()).collect()
    }

    /// Whether anything was sent here at all.
    pub fn was_asked(&self) -> bool {
        !self.shared.sent.lock().unwrap().is_empty()
    }

    /// Answers from now on only who knows a name and a password.
    pub fn ask_for(&self, name: &str, password: &str) {
        let basic = STANDARD.encode(format!("{name}:{password}"));
        *self.shared.asked_for.lock().unwrap() = Some(format!("Basic {basic}"));
    }

    /// A line of a file of credentials for it.
    pub fn credential(&self, name: &str, password: &str) -> String {
        format!(
            "https://{name}:{password}@localhost:{}\n",
            self.address.port()
        )
    }

    /// Does otherwise from now on; questions that hang are cut.
    pub fn behave(&self, behaves: Behaves) {
        *self.shared.behaves.lock().unwrap() = behaves;
        self.shared.changed.notify_all();
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.behave(Behaves::Cuts);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn exchange(&self, stream: TcpStream) -> std::io::Result<()> {
        let tls = ServerConnection::new(self.tls.clone()).map_err(std::io::Error::other)?;
        let mut reader = BufReader::new(StreamOwned::new(tls, stream));
        let asked = Asked::read(&mut reader)?;
        let sent = (asked.target.clone(), asked.body.clone());
        self.sent.lock().unwrap().push(sent);
        let mut behaves = self.behaves.lock().unwrap();
        while *behaves == Behaves::Hangs {
            behaves = self.changed.wait(behaves).unwrap();
            if *behaves != Behaves::Hangs {
                return Ok(());
            }
        }
        if *behaves == Behaves::Cuts {
            return Ok(());
        }
        drop(behaves);
        let (status, headers, body) = self.answer(&asked)?;
        let mut stream = reader.into_inner();
        let mut head = format!("HTTP/1.1 {status}\r\n");
        for header in headers {
            head += &format!("{header}\r\n");
        }
        head += &format!(
            "content-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(&body)?;
        stream.conn.send_close_notify();
        stream.flush()
    }

    fn answer(&self, asked: &Asked) -> std::io::Result<Answer> {
        let wanted = self.asked_for.lock().unwrap().clone();
        if wanted.is_some_and(|wanted| asked.headers.get("authorization") != Some(&wanted)) {
            let challenge = "www-authenticate: Basic realm=\"policy\"".to_owned();
            return Ok(("401 Unauthorized".into(), vec![challenge], Vec::new()));
        }
        let file = self.files.lock().unwrap().get(&asked.target).cloned();
        match file {
            Some(bytes) => Ok(("200 OK".into(), Vec::new(), bytes)),
            None if asked.target.contains(".git/") => self.of_git(asked),
            None => Ok(("404 Not Found".into(), Vec::new(), Vec::new())),
        }
    }

    /// What git itself answers (`git-http-backend(1)`, a CGI program).
    fn of_git(&self, asked: &Asked) -> std::io::Result<Answer> {
        let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        let header = |name: &str| asked.headers.get(name).cloned().unwrap_or_default();
        let mut child = Command::new("git")
            .arg("http-backend")
            .env("GIT_PROJECT_ROOT", &self.repositories)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("GIT_PROTOCOL", header("git-protocol"))
            .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
            .env("CONTENT_TYPE", header("content-type"))
            .env("CONTENT_LENGTH", asked.body.len().to_string())
            .env("REQUEST_METHOD", &asked.method)
            .env("QUERY_STRING", query)
            .env("PATH_INFO", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        child.stdin.take().unwrap().write_all(&asked.body)?;
        let said = child.wait_with_output()?.stdout;
        let end = said.windows(4).position(|w| w == b"\r\n\r\n");
        let (head, body) = said.split_at(end.map_or(0, |at| at + 4));
        let head = String::from_utf8_lossy(head);
        let lines = head.lines().filter(|l| !l.is_empty()).map(str::to_owned);
        let (status, headers): (Vec<String>, Vec<String>) =
            lines.partition(|l| l.to_ascii_lowercase().starts_with("status:"));
        let status = status.first().and_then(|s| s.split_once(' '));
        let status = status.map_or("200 OK", |(_, status)| status).to_owned();
        Ok((status, headers, body.to_vec()))
    }
}

impl Asked {
    fn read(reader: &mut impl BufRead) -> std::io::Result<Self> {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split(' ').map(str::to_owned);
        let method = words.next().unwrap_or_default();
        let target = words.next().unwrap_or_default();
        let mut headers = HashMap::new();
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let Some((name, value)) = header.trim_end().split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let len = headers.get("content-length").and_then(|n| n.parse().ok());
        let mut body = vec![0; len.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        Ok(Self {
            method,
            target,
            headers,
            body,
        })
    }
}
