//! The mesh that is killed, and what is done to it.

use std::{
    fs::{self, File, OpenOptions},
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use palisade_audit::spool::Spool;
use palisade_mesh::clock::Clock;
use serde_json::json;

use crate::{
    Dice,
    account::{self, Account},
    reporter::{self, APART, Reporter},
    support::{Home, LIMIT, Running, free_port, wait_for},
};

/// Bytes of a segment's header, and of a frame's.
const HEADER: u64 = 40;
const FRAME: u64 = 8;
/// Acknowledged records before something happens, at most.
const PATIENCE: u64 = 160;
/// Tries to find the log with a record that no checkpoint covers.
const KILLS_MAX: u64 = 20;
/// Faults that happened, as they are counted.
const ABOVE: &str = "flipped above the checkpoint";
const BELOW: &str = "flipped below the checkpoint, refused";
const FULL: &str = "disk full";
const UNLINKED: &str = "segment unlinked";
const UNLINKED_SPOOL: &str = "spool file unlinked";
const LOST: &str = "spool file lost";
const DAMAGED: &str = "spool file damaged";
/// What the log says when the disk does not take a group.
const REFUSED: &str = "audit log cannot be written";

/// What goes wrong beside the kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing but the kill of the audit service.
    Audit,
    /// Nothing but the kill of the reporter.
    Reporter,
    /// Both die.
    Both,
    /// A bit of a record that is under no checkpoint is wrong: cut off, and sent again.
    FlippedAbove,
    /// A bit of a record under a checkpoint is wrong: the service stays down and says so.
    FlippedBelow,
    /// The disk takes no more of the log.
    Full,
    /// The file that the log writes is removed while it does.
    UnlinkedSegment,
    /// The file that the reporter writes is removed while it does.
    UnlinkedSpool,
    /// A spool file of a dead reporter is removed or damaged: a loss, to be told as one.
    LostSpool,
}

impl Fault {
    pub const ALL: [Self; 9] = [
        Self::Audit,
        Self::FlippedAbove,
        Self::UnlinkedSpool,
        Self::Both,
        Self::Full,
        Self::LostSpool,
        Self::UnlinkedSegment,
        Self::FlippedBelow,
        Self::Reporter,
    ];
}

/// Authority, agent, audit service and reporter, each a process of its own.
pub struct Stage<'h> {
    home: &'h Home,
    audit_at: SocketAddr,
    _plane: Vec<Running>,
    audit: Option<Running>,
    reporter: Option<Reporter>,
    account: Account,
    from: u64,
    seed: u64,
    kills_of_audit: u64,
    kills_of_reporter: u64,
    /// Faults that happened, by name.
    happened: std::collections::BTreeMap<String, u64>,
}

impl<'h> Stage<'h> {
    pub fn start(home: &'h Home, seed: u64) -> Self {
        let audit_at = free_port();
        let this = fs::canonicalize(std::env::current_exe().unwrap()).unwrap();
        let plane = format!(
            "trust_domain: demo.test\nstate_dir: state\nca:\n  registrations:\n    - spiffe_id: {}\n      selectors: [\"unix:path:{}\"]\nagent: {{}}\naudit:\n  listen: {audit_at}\n",
            reporter::id(),
            this.display()
        );
        fs::write(home.path("mesh.yaml"), plane).unwrap();
        let run = |role: &str| home.start(role, &["run", role, "--config", "mesh.yaml"]);
        let mut stage = Self {
            home,
            audit_at,
            _plane: vec![run("ca"), run("agent")],
            audit: None,
            reporter: None,
            account: Account::new(&home.path("acknowledged")),
            from: 1,
            seed,
            kills_of_audit: 0,
            kills_of_reporter: 0,
            happened: std::collections::BTreeMap::new(),
        };
        wait_for("an agent", LIMIT, || {
            home.path("state/agent.sock").exists().then_some(())
        });
        stage.up();
        stage
    }

    /// Processes that were killed so far.
    pub fn kills(&self) -> u64 {
        self.kills_of_audit + self.kills_of_reporter
    }

