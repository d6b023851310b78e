//! What a driver process asks the device for, because it does not reach that itself.
//!
//! | question | allowed |
//! |---|---|
//! | read configuration space | 1, 2 or 4 bytes, aligned, within 4,096 |
//! | write configuration space | the Command register, 2 bytes at 4: Memory Space, Bus Master and Interrupt Disable may change |
//! | what a BAR is like | always |
//! | read or write a BAR | 1, 2, 4 or 8 bytes, aligned, inside of it, outside of an MSI-X table and its pending bits |
//! | reset | yes |
//! | whether the device is lost | always |

use uniddrv::transport::TransportError;
use uniddrv_abi::message::{FromDevice, ToDevice};
use uniddrv_spec::pci::Command;

use super::attached::Attached;

/// Bytes of the configuration space of a PCI Express function.
const CONFIG: u64 = 4096;
/// Where the Command register lies.
const COMMAND: u32 = Command::OFFSET as u32;

/// What is not done.
#[derive(Debug)]
pub(super) enum Refusal {
    /// No driver asks this.
    Nonsense(String),
    /// The device or its transport failed.
    Device(TransportError),
}

impl From<TransportError> for Refusal {
    fn from(error: TransportError) -> Self {
        Self::Device(error)
    }
}

fn nonsense<T>(text: String) -> Result<T, Refusal> {
    Err(Refusal::Nonsense(text))
}

/// Whether a driver process may ask this while another one drives: it reaches no register.
pub(super) fn is_harmless(message: &ToDevice) -> bool {
    matches!(message, ToDevice::Bar { .. } | ToDevice::Lost)
}

impl Attached {
    /// Does what a driver process asks, if it may.
    pub(super) fn answer(&self, message: &ToDevice) -> Result<FromDevice, Refusal> {
        let transport = self.transport();
        match message {
            ToDevice::ReadConfig { offset, len } => {
                let mut data = word(*len, &[1, 2, 4])?;
                check_place("configuration space", (*offset).into(), data.len(), CONFIG)?;
                transport.read_config(*offset, &mut data)?;
                Ok(FromDevice::Data(data))
            }
            ToDevice::WriteConfig { offset, data } => self.write_config(*offset, data),
            ToDevice::Bar { bar } => Ok(FromDevice::Bar { size: self.bar_size(*bar)? }),
            ToDevice::ReadBar { bar, offset, len } => {
                let mut data = word(*len, &[1, 2, 4, 8])?;
                self.check_bar(*bar, *offset, data.len())?;
                transport.read_bar(*bar, *offset, &mut data)?;
                Ok(FromDevice::Data(data))
            }
            ToDevice::WriteBar { bar, offset, data } => {
                if !matches!(data.len(), 1 | 2 | 4 | 8) {
                    return nonsense(format!("a register of {} bytes", data.len()));
                }
                self.check_bar(*bar, *offset, data.len())?;
                transport.write_bar(*bar, *offset, data)?;
                Ok(FromDevice::Done)
            }
            ToDevice::Reset => {
                self.device.reset()?;
                Ok(FromDevice::Done)
            }
            ToDevice::Lost => Ok(FromDevice::Lost(self.device.lost())),
        }
    }

    fn bar_size(&self, bar: u8) -> Result<u64, Refusal> {
        match self.bars.get(usize::from(bar)) {
            Some(bar) => Ok(bar.size),
            None => nonsense(format!("BAR {bar}; there are 0 to 5")),
        }
    }

    fn check_bar(&self, bar: u8, offset: u64, len: usize) -> Result<(), Refusal> {
        let size = self.bar_size(bar)?;
        check_place(format_args!("BAR {bar}"), offset, len, size)?;
        let range = offset..offset + len as u64;
        if self.hidden.iter().any(|hidden| hidden.meets(bar, &range)) {
            return nonsense(format!(
                "{len} bytes at {offset:#x} of BAR {bar}, where the MSI-X table or its pending \
                 bits lie: the core sets interrupts up"
            ));
        }
        Ok(())
    }

