//! Everything that the partition changes on a machine, as a trait: tests put a kernel in its place
//! that refuses, or that ends the core at any step.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::cpus::Cpu;

/// What changes the machine.
pub(super) trait Kernel: Debug + Send {
    /// Writes a value to a file of the kernel's, which must be there.
    fn write(&mut self, path: &Path, value: &str) -> io::Result<()>;

    /// Makes a control group.
    fn make_group(&mut self, path: &Path) -> io::Result<()>;

    /// Removes a control group.
    fn remove_group(&mut self, path: &Path) -> io::Result<()>;

    /// Opens a device file to write to.
    fn open(&mut self, path: &Path) -> io::Result<File>;

    /// Pins a process to a CPU.
    fn pin(&mut self, process: u32, cpu: Cpu) -> io::Result<()>;

    /// Writes an ordinary file whole or not at all; only its owner reads it.
    fn keep(&mut self, path: &Path, text: &str) -> io::Result<()>;

    /// Removes an ordinary file. One that is not there is fine.
    fn forget(&mut self, path: &Path) -> io::Result<()>;
}

/// This machine's.
#[derive(Debug)]
pub(super) struct Linux;

impl Kernel for Linux {
    fn write(&mut self, path: &Path, value: &str) -> io::Result<()> {
        // One call: the kernel takes each as a whole.
        OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
    }

    fn make_group(&mut self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn remove_group(&mut self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn open(&mut self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).open(path)
    }

    fn pin(&mut self, process: u32, cpu: Cpu) -> io::Result<()> {
        cpu.pin(Some(process))
    }

    fn keep(&mut self, path: &Path, text: &str) -> io::Result<()> {
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        self.forget(Path::new(&new))?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&new, path)
    }

    fn forget(&mut self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
