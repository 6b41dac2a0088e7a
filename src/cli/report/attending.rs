//! The user who waits for long work, as a report, a verification or an export: a terminal tells how
//! far it is, and Ctrl-C ends it.

use std::{
    cell::RefCell,
    sync::{OnceLock, mpsc::channel},
    time::Duration,
};

use palisade_audit::going::{Far, Going};
use palisade_mesh::diagnostic::Diagnostic;
use serde::Serialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::{
    cli::block_on,
    control::client::{Mesh, gone},
    render::progress::{self, Progress},
    run::audit::WorkLine,
};

/// How long work has that was ended, until it goes with the process.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// Whether the user still waits, which is until Ctrl-C. That is heard from the first call on, for
/// as long as the process lives.
pub(crate) fn user() -> Going {
    static USER: OnceLock<Going> = OnceLock::new();
    let going = USER.get_or_init(|| {
        let going = Going::default();
        let (heard, (ready, is_ready)) = (going.clone(), channel());
        std::thread::spawn(move || {
            block_on(async {
                let signal = signal(SignalKind::interrupt());
                let _ = ready.send(());
                if let Ok(mut signal) = signal
                    && signal.recv().await.is_some()
                {
                    heard.end();
                }
            });
        });
        // Without such a thread, Ctrl-C ends the process as it is.
        let _ = is_ready.recv();
        going
    });
    going.clone()
}

/// Asks whether the user still waits.
///
/// # Errors
/// `PLS7812` when they do not.
pub(crate) fn ask() -> Result<(), Diagnostic> {
    user().ask().map_err(|_| interrupted())
}

/// What is told of a report that its user ended.
pub(crate) fn interrupted() -> Diagnostic {
    Diagnostic::error(7812, "the report was interrupted")
        .cause("nothing was written: no file gets its name before all of them are there")
        .help("make it again; a shorter period takes less time")
}

/// Long work of an audit service, in the words of whoever waits for it.
pub(crate) struct Work {
    /// What it is.
    pub(crate) what: &'static str,
    /// What it waits for until it is its turn.
    pub(crate) waits: &'static str,
    /// What is told when its user ends it.
    pub(crate) interrupted: fn() -> Diagnostic,
}

impl Work {
    /// Work on a report.
    pub(crate) fn on_report(what: &'static str) -> Self {
        Self {
            what,
            waits: "another report is being made",
            interrupted,
        }
    }
}

/// Waits for `work` as long as the user does, and says on a terminal what it is, or how far, which
/// `far` tells.
///
/// # Errors
/// `interrupted` when the user ended it.
async fn waited<T>(
    interrupted: fn() -> Diagnostic,
    far: impl Fn() -> (&'static str, Far),
    work: impl Future<Output = T>,
) -> Result<T, Diagnostic> {
    let user = user();
    let mut line = Progress::begin().hinting(" · Ctrl-C ends it");
    let told = |line: &mut Progress| match far() {
        (what, Far { all: 0, .. }) => line.wait(what),
        (_, far) => line.tell(progress::Far {
            records: far.records,
            of: None,
            by: Some((far.done, far.all)),
        }),
    };
    tokio::select! {
        done = line.during(work, told) => Ok(done),
        () = user.gone() => Err(interrupted()),
    }
}

/// Does `work` of this machine on a thread of its own, so that Ctrl-C is heard, as long as the user
/// waits; a terminal hears `what` it is, or how far. Work that is ended and does not hear of it
/// goes with the process.
///
/// # Errors
/// `interrupted` when the user ended it.
pub(crate) async fn apart<T: Send + 'static>(
    what: &'static str,
    interrupted: fn() -> Diagnostic,
    work: impl FnOnce(&Going) -> T + Send + 'static,
) -> Result<T, Diagnostic> {
    let going = Going::default();
    let (done, mut answer) = oneshot::channel();
    let asked = going.clone();
    std::thread::spawn(move || {
        let _ = done.send(work(&asked));
    });
    match waited(interrupted, || (what, going.far()), &mut answer).await {
        Ok(done) => done.map_err(|_| {
            Diagnostic::error(7809, "the records cannot be read")
                .cause(format!("bug: this broke off: {what}"))
                .help("report it, with the version of the program")
        }),
        Err(interrupted) => {
            going.end();
            let _ = tokio::time::timeout(ENDS_WITHIN, answer).await;
            Err(interrupted)
        }
    }
}

/// Has the audit service of a running mesh work as long as the user waits; what came of it.
///
/// # Errors
/// What the work says when the user ended it, and what the service says.
pub(crate) async fn of_mesh(
    mesh: &Mesh,
    path: &str,
    asked: &impl Serialize,
    work: &Work,
) -> Result<Vec<u8>, Diagnostic> {
    let answer = RefCell::new(Answer::default());
    let asking = mesh.bytes("audit", path, asked, |bytes| {
        answer.borrow_mut().take(bytes);
        true
    });
    let far = || match &answer.borrow().now {
        Some(WorkLine::Waits) => (work.waits, Far::default()),
        Some(WorkLine::Far(far)) => (work.what, *far),
        _ => (work.what, Far::default()),
    };
    waited(work.interrupted, far, asking).await??;
    answer.into_inner().whole()
}

/// An answer to long work, while it arrives.
#[derive(Default)]
struct Answer {
    /// What is not taken apart yet; behind the last line, what came of the work.
    bytes: Vec<u8>,
    /// The last line of how far it is.
    now: Option<WorkLine>,
    /// The last line.
    last: Option<WorkLine>,
}

impl Answer {
    fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        while self.last.is_none()
            && let Some(end) = self.bytes.iter().position(|b| *b == b'\n')
        {
            let rest = self.bytes.split_off(end + 1);
            let line = std::mem::replace(&mut self.bytes, rest);
            match serde_json::from_slice(&line).ok() {
                last @ Some(WorkLine::Done | WorkLine::Failed(_)) => self.last = last,
                now => self.now = now,
            }
        }
    }

    fn whole(self) -> Result<Vec<u8>, Diagnostic> {
        match self.last {
            Some(WorkLine::Done) => Ok(self.bytes),
            Some(WorkLine::Failed(problem)) => Err((*problem).into()),
            _ if self.now.is_some() || self.bytes.is_empty() => {
                Err(gone(&"it has not said what came of the work"))
            }
            _ => Err(gone(&"it answers as another version does; restart it")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the pieces are that it arrives in; an answer without an end is none.
    #[test]
    fn an_answer_is_taken_apart_and_a_part_is_none() {
        let whole =
            b"\"waits\"\n{\"far\":{\"records\":7,\"done\":1,\"all\":2}}\n\"done\"\nline\nline\n";
        for size in [1, 5, whole.len()] {
            let mut answer = Answer::default();
            whole.chunks(size).for_each(|piece| answer.take(piece));
            assert!(matches!(&answer.now, Some(WorkLine::Far(far)) if far.records == 7));
            assert_eq!(answer.whole().unwrap(), b"line\nline\n");
        }
        let mut part = Answer::default();
        part.take(&whole[..20]);
        assert_eq!(part.whole().unwrap_err().code.0, 9105);
        let failed = WorkLine::Failed(Box::new(Diagnostic::error(7821, "too many").into()));
        let mut answer = Answer::default();
        answer.take(&serde_json::to_vec(&failed).unwrap());
        answer.take(b"\n");
        assert_eq!(answer.whole().unwrap_err().code.0, 7821);
    }
}
