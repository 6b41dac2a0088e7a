//! Promises about the images: their content runs with nothing beside it, and the compose
//! file names what exists. No container engine is needed: the content of an image is a
//! folder, and the program runs with it as its root.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use palisade::config::Config;
use palisade_mesh::yaml::{self, Codes, Node, Source, Value};
use support::{Home, LIMIT, decisions::Desk, free_port, said, wait_for};

/// Largest static slim program, in bytes: 20 MiB, and 2 MiB for the C library in it.
const SLIM_LEN_MAX: u64 = 22 << 20;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn build_root(folder: &Path, what: &str) -> Command {
    let mut command = Command::new(root().join("deploy/image/build-root"));
    command.arg(folder).arg(what);
    command
}

#[test]
fn only_a_static_program_becomes_an_image() {
    let home = Home::new();
    let build = |folder: &str, what: &str| {
        let mut command = build_root(&home.path(folder), what);
        command.env("PALISADE_BINARY", env!("CARGO_BIN_EXE_palisade"));
        command.output().unwrap()
    };
    let refused = build("image", "slim");
    assert!(
        said(&refused).contains("needs a dynamic linker"),
        "{}",
        said(&refused)
    );
    assert!(!home.path("image").exists());
    fs::create_dir(home.path("there")).unwrap();
    assert!(said(&build("there", "slim")).contains("is there already"));
    assert_eq!(build("image", "other").status.code(), Some(2));
}

/// The slim image's content: from `PALISADE_TEST_ROOT`, a folder that build-root made, or
/// built here, which takes some minutes.
fn content(home: &Home) -> PathBuf {
    let folder = home.path("image");
    match std::env::var_os("PALISADE_TEST_ROOT") {
        Some(made) => {
            let copied = Command::new("cp").arg("-a").arg(made).arg(&folder).status();
            assert!(copied.unwrap().success());
        }
        None => {
            let built = build_root(&folder, "slim").output().unwrap();
            assert!(built.status.success(), "{}", said(&built));
        }
    }
    folder
}

/// What every container engine puts beside an image: sources of random bytes, which a static
/// program opens as files.
const IN_CONTAINER: &str = "for d in random urandom; do mount --bind /dev/$d \"$0/dev/$d\"; done \
     && exec chroot \"$0\" /usr/bin/palisade \"$@\"";

/// A command with `folder` as its root, in a user and mount namespace of its own, as
/// nobody in particular.
fn inside(folder: &Path, args: &[&str]) -> Command {
    fs::create_dir_all(folder.join("dev")).unwrap();
    for device in ["dev/random", "dev/urandom"] {
        fs::write(folder.join(device), "").unwrap();
    }
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount"])
        .args(["sh", "-c", IN_CONTAINER])
        .arg(folder)
        .args(args)
        .env_clear()
        // For `chroot` itself.
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("XDG_RUNTIME_DIR", "/run/palisade")
        .env("PALISADE_STATE_DIR", "/var/lib/palisade/state")
        .env("PALISADE_CONFIG", "/etc/palisade/palisade.yaml")
        .stdin(Stdio::null());
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    inside(folder, args).output().unwrap()
}

