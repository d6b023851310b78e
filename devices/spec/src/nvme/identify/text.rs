//! The fixed-size text fields. NVMe Base 2.0 §5.17.2.1.

use core::fmt;

/// A text field as a device gave it: padded with spaces or ended by a NUL, ASCII if
/// the device keeps to the standard. `Display` leaves the padding off and shows each
/// byte that is not printable ASCII as `?`, so that it can be sent to a terminal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    /// Views a field.
    pub fn new(field: &'a [u8]) -> Self {
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        Self(field.get(..end).unwrap_or(field).trim_ascii())
    }

    /// The bytes without padding; not necessarily ASCII.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for byte in self.0 {
            let printable = byte.is_ascii_graphic() || *byte == b' ';
            f.write_char(if printable { char::from(*byte) } else { '?' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A field of `N` bytes holding `text` padded with spaces, as serial number, model
/// and firmware revision are. Cuts what does not fit; a byte that is not printable
/// ASCII becomes `?`.
pub fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = if from.is_ascii_graphic() || from == b' ' { from } else { b'?' };
    }
    field
}

/// A field of `N` bytes holding `text` ended by NULs, as the NVMe Qualified Name is.
/// Cuts what does not fit, always leaving one NUL.
pub fn terminated<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(text.bytes().take(N.saturating_sub(1))) {
        *to = from;
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn padding_goes_both_ways() {
        let field: [u8; 8] = padded("S 1");
        assert_eq!(&field, b"S 1     ");
        assert_eq!(Text::new(&field).to_string(), "S 1");
        let field: [u8; 4] = padded("longer");
        assert_eq!(&field, b"long");
        let field: [u8; 4] = terminated("longer");
        assert_eq!(&field, b"lon\0");
        assert_eq!(Text::new(&field).to_string(), "lon");
    }

    #[test]
    fn hostile_text_is_made_safe() {
        assert_eq!(Text::new(b"\x1b[31mred\xff").to_string(), "?[31mred?");
        assert_eq!(Text::new(b"\0\0\0").to_string(), "");
        assert_eq!(Text::new(b"").to_string(), "");
        assert_eq!(Text::new(b"  a\0b").to_string(), "a");
        assert_eq!(&padded::<3>("ä"), b"?? ");
    }
}