    fn write_config(&self, offset: u32, data: &[u8]) -> Result<FromDevice, Refusal> {
        let (COMMAND, &[low, high]) = (offset, data) else {
            return nonsense(format!(
                "a write of {} bytes at {offset:#x} of configuration space; a driver writes the \
                 2 bytes of the Command register at {COMMAND:#x} and nothing else",
                data.len()
            ));
        };
        let wanted = Command::from_bits(u16::from_le_bytes([low, high]));
        let current = u16::from_le_bytes(self.device.read_config(COMMAND)?);
        let theirs = Command::from_bits(0)
            .with_memory(true)
            .with_bus_master(true)
            .with_interrupt_disable(true);
        let others = (current ^ wanted.bits()) & !theirs.bits();
        if others != 0 {
            return nonsense(format!(
                "a write of {:#06x} to the Command register, which is {current:#06x}: the bits \
                 {others:#06x} are not a driver's",
                wanted.bits()
            ));
        }
        self.device.write_config(COMMAND, [low, high])?;
        Ok(FromDevice::Done)
    }
}

/// Room for a register of `len` bytes, if that is one of `sizes`.
fn word(len: u8, sizes: &[u8]) -> Result<Vec<u8>, Refusal> {
    if sizes.contains(&len) {
        return Ok(vec![0xff; len.into()]);
    }
    nonsense(format!("a register of {len} bytes; {sizes:?} are possible"))
}

/// Whether `len` (1, 2, 4 or 8) bytes at `offset` lie, aligned, in `size` bytes of `space`.
fn check_place(
    space: impl std::fmt::Display,
    offset: u64,
    len: usize,
    size: u64,
) -> Result<(), Refusal> {
    let inside = offset.checked_add(len as u64).is_some_and(|end| end <= size);
    if inside && offset.is_multiple_of(len as u64) {
        return Ok(());
    }
    nonsense(format!("{len} bytes at {offset:#x} do not lie, aligned, in the {size:#x} of {space}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::fake::{BAR, Fake};
    use super::*;

    fn place() -> impl Strategy<Value = u64> {
        prop_oneof![0..0x30u64, 0x1ff0..0x2040u64, BAR - 16..BAR + 16, any::<u64>()]
    }

    fn question() -> impl Strategy<Value = ToDevice> {
        let data = || {
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..20),
                // A command register, with bits of its own and of others.
                any::<u8>().prop_map(|low| vec![low & 7, 0]),
            ]
        };
        let bar = || prop_oneof![0..4u8, any::<u8>()];
        let offset = || prop_oneof![0..8u32, 0xff0..0x1010u32, any::<u32>()];
        prop_oneof![
            (offset(), any::<u8>()).prop_map(|(offset, len)| ToDevice::ReadConfig { offset, len }),
            (offset(), data()).prop_map(|(offset, data)| ToDevice::WriteConfig { offset, data }),
            bar().prop_map(|bar| ToDevice::Bar { bar }),
            (bar(), place(), 0..10u8).prop_map(|(bar, offset, len)| ToDevice::ReadBar {
                bar,
                offset,
                len
            }),
            (bar(), place(), data()).prop_map(|(bar, offset, data)| ToDevice::WriteBar {
                bar,
                offset,
                data
            }),
        ]
    }

    proptest! {
        #[test]
        fn nothing_gets_past_the_checks(questions in proptest::collection::vec(question(), 1..40)) {
            let fake = Fake::new(0x2000, 0x2020);
            let transport = fake.opener(false).open(Duration::MAX).unwrap();
            let device = Attached::new(transport, "0000:03:00.0".parse().unwrap()).unwrap();
            let before = fake.configuration();
            for question in &questions {
                if let Ok(FromDevice::Data(data)) = device.answer(question) {
                    prop_assert!(matches!(data.len(), 1 | 2 | 4 | 8));
                }
            }
            for (offset, data) in fake.bar_writes() {
                let end = offset + data.len() as u64;
                prop_assert!(matches!(data.len(), 1 | 2 | 4 | 8));
                prop_assert!(end <= BAR && (end <= 0x2000 || offset >= 0x2028));
            }
            let mut after = fake.configuration();
            prop_assert_eq!((after[4] ^ before[4]) & !6, 0);
            prop_assert_eq!((after[5] ^ before[5]) & !4, 0);
            after[4..6].copy_from_slice(&before[4..6]);
            prop_assert_eq!(after, before);
        }
    }
}
