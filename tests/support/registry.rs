//! A registry (OCI distribution specification 1.1) in this process, that keeps one repository
//! in memory: as much of it as `bundle push` and `bundle pull` ask for.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

/// Where the repository's manifests and blobs are.
const ROOT: &str = "/v2/shop/policy/";

/// Serves `shop/policy` until the test ends; gives its address.
pub fn registry() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut kept = HashMap::new();
        // One exchange on each connection, as the client has it.
        for stream in listener.incoming().map_while(Result::ok) {
            let _ = exchange(stream, &mut kept);
        }
    });
    address
}

fn exchange(mut stream: TcpStream, kept: &mut HashMap<String, Vec<u8>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let mut len = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            len = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body)?;
    let path = target.strip_prefix(ROOT).unwrap_or_default();
    let upload = path.strip_prefix("blobs/uploads/1?digest=");
    let (status, location, answer) = match (method.as_str(), upload) {
        ("POST", _) => ("202 Accepted", "blobs/uploads/1", Vec::new()),
        ("PUT", upload) => {
            let name = upload.map_or_else(|| path.to_owned(), |digest| format!("blobs/{digest}"));
            kept.insert(name, body);
            ("201 Created", path, Vec::new())
        }
        _ => match kept.get(path) {
            Some(bytes) => ("200 OK", path, bytes.clone()),
            None => ("404 Not Found", path, Vec::new()),
        },
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nlocation: {ROOT}{location}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        answer.len()
    );
    stream.write_all(head.as_bytes())?;
    if method != "HEAD" {
        stream.write_all(&answer)?;
    }
    stream.flush()
}
