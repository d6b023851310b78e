//! I/O commands. NVM Command Set 1.0 §3.2.

use uniddrv_spec::nvme::BROADCAST;
use uniddrv_spec::nvme::entry::SubmissionEntry;
use uniddrv_spec::nvme::io::{
    Access as Range, Command, Copy, CopyRange, DatasetManagement, DatasetRange, Opcode,
};
use uniddrv_spec::nvme::status::Status;
use zerocopy::{FromZeros, IntoBytes};

use super::backing::Backing;
use super::data::{Data, Pointers};
use super::logs::Logs;
use super::namespace::Namespace;
use crate::host::{Access, ClientMemory};

/// Maximum Source Range Count of Copy.
pub(super) const COPY_RANGES: usize = 128;
/// Maximum Single Source Range Length and Maximum Copy Length, in blocks: all of it is read
/// before any of it is written, so this is what a Copy may keep in memory.
pub(super) const COPY_BLOCKS: u32 = 1024;

/// What the execution of an I/O command needs.
pub(super) struct Io<'a> {
    pub(super) namespaces: &'a mut [Namespace],
    pub(super) data: &'a mut Data,
    pub(super) logs: &'a mut Logs,
    pub(super) memory: &'a ClientMemory,
    pub(super) pointers: Pointers,
    /// The most bytes of one command's data.
    pub(super) max_transfer: u32,
    /// Whether the volatile write cache is on.
    pub(super) cached: bool,
}

/// The namespace `nsid` where it is active.
#[inline]
pub(super) fn active(namespaces: &mut [Namespace], nsid: u32) -> Result<&mut Namespace, Status> {
    match namespaces.get_mut(nsid.wrapping_sub(1) as usize) {
        Some(namespace) if namespace.attached => Ok(namespace),
        Some(_) => Err(Status::INVALID_FIELD),
        None => Err(Status::INVALID_NAMESPACE_OR_FORMAT),
    }
}

