//! Power states. NVMe Base 2.0 §5.17.2.1.

use core::fmt;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Power State Descriptor, 32 bytes. NVMe Base 2.0 §5.17.2.1.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PowerState {
    /// Maximum Power, in units of 0.01 W, or of 0.0001 W with
    /// [`max_power_scale`](PowerFlags::max_power_scale).
    pub mp: U16,
    reserved_2: u8,
    /// Maximum Power Scale and Non-Operational State.
    pub flags: PowerFlags,
    /// Entry Latency in microseconds.
    pub enlat: U32,
    /// Exit Latency in microseconds.
    pub exlat: U32,
    /// Relative Read Throughput, in the low 5 bits; lower is better.
    pub rrt: u8,
    /// Relative Read Latency, in the low 5 bits.
    pub rrl: u8,
    /// Relative Write Throughput, in the low 5 bits.
    pub rwt: u8,
    /// Relative Write Latency, in the low 5 bits.
    pub rwl: u8,
    /// Idle Power, in the unit of `ips`.
    pub idlp: U16,
    /// Idle Power Scale, in the high 2 bits.
    pub ips: PowerScale,
    reserved_19: u8,
    /// Active Power, in the unit of `apws`.
    pub actp: U16,
    /// Active Power Workload and Scale.
    pub apws: PowerScale,
    reserved_23: [u8; 9],
}

const _: () = assert!(size_of::<PowerState>() == 32);

impl PowerState {
    /// Maximum power in microwatts; 0 not told.
    pub const fn max_power_microwatts(&self) -> u32 {
        let unit = if self.flags.max_power_scale() { 100 } else { 10_000 };
        self.mp.get() as u32 * unit
    }
}

impl fmt::Debug for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PowerState")
            .field("max_power_microwatts", &self.max_power_microwatts())
            .field("non_operational", &self.flags.non_operational())
            .field("enlat", &self.enlat.get())
            .field("exlat", &self.exlat.get())
            .finish_non_exhaustive()
    }
}

bits! {
    /// Byte 3 of a Power State Descriptor.
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct PowerFlags(u8);
    /// Maximum Power is in units of 0.0001 W, not 0.01 W.
    max_power_scale / with_max_power_scale = [0:0] bool;
    /// Non-Operational State: no I/O is processed in it.
    non_operational / with_non_operational = [1:1] bool;
}

bits! {
    /// Scale of idle and active power.
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct PowerScale(u8);
    /// Active Power Workload.
    workload / with_workload = [2:0] u8;
    /// 0 not told, 1 units of 0.0001 W, 2 units of 0.01 W.
    scale / with_scale = [7:6] u8;
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn fields_stand_alone() {
        check_fields!(PowerFlags, PowerScale);
        assert_eq!(PowerFlags::default().with_non_operational(true).bits(), 2);
        assert_eq!(PowerScale::default().with_scale(0xff).bits(), 0xc0);
    }

    #[test]
    fn golden_bytes_both_ways() {
        assert_eq!(offset_of!(PowerState, rrt), 12);
        assert_eq!(offset_of!(PowerState, rwl), 15);
        let mut bytes = [0u8; 32];
        bytes[..12].copy_from_slice(&[0x34, 0x12, 0, 3, 1, 2, 0, 0, 3, 4, 0, 0]);
        bytes[16..23].copy_from_slice(&[0x10, 0, 0x40, 0, 0x20, 0, 0x82]);
        let read = PowerState::read_from_bytes(&bytes).unwrap();
        assert_eq!(read.max_power_microwatts(), 0x1234 * 100);
        assert!(read.flags.non_operational());
        assert_eq!((read.enlat.get(), read.exlat.get()), (0x201, 0x403));
        assert_eq!((read.idlp.get(), read.ips.scale()), (16, 1));
        assert_eq!((read.actp.get(), read.apws.scale(), read.apws.workload()), (32, 2, 2));
        let built = PowerState {
            mp: 0x1234.into(),
            flags: PowerFlags::default().with_max_power_scale(true).with_non_operational(true),
            enlat: 0x201.into(),
            exlat: 0x403.into(),
            idlp: 16.into(),
            ips: PowerScale::default().with_scale(1),
            actp: 32.into(),
            apws: PowerScale::default().with_scale(2).with_workload(2),
            ..PowerState::default()
        };
        assert_eq!(built.as_bytes(), bytes);
    }
}
