//! A proxy as a user runs it: the binary as a process of its own, with certificates
//! from files, policies from a folder, records in a log, and in front of an
//! application that keeps every byte of every request.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use palisade_audit::{
    item::Item,
    log::{Log, LogOptions},
    row::Row,
    source::Entry,
};
use palisade_mesh::{clock::Clock, spiffe_id::TrustDomain};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use crate::support::{
    Home, LIMIT, Running,
    authority::{Authority, Leaf},
    free_port, http, wait_for,
};

pub(crate) const DOMAIN: &str = "acme.test";
pub(crate) const WEB: &str = "ns/shop/sa/web";
pub(crate) const ORDERS: &str = "ns/shop/sa/orders";

/// The repository of the cases; a case adds to it or replaces files.
const REPOSITORY: &[(&str, &str)] = &[
    (
        "palisade.yaml",
        "trust_domain: acme.test\nheaders:\n  x-tenant: single\n",
    ),
    (
        "services/orders.yaml",
        "service: shop/orders\nidentities: [ns/shop/sa/orders]\noperations:\n  - { name: public, match: \"* /public/{*rest}\" }\n  - { name: admin, match: \"* /admin/{*rest}\" }\n",
    ),
    (
        "services/web.yaml",
        "service: shop/web\nidentities: [ns/shop/sa/web]\n",
    ),
    (
        "policies/shop.cedar",
        "@id(\"public\")\npermit (principal in Service::\"acme.test/shop/web\", action, resource == Operation::\"acme.test/shop/orders/public\");\n\n@id(\"admin\")\nforbid (principal, action, resource == Operation::\"acme.test/shop/orders/admin\");\n",
    ),
];

/// What a case wants to be different.
#[derive(Default)]
pub(crate) struct Setting<'s> {
    /// Files of the repository, by path.
    pub(crate) files: &'s [(&'s str, String)],
    /// Lines under `proxy.limits`.
    pub(crate) limits: &'s [&'s str],
    /// A PDP instead of the folder.
    pub(crate) pdp: Option<SocketAddr>,
    /// Two of these keys must have signed policy, and one stamped it within the hour.
    pub(crate) trusted: Option<&'s str>,
    /// Lines under `proxy`.
    pub(crate) lines: &'s [&'s str],
    /// Most file descriptors of the process.
    pub(crate) descriptors: Option<u32>,
}

/// The proxy under attack; its process ends with the value.
pub(crate) struct Guarded {
    pub(crate) home: Home,
    pub(crate) authority: Authority,
    pub(crate) inbound: SocketAddr,
    pub(crate) outbound: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) app: App,
    pub(crate) proxy: Running,
}

pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

impl Guarded {
    pub(crate) fn start() -> Self {
        Self::set(&Setting::default())
    }

    pub(crate) fn set(setting: &Setting<'_>) -> Self {
        let home = Home::new();
        let authority = Authority::new(DOMAIN);
        authority.write(&authority.leaf(ORDERS), &home.path("identity"));
        write_repository(&home, setting.files);
        let app = App::start();
        let [inbound, outbound, admin] = [(); 3].map(|()| free_port());
        let policy = match setting.pdp {
            Some(address) => format!("pdp: \"{address}\""),
            None => "folder: policies".to_owned(),
        };
        let limits: String = setting
            .limits
            .iter()
            .map(|l| format!("    {l}\n"))
            .collect();
        let limits = match limits.as_str() {
            "" => String::new(),
            lines => format!("  limits:\n{lines}"),
        };
        let mut lines: String = setting.lines.iter().map(|l| format!("  {l}\n")).collect();
        if let Some(keys) = setting.trusted {
            fs::write(home.path("trusted.keys"), keys).unwrap();
            lines.push_str("  policy_trust: { keys: trusted.keys, threshold: 2, stamp_age: 1h }\n");
        }
        let text = format!(
            "trust_domain: {DOMAIN}\nproxy:\n  identity:\n    files: {{ cert: identity/cert.pem, key: identity/key.pem, bundle: identity/bundle.pem }}\n  policy: {{ {policy} }}\n  records: {{ log: log }}\n  workers: 1\n  inbound: {{ listen: \"{inbound}\", service: shop/orders, upstream: \"{}\" }}\n  outbound: {{ listen: \"{outbound}\" }}\n  admin: {{ listen: \"{admin}\" }}\n{limits}{lines}",
            app.address
        );
        fs::write(home.path("proxy.yaml"), text).unwrap();
        let mut proxy = start(&home, setting.descriptors);
        wait_for("a proxy that listens", LIMIT, || {
            assert!(proxy.ended().is_none(), "{}", proxy.printed());
            proxy.printed().contains("ready").then_some(())
        });
        Self {
            home,
            authority,
            inbound,
            outbound,
            admin,
            app,
            proxy,
        }
    }

