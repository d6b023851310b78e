//! The fuzzer's bytes, taken piece by piece. Where they run out, the rest is zeros.

/// What is left of the input.
#[derive(Clone, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// The whole input.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `len` bytes, or as many as there are.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    /// 16 bits.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// 32 bits.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// 64 bits.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Some bytes: `right` ones with up to three of them changed, or any.
    pub fn spoil(&mut self, right: &[u8]) -> Vec<u8> {
        match self.byte() {
            any @ 0x80.. => self.take(usize::from(any & 0x7f)).to_vec(),
            changes => {
                let mut bytes = right.to_vec();
                for _ in 0..changes % 4 {
                    let place = usize::from(self.byte());
                    let value = self.byte();
                    if let Some(byte) = bytes.get_mut(place) {
                        *byte ^= value;
                    } else {
                        bytes.truncate(usize::from(value));
                    }
                }
                bytes
            }
        }
    }
}