#[test]
#[ignore = "builds a static program; .ci/run runs it by name"]
fn the_slim_image_runs_with_nothing_beside_it() {
    let home = Home::new();
    let folder = content(&home);
    let program = folder.join("usr/bin/palisade");
    let len = fs::metadata(&program).unwrap().len();
    println!("the slim program has {len} bytes");
    if std::env::var("PALISADE_PROFILE").is_ok_and(|profile| profile != "dist") {
        println!("its size is not judged: it was not built for use");
    } else {
        assert!(len <= SLIM_LEN_MAX, "{len} bytes");
    }
    for open in [
        "run/palisade",
        "run/palisade-agent",
        "tmp",
        "var/lib/palisade",
    ] {
        let mode = fs::metadata(folder.join(open))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o1777, "{open}");
    }
    let version = run(&folder, &["--version"]);
    let expected = concat!("palisade ", env!("CARGO_PKG_VERSION"), " (agent, proxy)\n");
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        expected,
        "{}",
        said(&version)
    );
    let refused = run(&folder, &["run", "ca"]);
    assert!(said(&refused).contains("PLS8001"), "{}", said(&refused));

    support::copy(&support::sample_policies(), &home.path("policies"));
    let plane = Desk::ready(&home, "demo.test", "");
    let etc = folder.join("etc/palisade");
    let leaf = plane.authority.leaf("ns/shop/sa/orders");
    plane.authority.write(&leaf, &etc.join("identity"));
    let (pdp, audit) = (plane.distribution, plane.records);
    let (inbound, admin) = (free_port(), free_port());
    let text = format!(
        "trust_domain: demo.test\nproxy:\n  identity:\n    files: {{ cert: identity/cert.pem, key: identity/key.pem, bundle: identity/bundle.pem }}\n  policy: {{ pdp: \"{pdp}\" }}\n  records: {{ audit: \"{audit}\" }}\n  inbound: {{ listen: \"{inbound}\", service: shop/orders, upstream: \"127.0.0.1:1\" }}\n  admin: {{ listen: \"{admin}\" }}\n"
    );
    fs::write(etc.join("palisade.yaml"), text).unwrap();
    let checked = run(&folder, &["config", "check"]);
    assert!(checked.status.success(), "{}", said(&checked));
    let refused = run(&folder, &["run", "ca"]);
    assert!(said(&refused).contains("PLS9211"), "{}", said(&refused));

    let log = fs::File::create(home.path("proxy.log")).unwrap();
    let mut proxy = inside(&folder, &["run", "proxy"])
        .stderr(log)
        .spawn()
        .unwrap();
    // What a health check of the image runs.
    let url = format!("http://{admin}");
    let ready = wait_for("a ready proxy in its image", LIMIT, || {
        let ended = proxy.try_wait().unwrap();
        let log = fs::read_to_string(home.path("proxy.log")).unwrap();
        assert!(ended.is_none(), "{ended:?} {log}");
        let asked = run(&folder, &["wait", "--admin", &url, "--timeout", "0s"]);
        asked.status.success().then_some(asked)
    });
    assert_eq!(String::from_utf8_lossy(&ready.stdout), "ready\n");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(proxy.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(proxy.wait().unwrap().code(), Some(0));
    assert!(folder.join("var/lib/palisade/state/spool").is_dir());
}

fn tree(path: &Path) -> Node {
    const CODES: Codes = Codes {
        duplicate_key: 1,
        syntax: 2,
        too_deep: 3,
    };
    let text = fs::read_to_string(path).unwrap();
    let mut found = Vec::new();
    let source = Source::new(path.display().to_string(), text);
    let node = yaml::parse(&source, CODES, &mut found);
    assert!(found.is_empty(), "{found:#?}");
    node.unwrap()
}

fn get<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    let own = entries.iter().find(|e| e.key == key).map(|e| &e.value);
    // A merge key: what it brings stands behind what is there.
    let merged = || entries.iter().find(|e| e.key == "<<");
    own.or_else(|| get(&merged()?.value, key))
}

fn names(node: &Node) -> BTreeSet<&str> {
    match &node.value {
        Value::Map(entries) => entries.iter().map(|e| e.key.as_str()).collect(),
        _ => BTreeSet::new(),
    }
}

fn texts(node: &Node) -> Vec<&str> {
    match &node.value {
        Value::List(items) => items.iter().flat_map(texts).collect(),
        Value::Scalar(text) => vec![text],
        _ => Vec::new(),
    }
}