    /// A client that shows `chain`, whatever it is, and accepts any server.
    pub(crate) fn config(leaf: &Leaf, above: &[CertificateDer<'static>]) -> Arc<ClientConfig> {
        let chain = [std::slice::from_ref(&leaf.der), above].concat();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf.key.serialize_der()));
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone))
                .with_client_auth_cert(chain, key)
                .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// A connection; the handshake happens with the first byte.
    pub(crate) fn dial(&self, config: &Arc<ClientConfig>, name: &'static str) -> Tls {
        let name = ServerName::try_from(name).unwrap();
        let session = ClientConnection::new(config.clone(), name).unwrap();
        StreamOwned::new(session, http::connect(self.inbound).unwrap())
    }

    /// Sends `request` over TLS and reads to the end.
    pub(crate) fn raw(&self, config: &Arc<ClientConfig>, request: &[u8]) -> io::Result<String> {
        let mut stream = self.dial(config, "orders");
        stream.write_all(request)?;
        stream.flush()?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(_) if !answer.is_empty() => {}
            Err(error) => return Err(error),
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// One request of the web service; gives the status.
    pub(crate) fn status(&self, head: &str) -> u16 {
        let config = Self::config(&self.authority.leaf(WEB), &[]);
        status(&self.raw(&config, &request(head)).unwrap())
    }

    /// What the admin port answers.
    pub(crate) fn admin(&self, method: &str, path: &str) -> http::Reply {
        http::send(self.admin, method, &self.admin.to_string(), path, "").unwrap()
    }

    /// Ends the proxy; every record that it left, oldest first.
    pub(crate) fn end(mut self) -> (Vec<Row>, Home, String) {
        assert!(self.proxy.end().success(), "{}", self.proxy.printed());
        let options = LogOptions::new(TrustDomain::parse(DOMAIN).unwrap());
        let log = Log::open(&self.home.path("log"), options, Clock::system()).unwrap();
        let rows = log.scan(0).map(Result::unwrap).map(|entry| {
            Row::new(&Item::new(Entry {
                index: entry.index,
                envelope: entry.envelope,
                record: entry.record,
            }))
        });
        let rows = rows.collect();
        log.close();
        let printed = self.proxy.printed();
        (rows, self.home, printed)
    }
}

/// Rows of one class.
pub(crate) fn of_class<'r>(rows: &'r [Row], class: &str) -> Vec<&'r Row> {
    let is = |row: &&Row| row.text("class") == Some(class);
    rows.iter().filter(is).collect()
}

/// A request without a body, to the end of its connection.
pub(crate) fn request(head: &str) -> Vec<u8> {
    format!("{head}\r\nconnection: close\r\n\r\n").into_bytes()
}

/// The status of an answer; 0 for none.
pub(crate) fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .unwrap_or_default()
}

pub(crate) fn write_repository(home: &Home, files: &[(&str, String)]) {
    let own = REPOSITORY.iter().map(|(p, t)| (*p, (*t).to_owned()));
    for (path, text) in own.chain(files.iter().cloned()) {
        let file = home.path("policies").join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
}

fn start(home: &Home, descriptors: Option<u32>) -> Running {
    let args = ["run", "proxy", "--config", "proxy.yaml"];
    let Some(limit) = descriptors else {
        return home.start("proxy", &args);
    };
    let palisade = env!("CARGO_BIN_EXE_palisade");
    let script = format!("ulimit -n {limit} && exec {palisade} {}", args.join(" "));
    home.start_program("/bin/sh".as_ref(), "proxy", &["-c", &script])
}

/// An application that keeps what it is sent and answers `ok`.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl App {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = kept.clone();
                std::thread::spawn(move || answer(stream, &kept));
            }
        });
        Self { address, seen }
    }

    /// The head of every request that came so far, as it came.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn answer(mut stream: TcpStream, seen: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while let Ok(1) = stream.read(&mut byte) {
        head.push(byte[0]);
        if head.ends_with(b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&head).into_owned();
            seen.lock().unwrap().push(text);
            head.clear();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    }
}

/// Accepts any server: these cases are about what the server accepts.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
        ]
    }
}

/// How long a case may take that must be refused in bounded time.
pub(crate) const BOUND: Duration = Duration::from_secs(10);