    /// Lets it run for a while, and then lets it go wrong.
    pub fn round(&mut self, fault: Fault, dice: &mut Dice) {
        self.up();
        self.acknowledged(8 + dice.below(PATIENCE));
        match fault {
            Fault::Audit => self.kill_audit(),
            Fault::Reporter => self.kill_reporter(),
            Fault::Both => {
                self.kill_audit();
                self.kill_reporter();
            }
            Fault::FlippedAbove => self.flip_above(),
            Fault::FlippedBelow => self.flip_below(dice),
            Fault::Full => self.fill(),
            Fault::UnlinkedSegment => self.unlink_segment(),
            Fault::UnlinkedSpool => self.unlink_spool(),
            Fault::LostSpool => self.lose_spool(dice),
        }
    }

    /// Starts what is down, and waits until records reach the log.
    fn up(&mut self) {
        if self.reporter.is_none() {
            self.seed = self.seed.wrapping_add(1);
            let at = self.audit_at.to_string();
            self.reporter = Some(Reporter::start(
                self.home,
                &at,
                self.from,
                self.seed,
                &self.account,
            ));
            self.from += APART;
        }
        if self.audit.is_none() {
            let args = ["run", "audit", "--config", "mesh.yaml"];
            self.audit = Some(self.home.start("audit", &args));
        }
        let before = log_bytes(&self.log());
        wait_for("records in the log", LIMIT, || {
            (log_bytes(&self.log()) > before + 4096).then_some(())
        });
    }

    /// Waits until so many more records were acknowledged.
    fn acknowledged(&self, more: u64) {
        let enough = self.account.count() + more;
        wait_for("acknowledged records", LIMIT, || {
            (self.account.count() >= enough).then_some(())
        });
    }

    fn kill_audit(&mut self) {
        if let Some(mut audit) = self.audit.take() {
            audit.kill();
            self.kills_of_audit += 1;
        }
    }

    fn kill_reporter(&mut self) {
        if let Some(reporter) = self.reporter.take() {
            reporter.kill();
            self.kills_of_reporter += 1;
        }
    }

    fn flip_above(&mut self) {
        let (segment, at) = (0..KILLS_MAX)
            .find_map(|_| {
                self.up();
                self.acknowledged(8);
                self.kill_audit();
                self.last_unsigned()
            })
            .expect("a record that no checkpoint covers");
        segment.flip(at);
        self.note(ABOVE);
    }

    /// A place within the first record that no checkpoint covers; none where that came last.
    fn last_unsigned(&self) -> Option<(Segment, u64)> {
        let segment = Segment::newest(&self.log())?;
        let signed = checkpointed(&self.log());
        let frame = segment.frames().into_iter().find(|f| f.leaf >= signed)?;
        Some((segment, frame.offset + FRAME + frame.len / 2))
    }

    fn flip_below(&mut self, dice: &mut Dice) {
        self.kill_audit();
        let segment = Segment::newest(&self.log()).unwrap();
        let signed = checkpointed(&self.log());
        let frames = segment.frames();
        let below = frames.iter().filter(|frame| frame.leaf < signed).count() as u64;
        assert!(below > 0, "records under a checkpoint");
        let frame = &frames[dice.below(below) as usize];
        let at = frame.offset + dice.below(FRAME + frame.len);
        segment.flip(at);
        let args = ["run", "audit", "--config", "mesh.yaml"];
        let mut audit = self.home.start("audit-tampered", &args);
        let status = wait_for("a service that stays down", LIMIT, || audit.ended());
        assert!(!status.success());
        assert!(audit.printed().contains("PLS7205"), "{}", audit.printed());
        let _ = fs::remove_file(&audit.log);
        // Whoever has a copy puts it back, and nothing is lost.
        segment.flip(at);
        self.note(BELOW);
    }

