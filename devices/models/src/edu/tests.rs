use std::os::fd::AsFd;
use std::time::Duration;

use uniddrv::{Arena, Interrupt};

use super::*;

const IOVA: u64 = 0x20_0000;

/// A device with an arena at [`IOVA`], an MSI vector and bus mastering on.
struct Bench {
    edu: Edu,
    host: Host,
    interrupt: Interrupt,
}

impl Bench {
    fn new(fault: Option<Fault>) -> Self {
        let mut bench =
            Self { edu: Edu::new(fault), host: Host::new(), interrupt: Interrupt::new().unwrap() };
        let arena = Arena::new(1).unwrap();
        bench.host.memory.map(IOVA, arena.len() as u64, arena.fd(), 0, true).unwrap();
        let fd = bench.interrupt.as_fd().try_clone_to_owned().unwrap();
        bench.host.interrupts.connect(InterruptKind::Msi, 0, Some(fd)).unwrap();
        bench.edu.write_config(&mut bench.host, 4, &[0b110]);
        bench
    }

    fn read(&mut self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.edu.read_bar(&mut self.host, 0, offset as u64, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write(&mut self, offset: usize, value: u32) {
        self.edu.write_bar(&mut self.host, 0, offset as u64, &value.to_le_bytes());
    }

    fn write64(&mut self, offset: usize, value: u64) {
        self.edu.write_bar(&mut self.host, 0, offset as u64, &value.to_le_bytes());
    }

    fn transfer(&mut self, source: u64, destination: u64, count: u64, to_memory: bool) {
        let command =
            DmaCommand::default().with_run(true).with_to_memory(to_memory).with_interrupt(true);
        self.write64(DmaSource::OFFSET, source);
        self.write64(DmaDestination::OFFSET, destination);
        self.write64(DmaCount::OFFSET, count);
        self.write64(DmaCommand::OFFSET, command.bits());
    }

    fn memory(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.host.memory.read(IOVA, &mut bytes).unwrap();
        bytes
    }

    fn signalled(&self) -> bool {
        self.interrupt.wait(Duration::ZERO).unwrap()
    }
}

#[test]
fn it_says_what_it_is_and_that_it_lives() {
    let mut bench = Bench::new(None);
    assert_eq!(bench.read(Identification::OFFSET), 0x0100_00ed);
    bench.write(Liveness::OFFSET, 0x1234_5678);
    assert_eq!(bench.read(Liveness::OFFSET), !0x1234_5678);
    bench.write(Identification::OFFSET, 7);
    assert_eq!(bench.read(Identification::OFFSET), 0x0100_00ed);
}

#[test]
fn factorials_interrupt_when_asked_to() {
    let mut bench = Bench::new(None);
    bench.write(Factorial::OFFSET, 10);
    assert_eq!(bench.read(Factorial::OFFSET), 3_628_800);
    assert!(!bench.signalled());
    bench.write(Status::OFFSET, u32::MAX);
    assert_eq!(bench.read(Status::OFFSET), 0x80);
    bench.write(Factorial::OFFSET, 5);
    assert!(bench.signalled());
    assert_eq!(bench.read(Interrupts::STATUS), 1);
    bench.write(Interrupts::ACKNOWLEDGE, 1);
    assert_eq!(bench.read(Interrupts::STATUS), 0);
    assert!(!bench.signalled());
}

#[test]
fn interrupts_can_be_raised_by_hand() {
    let mut bench = Bench::new(None);
    bench.write(Interrupts::RAISE, 0xff);
    bench.write(Interrupts::RAISE, 0x100);
    assert!(bench.signalled());
    bench.write(Interrupts::ACKNOWLEDGE, 0xf0);
    assert_eq!(bench.read(Interrupts::STATUS), 0x10f);
}

#[test]
fn a_transfer_there_and_back_keeps_the_data() {
    let mut bench = Bench::new(None);
    let data: Vec<u8> = (0..4096u32).map(|index| (index * 7 + (index >> 8)) as u8).collect();
    bench.host.memory.write(IOVA, &data).unwrap();
    bench.transfer(IOVA, BUFFER, 4096, false);
    assert!(bench.signalled());
    assert_eq!(bench.read(Interrupts::STATUS), 0x100);
    assert_eq!(bench.read(DmaCommand::OFFSET), 0b100);
    bench.host.memory.write(IOVA, &[0; 4096]).unwrap();
    bench.transfer(BUFFER + 100, IOVA + 100, 3996, true);
    let memory = bench.memory(4096);
    assert_eq!(memory[..100], [0; 100]);
    assert_eq!(memory[100..], data[100..]);
}

#[test]
fn transfers_that_cannot_be_touch_nothing() {
    let mut bench = Bench::new(None);
    bench.host.memory.write(IOVA, &[7; 4096]).unwrap();
    for (inner, count) in [
        (BUFFER - 1, 1),
        (BUFFER + 4096, 1),
        (BUFFER, 4097),
        (BUFFER + 1, u64::MAX),
        (u64::MAX, 1),
        (0, 1),
    ] {
        bench.transfer(inner, IOVA, count, true);
        bench.transfer(IOVA, inner, count, false);
    }
    bench.transfer(BUFFER, IOVA - 16, 16, true);
    bench.transfer(BUFFER, DMA_MASK, 16, true);
    assert_eq!(bench.host.memory.faults(), 2);
    bench.edu.write_config(&mut bench.host, 4, &[0b010]);
    bench.transfer(BUFFER, IOVA, 16, true);
    assert_eq!(bench.memory(4096), [7; 4096]);
    assert_eq!(bench.read(DmaCommand::OFFSET) & 1, 0);
}

#[test]
fn addresses_are_cut_to_28_bits() {
    let mut bench = Bench::new(None);
    bench.host.memory.write(IOVA, &[9; 8]).unwrap();
    bench.transfer(IOVA | 1 << 28 | 1 << 63, BUFFER, 8, false);
    bench.transfer(BUFFER, IOVA + 64, 8, true);
    assert_eq!(bench.memory(72)[64..], [9; 8]);
}

#[test]
fn accesses_of_other_widths_read_ones_and_write_nothing() {
    let mut bench = Bench::new(None);
    for len in [1, 2, 8] {
        let mut bytes = vec![0; len];
        bench.edu.read_bar(&mut bench.host, 0, 0, &mut bytes);
        assert_eq!(bytes, vec![0xff; len]);
        bench.edu.write_bar(&mut bench.host, 0, Liveness::OFFSET as u64, &vec![0; len]);
    }
    assert_eq!(bench.read(Liveness::OFFSET), u32::MAX);
    for offset in [2, 0x10, Interrupts::RAISE, 0x84, BAR_SIZE - 4] {
        assert_eq!(bench.read(offset), u32::MAX);
    }
}

#[test]
fn a_reset_forgets() {
    let mut bench = Bench::new(None);
    bench.write(Factorial::OFFSET, 5);
    bench.write(Interrupts::RAISE, 1);
    bench.edu.reset(&mut bench.host);
    assert_eq!((bench.read(Factorial::OFFSET), bench.read(Interrupts::STATUS)), (0, 0));
    assert!(!bench.edu.config().bus_master());
}

#[test]
fn each_fault_does_what_it_says() {
    let mut bench = Bench::new(Some(Fault::Identification));
    assert!(!Identification::from_bits(bench.read(0)).is_edu());
    let mut bench = Bench::new(Some(Fault::Liveness));
    bench.write(Liveness::OFFSET, 5);
    assert_eq!(bench.read(Liveness::OFFSET), 5);
    let mut bench = Bench::new(Some(Fault::Factorial));
    bench.write(Factorial::OFFSET, 5);
    assert_eq!(bench.read(Status::OFFSET), 1);
    let mut bench = Bench::new(Some(Fault::Dma));
    bench.transfer(BUFFER, IOVA, 8, true);
    bench.write64(DmaSource::OFFSET, 1);
    assert_eq!((bench.read(DmaCommand::OFFSET), bench.read(DmaSource::OFFSET)), (7, 0x40000));
    let mut bench = Bench::new(Some(Fault::Data));
    bench.transfer(BUFFER, IOVA, 8, true);
    assert_eq!(bench.memory(8), [1, 0, 0, 0, 0, 0, 0, 0]);
    let mut bench = Bench::new(Some(Fault::Interrupt));
    bench.write(Interrupts::RAISE, 1);
    assert!(bench.read(Interrupts::STATUS) == 1 && !bench.signalled());
}

#[test]
fn parameters_are_checked() {
    let parse = |key: &str, value: &str| Edu::with_parameters(&[(key.into(), value.into())]);
    for (name, fault) in Fault::NAMES {
        assert_eq!(parse("fault", name).unwrap().fault, Some(*fault));
    }
    assert!(parse("fault", "none").unwrap_err().to_string().contains("dma"));
    assert_eq!(parse("size", "1G").unwrap_err(), ParameterError::Unknown("size".into()));
}

proptest::proptest! {
    #[test]
    fn any_accesses_are_survived(
        accesses in proptest::collection::vec(
            (0u64..0xa0, proptest::sample::select(vec![1usize, 2, 4, 8]), proptest::num::u64::ANY),
            0..64,
        ),
    ) {
        let mut bench = Bench::new(None);
        for (offset, len, value) in accesses {
            let mut bytes = value.to_le_bytes();
            bench.edu.write_bar(&mut bench.host, 0, offset, &bytes[..len]);
            bench.edu.read_bar(&mut bench.host, 0, offset, &mut bytes[..len]);
        }
    }
}
