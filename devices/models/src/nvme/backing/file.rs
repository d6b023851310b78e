//! Blocks in a file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FlockOperation, fallocate, flock};
use uniddrv_spec::nvme::status::Status;
use vm_memory::VolatileSlice;

use super::{BackingError, HOLE, PIECE, ZEROES, pieces};

/// Blocks in a file from a byte on.
#[derive(Debug)]
pub(in crate::nvme) struct FilePart {
    file: Arc<File>,
    start: u64,
    punches: bool,
    buffer: Vec<u8>,
}

impl FilePart {
    /// The part of `file` that starts at byte `start`.
    pub(super) fn new(file: Arc<File>, start: u64) -> Self {
        // Behind its end there is nothing to take away: it only tells whether this is possible.
        let end = file.metadata().map_or(0, |metadata| metadata.len());
        let punches = fallocate(&*file, HOLE, end, 4096).is_ok();
        Self { file, start, punches, buffer: Vec::new() }
    }

    /// Whether parts of the file can be given back.
    pub(super) fn punches(&self) -> bool {
        self.punches
    }

    /// Reads into the client's memory.
    pub(super) fn read(&mut self, offset: u64, to: VolatileSlice<'_>) -> Result<(), Status> {
        // The kernel cannot be handed the client's memory without unsafe code: one copy more.
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(PIECE, 0);
        let result = pieces(to.len(), |done, piece| {
            let buffer = buffer.get_mut(..piece).unwrap_or_default();
            self.load(offset + done as u64, buffer)?;
            to.subslice(done, piece).map_err(|_| Status::INTERNAL_ERROR)?.copy_from(buffer);
            Ok(())
        });
        self.buffer = buffer;
        result
    }

    /// Writes from the client's memory.
    pub(super) fn write(&mut self, offset: u64, from: VolatileSlice<'_>) -> Result<(), Status> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(PIECE, 0);
        let result = pieces(from.len(), |done, piece| {
            let buffer = buffer.get_mut(..piece).unwrap_or_default();
            from.subslice(done, piece).map_err(|_| Status::INTERNAL_ERROR)?.copy_to(buffer);
            self.store(offset + done as u64, buffer)
        });
        self.buffer = buffer;
        result
    }

    /// Copies out.
    pub(super) fn load(&self, offset: u64, to: &mut [u8]) -> Result<(), Status> {
        self.file.read_exact_at(to, self.start + offset).map_err(|error| {
            tracing::warn!(%error, offset, "backing file: read failed");
            Status::UNRECOVERED_READ_ERROR
        })
    }

    /// Copies in.
    pub(super) fn store(&self, offset: u64, from: &[u8]) -> Result<(), Status> {
        self.file.write_all_at(from, self.start + offset).map_err(|error| {
            tracing::warn!(%error, offset, "backing file: write failed");
            Status::WRITE_FAULT
        })
    }

    /// Clears, giving the disk space back where that is possible.
    pub(super) fn clear(&self, offset: u64, len: u64) -> Result<(), Status> {
        let large = len > PIECE as u64;
        if large && fallocate(&*self.file, HOLE, self.start + offset, len).is_ok() {
            return Ok(());
        }
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(PIECE as u64);
            self.store(offset + done, ZEROES.get(..piece as usize).unwrap_or_default())?;
            done += piece;
        }
        Ok(())
    }

    /// Makes what was written permanent.
    pub(super) fn flush(&self) -> Result<(), Status> {
        self.file.sync_data().map_err(|error| {
            tracing::warn!(%error, "backing file: flush failed");
            Status::WRITE_FAULT
        })
    }
}

/// Opens the file at `path` for this process alone, or makes it with `size` bytes. Returns it
/// with its length.
pub(in crate::nvme) fn open_file(
    path: &Path,
    size: Option<u64>,
) -> Result<(File, u64), BackingError> {
    let failed =
        |action, error: io::Error| BackingError::File { path: path.to_owned(), action, error };
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let (file, new) = match options.open(path) {
        Ok(file) => (file, false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some(_) = size else {
                return Err(BackingError::NoSize { path: path.to_owned(), found: 0 });
            };
            let file = options.create_new(true).open(path).map_err(|e| failed("create", e))?;
            (file, true)
        }
        Err(error) => return Err(failed("open", error)),
    };
    let found = file.metadata().map_err(|e| failed("stat", e))?;
    if !found.is_file() {
        return Err(BackingError::NotAFile(path.to_owned()));
    }
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(BackingError::InUse(path.to_owned()));
    }
    if let (true, Some(size)) = (new, size) {
        if let Err(error) = file.set_len(size) {
            // Leave nothing behind: the file is ours and holds nothing.
            let _ = std::fs::remove_file(path);
            return Err(failed("set the size", error));
        }
        return Ok((file, size));
    }
    match size {
        Some(wanted) if wanted != found.len() => {
            Err(BackingError::Size { path: path.to_owned(), found: found.len(), wanted })
        }
        _ => Ok((file, found.len())),
    }
}
