//! The capability chains that VFIO appends to its structures (`struct vfio_info_cap_header`).

use zerocopy::{FromBytes, Immutable, KnownLayout};

/// `struct vfio_info_cap_header`, in native byte order.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    id: u16,
    _version: u16,
    next: u32,
}

/// A capability chain that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChainError {
    #[error("a capability at offset {0:#x}, outside the structure")]
    Outside(u32),
    #[error("a chain of capabilities that leads back into itself at offset {0:#x}")]
    Loop(u32),
    #[error("capability {id} with {count} entries, but only {available} bytes of them")]
    Short { id: u16, count: u32, available: usize },
}

/// Finds the capability `id`: all bytes from its header's end to the end of the structure.
///
/// `tail` holds the bytes after the structure's fixed part of `head` bytes; the chain starts
/// at `first`, counted from the structure's start, 0 where there is none.
pub(super) fn find(
    tail: &[u8],
    head: usize,
    first: u32,
    id: u16,
) -> Result<Option<&[u8]>, ChainError> {
    let mut offset = first;
    // Each step takes a header of its own, so a longer chain visits one twice.
    for _ in 0..=tail.len() / size_of::<Header>() {
        if offset == 0 {
            return Ok(None);
        }
        let start = (offset as usize).checked_sub(head).ok_or(ChainError::Outside(offset))?;
        let bytes = tail.get(start..).ok_or(ChainError::Outside(offset))?;
        let (header, rest) =
            Header::read_from_prefix(bytes).map_err(|_| ChainError::Outside(offset))?;
        if header.id == id {
            return Ok(Some(rest));
        }
        offset = header.next;
    }
    Err(ChainError::Loop(offset))
}

/// The pairs of 64-bit numbers of a capability that holds their number, four reserved bytes
/// and then the pairs: IOVA ranges and mappable areas.
pub(super) fn pairs(body: &[u8], id: u16) -> Result<Vec<[u64; 2]>, ChainError> {
    let short = |count| ChainError::Short { id, count, available: body.len() };
    let ([count, _reserved], rest) = <[u32; 2]>::read_from_prefix(body).map_err(|_| short(0))?;
    let (pairs, _) = rest.as_chunks::<16>();
    let pairs = pairs.get(..count as usize).ok_or_else(|| short(count))?;
    Ok(pairs.iter().map(|pair| zerocopy::transmute!(*pair)).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const HEAD: usize = 32;

    /// A capability at its place in a chain: where it lies, its kind, what follows, its body.
    pub(in super::super) fn put(
        tail: &mut [u8],
        head: usize,
        at: u32,
        id: u16,
        next: u32,
        body: &[u8],
    ) {
        let at = at as usize - head;
        tail[at..at + 2].copy_from_slice(&id.to_ne_bytes());
        tail[at + 4..at + 8].copy_from_slice(&next.to_ne_bytes());
        tail[at + 8..at + 8 + body.len()].copy_from_slice(body);
    }

    pub(in super::super) fn pairs_body(count: u32, pairs: &[[u64; 2]]) -> Vec<u8> {
        let words = pairs.iter().flatten().flat_map(|word| word.to_ne_bytes());
        count.to_ne_bytes().into_iter().chain([0; 4]).chain(words).collect()
    }

    #[test]
    fn a_capability_is_found_behind_others() {
        let mut tail = [0; 256];
        put(&mut tail, HEAD, 32, 7, 96, &[]);
        put(&mut tail, HEAD, 96, 1, 64, &pairs_body(2, &[[1, 2], [3, u64::MAX]]));
        put(&mut tail, HEAD, 64, 9, 0, &[]);
        let body = find(&tail, HEAD, 32, 1).unwrap().unwrap();
        assert_eq!(pairs(body, 1).unwrap(), [[1, 2], [3, u64::MAX]]);
        assert!(find(&tail, HEAD, 32, 9).unwrap().is_some());
        assert_eq!(find(&tail, HEAD, 32, 2), Ok(None));
        assert_eq!(find(&tail, HEAD, 0, 7), Ok(None));
    }

    #[test]
    fn chains_that_cannot_be_are_errors() {
        let mut tail = [0; 64];
        put(&mut tail, HEAD, 32, 7, 48, &[]);
        put(&mut tail, HEAD, 48, 8, 32, &[]);
        assert!(matches!(find(&tail, HEAD, 32, 1), Err(ChainError::Loop(_))));
        put(&mut tail, HEAD, 48, 8, 48, &[]);
        assert_eq!(find(&tail, HEAD, 32, 1), Err(ChainError::Loop(48)));
        for outside in [1, 31, 89, 96, u32::MAX] {
            assert_eq!(find(&tail, HEAD, outside, 1), Err(ChainError::Outside(outside)));
            put(&mut tail, HEAD, 48, 8, outside, &[]);
            assert_eq!(find(&tail, HEAD, 32, 1), Err(ChainError::Outside(outside)));
        }
    }

    #[test]
    fn a_count_beyond_the_structure_is_an_error() {
        for count in [2, 1 << 28, u32::MAX] {
            let body = pairs_body(count, &[[0, 1]]);
            assert_eq!(pairs(&body, 1), Err(ChainError::Short { id: 1, count, available: 24 }));
        }
        assert!(pairs(&[0; 7], 1).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            tail in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
            first in 0u32..300,
            id in 0u16..4,
        ) {
            if let Ok(Some(body)) = find(&tail, HEAD, first, id) {
                let _ = pairs(body, id);
            }
        }
    }
}
