//! Which interfaces carry routes, from `/proc/net/route` and
//! `/proc/net/ipv6_route`.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Sysfs, tree};

/// The route may be used; `RTF_UP` of Linux's `route.h`.
const UP: u32 = 0x1;
/// Packets to it are refused; `RTF_REJECT`.
const REJECT: u32 = 0x200;
/// An address of this machine itself; `RTF_LOCAL`.
const LOCAL: u32 = 0x8000_0000;

/// A route that leaves by an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) interface: String,
    /// `10.0.0.0/24`; `None` for the default route.
    pub(super) destination: Option<String>,
}

impl Sysfs {
    /// The routes of this network namespace, without link-local and multicast
    /// ones, which every interface has that is up.
    pub(super) fn routes(&self) -> Vec<Route> {
        let v4 = tree::text(&self.path("proc/net/route")).unwrap_or_default();
        let v6 = tree::text(&self.path("proc/net/ipv6_route")).unwrap_or_default();
        let v4 = v4.lines().skip(1).filter_map(ipv4);
        v4.chain(v6.lines().filter_map(ipv6)).collect()
    }
}

/// A line of `/proc/net/route`: interface, destination, gateway, flags,
/// references, use, metric, mask; addresses as little-endian hexadecimal.
fn ipv4(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
    let (address, flags, mask) = (number(1)?, number(3)?, number(7)?);
    if flags & UP == 0 || flags & REJECT != 0 {
        return None;
    }
    // As they stand in memory on the little-endian machines that VFIO has.
    let address = Ipv4Addr::from(address.to_le_bytes());
    let bits = mask.count_ones();
    if bits > 0 && (address.is_link_local() || address.is_multicast()) {
        return None;
    }
    Some(Route {
        interface: (*fields.first()?).to_owned(),
        destination: (bits > 0).then(|| format!("{address}/{bits}")),
    })
}

/// A line of `/proc/net/ipv6_route`: destination, its length, source, its
/// length, next hop, metric, references, use, flags, interface.
fn ipv6(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = Ipv6Addr::from(u128::from_str_radix(fields.first()?, 16).ok()?);
    let bits = u32::from_str_radix(fields.get(1)?, 16).ok()?;
    let flags = u32::from_str_radix(fields.get(8)?, 16).ok()?;
    let interface = *fields.get(9)?;
    let near = address.is_unicast_link_local() || address.is_multicast();
    let usable = flags & UP != 0 && flags & (REJECT | LOCAL) == 0;
    if !usable || interface == "lo" || (bits > 0 && near) {
        return None;
    }
    Some(Route {
        interface: interface.to_owned(),
        destination: (bits > 0).then(|| format!("{address}/{bits}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(interface: &str, destination: Option<&str>) -> Route {
        Route { interface: interface.into(), destination: destination.map(Into::into) }
    }

    #[test]
    fn ipv4_lines() {
        let line = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0";
        assert_eq!(ipv4(line), Some(route("eth0", None)));
        let line = "eth1 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0";
        assert_eq!(ipv4(line), Some(route("eth1", Some("192.0.2.0/24"))));
        // Link-local (169.254.0.0/16), rejected, not up, cut short.
        assert_eq!(ipv4("eth1 0000FEA9 0 0001 0 0 0 0000FFFF 0 0 0"), None);
        assert_eq!(ipv4("eth1 000200C0 0 0201 0 0 0 00FFFFFF 0 0 0"), None);
        assert_eq!(ipv4("eth1 000200C0 0 0000 0 0 0 00FFFFFF 0 0 0"), None);
        assert_eq!(ipv4("eth1 000200C0 00000000 0001"), None);
    }

    #[test]
    fn ipv6_lines() {
        let zero = "00000000000000000000000000000000";
        let line = |to: &str, bits: &str, flags: &str, interface: &str| {
            ipv6(&format!(
                "{to} {bits} {zero} 00 {zero} 00000400 00000001 00000000 {flags} {interface}"
            ))
        };
        assert_eq!(line(zero, "00", "00000003", "eth0"), Some(route("eth0", None)));
        assert_eq!(line(zero, "00", "00200200", "lo"), None);
        let here = "20010db8000000000000000000000000";
        assert_eq!(
            line(here, "20", "00000001", "eth0"),
            Some(route("eth0", Some("2001:db8::/32")))
        );
        let link_local = "fe800000000000000000000000000000";
        assert_eq!(line(link_local, "40", "00000001", "eth0"), None);
        assert_eq!(line(here, "80", "80200001", "eth0"), None);
        assert_eq!(ipv6("nonsense"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".*") {
            for line in [text.clone(), format!("eth0 0 0 {text} 0 0 0 {text}")] {
                let _ = (ipv4(&line), ipv6(&line));
            }
        }
    }
}
