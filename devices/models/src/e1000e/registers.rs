//! Registers.

use uniddrv::net::MacAddress;
use uniddrv_spec::e1000e::{
    AddressHigh, BAR_SIZE, Causes, Counter, DeviceControl, DeviceStatus, EepromRead, MdiControl,
    Queue, offset,
};

/// Basic Mode Status of the PHY. IEEE 802.3 §22.2.4.
const PHY_STATUS: u8 = 1;

/// All registers, as they are read where nothing else is said.
pub(super) struct Registers {
    words: Box<[u32]>,
    mac: MacAddress,
}

impl Registers {
    pub(super) fn new(mac: MacAddress) -> Self {
        let mut registers = Self { words: vec![0; BAR_SIZE / 4].into(), mac };
        registers.reset();
        registers
    }

    pub(super) fn reset(&mut self) {
        self.words.fill(0);
        let [first, second, third] = self.mac.to_words();
        self.set(offset::RAL, u32::from(first) | u32::from(second) << 16);
        let high = AddressHigh::default().with_address(third).with_valid(true);
        self.set(AddressHigh::OFFSET, high.bits());
        self.set(DeviceControl::OFFSET, DeviceControl::default().with_full_duplex(true).bits());
    }

    pub(super) fn get(&self, offset: usize) -> u32 {
        self.words.get(offset / 4).copied().unwrap_or(u32::MAX)
    }

    pub(super) fn set(&mut self, offset: usize, value: u32) {
        if let Some(word) = self.words.get_mut(offset / 4) {
            *word = value;
        }
    }

    /// The station address that is received; nothing where the filter is off.
    pub(super) fn station(&self) -> Option<MacAddress> {
        let high = AddressHigh::from_bits(self.get(AddressHigh::OFFSET));
        let low = self.get(offset::RAL);
        let words = [low as u16, (low >> 16) as u16, high.address()];
        high.valid().then_some(MacAddress::from_words(words))
    }

    /// Adds to a counter, which sticks at its highest value.
    pub(super) fn count(&mut self, counter: Counter, by: u64) {
        let place = counter.offset();
        if counter.is_wide() {
            let now = u64::from(self.get(place)) | u64::from(self.get(place + 4)) << 32;
            let sum = now.saturating_add(by);
            self.set(place, sum as u32);
            self.set(place + 4, (sum >> 32) as u32);
        } else {
            let by = u32::try_from(by).unwrap_or(u32::MAX);
            self.set(place, self.get(place).saturating_add(by));
        }
    }

    pub(super) fn is_transmit_tail(offset: usize) -> bool {
        Queue::transmit(0).is_some_and(|queue| queue.tail() == offset)
    }

    /// The register at `offset`, by one who reads it.
    pub(super) fn read(&mut self, offset: usize, up: bool) -> u32 {
        let value = self.get(offset);
        match offset {
            DeviceStatus::OFFSET => self.status(up).bits(),
            Causes::CAUSES => {
                self.set(offset, 0);
                value
            }
            Causes::SET | Causes::CLEAR => 0,
            _ if (0x4000..0x4100).contains(&offset) => {
                self.read_counter(offset);
                value
            }
            _ => value,
        }
    }

    /// Reading clears; of a wide one, reading its high register.
    fn read_counter(&mut self, offset: usize) {
        let low = Counter::ALL.iter().any(|one| one.is_wide() && one.offset() == offset);
        if !low {
            self.set(offset, 0);
            let high = Counter::ALL.iter().find(|one| one.is_wide() && one.offset() + 4 == offset);
            if let Some(counter) = high {
                self.set(counter.offset(), 0);
            }
        }
    }

    fn status(&self, up: bool) -> DeviceStatus {
        let control = DeviceControl::from_bits(self.get(DeviceControl::OFFSET));
        let up = up && control.set_link_up();
        DeviceStatus::default()
            .with_full_duplex(true)
            .with_link_up(up)
            .with_speed_bits(2)
            .with_master_enabled(!control.master_disable())
    }

    /// Writes the register at `offset`. Whether that was a reset.
    pub(super) fn write(&mut self, offset: usize, value: u32) -> bool {
        match offset {
            DeviceControl::OFFSET => {
                let control = DeviceControl::from_bits(value);
                if control.reset() {
                    self.reset();
                    return true;
                }
                self.set(offset, control.with_phy_reset(false).bits());
            }
            DeviceStatus::OFFSET => {}
            EepromRead::OFFSET => {
                let read = EepromRead::from_bits(value);
                let words = self.mac.to_words();
                let word = words.get(usize::from(read.address())).copied().unwrap_or(0xffff);
                self.set(offset, read.with_start(false).with_done(true).with_data(word).bits());
            }
            MdiControl::OFFSET => {
                let mdi = MdiControl::from_bits(value);
                let data = if mdi.register() == PHY_STATUS { 0x796d } else { 0 };
                self.set(offset, mdi.with_ready(true).with_data(data).bits());
            }
            Causes::CAUSES => self.set(offset, self.get(offset) & !value),
            Causes::SET => self.set(Causes::CAUSES, self.get(Causes::CAUSES) | value),
            Causes::MASK => self.set(offset, self.get(offset) | value),
            Causes::CLEAR => self.set(Causes::MASK, self.get(Causes::MASK) & !value),
            _ if (0x4000..0x4100).contains(&offset) => {}
            _ => self.set(offset, value),
        }
        false
    }
}

/// A ring as the registers tell of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    place: Queue,
    base: u64,
    pub(super) len: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
}

impl Ring {
    /// The ring at `place`; nothing where it cannot be one.
    pub(super) fn of(registers: &Registers, place: Option<Queue>) -> Option<Self> {
        let place = place?;
        let base = u64::from(registers.get(place.base_low()) & !0xf)
            | u64::from(registers.get(place.base_high())) << 32;
        let len = (registers.get(place.length()) & 0xf_ff80) / 16;
        let head = registers.get(place.head()) & 0xffff;
        let tail = registers.get(place.tail()) & 0xffff;
        (head < len && tail < len).then_some(Self { place, base, len, head, tail })
    }

    /// How many descriptors are the device's.
    pub(super) fn available(&self) -> u32 {
        if self.tail >= self.head {
            self.tail - self.head
        } else {
            self.tail + self.len - self.head
        }
    }

    /// The address of the descriptor at the head.
    pub(super) fn address(&self) -> u64 {
        self.base.wrapping_add(u64::from(self.head) * 16)
    }

    /// On to the next.
    pub(super) fn advance(&mut self, registers: &mut Registers) {
        self.head = if self.head + 1 == self.len { 0 } else { self.head + 1 };
        registers.set(self.place.head(), self.head);
    }
}
