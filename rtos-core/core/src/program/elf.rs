//! What the core wants to know of an ELF file before it executes it. System V ABI, chapters 4
//! and 5; the file is a claim, and the kernel reads it anew.

use std::io;

/// Why a file cannot be executed as a driver.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// It is something else altogether.
    #[error("no ELF program for this machine (64 bits, machine {MACHINE})")]
    NotElf,
    /// It contradicts itself.
    #[error("a broken ELF file: {0}")]
    Broken(&'static str),
    /// It needs a dynamic linker, and there is none where drivers run.
    #[error(
        "it is not static, and there are no libraries where drivers run; build it with \
         `-C target-feature=+crt-static` and a target named, as docs/write-a-driver.md says"
    )]
    NotStatic,
    /// It wants memory that is both writable and executable, which drivers do not get.
    #[error("it asks for memory that is writable and executable")]
    WritableCode,
    /// It could not be read.
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
}

/// `e_machine` of what this program itself was built for.
const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// A sound program has about a dozen.
const MOST_PROGRAM_HEADERS: u16 = 64;
/// A note segment is a few hundred bytes.
const MOST_NOTES: u64 = 64 << 10;

// Values of `p_type`.
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const PT_GNU_STACK: u32 = 0x6474_e551;
// Bits of `p_flags`.
const PF_X: u32 = 1;
const PF_W: u32 = 2;
/// The type of a note that holds the linker's build identifier.
const NT_GNU_BUILD_ID: u32 = 3;

/// Checks a file of `len` bytes that `read` reads from: its build identifier in hexadecimal, if
/// it has one.
pub(super) fn check(
    len: u64,
    read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
) -> Result<Option<String>, ElfError> {
    let mut header = [0; HEADER];
    if len < HEADER as u64 {
        return Err(ElfError::NotElf);
    }
    read(0, &mut header)?;
    // Class 2 is 64 bits, data encoding 1 is little-endian; types 2 and 3 are programs.
    let kind = u16_at(&header, 16);
    if !header.starts_with(b"\x7fELF\x02\x01")
        || !matches!(kind, Some(2 | 3))
        || u16_at(&header, 18) != Some(MACHINE)
    {
        return Err(ElfError::NotElf);
    }
    let broken = ElfError::Broken;
    let start = u64_at(&header, 32).ok_or(broken("no program headers"))?;
    let count = u16_at(&header, 56).unwrap_or(0);
    if u16_at(&header, 54) != Some(PROGRAM_HEADER as u16)
        || count == 0
        || count > MOST_PROGRAM_HEADERS
    {
        return Err(broken("its program headers have an odd size or number"));
    }
    let mut headers = vec![0; PROGRAM_HEADER * usize::from(count)];
    if start.checked_add(headers.len() as u64).is_none_or(|end| end > len) {
        return Err(broken("its program headers are behind its end"));
    }
    read(start, &mut headers)?;
    let mut build = None;
    let mut stack = PF_X;
    for header in headers.chunks_exact(PROGRAM_HEADER) {
        let kind = u32_at(header, 0).unwrap_or(0);
        let flags = u32_at(header, 4).unwrap_or(0);
        let offset = u64_at(header, 8).unwrap_or(0);
        let size = u64_at(header, 32).unwrap_or(0);
        if offset.checked_add(size).is_none_or(|end| end > len) {
            return Err(broken("a segment is behind its end"));
        }
        match kind {
            PT_INTERP => return Err(ElfError::NotStatic),
            PT_LOAD if flags & (PF_X | PF_W) == PF_X | PF_W => return Err(ElfError::WritableCode),
            PT_GNU_STACK => stack = flags & PF_X,
            PT_NOTE if size <= MOST_NOTES && build.is_none() => {
                let mut notes = vec![0; size as usize];
                read(offset, &mut notes)?;
                build = build_identifier(&notes);
            }
            _ => {}
        }
    }
    // Without PT_GNU_STACK the stack may be executed.
    if stack != 0 {
        return Err(ElfError::WritableCode);
    }
    Ok(build)
}

