//! Reading sysfs: attributes, links, folders. What is missing is `None` or
//! empty, since devices come and go while one reads.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

/// The text of an attribute without the newline at its end.
pub(super) fn text(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// An attribute such as `0x8086`.
pub(super) fn hex(path: &Path) -> Option<u32> {
    let text = text(path)?;
    u32::from_str_radix(text.strip_prefix("0x").unwrap_or(&text), 16).ok()
}

/// A decimal attribute; a negative one (`numa_node` without NUMA) is `None`.
pub(super) fn decimal(path: &Path) -> Option<u32> {
    text(path)?.parse().ok()
}

/// The last component of what a link points to: the name of a driver, of an
/// IOMMU group, of a bus.
pub(super) fn link_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// The names in a folder, sorted so that numbers count (`eth2` before
/// `eth10`); none where the folder is not there.
pub(super) fn entries(path: &Path) -> Vec<String> {
    let Ok(folder) = fs::read_dir(path) else {
        return Vec::new();
    };
    let mut names: Vec<String> = folder
        .filter_map(Result::ok)
        .filter_map(|entry| OsString::into_string(entry.file_name()).ok())
        .collect();
    names.sort_by_key(|name| natural(name));
    names
}

/// A sort key: the parts of a name between numbers, and the numbers.
fn natural(name: &str) -> Vec<(String, u64)> {
    let mut key = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit());
        let (word, tail) = rest.split_at(digits.unwrap_or(rest.len()));
        let end = tail.find(|c: char| !c.is_ascii_digit());
        let (number, tail) = tail.split_at(end.unwrap_or(tail.len()));
        key.push((word.to_owned(), number.parse().unwrap_or(0)));
        rest = tail;
    }
    key
}

/// Whether `name` can be one component of a path and nothing more: what names
/// a driver, a module or an interface.
pub(super) fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'"' && byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_their_numbers() {
        let mut names = ["eth10", "eth2", "nvme0n10", "nvme0n9", "lo"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["eth2", "eth10", "lo", "nvme0n9", "nvme0n10"]);
    }

    #[test]
    fn a_plain_name_cannot_leave_its_folder() {
        for name in ["nvme", "vfio-pci", "8139too", "mlx5_core", "ixgbe.1"] {
            assert!(is_plain_name(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "../nvme", "a b", "a\nb", "a\"b"] {
            assert!(!is_plain_name(name), "{name}");
        }
        assert!(!is_plain_name(&"x".repeat(65)));
    }
}
