//! Where blocks are kept.

mod file;
mod ram;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use uniddrv_spec::nvme::status::Status;

use self::file::FilePart;
pub(super) use self::file::open_file;
use self::ram::Ram;
use super::data::Data;
use crate::host::{ClientMemory, MapError};

/// Blocks are cleared and copied in pieces of this many bytes.
const PIECE: usize = 64 << 10;
static ZEROES: [u8; PIECE] = [0; PIECE];
const HOLE: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// A backing that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// The memory is not there.
    #[error("cannot keep {size} bytes in memory: {error}")]
    Memory {
        /// Bytes asked for.
        size: u64,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The memory cannot be mapped.
    #[error("cannot keep {size} bytes in memory: {error}")]
    Map {
        /// Bytes asked for.
        size: u64,
        /// Why.
        #[source]
        error: MapError,
    },
    /// The file cannot be used.
    #[error("backing file {}: {action}: {error}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// It is no ordinary file.
    #[error("backing file {} is no ordinary file", .0.display())]
    NotAFile(PathBuf),
    /// Another model uses it.
    #[error("backing file {} is in use by another model", .0.display())]
    InUse(PathBuf),
    /// It does not hold what the namespaces take.
    #[error(
        "backing file {} has {found} bytes, the namespaces take {wanted}; \
         give sizes that fit, or a path where no file is yet",
        path.display()
    )]
    Size {
        /// Which file.
        path: PathBuf,
        /// Bytes that it has.
        found: u64,
        /// Bytes that the namespaces take.
        wanted: u64,
    },
    /// It is too small for one block, or new and no size was given.
    #[error(
        "backing file {} has {found} bytes: give a size (size=1G), or a file of whole blocks",
        path.display()
    )]
    NoSize {
        /// Which file.
        path: PathBuf,
        /// Bytes that it has.
        found: u64,
    },
}

/// The blocks of one namespace. Offsets and lengths are in bytes and lie inside it: whoever
/// calls has checked that.
#[derive(Debug)]
pub(super) enum Backing {
    /// Nowhere: writes are dropped, reads leave the client's memory as it is.
    Null,
    /// In memory.
    Ram(Ram),
    /// In a part of a file.
    File(FilePart),
}

impl Backing {
    /// `size` bytes of memory.
    pub(super) fn ram(size: u64) -> Result<Self, BackingError> {
        Ok(Self::Ram(Ram::new(size)?))
    }

    /// The part of `file` that starts at byte `start`.
    pub(super) fn file(file: Arc<File>, start: u64) -> Self {
        Self::File(FilePart::new(file, start))
    }

    /// A command will soon read or write at `offset`, which nobody has checked: what is in
    /// memory is fetched ahead.
    #[inline]
    pub(super) fn prefetch(&self, offset: u64) {
        if let Self::Ram(ram) = self {
            ram.prefetch(offset);
        }
    }

    /// Reads the client's `data` from `offset` on.
    #[inline]
    pub(super) fn read(
        &mut self,
        offset: u64,
        data: &Data,
        memory: &ClientMemory,
    ) -> Result<(), Status> {
        match self {
            Self::Null => Ok(()),
            _ => self.read_kept(offset, data, memory),
        }
    }

    fn read_kept(&mut self, offset: u64, data: &Data, memory: &ClientMemory) -> Result<(), Status> {
        match self {
            Self::Null => Ok(()),
            Self::Ram(ram) => data.each(memory, |place, to| ram.read(offset + place as u64, to)),
            Self::File(part) => data.each(memory, |place, to| part.read(offset + place as u64, to)),
        }
    }

    /// Writes the client's `data` from `offset` on.
    #[inline]
    pub(super) fn write(
        &mut self,
        offset: u64,
        data: &Data,
        memory: &ClientMemory,
    ) -> Result<(), Status> {
        match self {
            Self::Null => Ok(()),
            _ => self.write_kept(offset, data, memory),
        }
    }

    fn write_kept(
        &mut self,
        offset: u64,
        data: &Data,
        memory: &ClientMemory,
    ) -> Result<(), Status> {
        match self {
            Self::Null => Ok(()),
            Self::Ram(ram) => {
                data.each(memory, |place, from| ram.write(offset + place as u64, from))
            }
            Self::File(part) => {
                data.each(memory, |place, from| part.write(offset + place as u64, from))
            }
        }
    }

    /// Copies blocks out, `to.len()` bytes at `offset`.
    pub(super) fn load(&mut self, offset: u64, to: &mut [u8]) -> Result<(), Status> {
        match self {
            Self::Null => to.fill(0),
            Self::Ram(ram) => ram.load(offset, to)?,
            Self::File(part) => part.load(offset, to)?,
        }
        Ok(())
    }

    /// Copies blocks in, `from.len()` bytes at `offset`.
    pub(super) fn store(&mut self, offset: u64, from: &[u8]) -> Result<(), Status> {
        match self {
            Self::Null => Ok(()),
            Self::Ram(ram) => ram.store(offset, from),
            Self::File(part) => part.store(offset, from),
        }
    }