/// The build identifier among `notes`: each has the lengths of its name and its description, a
/// type, and both, padded to 4 bytes.
fn build_identifier(mut notes: &[u8]) -> Option<String> {
    loop {
        let name_len = u32_at(notes, 0)? as usize;
        let len = u32_at(notes, 4)? as usize;
        let kind = u32_at(notes, 8)?;
        let rest = notes.get(12..)?;
        let name = rest.get(..name_len)?;
        let rest = rest.get(name_len.checked_next_multiple_of(4)?..)?;
        let description = rest.get(..len)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" && (4..=64).contains(&len) {
            return Some(hexadecimal(description));
        }
        notes = rest.get(len.checked_next_multiple_of(4)?..)?;
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('?');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A program of headers only: a stack that is not executable, then each `(type, flags)` with
    /// the bytes that it holds.
    pub(in crate::program) fn program(segments: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let all = [&[(PT_GNU_STACK, PF_W | 4, &[][..])], segments].concat();
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(HEADER, 0);
        bytes[16] = 3;
        bytes[18..20].copy_from_slice(&MACHINE.to_le_bytes());
        bytes[32] = HEADER as u8;
        bytes[54] = PROGRAM_HEADER as u8;
        bytes[56] = all.len() as u8;
        let mut data = HEADER + PROGRAM_HEADER * all.len();
        for (kind, flags, content) in &all {
            let mut header = [0; PROGRAM_HEADER];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[4..8].copy_from_slice(&flags.to_le_bytes());
            header[8..16].copy_from_slice(&(data as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
            bytes.extend(header);
            data += content.len();
        }
        for (_, _, content) in &all {
            bytes.extend(*content);
        }
        bytes
    }

    fn checked(bytes: &[u8]) -> Result<Option<String>, ElfError> {
        check(bytes.len() as u64, |offset, into| {
            let end = offset as usize + into.len();
            into.copy_from_slice(
                bytes.get(offset as usize..end).ok_or(io::ErrorKind::UnexpectedEof)?,
            );
            Ok(())
        })
    }

    const NOTES: &[u8] = b"\x04\0\0\0\x02\0\0\0\x01\0\0\0GNU\0\xaa\xbb\0\0\
        \x04\0\0\0\x05\0\0\0\x03\0\0\0GNU\0\x01\x23\x45\x67\x89\0\0\0";

    #[test]
    fn the_build_identifier_is_found() {
        assert_eq!(checked(&program(&[])).unwrap(), None);
        let found = checked(&program(&[(PT_LOAD, 5, b"code"), (PT_NOTE, 4, NOTES)])).unwrap();
        assert_eq!(found.as_deref(), Some("0123456789"));
    }

    #[test]
    fn each_reason_to_refuse_is_told_apart() {
        let refused = |bytes: &[u8]| checked(bytes).unwrap_err();
        let dynamic = program(&[(PT_INTERP, 4, b"/lib/ld.so\0")]);
        assert!(matches!(refused(&dynamic), ElfError::NotStatic));
        assert!(refused(&dynamic).to_string().contains("+crt-static"));
        let writable = program(&[(PT_LOAD, 7, b"code")]);
        assert!(matches!(refused(&writable), ElfError::WritableCode));
        let stack = program(&[(PT_GNU_STACK, 7, b"")]);
        assert!(matches!(refused(&stack), ElfError::WritableCode));
        let mut without_stack = program(&[]);
        without_stack[HEADER] = 0;
        assert!(matches!(refused(&without_stack), ElfError::WritableCode));
        for (at, value) in [(0, b'x'), (4, 1), (5, 2), (16, 1), (18, 3)] {
            let mut other = program(&[]);
            other[at] = value;
            assert!(matches!(refused(&other), ElfError::NotElf), "{at}");
        }
        for (at, value) in [(54, 32), (56, 0), (56, 65), (56, 2), (39, 0xff), (HEADER + 15, 0xff)] {
            let mut other = program(&[]);
            other[at] = value;
            assert!(matches!(refused(&other), ElfError::Broken(_)), "{at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
                          keep in any::<prop::sample::Index>()) {
            let mut bytes = program(&[(PT_LOAD, 5, b"code"), (PT_NOTE, 4, NOTES)]);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(keep.index(bytes.len() + 1));
            // Whatever it is, it has to be said without a panic.
            let _ = checked(&bytes);
        }
    }
}
