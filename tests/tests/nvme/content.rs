//! What is written into blocks: a pattern that follows from a number, with a checksum.

/// Fills `block`, at least 16 bytes, with the pattern of `seed`; 0 stands for zeroes.
pub(crate) fn fill(seed: u64, block: &mut [u8]) {
    if seed == 0 {
        block.fill(0);
        return;
    }
    let (body, sum) = block.split_at_mut(block.len() - 8);
    let (first, rest) = body.split_at_mut(8);
    first.copy_from_slice(&seed.to_le_bytes());
    for (index, word) in (1u64..).zip(rest.chunks_exact_mut(8)) {
        word.copy_from_slice(&mix(seed.wrapping_add(index << 32)).to_le_bytes());
    }
    sum.copy_from_slice(&checksum(body).to_le_bytes());
}

/// Fills the blocks of `buffer`, one after the other, with the patterns of `seeds`.
pub(crate) fn fill_all(seeds: &[u64], block_size: usize, buffer: &mut [u8]) {
    for (block, &seed) in buffer.chunks_exact_mut(block_size).zip(seeds) {
        fill(seed, block);
    }
}

/// Whether `block` holds the pattern of `seed`, or what it holds instead.
pub(crate) fn check(seed: u64, block: &[u8]) -> Result<(), String> {
    let mut expected = vec![0; block.len()];
    fill(seed, &mut expected);
    if expected == block {
        return Ok(());
    }
    let first = u64::from_le_bytes(block[..8].try_into().unwrap());
    let (body, sum) = block.split_at(block.len() - 8);
    let whole = first == 0 || checksum(body).to_le_bytes() == sum;
    let differs = expected.iter().zip(block).position(|(expected, found)| expected != found);
    Err(format!(
        "expected the pattern {seed:#x}, found one that starts with {first:#x} ({}); they differ \
         from byte {differs:?} on",
        if whole { "whole" } else { "and whose checksum is wrong" }
    ))
}

/// Checks the blocks of `buffer` one after the other.
pub(crate) fn check_all(seeds: &[u64], block_size: usize, buffer: &[u8], what: &str) {
    assert!(buffer.len() >= seeds.len() * block_size);
    for (index, (block, &seed)) in buffer.chunks_exact(block_size).zip(seeds).enumerate() {
        if let Err(found) = check(seed, block) {
            panic!("{what}: block {index} of {}: {found}", seeds.len());
        }
    }
}

/// Fletcher's sum over 32-bit words.
fn checksum(bytes: &[u8]) -> u64 {
    let (mut sum, mut sums) = (0u32, 0u32);
    for word in bytes.chunks_exact(4) {
        sum = sum.wrapping_add(u32::from_le_bytes(word.try_into().unwrap()));
        sums = sums.wrapping_add(sum);
    }
    u64::from(sums) << 32 | u64::from(sum)
}

/// A sequence of numbers that follows from its seed: SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[test]
fn a_changed_block_is_found() {
    let mut block = vec![0; 512];
    fill(7, &mut block);
    assert!(check(7, &block).is_ok());
    assert!(check(8, &block).unwrap_err().contains("whole"));
    block[100] ^= 1;
    assert!(check(7, &block).unwrap_err().contains("wrong"));
    fill(0, &mut block);
    assert!(check(0, &block).is_ok() && block.iter().all(|&byte| byte == 0));
}