impl Io<'_> {
    /// `entry` will be executed soon: the blocks that it reads or writes are fetched ahead.
    /// Checks nothing, which is for its execution to do.
    #[inline]
    pub(super) fn prefetch(&self, entry: &SubmissionEntry) {
        if matches!(Opcode(entry.opcode()), Opcode::READ | Opcode::WRITE) {
            let range = Range::parse(entry);
            if let Some(namespace) = self.namespaces.get(range.nsid.wrapping_sub(1) as usize) {
                namespace.backing.prefetch(range.slba << namespace.shift());
            }
        }
    }

    /// Executes `entry`. Returns what Dword 0 of the completion says.
    #[inline]
    pub(super) fn execute(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        if entry.cdw0().fuse() != 0 {
            return Err(Status::INVALID_FIELD);
        }
        match Opcode(entry.opcode()) {
            Opcode::READ => self.read(entry, &Range::parse(entry)),
            Opcode::WRITE => self.write(entry, &Range::parse(entry)),
            _ => return self.execute_other(entry),
        }
        .map(|()| 0)
    }

    /// What is not a read or a write. Kept apart, so that those two stay small.
    #[inline(never)]
    fn execute_other(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        match Command::parse(entry) {
            Command::Read(range) => self.read(entry, &range),
            Command::Write(range) => self.write(entry, &range),
            Command::Flush { nsid } => self.flush(nsid),
            Command::WriteUncorrectable(range) => self.write_uncorrectable(&range),
            Command::Compare(range) => self.compare(entry, &range),
            Command::WriteZeroes(range) => self.write_zeroes(&range),
            Command::DatasetManagement(command) => self.dataset_management(entry, command),
            Command::Verify(range) => self.verify(&range),
            Command::Copy(copy) => return self.copy(entry, copy),
            Command::Unknown(_) => Err(Status::INVALID_COMMAND_OPCODE),
        }
        .map(|()| 0)
    }

    #[inline]
    fn read(&mut self, entry: &SubmissionEntry, range: &Range) -> Result<(), Status> {
        let namespace = active(self.namespaces, range.nsid)?;
        let (offset, len) = namespace.extent(range.slba, range.blocks.get())?;
        if len > u64::from(self.max_transfer) {
            return Err(Status::INVALID_FIELD);
        }
        self.data.locate(entry, len as usize, Access::Write, self.memory, self.pointers)?;
        if namespace.bad.touches(range.slba, range.blocks.get()) {
            return Err(Status::UNRECOVERED_READ_ERROR);
        }
        namespace.backing.read(offset, self.data, self.memory)?;
        self.logs.health.read(len);
        Ok(())
    }

    #[inline]
    fn write(&mut self, entry: &SubmissionEntry, range: &Range) -> Result<(), Status> {
        let namespace = active(self.namespaces, range.nsid)?;
        let (offset, len) = namespace.extent(range.slba, range.blocks.get())?;
        if len > u64::from(self.max_transfer) {
            return Err(Status::INVALID_FIELD);
        }
        self.data.locate(entry, len as usize, Access::Read, self.memory, self.pointers)?;
        if namespace.bad.touches(range.slba, range.blocks.get()) {
            namespace.bad.remove(range.slba, range.blocks.get())?;
        }
        namespace.backing.write(offset, self.data, self.memory)?;
        if range.flags.fua() || !self.cached {
            namespace.backing.flush()?;
        }
        self.logs.health.write(len);
        Ok(())
    }

    fn flush(&mut self, nsid: u32) -> Result<(), Status> {
        if nsid != BROADCAST {
            return active(self.namespaces, nsid)?.backing.flush();
        }
        for namespace in self.namespaces.iter_mut().filter(|namespace| namespace.attached) {
            namespace.backing.flush()?;
        }
        Ok(())
    }

    fn write_uncorrectable(&mut self, range: &Range) -> Result<(), Status> {
        let namespace = active(self.namespaces, range.nsid)?;
        namespace.extent(range.slba, range.blocks.get())?;
        namespace.bad.add(range.slba, range.blocks.get())
    }

    fn compare(&mut self, entry: &SubmissionEntry, range: &Range) -> Result<(), Status> {
        let namespace = active(self.namespaces, range.nsid)?;
        let (offset, len) = namespace.extent(range.slba, range.blocks.get())?;
        if len > u64::from(self.max_transfer) {
            return Err(Status::INVALID_FIELD);
        }
        self.data.locate(entry, len as usize, Access::Read, self.memory, self.pointers)?;
        if namespace.bad.touches(range.slba, range.blocks.get()) {
            return Err(Status::UNRECOVERED_READ_ERROR);
        }
        // A namespace that keeps nothing has nothing that could differ.
        let null = matches!(namespace.backing, Backing::Null);
        if !null && !namespace.backing.equals(offset, self.data, self.memory)? {
            return Err(Status::COMPARE_FAILURE);
        }
        self.logs.health.read(len);
        Ok(())
    }

    fn write_zeroes(&mut self, range: &Range) -> Result<(), Status> {
        let namespace = active(self.namespaces, range.nsid)?;
        let (offset, len) = namespace.extent(range.slba, range.blocks.get())?;
        namespace.bad.remove(range.slba, range.blocks.get())?;
        namespace.backing.clear(offset, len)?;
        if range.flags.fua() || !self.cached {
            namespace.backing.flush()?;
        }
        Ok(())
    }

    fn verify(&mut self, range: &Range) -> Result<(), Status> {
        let namespace = active(self.namespaces, range.nsid)?;
        namespace.extent(range.slba, range.blocks.get())?;
        if namespace.bad.touches(range.slba, range.blocks.get()) {
            return Err(Status::UNRECOVERED_READ_ERROR);
        }
        Ok(())
    }

    fn dataset_management(
        &mut self,
        entry: &SubmissionEntry,
        command: DatasetManagement,
    ) -> Result<(), Status> {
        let namespace = active(self.namespaces, command.nsid)?;
        let mut ranges = [DatasetRange::default(); DatasetRange::MAX];
        let ranges = ranges.get_mut(..command.ranges()).ok_or(Status::INTERNAL_ERROR)?;
        let len = size_of_val(ranges);
        self.data.locate(entry, len, Access::Read, self.memory, self.pointers)?;
        self.data.gather(self.memory, ranges.as_mut_bytes())?;
        for range in &*ranges {
            namespace.extent(range.slba.get(), range.length.get())?;
        }
        if !command.attributes.ad() {
            return Ok(());
        }
        for range in &*ranges {
            let (offset, len) = namespace.extent(range.slba.get(), range.length.get())?;
            if len > 0 {
                namespace.bad.remove(range.slba.get(), range.length.get())?;
                namespace.backing.deallocate(offset, len)?;
            }
        }
        Ok(())
    }

    fn copy(&mut self, entry: &SubmissionEntry, copy: Copy) -> Result<u32, Status> {
        let namespace = active(self.namespaces, copy.nsid)?;
        if copy.dword12.desfmt() != 0 || copy.dword12.dtype() != 0 {
            return Err(Status::INVALID_FIELD);
        }
        let mut ranges = [CopyRange::new_zeroed(); COPY_RANGES];
        let Some(ranges) = ranges.get_mut(..copy.ranges()) else {
            return Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED);
        };
        let len = size_of_val(ranges);
        self.data.locate(entry, len, Access::Read, self.memory, self.pointers)?;
        self.data.gather(self.memory, ranges.as_mut_bytes())?;
        let total: u32 = ranges.iter().map(|range| range.blocks().get()).sum();
        if total > COPY_BLOCKS {
            return Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED);
        }
        let (to, bytes) = namespace.extent(copy.sdlba, total)?;
        for range in &*ranges {
            namespace.extent(range.slba.get(), range.blocks().get())?;
            if namespace.bad.touches(range.slba.get(), range.blocks().get()) {
                return Err(Status::UNRECOVERED_READ_ERROR);
            }
        }
        // Source and destination may overlap, so all is read before any is written.
        let mut blocks = vec![0; bytes as usize];
        let mut rest = blocks.as_mut_slice();
        for range in &*ranges {
            let (from, len) = namespace.extent(range.slba.get(), range.blocks().get())?;
            let (piece, others) =
                rest.split_at_mut_checked(len as usize).ok_or(Status::INTERNAL_ERROR)?;
            namespace.backing.load(from, piece)?;
            rest = others;
        }
        namespace.bad.remove(copy.sdlba, total)?;
        namespace.backing.store(to, &blocks)?;
        if copy.dword12.fua() || !self.cached {
            namespace.backing.flush()?;
        }
        Ok(0)
    }
}