    /// Makes `len` bytes at `offset` read as zeroes, giving back what they take where that is
    /// possible.
    pub(super) fn clear(&mut self, offset: u64, len: u64) -> Result<(), Status> {
        match self {
            Self::Null => Ok(()),
            Self::Ram(ram) => ram.clear(offset, len),
            Self::File(part) => part.clear(offset, len),
        }
    }

    /// Whether deallocated blocks read as zeroes.
    pub(super) fn deallocates(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Ram(_) => true,
            Self::File(part) => part.punches(),
        }
    }

    /// The client does not need these bytes any more: clears them where that is cheap.
    pub(super) fn deallocate(&mut self, offset: u64, len: u64) -> Result<(), Status> {
        if self.deallocates() { self.clear(offset, len) } else { Ok(()) }
    }

    /// Makes what was written permanent.
    pub(super) fn flush(&mut self) -> Result<(), Status> {
        match self {
            Self::Null | Self::Ram(_) => Ok(()),
            Self::File(part) => part.flush(),
        }
    }

    /// Whether a flush has anything to do.
    pub(super) fn has_cache(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// Whether the client's `data` equals the blocks from `offset` on.
    pub(super) fn equals(
        &mut self,
        offset: u64,
        data: &Data,
        memory: &ClientMemory,
    ) -> Result<bool, Status> {
        let (mut ours, mut theirs) = ([0; 4096], [0; 4096]);
        let mut equal = true;
        data.each(memory, |place, slice| {
            let mut done = 0;
            while done < slice.len() && equal {
                let piece = (slice.len() - done).min(ours.len());
                let (ours, theirs) = (&mut ours[..piece], &mut theirs[..piece]);
                let part = slice.subslice(done, piece).map_err(|_| Status::INTERNAL_ERROR)?;
                part.copy_to(theirs);
                self.load(offset + (place + done) as u64, ours)?;
                equal = ours == theirs;
                done += piece;
            }
            Ok(())
        })?;
        Ok(equal)
    }
}

/// Calls `f` with the offset and length of each piece of `len` bytes.
fn pieces(len: usize, mut f: impl FnMut(usize, usize) -> Result<(), Status>) -> Result<(), Status> {
    let mut done = 0;
    while done < len {
        let piece = (len - done).min(PIECE);
        f(done, piece)?;
        done += piece;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    fn round_trip(mut backing: Backing) {
        backing.store(1000, &[7; 300]).unwrap();
        let mut data = [1; 400];
        backing.load(950, &mut data).unwrap();
        assert!(data[..50].iter().all(|&byte| byte == 0));
        assert!(data[50..350].iter().all(|&byte| byte == 7));
        assert!(data[350..].iter().all(|&byte| byte == 0));
        backing.clear(1000, 100).unwrap();
        backing.load(1000, &mut data).unwrap();
        assert_eq!((data[99], data[100]), (0, 7));
        backing.store((1 << 20) - 5, &[9; 5]).unwrap();
        backing.clear(0, 1 << 20).unwrap();
        backing.load((1 << 20) - 400, &mut data).unwrap();
        assert_eq!(data, [0; 400]);
        backing.flush().unwrap();
    }

    #[test]
    fn ram_keeps_and_clears() {
        round_trip(Backing::ram(1 << 20).unwrap());
    }

    #[test]
    fn ram_takes_memory_for_what_was_written_only() {
        let mut ram = Ram::new(1 << 40).unwrap();
        ram.load(1 << 39, &mut [1; 8192]).unwrap();
        assert!(!ram.holds(1 << 39));
        ram.store((1 << 39) + 4095, &[1; 2]).unwrap();
        assert!(ram.holds(1 << 39) && ram.holds((1 << 39) + 4096));
        ram.clear(0, (1 << 39) + 4097).unwrap();
        assert!(!ram.holds(1 << 39) && ram.holds((1 << 39) + 4096));
        let mut data = [9; 3];
        ram.load((1 << 39) + 4095, &mut data).unwrap();
        assert_eq!(data, [0; 3]);
    }

    #[test]
    fn a_file_keeps_and_clears_its_part() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let (file, len) = open_file(&path, Some(3 << 20)).unwrap();
        assert_eq!(len, 3 << 20);
        round_trip(Backing::file(Arc::new(file), 1 << 20));
    }

    #[test]
    fn impossible_backings_are_errors() {
        assert!(Backing::ram(1 << 62).is_err());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        assert!(matches!(open_file(&path, None), Err(BackingError::NoSize { .. })));
        assert!(matches!(open_file(directory.path(), None), Err(BackingError::File { .. })));
        assert!(open_file(&path, Some(u64::MAX)).is_err());
        assert!(!path.exists());
        let first = open_file(&path, Some(4096)).unwrap();
        assert!(matches!(open_file(&path, None), Err(BackingError::InUse(_))));
        drop(first);
        assert!(matches!(open_file(&path, Some(8192)), Err(BackingError::Size { .. })));
        assert_eq!(open_file(&path, None).unwrap().1, 4096);
    }

    #[test]
    fn a_full_disk_is_a_write_fault() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut backing = Backing::file(Arc::new(full), 0);
        assert_eq!(backing.store(0, &[1; 512]), Err(Status::WRITE_FAULT));
    }
}
