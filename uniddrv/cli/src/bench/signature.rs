//! What a disk seems to hold, by the marks that partition tables and filesystems leave at its
//! start. Only to warn: a disk without any may hold data all the same.

/// Bytes from the start of a disk that [`find`] looks at.
pub(crate) const LENGTH: usize = 128 << 10;

/// A mark: what it means, where it stands, its bytes.
const MARKS: &[(&str, usize, &[u8])] = &[
    ("a GPT partition table", 512, b"EFI PART"),
    ("a GPT partition table", 4096, b"EFI PART"),
    ("a LUKS volume", 0, b"LUKS\xba\xbe"),
    ("an LVM physical volume", 512, b"LABELONE"),
    ("an LVM physical volume", 0, b"LABELONE"),
    ("a member of a Linux RAID", 4096, b"\xfc\x4e\x2b\xa9"),
    ("a member of a Linux RAID", 0, b"\xfc\x4e\x2b\xa9"),
    ("an ext2, ext3 or ext4 filesystem", 0x438, b"\x53\xef"),
    ("an XFS filesystem", 0, b"XFSB"),
    ("a Btrfs filesystem", 0x1_0040, b"_BHRfS_M"),
    ("an F2FS filesystem", 0x400, b"\x10\x20\xf5\xf2"),
    ("an exFAT filesystem", 3, b"EXFAT   "),
    ("an NTFS filesystem", 3, b"NTFS    "),
    ("a FAT filesystem", 54, b"FAT"),
    ("a FAT filesystem", 82, b"FAT32"),
    ("an ISO 9660 filesystem", 0x8001, b"CD001"),
    ("swap space", 4086, b"SWAPSPACE2"),
    ("a bcache device", 0x1018, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca"),
];

/// What the first bytes of a disk say that it holds, the most telling first.
pub(crate) fn find(start: &[u8]) -> Option<&'static str> {
    let has = |at: usize, bytes: &[u8]| start.get(at..).is_some_and(|rest| rest.starts_with(bytes));
    let found = MARKS.iter().find(|&&(_, at, bytes)| has(at, bytes)).map(|&(name, ..)| name);
    found
        .or_else(|| has(510, b"\x55\xaa").then_some("an MBR partition table"))
        .or_else(|| start.iter().any(|&byte| byte != 0).then_some("data of an unknown kind"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_where_they_stand() {
        for &(name, at, bytes) in MARKS {
            let mut disk = vec![0; LENGTH];
            assert!(at + bytes.len() <= LENGTH, "{name} lies beyond what is read");
            disk[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(find(&disk), Some(name));
        }
    }

    #[test]
    fn the_rest_is_told_too() {
        let mut disk = vec![0; 1024];
        assert_eq!(find(&disk), None);
        disk[700] = 1;
        assert_eq!(find(&disk), Some("data of an unknown kind"));
        disk[510..512].copy_from_slice(b"\x55\xaa");
        assert_eq!(find(&disk), Some("an MBR partition table"));
        disk[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(find(&disk), Some("a GPT partition table"));
        assert_eq!(find(&[]), None);
    }
}