    /// Starts the service anew under a limit that its segment will reach.
    fn fill(&mut self) {
        self.kill_audit();
        let newest = segments(&self.log()).pop();
        let blocks = newest.map_or(0, |path| len(&path)) / 512 + 64;
        let limited =
            format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" run audit --config mesh.yaml");
        let args = ["-c", &limited, env!("CARGO_BIN_EXE_palisade")];
        // Its words go to a file of its own, which is short.
        let said = self.home.path("audit-full.log");
        let _ = fs::remove_file(&said);
        let audit = self
            .home
            .start_program(Path::new("sh"), "audit-full", &args);
        wait_for("a full disk", LIMIT, || {
            audit.printed().contains(REFUSED).then_some(())
        });
        self.audit = Some(audit);
        // The reporter goes on meanwhile.
        self.acknowledged(64);
        self.kill_audit();
        self.note(FULL);
    }

    fn unlink_segment(&mut self) {
        let segment = Segment::newest(&self.log()).unwrap();
        fs::remove_file(&segment.path).unwrap();
        wait_for("the segment under its name", LIMIT, || {
            segment.path.exists().then_some(())
        });
        self.note(UNLINKED);
        self.kill_audit();
    }

    fn unlink_spool(&mut self) {
        // With the service away, what is written from now on stays there. A file of which it has
        // everything goes for good.
        self.kill_audit();
        let newest = || {
            let path = spool_files(&self.home.path("spool")).pop()?;
            Some((len(&path), path))
        };
        let before = newest();
        let (_, newest) = wait_for("something that only the spool has", LIMIT, || {
            newest().filter(|now| before.as_ref() != Some(now))
        });
        fs::remove_file(&newest).unwrap();
        // After each fsync the reporter looks for the name of what it writes, and now and
        // then for those of what waits.
        wait_for("the spool file under its name", LIMIT, || {
            newest.exists().then_some(())
        });
        self.note(UNLINKED_SPOOL);
        self.kill_reporter();
    }

    fn lose_spool(&mut self, dice: &mut Dice) {
        self.kill_audit();
        // Enough for several files, so that something follows the one that is lost.
        self.acknowledged(600);
        self.kill_reporter();
        let files = spool_files(&self.home.path("spool"));
        let last = files.last().unwrap().parent().unwrap().to_owned();
        let of_boot: Vec<&PathBuf> = files.iter().filter(|f| f.starts_with(&last)).collect();
        // The first ones may have been sent; after the last one nothing follows.
        let lost = of_boot[of_boot.len() - 2 - dice.below(3) as usize];
        if dice.below(2) == 0 {
            fs::remove_file(lost).unwrap();
            self.note(LOST);
        } else {
            flip(lost, len(lost) / 2);
            self.note(DAMAGED);
        }
    }

    /// Lets everything arrive, and compares.
    pub fn settle(&mut self) {
        self.up();
        if let Some(reporter) = self.reporter.take() {
            reporter.kill();
        }
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (agent, at) = (
            self.home.path("state/agent.sock"),
            self.audit_at.to_string(),
        );
        runtime.block_on(async {
            let dir = self.home.path("spool");
            let options = reporter::options();
            let spool = Spool::open(&dir, reporter::id(), options, Clock::system()).unwrap();
            tokio::select! {
                () = reporter::uplink(&spool, &agent, &at) => panic!("the uplink ended"),
                () = spool.delivered() => {}
                () = tokio::time::sleep(LIMIT * 5) => panic!("not delivered: {:?}", spool.stats()),
            }
        });
        let gaps = account::told(&self.home.json(&["audit", "gaps", "last:1d"]));
        let mut audit = self.audit.take().unwrap();
        audit.end();
        let log = self.log();
        let shown = self
            .home
            .json(&["audit", "verify", "--dir", &log.display().to_string()]);
        assert_eq!(shown["findings"], json!([]), "{shown}");
        let streams = shown["streams"].as_array().unwrap();
        let named = streams.iter().filter(|s| s["missing"] != json!([])).count();
        let lost = self.account.check(&log, &gaps);
        let happened = |what: &str| self.happened.get(what).copied().unwrap_or_default();
        let losses = happened(LOST) + happened(DAMAGED);
        println!(
            "{} kills of audit, {} of the reporter; {:?}; {} records acknowledged, {lost} lost with spool files, {} numbers told as missing in {named} streams",
            self.kills_of_audit,
            self.kills_of_reporter,
            self.happened,
            self.account.count(),
            account::missing(&gaps),
        );
        assert_eq!(
            named,
            gaps_streams(streams, &gaps),
            "verify and gaps differ"
        );
        // What was acknowledged and is gone went with those files, and with nothing else.
        assert_eq!(lost > 0, losses > 0, "{losses} files lost, {gaps:?}");
        assert_eq!(losses > 0, !gaps.is_empty(), "{gaps:?}");
    }

    /// That each kind of fault happened. The reporter's clock jumps by itself, all the time.
    pub fn saw_everything(&self) {
        let happened = |what: &[&str]| what.iter().any(|what| self.happened.contains_key(*what));
        for what in [ABOVE, BELOW, FULL, UNLINKED, UNLINKED_SPOOL] {
            assert!(happened(&[what]), "{what}: {:?}", self.happened);
        }
        assert!(happened(&[LOST, DAMAGED]), "{:?}", self.happened);
    }

    fn log(&self) -> PathBuf {
        self.home.path("state/audit/log")
    }

    fn note(&mut self, what: &str) {
        *self.happened.entry(what.to_owned()).or_default() += 1;
    }
}

