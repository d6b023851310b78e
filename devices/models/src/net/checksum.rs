//! The checksum of the Internet protocols. RFC 1071.

/// What is known of a frame's checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Whether the checksum of the IPv4 header is right; nothing where there is none.
    pub(crate) ip: Option<bool>,
    /// Whether that of TCP or UDP is; nothing where there is none.
    pub(crate) l4: Option<bool>,
    /// It is UDP's.
    pub(crate) udp: bool,
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The ones' complement sum of 16-bit words, not folded.
fn sum(bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let last = rest.first().map_or(0, |&byte| u64::from(byte) << 8);
    pairs.iter().map(|&pair| u64::from(u16::from_be_bytes(pair))).sum::<u64>() + last
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Puts the checksum of `frame[start..]` (up to `end`, where there is one) into the field at
/// `field`, which holds what else goes into the sum. Nothing where that lies outside.
pub(crate) fn insert(frame: &mut [u8], start: usize, end: Option<usize>, field: usize, zero: bool) {
    let len = frame.len();
    if zero && let Some(bytes) = frame.get_mut(field..field.saturating_add(2)) {
        bytes.fill(0);
    }
    let end = end.map_or(len, |end| end.min(len));
    let Some(covered) = frame.get(start..end) else { return };
    let checksum = !fold(sum(covered));
    // UDP's 0 says that there is none. RFC 768.
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    if let Some(bytes) = frame.get_mut(field..field.saturating_add(2)) {
        bytes.copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Looks at the checksums of `frame`, if it is of a protocol that is known.
pub(crate) fn verify(frame: &[u8]) -> Verdict {
    let kind = frame.get(12..14).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let packet = frame.get(14..).unwrap_or_default();
    match kind {
        Some(IPV4) => ipv4(packet),
        Some(IPV6) => ipv6(packet),
        _ => Verdict::default(),
    }
}

fn ipv4(packet: &[u8]) -> Verdict {
    let none = Verdict::default();
    let Some(&first) = packet.first() else { return none };
    let header = usize::from(first & 0xf) * 4;
    let total = packet.get(2..4).map_or(0, |len| usize::from(u16::from_be_bytes([len[0], len[1]])));
    let (Some(fixed), Some(options), Some(payload)) =
        (packet.get(..20), packet.get(..header), packet.get(header..total))
    else {
        return none;
    };
    if first >> 4 != 4 || header < 20 {
        return none;
    }
    let ip = Some(fold(sum(options)) == 0xffff);
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0;
    if fragment {
        return Verdict { ip, ..none };
    }
    Verdict { ip, ..l4(fixed[9], &fixed[12..20], payload) }
}

fn ipv6(packet: &[u8]) -> Verdict {
    let Some(fixed) = packet.get(..40).filter(|fixed| fixed[0] >> 4 == 6) else {
        return Verdict::default();
    };
    let len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    match packet.get(40..40 + len) {
        Some(payload) => l4(fixed[6], &fixed[8..40], payload),
        None => Verdict::default(),
    }
}

fn l4(protocol: u8, addresses: &[u8], payload: &[u8]) -> Verdict {
    let field = match protocol {
        TCP => payload.get(16..18),
        UDP => payload.get(6..8),
        _ => None,
    };
    let udp = protocol == UDP;
    // UDP's 0 says that there is none.
    if field.is_none_or(|field| udp && field == [0, 0]) {
        return Verdict::default();
    }
    let pseudo = sum(addresses) + u64::from(protocol) + payload.len() as u64;
    Verdict { ip: None, l4: Some(fold(pseudo + sum(payload)) == 0xffff), udp }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP datagram in IPv4: 10.0.0.1:1000 to 10.0.0.2:2000, "hello".
    fn datagram() -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 33, 0, 1, 0, 0, 64, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x03, 0xe8, 0x07, 0xd0, 0, 13, 0, 0]);
        frame.extend(b"hello");
        frame
    }

    #[test]
    fn what_was_inserted_is_right_and_any_other_bit_is_wrong() {
        let mut frame = datagram();
        insert(&mut frame, 14, Some(34), 24, true);
        let pseudo = fold(sum(&frame[26..34]) + u64::from(UDP) + 13);
        frame[40..42].copy_from_slice(&pseudo.to_be_bytes());
        insert(&mut frame, 34, None, 40, false);
        let good = Verdict { ip: Some(true), l4: Some(true), udp: true };
        assert_eq!(verify(&frame), good);
        for bit in 36 * 8..frame.len() * 8 {
            let mut wrong = frame.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(verify(&wrong), good, "bit {bit}");
        }
    }

    #[test]
    fn any_bytes_are_looked_at() {
        let frame = datagram();
        for len in 0..frame.len() {
            verify(&frame[..len]);
            insert(&mut frame[..len].to_vec(), 34, None, 40, false);
            insert(&mut frame[..len].to_vec(), usize::MAX, Some(0), usize::MAX, true);
        }
        assert_eq!(verify(&[0xff; 64]), Verdict::default());
    }
}
