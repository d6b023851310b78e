//! Lists that Identify returns. NVMe Base 2.0 §4.4, §5.17.2.2, §5.17.2.3.

use core::fmt;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Namespace List: up to 1024 identifiers, rising, ended by a 0.
/// NVMe Base 2.0 §4.4.2. The Active Namespace ID List (CNS 02h) is one, and the
/// Changed Attached Namespace List log another.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NamespaceList([U32; 1024]);

const _: () = assert!(size_of::<NamespaceList>() == super::SIZE);

impl NamespaceList {
    /// What the Changed Attached Namespace List log holds when more than 1024 changed.
    pub const ALL_CHANGED: u32 = u32::MAX;

    /// A list of `ids`, which rise; `None` where there are more than 1024.
    pub fn new(ids: &[u32]) -> Option<Self> {
        let mut list = Self::default();
        if ids.len() > list.0.len() {
            return None;
        }
        for (to, from) in list.0.iter_mut().zip(ids) {
            to.set(*from);
        }
        Some(list)
    }

    /// The identifiers before the first 0, as the device gave them: that they rise is
    /// for the reader to check where it matters.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().map(|id| id.get()).take_while(|id| *id != 0)
    }

    /// Whether all 1024 places are taken, so that there may be more.
    pub fn is_full(&self) -> bool {
        self.iter().count() == self.0.len()
    }
}

impl Default for NamespaceList {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl fmt::Debug for NamespaceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Controller List: a count, then up to 2047 identifiers. NVMe Base 2.0 §4.4.1.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ControllerList {
    count: U16,
    ids: [U16; 2047],
}

const _: () = assert!(size_of::<ControllerList>() == super::SIZE);

impl ControllerList {
    /// A list of `ids`, which rise; `None` where there are more than 2047.
    pub fn new(ids: &[u16]) -> Option<Self> {
        let mut list = Self::default();
        if ids.len() > list.ids.len() {
            return None;
        }
        list.count.set(ids.len() as u16);
        for (to, from) in list.ids.iter_mut().zip(ids) {
            to.set(*from);
        }
        Some(list)
    }

    /// The identifiers; a count past the list's end is cut to 2047.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ids.iter().take(usize::from(self.count.get())).map(|id| id.get())
    }

    /// The count as the device claims it, which may be more than 2047.
    pub const fn count(&self) -> u16 {
        self.count.get()
    }
}

impl Default for ControllerList {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl fmt::Debug for ControllerList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

codes! {
    /// Namespace Identifier Type (NIDT) of a descriptor. NVMe Base 2.0 §5.17.2.3.
    pub struct NamespaceIdType(u8);
    EUI64 = 1, "IEEE Extended Unique Identifier";
    NGUID = 2, "Namespace Globally Unique Identifier";
    UUID = 3, "Namespace UUID";
    CSI = 4, "Command Set Identifier";
}

impl NamespaceIdType {
    /// Length in bytes that the standard gives this type; `None` for one unknown here.
    pub const fn length(self) -> Option<usize> {
        match self {
            Self::EUI64 => Some(8),
            Self::NGUID | Self::UUID => Some(16),
            Self::CSI => Some(1),
            _ => None,
        }
    }
}

/// One Namespace Identification Descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceDescriptor<'a> {
    /// What the identifier is.
    pub kind: NamespaceIdType,
    /// The identifier, of the length the standard gives its type where that is known.
    pub id: &'a [u8],
}

/// A descriptor list that does not hold together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorError {
    /// Where the descriptor begins, in bytes.
    pub offset: usize,
    /// Its type.
    pub kind: NamespaceIdType,
    /// The length it claims for its identifier, in bytes.
    pub length: u8,
}

impl fmt::Display for DescriptorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "namespace identification descriptor at byte {} claims {} bytes for its {}",
            self.offset, self.length, self.kind
        )
    }
}

impl core::error::Error for DescriptorError {}

