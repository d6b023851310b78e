//! Every I/O command, with its data.

use storage_poll::{CommandError, Controller, IoQueue, Namespace, Options};
use uniddrv::DmaBuf;
use uniddrv_spec::nvme::status::Status;

use crate::content::{check_all, fill_all};
use crate::ground::{GROUNDS, Ground, Model, execute, next};

/// One queue on one namespace.
struct Bench<'a> {
    controller: &'a Controller,
    queue: IoQueue,
    namespace: Namespace,
    block: usize,
    what: String,
}

impl Bench<'_> {
    fn buffer(&self, blocks: u32) -> DmaBuf {
        self.controller.device().dma_buffer(blocks as usize * self.block).unwrap()
    }

    fn filled(&self, seeds: &[u64]) -> DmaBuf {
        let mut buffer = self.buffer(seeds.len() as u32);
        fill_all(seeds, self.block, buffer.as_mut_slice());
        buffer
    }

    fn write(&mut self, lba: u64, seeds: &[u64], fua: bool) {
        let most = self.namespace.max_blocks() as usize;
        for (lba, seeds) in (lba..).step_by(most).zip(seeds.chunks(most)) {
            self.write_once(lba, seeds, fua);
        }
    }

    fn write_once(&mut self, lba: u64, seeds: &[u64], fua: bool) {
        let command = self.namespace.write(lba, seeds.len() as u32, fua).unwrap();
        let buffer = self.filled(seeds);
        let (result, buffer) = execute(&mut self.queue, &command, Some(buffer));
        assert_eq!(result, Ok(0), "{}: write", self.what);
        check_all(seeds, self.block, buffer.unwrap().as_slice(), "the buffer written from");
    }

    /// Reads and checks.
    fn expect(&mut self, lba: u64, seeds: &[u64]) {
        let most = self.namespace.max_blocks() as usize;
        for (lba, seeds) in (lba..).step_by(most).zip(seeds.chunks(most)) {
            self.expect_once(lba, seeds);
        }
    }

    fn expect_once(&mut self, lba: u64, seeds: &[u64]) {
        let command = self.namespace.read(lba, seeds.len() as u32).unwrap();
        // One block more, which is not to be touched.
        let mut buffer = self.buffer(seeds.len() as u32 + 1);
        buffer.as_mut_slice().fill(0xa5);
        let (result, buffer) = execute(&mut self.queue, &command, Some(buffer));
        assert_eq!(result, Ok(0), "{}: read", self.what);
        let buffer = buffer.unwrap();
        check_all(seeds, self.block, buffer.as_slice(), &self.what);
        let rest = &buffer.as_slice()[seeds.len() * self.block..];
        assert!(rest.iter().all(|&byte| byte == 0xa5), "{}: read too much", self.what);
    }

    fn run(&mut self, command: &storage_poll::Command) -> Result<u32, CommandError> {
        let (result, buffer) = execute(&mut self.queue, command, None);
        assert!(buffer.is_none());
        result
    }

    /// Carries out a command whose ranges stand in a buffer.
    fn run_ranges(
        &mut self,
        build: impl FnOnce(&Namespace, &mut DmaBuf) -> storage_poll::Command,
    ) -> Result<u32, CommandError> {
        let mut buffer = self.controller.device().dma_buffer(4096).unwrap();
        let command = build(&self.namespace, &mut buffer);
        let (result, buffer) = execute(&mut self.queue, &command, Some(buffer));
        assert!(buffer.is_some());
        result
    }
}

fn seeds(from: u64, count: u32) -> Vec<u64> {
    (from..from + u64::from(count)).collect()
}

fn failed(status: Status) -> impl Fn(Result<u32, CommandError>) -> bool {
    move |result| matches!(result, Err(CommandError::Status(found)) if found.code() == status)
}

fn reads_and_writes(bench: &mut Bench<'_>) {
    let most = bench.namespace.max_blocks();
    let page = (4096 / bench.block as u32).max(1);
    // In one page; in two; with a list or an SGL; the most that there is.
    for (number, blocks) in
        [1, page, page + 1, 2 * page, 2 * page + 1, most].into_iter().enumerate()
    {
        let (lba, first) = (number as u64, 1000 * (number as u64 + 1));
        bench.write(lba, &seeds(first, blocks), number % 2 == 1);
        bench.expect(lba, &seeds(first, blocks));
    }
    // The last blocks of the namespace.
    let last = bench.namespace.blocks() - 3;
    bench.write(last, &seeds(7, 3), true);
    bench.expect(last, &seeds(7, 3));
    let flush = bench.namespace.flush();
    assert_eq!(bench.run(&flush), Ok(0));
    bench.expect(last + 1, &seeds(8, 1));
}

