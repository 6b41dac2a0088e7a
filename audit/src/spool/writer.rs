//! The one thread that writes spool files.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    sync::{Arc, PoisonError, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{Shared, file, stream::Kept};
use crate::{buffer::Chunk, files};

/// Time between tries while the disk refuses.
const RETRY: Duration = Duration::from_millis(100);

/// Bytes written at once.
const GROUP_BYTES: usize = 16 << 20;

pub(super) enum Command {
    Chunk(Chunk, watch::Sender<Kept>),
    /// A stream ended and left something.
    Parting,
    Close,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    file: Option<Open>,
    next_number: u64,
    /// Taken over and not on disk yet; kept when the disk refuses.
    group: Vec<(Chunk, watch::Sender<Kept>)>,
}

/// The file being written.
struct Open {
    file: File,
    id: u64,
    /// End of the last durable chunk.
    end: u64,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, commands: mpsc::Receiver<Command>) -> Self {
        Self {
            shared,
            commands,
            file: None,
            next_number: 0,
            group: Vec::new(),
        }
    }

    pub(super) fn run(mut self) {
        let mut open = true;
        while open {
            open = self.gather();
            if !self.commit() && open {
                // Nothing more is taken over meanwhile: buffers fill, and say so.
                self.pause();
                open = !self.shared.is_closed();
            }
        }
        self.end();
    }

    /// Takes over what waits; false once the spool is closed.
    fn gather(&mut self) -> bool {
        let mut bytes = 0;
        let mut deadline = None;
        // What a failed write left is tried again before anything else.
        while self.group.is_empty() || deadline.is_some() {
            let next = match deadline {
                None => self
                    .commands
                    .recv()
                    .map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                Some(deadline) => {
                    let wait = Instant::saturating_duration_since(&deadline, Instant::now());
                    self.commands.recv_timeout(wait)
                }
            };
            match next {
                Ok(Command::Chunk(chunk, kept)) => {
                    bytes += chunk.bytes.len();
                    self.group.push((chunk, kept));
                }
                Ok(Command::Parting) => bytes += self.part(),
                Ok(Command::Close) | Err(mpsc::RecvTimeoutError::Disconnected) => return false,
                Err(mpsc::RecvTimeoutError::Timeout) => break,
            }
            if bytes >= GROUP_BYTES || self.shared.is_closed() {
                break;
            }
            deadline = deadline.or_else(|| Some(Instant::now() + self.shared.options.group_wait));
        }
        // A stream that ended found the channel full and could not tell.
        self.part();
        !self.shared.is_closed()
    }

    /// Takes over what ended streams left; only after what they handed over before.
    fn part(&mut self) -> usize {
        let nothing = self
            .shared
            .parting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty();
        if nothing {
            return 0;
        }
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Chunk(chunk, kept) = command {
                self.group.push((chunk, kept));
            }
        }
        let mut parting = self
            .shared
            .parting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let bytes = parting.iter().map(|(chunk, _)| chunk.bytes.len()).sum();
        self.group.append(&mut parting);
        bytes
    }

    /// Writes what was taken over; false when the disk refused.
    fn commit(&mut self) -> bool {
        if self.group.is_empty() {
            return true;
        }
        let written = self.write();
        self.shared
            .failing
            .store(written.is_err(), Ordering::Relaxed);
        match written {
            Ok(()) => {
                for (chunk, kept) in self.group.drain(..) {
                    kept.send_modify(|kept| {
                        kept.durable = kept.durable.max(chunk.last_sequence());
                        kept.failed = None;
                    });
                }
                self.shared.moved();
                true
            }
            Err(e) => {
                tracing::error!(error = %e, "spool cannot be written");
                let cause: Arc<str> = e.to_string().into();
                for (_, kept) in &self.group {
                    kept.send_modify(|kept| kept.failed = Some(cause.clone()));
                }
                // Whatever half of it is in the file is cut off before the next write.
                self.cut();
                false
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let mut open = match self.file.take() {
            Some(open) if open.end < self.shared.options.file_bytes => open,
            full => {
                if let Some(full) = full {
                    self.shared.queue().seal(full.id);
                }
                self.begin()?
            }
        };
        let mut buf = Vec::new();
        let mut ends = Vec::new();
        for (chunk, _) in &self.group {
            file::chunk(&mut buf, chunk);
            ends.push(open.end + buf.len() as u64);
        }
        let written = open
            .file
            .write_all_at(&buf, open.end)
            .and_then(|()| open.file.sync_data());
        if written.is_ok() {
            open.end += buf.len() as u64;
            let mut queue = self.shared.queue();
            for ((chunk, _), end) in self.group.iter().zip(ends) {
                queue.written(open.id, chunk, end);
            }
            self.shared
                .bytes
                .fetch_add(buf.len() as u64, Ordering::Relaxed);
        }
        self.file = Some(open);
        written
    }

    /// Begins a file; its name is durable when it returns.
    fn begin(&mut self) -> io::Result<Open> {
        let Shared {
            dir,
            reporter,
            boot,
            ..
        } = &*self.shared;
        let path = file::path(dir, *boot, self.next_number);
        let header = file::header(reporter, *boot);
        files::replace(&path, &header, files::Sync::Yes)?;
        files::sync_dir(dir)?;
        self.next_number += 1;
        let file = OpenOptions::new()
            .write(true)
            .mode(files::FILE_MODE)
            .open(&path)?;
        let end = header.len() as u64;
        self.shared.bytes.fetch_add(end, Ordering::Relaxed);
        let id = self.shared.queue().push(path, *boot, end);
        Ok(Open { file, id, end })
    }

    /// Takes back what a failed write left; when even that fails, the file is
    /// given up at its last durable chunk.
    fn cut(&mut self) {
        let Some(open) = &self.file else {
            return;
        };
        let cut = open
            .file
            .set_len(open.end)
            .and_then(|()| open.file.sync_data());
        if cut.is_err() {
            self.shared.queue().seal(open.id);
            self.file = None;
        }
    }

    /// Waits a little, unless the spool is closed.
    fn pause(&self) {
        let until = Instant::now() + RETRY;
        while !self.shared.is_closed() && Instant::now() < until {
            std::thread::sleep(RETRY / 10);
        }
    }

    /// Writes what is left and tells everybody that it is over.
    fn end(mut self) {
        self.part();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Chunk(chunk, kept) = command {
                self.group.push((chunk, kept));
            }
        }
        let told: Vec<_> = self.group.iter().map(|(_, kept)| kept.clone()).collect();
        if !self.commit() {
            let records: u64 = self.group.iter().map(|(chunk, _)| chunk.count).sum();
            tracing::error!(
                records,
                "spool closed on a disk that refuses; records are lost"
            );
        }
        for kept in told {
            kept.send_modify(|kept| kept.closed = true);
        }
        let mut queue = self.shared.queue();
        if let Some(open) = &self.file {
            queue.seal(open.id);
        }
        let freed = queue.free();
        drop(queue);
        self.shared.release(freed);
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.moved();
    }
}
