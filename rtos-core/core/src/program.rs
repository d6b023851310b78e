//! Driver programs: read once, checked, and kept in sealed memory that nobody can change. A
//! process is executed from there, so it needs no file, and a file that is replaced meanwhile
//! changes nothing that runs.

mod elf;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fchmod, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

pub use elf::ElfError;

/// The most bytes of a program.
const MOST: u64 = 256 << 20;

/// A driver's program in sealed memory.
#[derive(Debug)]
pub struct Program {
    memory: File,
    path: PathBuf,
    build: String,
}

/// A program that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It cannot be read.
    #[error("cannot read the program {}: {source}", path.display())]
    Unreadable {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a folder, a device, or whatever else is no file.
    #[error("the program {} is no regular file", path.display())]
    NoFile {
        /// Where.
        path: PathBuf,
    },
    /// It is too long.
    #[error("the program {} has {len} bytes; {MOST} are possible", path.display())]
    TooLong {
        /// Where.
        path: PathBuf,
        /// Bytes.
        len: u64,
    },
    /// It is nothing that can be executed here.
    #[error("the program {}: {source}", path.display())]
    Unfit {
        /// Where.
        path: PathBuf,
        /// Why.
        source: ElfError,
    },
    /// There is no memory to keep it in.
    #[error("cannot keep the program {} in sealed memory: {step}: {source}{}", path.display(), mend(*source))]
    Unkept {
        /// Where it was read from.
        path: PathBuf,
        /// What failed.
        step: &'static str,
        /// Why.
        source: Errno,
    },
}

fn mend(error: Errno) -> &'static str {
    match error {
        // Executable memory is refused as a whole: vm.memfd_noexec=2.
        Errno::ACCESS => "; `sysctl vm.memfd_noexec=1` lets programs be executed from memory",
        _ => "",
    }
}

impl Program {
    /// Reads the program at `path` into sealed memory, and checks what is there.
    ///
    /// # Errors
    /// Where it cannot be read, is no static 64-bit ELF program for this machine, or memory is
    /// not to be had.
    pub fn load(path: &Path) -> Result<Self, ProgramError> {
        let unreadable =
            |source: io::Error| ProgramError::Unreadable { path: path.to_owned(), source };
        // Opening must not wait for the other end of a FIFO.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let mut file = rustix::fs::open(path, flags, Mode::empty())
            .map(File::from)
            .map_err(|error| unreadable(error.into()))?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(ProgramError::NoFile { path: path.to_owned() });
        }
        let too_long = |len| ProgramError::TooLong { path: path.to_owned(), len };
        if metadata.len() > MOST {
            return Err(too_long(metadata.len()));
        }
        let unkept =
            |step| move |source| ProgramError::Unkept { path: path.to_owned(), step, source };
        let mut memory = memory(path).map(File::from).map_err(unkept("memfd_create"))?;
        // The file may grow while it is read.
        let len = copy(&mut file, &mut memory).map_err(unreadable)?;
        if len > MOST {
            return Err(too_long(len));
        }
        // It may be executed and not read: Linux then keeps the process that executes it from
        // being traced by others of the same user, and from leaving a core dump.
        fchmod(&memory, Mode::XUSR | Mode::XGRP | Mode::XOTH).map_err(unkept("fchmod"))?;
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        fcntl_add_seals(&memory, seals).map_err(unkept("sealing"))?;
        // Only what cannot change any more is looked at.
        let read = |offset, bytes: &mut [u8]| memory.read_exact_at(bytes, offset);
        let build = elf::check(len, read)
            .map_err(|source| ProgramError::Unfit { path: path.to_owned(), source })?;
        let build = match build {
            Some(build) => build,
            None => hash(&memory, len).map_err(unreadable)?,
        };
        Ok(Self { memory, path: path.to_owned(), build })
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name: the last part of its path.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What tells it from other builds, in hexadecimal: the linker's build identifier, or a
    /// hash of its bytes where it has none.
    pub fn build(&self) -> &str {
        &self.build
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

/// Memory that can be sealed and executed.
fn memory(path: &Path) -> Result<rustix::fd::OwnedFd, Errno> {
    let name = path.file_name().unwrap_or_default();
    // Linux takes 249 bytes of a name.
    let name: String = name.to_string_lossy().chars().take(60).collect();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name.as_str(), flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 all such memory can be executed, and the flag is not known.
        Err(Errno::INVAL) => memfd_create(name.as_str(), flags),
        other => other,
    }
}

/// Copies `file` to `memory`, one byte more than [`MOST`] at most.
fn copy(file: &mut File, memory: &mut File) -> io::Result<u64> {
    let mut limited = file.take(MOST + 1);
    let mut buffer = vec![0; 1 << 20];
    let mut len = 0;
    loop {
        let count = limited.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return Ok(len);
        };
        memory.write_all(bytes)?;
        len += count as u64;
    }
}

/// The FNV-1a hash of the first `len` bytes of `memory`, in hexadecimal.
fn hash(memory: &File, len: u64) -> io::Result<String> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut bytes = vec![0; len as usize];
    memory.read_exact_at(&mut bytes, 0)?;
    for byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    Ok(format!("{hash:016x}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_static_program_is_sealed() {
        // This test is one.
        let path = std::env::current_exe().unwrap();
        let program = Program::load(&path).unwrap();
        assert_eq!(program.path(), path);
        assert_eq!(program.name(), path.file_name().unwrap().to_str().unwrap());
        assert!(program.build().len() >= 16, "{}", program.build());
        let original = fs::read(&path).unwrap();
        let mut copy = vec![0; original.len()];
        program.memory.read_exact_at(&mut copy, 0).unwrap();
        assert!(copy == original);
        assert!(program.memory.write_all_at(b"x", 0).is_err());
        assert!(program.memory.set_len(0).is_err());
        assert!(program.memory.set_len(original.len() as u64 + 1).is_err());
        assert_eq!(program.memory.metadata().unwrap().permissions().mode() & 0o777, 0o111);
    }

    #[test]
    fn a_program_without_a_build_identifier_is_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("driver");
        let mut bytes = elf::tests::program(&[]);
        fs::write(&path, &bytes).unwrap();
        let one = Program::load(&path).unwrap();
        bytes.push(0);
        fs::write(&path, &bytes).unwrap();
        let other = Program::load(&path).unwrap();
        assert_eq!(one.build().len(), 16);
        assert_ne!(one.build(), other.build());
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("driver");
        let message = || Program::load(&path).unwrap_err().to_string();
        assert!(message().contains("cannot read the program"), "{}", message());
        fs::write(&path, "#!/bin/sh\n").unwrap();
        assert!(message().contains("no ELF program"), "{}", message());
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RWXU).unwrap();
        assert!(message().ends_with("is no regular file"), "{}", message());
        fs::remove_file(&path).unwrap();
        let large = File::create(&path).unwrap();
        large.set_len(MOST + 1).unwrap();
        assert!(message().contains("has 268435457 bytes"), "{}", message());
    }
}
