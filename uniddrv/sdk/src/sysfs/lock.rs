//! One bind or unbind at a time.

use std::fs::{self, File, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Error, Sysfs};

/// How long to wait for another bind or unbind: an NVMe driver may take
/// seconds to let go of a device.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at the lock.
const PAUSE: Duration = Duration::from_millis(20);

impl Sysfs {
    /// Waits until no other process binds or unbinds. The kernel lets go of the
    /// lock when the file is closed, also by a process that was killed.
    pub(super) fn lock(&self) -> Result<File, Error> {
        let path = self.path("run/uniddrv/lock");
        let open = || {
            fs::create_dir_all(self.path("run/uniddrv"))?;
            File::options().create(true).truncate(false).write(true).open(&path)
        };
        let file = open().map_err(|error| Error::io("create", &path, error))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path, error)),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Locked { path, seconds: PATIENCE.as_secs() });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Tree;

    #[test]
    fn the_second_waits_for_the_first() {
        let tree = Tree::new();
        let sysfs = tree.sysfs();
        let first = sysfs.lock().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            let lock = sysfs.lock();
            sender.send("second").unwrap();
            lock.is_ok()
        });
        assert!(receiver.try_recv().is_err());
        drop(first);
        assert_eq!(receiver.recv().unwrap(), "second");
        assert!(waiter.join().unwrap());
    }
}