/// Walks a Namespace Identification Descriptor list (CNS 03h). NVMe Base 2.0
/// §5.17.2.3. Ends at the first descriptor of length 0 or at the end of the bytes; a
/// descriptor with a wrong length is an error, after which the walk ends.
#[derive(Clone, Debug)]
pub struct NamespaceDescriptors<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> NamespaceDescriptors<'a> {
    /// Walks `bytes`, normally 4096 of them.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// Writes `descriptors` into 4096 bytes, as a controller does; `None` where one does
    /// not have its type's length, or they do not fit.
    pub fn build(descriptors: &[NamespaceDescriptor<'_>]) -> Option<[u8; super::SIZE]> {
        let mut bytes = [0; super::SIZE];
        let mut offset = 0;
        for NamespaceDescriptor { kind, id } in descriptors {
            if id.is_empty() || kind.length().is_some_and(|length| length != id.len()) {
                return None;
            }
            let header = [kind.0, u8::try_from(id.len()).ok()?, 0, 0];
            bytes.get_mut(offset..offset + 4)?.copy_from_slice(&header);
            offset += 4;
            bytes.get_mut(offset..offset + id.len())?.copy_from_slice(id);
            offset += id.len();
        }
        Some(bytes)
    }
}

impl<'a> Iterator for NamespaceDescriptors<'a> {
    type Item = Result<NamespaceDescriptor<'a>, DescriptorError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.offset..)?;
        let (&[kind, length, _, _], rest) = rest.split_first_chunk::<4>()?;
        if length == 0 {
            return None;
        }
        let kind = NamespaceIdType(kind);
        let size = usize::from(length);
        let known = kind.length().is_none_or(|known| known == size);
        match rest.get(..size) {
            Some(id) if known => {
                self.offset += 4 + size;
                Some(Ok(NamespaceDescriptor { kind, id }))
            }
            _ => {
                let offset = core::mem::replace(&mut self.offset, self.bytes.len());
                Some(Err(DescriptorError { offset, kind, length }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{string::ToString, vec, vec::Vec};

    #[test]
    fn namespace_list_golden_bytes() {
        let list = NamespaceList::new(&[1, 0x0102_0304]).unwrap();
        assert_eq!(list.as_bytes()[..12], [1, 0, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0]);
        assert_eq!(list.iter().collect::<Vec<_>>(), [1, 0x0102_0304]);
        assert!(!list.is_full());
        let full: Vec<u32> = (1..=1024).collect();
        assert!(NamespaceList::new(&full).unwrap().is_full());
        assert_eq!(NamespaceList::new(&vec![1; 1025]), None);
    }

    #[test]
    fn controller_list_golden_bytes() {
        let list = ControllerList::new(&[3, 0x0102]).unwrap();
        assert_eq!(list.as_bytes()[..8], [2, 0, 3, 0, 2, 1, 0, 0]);
        let mut bytes = [0xff; 4096];
        bytes[2] = 7;
        let hostile = ControllerList::read_from_bytes(&bytes).unwrap();
        assert_eq!(hostile.count(), u16::MAX);
        assert_eq!(hostile.iter().count(), 2047);
        assert_eq!(ControllerList::new(&vec![1; 2048]), None);
    }

    #[test]
    fn descriptors_golden_bytes() {
        let uuid = [7; 16];
        let list = [
            NamespaceDescriptor { kind: NamespaceIdType::EUI64, id: &[1, 2, 3, 4, 5, 6, 7, 8] },
            NamespaceDescriptor { kind: NamespaceIdType::UUID, id: &uuid },
            NamespaceDescriptor { kind: NamespaceIdType::CSI, id: &[0] },
        ];
        let bytes = NamespaceDescriptors::build(&list).unwrap();
        assert_eq!(bytes[..13], [1, 8, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 3]);
        assert_eq!(bytes[12..17], [3, 16, 0, 0, 7]);
        let read: Result<Vec<_>, _> = NamespaceDescriptors::new(&bytes).collect();
        assert_eq!(read.unwrap(), list);
        let short = [NamespaceDescriptor { kind: NamespaceIdType::UUID, id: &[1] }];
        assert_eq!(NamespaceDescriptors::build(&short), None);
    }

    #[test]
    fn a_wrong_length_is_an_error_and_ends_the_walk() {
        let mut walk = NamespaceDescriptors::new(&[1, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let error = walk.next().unwrap().unwrap_err();
        assert_eq!(
            error.to_string(),
            "namespace identification descriptor at byte 0 claims 9 bytes for its IEEE Extended Unique Identifier"
        );
        assert_eq!(walk.next(), None);
        assert!(NamespaceDescriptors::new(&[3, 16, 0, 0, 1]).next().unwrap().is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_end_the_walk(bytes in proptest::collection::vec(any::<u8>(), 0..4200)) {
            prop_assert!(NamespaceDescriptors::new(&bytes).count() <= bytes.len() / 4 + 1);
        }
    }
}