fn zeroes_and_deallocation(bench: &mut Bench<'_>) {
    bench.write(0, &seeds(1, 16), false);
    let zero = |namespace: &Namespace, lba, blocks, deallocate| {
        namespace.write_zeroes(lba, blocks, deallocate).unwrap()
    };
    let plain = zero(&bench.namespace, 2, 3, false);
    assert_eq!(bench.run(&plain), Ok(0));
    let deallocating = zero(&bench.namespace, 8, 1, true);
    assert_eq!(bench.run(&deallocating), Ok(0));
    bench.expect(0, &[1, 2, 0, 0, 0, 6, 7, 8, 0, 10, 11, 12, 13, 14, 15, 16]);
    let ranges = [(0, 1), (10, 2), (13, 0), (15, 1)];
    let result =
        bench.run_ranges(|namespace, buffer| namespace.deallocate(&ranges, buffer).unwrap());
    assert_eq!(result, Ok(0));
    bench.expect(0, &[0, 2, 0, 0, 0, 6, 7, 8, 0, 10, 0, 0, 13, 14, 15, 0]);
    // As many ranges as one command takes.
    bench.write(0, &seeds(1, 256), false);
    let ranges: Vec<_> = (0..256).map(|range| (range, u32::from(range % 2 == 0))).collect();
    let result =
        bench.run_ranges(|namespace, buffer| namespace.deallocate(&ranges, buffer).unwrap());
    assert_eq!(result, Ok(0));
    let left: Vec<_> = (0..256).map(|block| if block % 2 == 0 { 0 } else { block + 1 }).collect();
    bench.expect(0, &left);
    // More blocks than any transfer moves.
    let wide = zero(&bench.namespace, 0, bench.namespace.blocks().min(65_536) as u32, false);
    assert_eq!(bench.run(&wide), Ok(0));
    bench.expect(0, &[0; 200]);
}

fn uncorrectable_and_verify(bench: &mut Bench<'_>) {
    bench.write(20, &seeds(1, 8), false);
    let verify = bench.namespace.verify(20, 8).unwrap();
    assert_eq!(bench.run(&verify), Ok(0));
    let spoil = bench.namespace.write_uncorrectable(23, 2).unwrap();
    assert_eq!(bench.run(&spoil), Ok(0));
    let unreadable = failed(Status::UNRECOVERED_READ_ERROR);
    assert!(unreadable(bench.run(&verify)));
    let read = bench.namespace.read(20, 8).unwrap();
    let buffer = bench.buffer(8);
    let (result, buffer) = execute(&mut bench.queue, &read, Some(buffer));
    assert!(unreadable(result) && buffer.is_some());
    bench.expect(20, &seeds(1, 3));
    bench.expect(25, &seeds(6, 3));
    bench.write(23, &[40, 50], false);
    assert_eq!(bench.run(&verify), Ok(0));
    bench.expect(20, &[1, 2, 3, 40, 50, 6, 7, 8]);
}

fn compare(bench: &mut Bench<'_>) {
    let most = bench.namespace.max_blocks();
    bench.write(5, &seeds(1, most), false);
    let compare = bench.namespace.compare(5, most).unwrap();
    let equal = bench.filled(&seeds(1, most));
    let (result, buffer) = execute(&mut bench.queue, &compare, Some(equal));
    assert_eq!(result, Ok(0));
    let mut buffer = buffer.unwrap();
    let last = buffer.len() - 1;
    for place in [0, last / 2, last] {
        buffer.as_mut_slice()[place] ^= 0x80;
        let (result, back) = execute(&mut bench.queue, &compare, Some(buffer));
        assert!(failed(Status::COMPARE_FAILURE)(result), "a difference at byte {place}");
        buffer = back.unwrap();
        buffer.as_mut_slice()[place] ^= 0x80;
    }
    let (result, _) = execute(&mut bench.queue, &compare, Some(buffer));
    assert_eq!(result, Ok(0));
}

fn copy(bench: &mut Bench<'_>) {
    bench.write(0, &seeds(1, 40), false);
    let result = bench.run_ranges(|namespace, buffer| {
        namespace.copy(&[(0, 1), (30, 10), (5, 3)], 100, buffer).unwrap()
    });
    assert_eq!(result, Ok(0));
    let mut copied = seeds(1, 1);
    copied.extend(seeds(31, 10));
    copied.extend(seeds(6, 3));
    bench.expect(100, &copied);
    bench.expect(0, &seeds(1, 40));
    // Over itself: as if all of it was read first.
    let result =
        bench.run_ranges(|namespace, buffer| namespace.copy(&[(0, 20)], 5, buffer).unwrap());
    assert_eq!(result, Ok(0));
    bench.expect(5, &seeds(1, 20));
}

