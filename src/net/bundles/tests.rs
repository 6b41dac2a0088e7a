//! A web server with a certificate of its own authority, asked as a source is.

use std::{path::PathBuf, sync::Arc};

use rustls_pki_types::PrivateKeyDer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use super::*;

/// What it answers to a request, by its head.
type Script = fn(&str) -> String;

struct Server {
    dir: tempfile::TempDir,
    port: u16,
}

impl Server {
    async fn start(script: Script) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("roots.pem"), made.cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(mut tls) = acceptor.accept(tcp).await else {
                    continue;
                };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(tls.read_u8().await.unwrap());
                }
                let answer = script(&String::from_utf8(head).unwrap());
                tls.write_all(answer.as_bytes()).await.unwrap();
                tls.shutdown().await.unwrap();
            }
        });
        Self { dir, port }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn place(&self) -> Place {
        Place {
            ca: Some(self.file("roots.pem")),
            ..Place::new(At::Https(format!(
                "https://localhost:{}/shop.palisade",
                self.port
            )))
        }
    }
}

fn answer(status: &str, fields: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn code(place: &Place) -> u16 {
    Bundles.fetch(place, None).await.unwrap_err().code.0
}

#[tokio::test]
async fn a_file_is_fetched_once_for_each_tag() {
    let server = Server::start(|head| match head.contains("if-none-match: \"1\"\r\n") {
        true => answer("304 Not Modified", "etag: \"1\"\r\n", ""),
        false => answer("200 OK", "etag: \"1\"\r\n", "a bundle"),
    });
    let (server, new) = (server.await, |bytes: &'static [u8]| Fetched::New {
        tag: Some("\"1\"".into()),
        bytes: Bytes::from_static(bytes),
    });
    let place = server.place();
    for (have, expected) in [
        (None, new(b"a bundle")),
        (Some("\"0\""), new(b"a bundle")),
        (Some("\"1\""), Fetched::Same),
    ] {
        assert_eq!(Bundles.fetch(&place, have).await.unwrap(), expected);
    }
}

/// A server that cannot be believed, or does not let us in, gives nothing.
#[tokio::test]
async fn a_server_is_who_its_certificate_says_and_lets_us_in() {
    let server =
        Server::start(
            |head| match head.contains("authorization: Basic YWxpY2U6dw==\r\n") {
                true => answer("200 OK", "", "a bundle"),
                false => answer("401 Unauthorized", "", ""),
            },
        );
    let server = server.await;
    let mut place = server.place();
    assert_eq!(code(&place).await, 3211);
    let credentials = server.file("credentials");
    std::fs::write(
        &credentials,
        format!("https://alice:w@localhost:{}\n", server.port),
    )
    .unwrap();
    place.credentials = Some(credentials.clone());
    let got = Bundles.fetch(&place, None).await.unwrap();
    let bytes = Bytes::from_static(b"a bundle");
    assert_eq!(got, Fetched::New { tag: None, bytes });
    std::fs::write(&credentials, "alice").unwrap();
    assert_eq!(code(&place).await, 3210);
    place.credentials = None;
    let other = Server::start(|_| String::new()).await;
    place.ca = Some(other.file("roots.pem"));
    assert_eq!(code(&place).await, 3201);
}

#[tokio::test]
async fn what_is_not_there_or_somewhere_without_tls_is_told() {
    for (script, expected) in [
        ((|_| answer("404 Not Found", "", "")) as Script, 3202),
        (|_| answer("500 Internal Server Error", "", ""), 3201),
        (
            |_| answer("302 Found", "location: http://localhost/x\r\n", ""),
            3212,
        ),
        (
            |_| answer("302 Found", "location: /shop.palisade\r\n", ""),
            3212,
        ),
        (
            |_| "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\na bundle".into(),
            3203,
        ),
    ] {
        let server = Server::start(script).await;
        assert_eq!(code(&server.place()).await, expected);
    }
}