/// How many of the streams the gaps are of.
fn gaps_streams(streams: &[serde_json::Value], gaps: &[account::Told]) -> usize {
    let of = |stream: &&serde_json::Value| gaps.iter().any(|gap| gap.is_of(stream));
    streams.iter().filter(of).count()
}

/// A file of leaves.
struct Segment {
    path: PathBuf,
    first: u64,
}

/// Where a leaf is.
struct Frame {
    leaf: u64,
    offset: u64,
    len: u64,
}

impl Segment {
    fn newest(log: &Path) -> Option<Self> {
        let path = segments(log).pop()?;
        let first = path.file_stem()?.to_str()?.parse().ok()?;
        Some(Self { path, first })
    }

    /// Every whole frame.
    fn frames(&self) -> Vec<Frame> {
        let bytes = fs::read(&self.path).unwrap();
        let mut frames = Vec::new();
        let mut offset = HEADER as usize;
        while let Some(head) = bytes.get(offset..offset + 4) {
            let len = u32::from_le_bytes(head.try_into().unwrap()) as usize;
            let end = offset + FRAME as usize + len;
            if end > bytes.len() {
                break;
            }
            frames.push(Frame {
                leaf: self.first + frames.len() as u64,
                offset: offset as u64,
                len: len as u64,
            });
            offset = end;
        }
        frames
    }

    fn flip(&self, at: u64) {
        flip(&self.path, at);
    }
}

/// Changes one bit of a file; a second time changes it back.
fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    File::sync_all(&file).unwrap();
}

fn segments(log: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(log.join("segments")).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "seg"));
    paths.sort();
    paths
}

/// Bytes of all segments.
fn log_bytes(log: &Path) -> u64 {
    segments(log).iter().map(|path| len(path)).sum()
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}

/// Records under the latest checkpoint.
fn checkpointed(log: &Path) -> u64 {
    let note = fs::read_to_string(log.join("checkpoint")).unwrap();
    note.lines().nth(1).unwrap().parse().unwrap()
}

/// Files of the spool in `dir`, oldest first.
pub fn spool_files(dir: &Path) -> Vec<PathBuf> {
    let boots = fs::read_dir(dir).into_iter().flatten();
    let below = |boot: PathBuf| fs::read_dir(boot).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = boots
        .flatten()
        .flat_map(|boot| below(boot.path()).map(|file| file.path()))
        .collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "spool"));
    files.sort_by_key(|path| {
        (
            fs::metadata(path).and_then(|m| m.modified()).ok(),
            path.clone(),
        )
    });
    files
}
