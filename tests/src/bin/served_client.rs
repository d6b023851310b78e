//! A client of a core, in a process of its own: `served_client SOCKET NAME FIRST BLOCKS ROUNDS`
//! writes blocks and reads them back, 32 requests at once, and checks them. With 0 rounds it goes
//! on until it is killed. It prints `busy` once all 32 are on their way.
#![forbid(unsafe_code)]

use std::error::Error;
use std::time::{Duration, Instant};

use uniddrv::DmaBuf;
use uniddrv::block::{BlockQueue, Operation, Request};
use uniddrv::client::{Core, OpenOptions};

const DEPTH: u64 = 32;
const LEN: usize = 4096;
/// How long nothing may end.
const PATIENCE: Duration = Duration::from_mins(1);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [socket, name, first, blocks, rounds] = arguments.as_slice() else {
        return Err("usage: served_client SOCKET NAME FIRST BLOCKS ROUNDS".into());
    };
    let (first, blocks, rounds): (u64, u64, u64) =
        (first.parse()?, blocks.parse()?, rounds.parse()?);
    let core = Core::connect_to(socket)?;
    let options = OpenOptions {
        depth: DEPTH as u32,
        arena: 2 << 20,
        yield_when_idle: true,
        ..OpenOptions::default()
    };
    let client = core.open(name, &options)?;
    let mut queue = client.take_queue().ok_or("no queue")?;
    let each = LEN as u64 / u64::from(client.info().block_size);
    let places = blocks / each;
    if places < DEPTH {
        return Err("too few blocks for so many requests".into());
    }
    // A tag is the place and, above it, whether it is a write.
    let place = |number: u64| first + number % places * each;
    let write = |number: u64, mut buffer: DmaBuf| {
        buffer.as_mut_slice().fill(number as u8);
        let operation = Operation::Write { lba: place(number), fua: false };
        Request { operation, buffer: Some(buffer), tag: number << 1 | 1 }
    };
    let mut next = Vec::new();
    for number in 0..DEPTH {
        next.push(write(number, client.buffer(LEN)?));
    }
    let (mut number, mut ended, mut told) = (DEPTH, 0, false);
    let mut last = Instant::now();
    while rounds == 0 || ended < rounds {
        for request in next.drain(..) {
            queue.submit(request).map_err(|(error, _)| error)?;
        }
        let mut failed = None;
        queue.poll(|completion| {
            let (Ok(()), Some(buffer)) = (completion.result, completion.buffer) else {
                failed = Some(format!("{:?}", completion.result));
                return;
            };
            let this = completion.tag >> 1;
            if completion.tag & 1 == 1 {
                let operation = Operation::Read { lba: place(this) };
                next.push(Request { operation, buffer: Some(buffer), tag: this << 1 });
                return;
            }
            if buffer.as_slice().iter().any(|&byte| byte != this as u8) {
                failed = Some(format!("block {} holds something else", place(this)));
            }
            ended += 1;
            next.push(write(number, buffer));
            number += 1;
        });
        if let Some(text) = failed {
            return Err(text.into());
        }
        if !next.is_empty() {
            last = Instant::now();
        } else if last.elapsed() > PATIENCE {
            return Err("nothing ends any more".into());
        }
        if !told {
            println!("busy");
            told = true;
        }
    }
    Ok(())
}