/// As many commands at once as the queue takes, several rings long.
fn full_depth(bench: &mut Bench<'_>) {
    let depth = bench.queue.depth();
    let total = (3 * depth + 1).max(16) as u64;
    for write in [true, false] {
        let mut ended = vec![false; total as usize];
        let (mut sent, mut done) = (0, 0);
        while done < total {
            while sent < total && bench.queue.in_flight() < depth {
                let (command, buffer) = if write {
                    let buffer = bench.filled(&seeds(sent + 1, 1));
                    (bench.namespace.write(sent, 1, false).unwrap(), buffer)
                } else {
                    (bench.namespace.read(sent, 1).unwrap(), bench.buffer(1))
                };
                let result = bench.queue.submit(&command, Some(buffer), sent);
                assert!(result.is_ok(), "{}: {sent}", bench.what);
                sent += 1;
            }
            let completed = next(&mut bench.queue);
            assert_eq!(completed.result, Ok(0));
            let ended = &mut ended[completed.tag as usize];
            assert!(!std::mem::replace(ended, true), "{} ended twice", completed.tag);
            let seeds = seeds(completed.tag + 1, 1);
            check_all(&seeds, bench.block, completed.buffer.unwrap().as_slice(), &bench.what);
            done += 1;
        }
    }
    assert_eq!((bench.queue.in_flight(), bench.queue.unknown_completions()), (0, 0));
}

fn everything(ground: Ground, shadow_doorbells: bool) {
    let switch = if shadow_doorbells { "on" } else { "off" };
    let model = Model::start(
        ground,
        &format!("namespaces=512:4M,4096:8M&shadow-doorbells={switch}&mdts=256k&entries=128"),
    );
    for sgl in [false, true] {
        let options = Options { sgl, shadow_doorbells, queues: 4, ..Options::default() };
        let controller = model.attach(options);
        assert_eq!(controller.uses_sgl(), sgl);
        assert_eq!(controller.uses_shadow_doorbells(), shadow_doorbells);
        for &namespace in controller.namespaces() {
            for depth in [1, 2, 3, 127] {
                let queue = controller.io_queue(depth).unwrap();
                let block = namespace.block_size() as usize;
                let what = format!(
                    "{ground:?}, blocks of {block}, SGL {sgl}, shadow {switch}, depth {depth}"
                );
                let controller = &controller;
                let mut bench = Bench { controller, queue, namespace, block, what };
                full_depth(&mut bench);
                reads_and_writes(&mut bench);
                if depth < 3 {
                    zeroes_and_deallocation(&mut bench);
                    uncorrectable_and_verify(&mut bench);
                    compare(&mut bench);
                    copy(&mut bench);
                }
            }
        }
    }
}

#[test]
fn every_command_in_this_process() {
    for shadow_doorbells in [false, true] {
        everything(Ground::Inline, shadow_doorbells);
    }
}

#[test]
fn every_command_over_vfio_user() {
    for shadow_doorbells in [false, true] {
        everything(Ground::Served, shadow_doorbells);
    }
}

/// Several queues, each on a thread of its own, on the same namespace.
#[test]
fn queues_do_not_disturb_each_other() {
    for ground in GROUNDS {
        let model = Model::start(ground, "size=4M&shadow-doorbells=on");
        let controller = &model.attach(Options::default());
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let mut queue = controller.io_queue(8).unwrap();
                scope.spawn(move || {
                    let namespace = controller.namespaces()[0];
                    for round in 0..200 {
                        let lba = thread * 1000 + round % 100;
                        let seeds = [(thread << 32) | (round + 1)];
                        let mut buffer = controller.device().dma_buffer(512).unwrap();
                        fill_all(&seeds, 512, buffer.as_mut_slice());
                        let write = namespace.write(lba, 1, false).unwrap();
                        let (result, buffer) = execute(&mut queue, &write, Some(buffer));
                        assert_eq!(result, Ok(0));
                        let mut buffer = buffer.unwrap();
                        buffer.as_mut_slice().fill(0);
                        let read = namespace.read(lba, 1).unwrap();
                        let (result, buffer) = execute(&mut queue, &read, Some(buffer));
                        assert_eq!(result, Ok(0));
                        check_all(&seeds, 512, buffer.unwrap().as_slice(), "another thread's");
                    }
                });
            }
        });
    }
}
