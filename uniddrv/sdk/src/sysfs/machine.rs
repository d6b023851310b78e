//! Everything that changes the machine goes through one trait, so that tests
//! can let each single change fail.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// The changes that taking a device and giving it back are made of.
pub(super) trait Machine {
    /// Writes an attribute of sysfs, in one write.
    fn write_attribute(&mut self, path: &Path, value: &str) -> io::Result<()>;

    /// Writes a file whole or not at all, with the folders above it.
    fn write_file(&mut self, path: &Path, text: &str) -> io::Result<()>;

    /// Removes a file; one that is not there is removed already.
    fn remove_file(&mut self, path: &Path) -> io::Result<()>;

    /// Loads a kernel module by its name or a device's modalias.
    fn load_module(&mut self, name: &str) -> io::Result<()>;

    /// Makes a user the owner of a node.
    fn change_owner(&mut self, path: &Path, user: u32) -> io::Result<()>;
}

/// The machine itself.
pub(super) struct Linux {
    /// Kernel modules belong to the tree below `/` only.
    pub(super) modules: bool,
}

impl Machine for Linux {
    fn write_attribute(&mut self, path: &Path, value: &str) -> io::Result<()> {
        // No O_CREAT: what is not an attribute must not become a file.
        let mut attribute = fs::OpenOptions::new().write(true).open(path)?;
        attribute.write_all(value.as_bytes())
    }

    fn write_file(&mut self, path: &Path, text: &str) -> io::Result<()> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidFilename.into());
        };
        fs::create_dir_all(folder)?;
        let unfinished = folder.join(format!(".{}.new", name.to_string_lossy()));
        let mut file = fs::File::create(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    }

    fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn load_module(&mut self, name: &str) -> io::Result<()> {
        if !self.modules {
            return Err(io::Error::other("modules are loaded for the root / alone"));
        }
        let modprobe =
            |program: &str| Command::new(program).arg("--").arg(name).stdin(Stdio::null()).output();
        let output = match modprobe("modprobe") {
            // Not every user's PATH has /sbin.
            Err(error) if error.kind() == io::ErrorKind::NotFound => modprobe("/sbin/modprobe"),
            result => result,
        };
        let output =
            output.map_err(|error| io::Error::new(error.kind(), format!("modprobe: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or("modprobe failed").trim();
        Err(io::Error::other(said.to_owned()))
    }

    fn change_owner(&mut self, path: &Path, user: u32) -> io::Result<()> {
        std::os::unix::fs::chown(path, Some(user), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_never_created_and_files_are_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut linux = Linux { modules: false };
        let path = folder.path().join("a/b.toml");
        assert!(linux.write_attribute(&path, "x").is_err());
        linux.write_file(&path, "a long first text").unwrap();
        linux.write_file(&path, "short").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "short");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        linux.write_attribute(&path, "attr!").unwrap();
        linux.remove_file(&path).unwrap();
        linux.remove_file(&path).unwrap();
        assert!(!path.exists());
        assert!(linux.load_module("vfio-pci").is_err());
    }
}