/// Files, volumes, services, flags and addresses of the compose file are there.
#[test]
fn the_compose_file_names_what_exists() {
    let deploy = root().join("deploy");
    let compose = tree(&deploy.join("compose.yaml"));
    let services = get(&compose, "services").unwrap();
    let volumes = names(get(&compose, "volumes").unwrap());
    let home = Home::new();
    assert!(names(services).len() >= 5);
    for name in names(services) {
        let service = get(services, name).unwrap();
        let image = texts(get(service, "image").unwrap())[0];
        assert!(["palisade", "palisade-slim"].contains(&image), "{name}");
        let user = texts(get(service, "user").unwrap())[0];
        assert!(!user.starts_with('0'), "{name}");
        assert_eq!(texts(get(service, "cap_drop").unwrap()), ["ALL"], "{name}");
        let mut mounted = Vec::new();
        for volume in get(service, "volumes").map(texts).unwrap_or_default() {
            let parts: Vec<&str> = volume.split(':').collect();
            if parts[0].starts_with('.') {
                let file = deploy.join(parts[0]);
                assert!(file.exists(), "{name}: {volume}");
                assert_eq!(parts.get(2), Some(&"ro"), "{name}: {volume}");
                mounted.push((parts[1], file));
            } else {
                assert!(volumes.contains(parts[0]), "{name}: {volume}");
            }
        }
        for other in get(service, "depends_on").map(names).unwrap_or_default() {
            assert!(names(services).contains(other), "{name} depends on {other}");
        }
        // The command line is one that the program takes.
        let command = texts(get(service, "command").unwrap());
        let verbs = if command[0] == "run" { 1 } else { 2 };
        let help = home.run(&[&command[..verbs], &["--help"]].concat());
        assert!(help.status.success(), "{name}: {}", said(&help));
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        for flag in command.iter().filter(|w| w.starts_with("--")) {
            assert!(help.contains(flag), "{name}: {flag}");
        }
        if let Some(at) = command.iter().position(|w| *w == "--config") {
            let (_, file) = mounted
                .iter()
                .find(|(to, _)| *to == command[at + 1])
                .unwrap();
            let file = file.to_str().unwrap();
            home.says(&["config", "check", file, "--role", command[1]], 0);
        }
        if let Some(health) = get(service, "healthcheck").and_then(|h| get(h, "test")) {
            let test = texts(health);
            assert_eq!(test[..3], ["CMD", "/usr/bin/palisade", "wait"], "{name}");
            let mut args = test[2..].to_vec();
            args.extend(["-o", "json"]);
            // Nothing runs here: the flags are right, and the answer is no.
            let asked = home.run(&args);
            assert_eq!(asked.status.code(), Some(7), "{name}: {}", said(&asked));
        }
    }
}

/// What the proxies of the compose file say fits what the control plane says.
#[test]
fn the_containers_of_the_compose_file_fit_each_other() {
    let deploy = root().join("deploy");
    let read = |name: &str| Config::read(&deploy.join(format!("compose/{name}.yaml"))).unwrap();
    let compose = tree(&deploy.join("compose.yaml"));
    let services = get(&compose, "services").unwrap();
    let address = |name: &str| {
        let mesh = get(
            get(get(services, name).unwrap(), "networks").unwrap(),
            "mesh",
        );
        texts(get(mesh.unwrap(), "ipv4_address").unwrap())[0].to_owned()
    };
    let control = read("control");
    let (pdp, audit) = (
        control.pdp.as_ref().unwrap(),
        control.audit.as_ref().unwrap(),
    );
    for listens in [pdp.listen, audit.listen] {
        assert_eq!(listens.ip().to_string(), address("control"));
    }
    for name in ["orders", "web"] {
        let config = read(name);
        assert_eq!(config.trust_domain, control.trust_domain);
        let proxy = config.proxy.as_ref().unwrap();
        assert!(matches!(proxy.policy, palisade::config::PolicySource::Pdp(a) if a == pdp.listen));
        assert!(
            matches!(proxy.records, palisade::config::RecordTarget::Audit(a) if a == audit.listen)
        );
        let container = format!("{name}-proxy");
        let inbound = proxy.inbound.as_ref().unwrap();
        assert_eq!(inbound.listen.ip().to_string(), address(&container));
        let user = texts(get(get(services, &container).unwrap(), "user").unwrap())[0];
        let uid = user.split(':').next().unwrap();
        let registered = control.ca.as_ref().unwrap().registrations.iter().any(|r| {
            r.spiffe_id.ends_with(&format!("/sa/{name}"))
                && r.selectors == [format!("unix:uid:{uid}")]
        });
        assert!(registered, "{name} as uid {uid}");
    }
}
