//! Attestation of real processes.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::*;

async fn pair() -> (UnixStream, UnixStream) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let (client, server) = tokio::join!(UnixStream::connect(&path), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

fn sleeper(path: &Path) -> Child {
    Command::new(path)
        .arg("60")
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// A program that can be run from a path of ours.
fn program(dir: &Path, name: &str) -> std::path::PathBuf {
    let to = dir.join(name);
    std::fs::copy("/bin/sleep", &to).unwrap();
    std::fs::set_permissions(&to, PermissionsExt::from_mode(0o755)).unwrap();
    to
}

fn process(pid: u32) -> Process {
    let pid = i32::try_from(pid).unwrap();
    Process {
        pid,
        uid: 1,
        gid: 2,
        started: start_time(pid).unwrap(),
        pidfd: None,
    }
}

#[tokio::test]
async fn a_caller_is_attested_by_user_group_path_and_digest() {
    let (_client, server) = pair().await;
    let process = Process::of(&server).unwrap();
    assert_eq!(process.pid, i32::try_from(std::process::id()).unwrap());
    let exe = std::env::current_exe().unwrap();
    let digest = sha256(File::open(&exe).unwrap()).unwrap();
    let digests = Digests::default();
    let plain = process.attest(false, &digests).await.unwrap().selectors;
    assert_eq!(
        plain,
        [
            Selector::Uid(nix::unistd::geteuid().as_raw()),
            Selector::Gid(nix::unistd::getegid().as_raw()),
            Selector::Path(exe.to_str().unwrap().into()),
        ]
    );
    let full = process.attest(true, &digests).await.unwrap().selectors;
    assert_eq!(full.last(), Some(&Selector::Sha256(digest)));
    assert_eq!(digests.known(|k| k.len()), 1);
}

/// A bind mount in a namespace of one's own needs no privilege where users may make
/// namespaces; elsewhere there is nothing to test.
#[tokio::test]
async fn a_path_in_a_mount_namespace_of_the_caller_s_own_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let (real, fake) = (program(dir.path(), "real"), program(dir.path(), "fake"));
    let script = "mount --bind \"$1\" \"$0\" && exec \"$0\" 60";
    let child = Command::new("unshare")
        .args(["-Urm", "sh", "-c", script])
        .args([&real, &fake])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return };
    let link = format!("/proc/{}/exe", child.id());
    while std::fs::read_link(&link).is_ok_and(|exe| exe != real) {
        if child.try_wait().unwrap().is_some() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let claimed = Selector::Path(real.to_str().unwrap().into());
    let attested = process(child.id())
        .attest(false, &Digests::default())
        .await
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!attested.selectors.contains(&claimed), "{attested:?}");
}

#[tokio::test]
async fn a_process_that_is_gone_is_not_attested() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = sleeper(&program(dir.path(), "app"));
    let process = process(child.id());
    let digests = Digests::default();
    assert!(process.attest(true, &digests).await.is_ok());
    child.kill().unwrap();
    child.wait().unwrap();
    let gone = process.attest(true, &digests).await;
    assert!(matches!(gone, Err(AttestError::Gone(_))));
}

#[tokio::test]
async fn another_process_with_the_same_pid_is_not_attested() {
    let (_client, server) = pair().await;
    let mut process = Process::of(&server).unwrap();
    process.started -= 1;
    let other = process.attest(false, &Digests::default()).await;
    assert!(matches!(other, Err(AttestError::Gone(_))));
}

#[tokio::test]
async fn a_removed_executable_has_no_path_but_a_digest() {
    let dir = tempfile::tempdir().unwrap();
    let path = program(dir.path(), "app");
    let mut child = sleeper(&path);
    let process = process(child.id());
    let digests = Digests::default();
    let before = process.attest(true, &digests).await.unwrap();
    let its_path = Selector::Path(path.to_str().unwrap().into());
    assert!(before.selectors.contains(&its_path));
    std::fs::remove_file(&path).unwrap();
    let after = process.attest(true, &digests).await.unwrap();
    assert!(
        !after
            .selectors
            .iter()
            .any(|s| matches!(s, Selector::Path(_)))
    );
    assert_eq!(before.selectors.last(), after.selectors.last());
    // Who was attested before the removal stays what it was.
    let renewed = before.renewed(after).unwrap();
    assert_eq!(renewed.selectors, before.selectors);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Replacing a program in place and setting its times back must not give it the
/// digest of the one before.
#[tokio::test]
async fn a_digest_is_not_remembered_for_other_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = program(dir.path(), "app");
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let digests = Digests::default();
    let digest_of = async |digests: &Digests| {
        let mut child = sleeper(&path);
        let attested = process(child.id()).attest(true, digests).await.unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        attested.selectors.last().unwrap().clone()
    };
    let first = digest_of(&digests).await;
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(modified).unwrap();
    drop(file);
    assert_ne!(digest_of(&digests).await, first);
}

#[test]
fn a_name_with_parentheses_does_not_confuse_the_start_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = sleeper(&program(dir.path(), "a) S 1 ("));
    let pid = i32::try_from(child.id()).unwrap();
    let own = start_time(i32::try_from(std::process::id()).unwrap()).unwrap();
    assert!(start_time(pid).unwrap() >= own);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The same process, but another program: `sh` that becomes `sleep`.
#[tokio::test]
async fn a_process_that_runs_another_program_is_not_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let other = program(dir.path(), "other");
    let mut child = Command::new("/bin/sh")
        .args(["-c", &format!("read go; exec {} 60", other.display())])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let (process, digests) = (process(child.id()), Digests::default());
    let before = process.attest(false, &digests).await.unwrap();
    assert!(before.renewed(before.clone()).is_some());
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"go\n").unwrap();
    let became = Selector::Path(other.to_str().unwrap().into());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let after = loop {
        let now = process.attest(false, &digests).await;
        match now {
            Ok(now) if now.selectors.contains(&became) => break now,
            _ => assert!(std::time::Instant::now() < deadline, "no exec"),
        }
    };
    assert!(before.renewed(after).is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}
