//! Requests as futures.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::executor::{ThreadPool, block_on};
use futures::future::join_all;
use futures::task::SpawnExt;
use uniddrv::block::{BlockError, SubmitError};
use uniddrv::client::{AsyncQueue, BlockClient, Core, OpenOptions, RequestError};
use uniddrv_abi::block::Outcome;
use uniddrv_abi::message::FromCore;
use uniddrv_abi::queue;

use crate::fake::{BLOCKS, Fake, Style};
use crate::polled::{PATIENCE, filled, options};

const SLEEPY: Style = Style { shuffle: false, sleepy: true, null: false, yields: false };

fn open(core: &Core, options: &OpenOptions) -> (BlockClient, AsyncQueue) {
    let client = core.open("disk:0", options).unwrap();
    let queue = AsyncQueue::new(client.take_queue().unwrap()).unwrap();
    (client, queue)
}

/// Counts how often it was woken, and unparks a thread.
struct Bell(Thread, AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.unpark();
    }
}

fn bell() -> (Arc<Bell>, Waker) {
    let bell = Arc::new(Bell(std::thread::current(), AtomicUsize::new(0)));
    (bell.clone(), Waker::from(bell))
}

/// The smallest executor there is; with a deadline.
fn run<F: Future>(future: F) -> F::Output {
    let (_, waker) = bell();
    let mut future = pin!(future);
    let start = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park_timeout(PATIENCE);
        assert!(start.elapsed() < PATIENCE, "never woken");
    }
}

#[test]
fn all_operations_on_any_executor() {
    for style in [Style::default(), SLEEPY] {
        let (core, mut fake) = Fake::start();
        let (client, queue) = open(&core, &options());
        fake.serve(style);
        assert_eq!(queue.info(), client.info());
        let work = async || {
            let (result, buffer) = queue.write(8, filled(&client, 4096, 0x5a)).await;
            result.unwrap();
            queue.flush().await.unwrap();
            queue.discard(8, 2).await.unwrap();
            queue.write_zeroes(14, 2).await.unwrap();
            let (result, buffer) = queue.read(8, buffer).await;
            result.unwrap();
            let bytes = buffer.as_slice();
            assert!(bytes[..1024].iter().chain(&bytes[3072..]).all(|&byte| byte == 0));
            assert!(bytes[1024..3072].iter().all(|&byte| byte == 0x5a));
            let (result, buffer) = queue.write_through(BLOCKS, buffer).await;
            assert!(matches!(result, Err(RequestError::Refused(SubmitError::OutOfRange { .. }))));
            assert_eq!(buffer.len(), 4096);
        };
        run(work());
        block_on(work());
        block_on(work());
    }
}

#[test]
fn more_at_once_than_there_is_room_for() {
    for spin in [Duration::ZERO, Duration::from_micros(50), Duration::from_secs(1)] {
        let (core, mut fake) = Fake::start();
        let (client, queue) = open(&core, &OpenOptions { spin, ..options() });
        fake.serve(Style { shuffle: true, ..SLEEPY });
        for round in 0..3_u64 {
            let writes =
                (0..300_u64).map(|lba| queue.write(lba, filled(&client, 512, (lba + round) as u8)));
            for (result, _) in run(join_all(writes)) {
                result.unwrap();
            }
            let reads = (0..300).map(|lba| queue.read(lba, client.buffer(512).unwrap()));
            for (lba, (result, buffer)) in run(join_all(reads)).into_iter().enumerate() {
                result.unwrap();
                let wanted = (lba as u64 + round) as u8;
                assert!(buffer.as_slice().iter().all(|&byte| byte == wanted));
            }
        }
        assert_eq!(queue.in_flight(), 0);
    }
}

#[test]
fn tasks_on_many_threads_share_a_queue() {
    let (core, mut fake) = Fake::start();
    let (client, queue) = open(&core, &OpenOptions { spin: Duration::from_micros(5), ..options() });
    fake.serve(Style { shuffle: true, ..SLEEPY });
    let client = Arc::new(client);
    let pool = ThreadPool::builder().pool_size(4).create().unwrap();
    let tasks = (0..40_u64).map(|task| {
        let (queue, client) = (queue.clone(), client.clone());
        let work = async move {
            for round in 0..40 {
                let lba = task * 100 + round;
                let byte = (task * 3 + round) as u8;
                let (result, buffer) = queue.write(lba, filled(&client, 512, byte)).await;
                result.unwrap();
                drop(buffer);
                let (result, buffer) = queue.read(lba, client.buffer(512).unwrap()).await;
                result.unwrap();
                assert!(buffer.as_slice().iter().all(|&found| found == byte));
            }
        };
        pool.spawn_with_handle(work).unwrap()
    });
    run(join_all(tasks.collect::<Vec<_>>()));
}

#[test]
fn nobody_sleeps_through_the_end_of_his_request() {
    let (core, mut fake) = Fake::start();
    for spin in [Duration::ZERO, Duration::from_micros(20)] {
        let (client, queue) = open(&core, &OpenOptions { spin, ..options() });
        fake.serve(Style { null: true, ..SLEEPY });
        let mut buffer = client.buffer(512).unwrap();
        let start = Instant::now();
        for lba in 0..2_000 {
            let (result, back) = run(queue.read(lba, buffer));
            result.unwrap();
            buffer = back;
        }
        assert!(start.elapsed() < PATIENCE, "it took {:?}", start.elapsed());
    }
}

#[test]
fn a_future_that_is_not_polled_holds_nobody_up() {
    let (core, mut fake) = Fake::start();
    let spin = Duration::from_millis(1);
    let (client, queue) = open(&core, &OpenOptions { depth: 2, spin, ..options() });
    fake.serve(SLEEPY);
    let (_, waker) = bell();
    let mut context = Context::from_waker(&waker);
    let mut polled: Vec<_> =
        (0..8).map(|lba| queue.read(lba, client.buffer(512).unwrap())).collect();
    // Some are submitted and some wait for room; nobody asks for any of them again.
    polled.retain_mut(|future| future.poll_unpin(&mut context).is_pending());
    for lba in 0..100 {
        run(queue.read(lba, client.buffer(512).unwrap())).0.unwrap();
    }
    // Those that wait for room were woken, and gave it to nobody: dropping them does.
    let last = polled.pop();
    drop(polled);
    if let Some(last) = last {
        run(last).0.unwrap();
    }
    for lba in 0..100 {
        run(queue.write_zeroes(lba, 1)).unwrap();
    }
}

#[test]
fn a_future_that_was_never_polled_does_nothing() {
    let (core, fake) = Fake::start();
    let (client, queue) = open(&core, &options());
    let mut driver = fake.queue();
    drop(queue.write(0, client.buffer(512).unwrap()));
    assert_eq!(queue.in_flight(), 0);
    assert!(driver.take().is_empty());
}

#[test]
fn a_dropped_future_keeps_its_buffer_until_the_request_has_ended() {
    let (core, mut fake) = Fake::start();
    let (client, queue) = open(&core, &options());
    let driver = fake.queue();
    let (_, waker) = bell();
    let mut context = Context::from_waker(&waker);
    let buffer = client.buffer(4096).unwrap();
    let place = buffer.iova();
    let mut future = queue.read(0, buffer);
    assert!(future.poll_unpin(&mut context).is_pending());
    drop(future);
    assert_eq!(queue.in_flight(), 1);
    let other = client.buffer(4096).unwrap();
    assert_ne!(other.iova(), place, "the device may still write there");
    fake.serve_queue(driver, Style::default());
    run(queue.flush()).unwrap();
    assert_eq!(queue.in_flight(), 0);
    assert_eq!(client.buffer(4096).unwrap().iova(), place);
}

#[test]
fn futures_dropped_at_any_moment_lose_nothing_of_the_others() {
    let (core, mut fake) = Fake::start();
    let spin = Duration::from_micros(10);
    let (client, queue) = open(&core, &OpenOptions { depth: 4, spin, ..options() });
    fake.serve(Style { shuffle: true, ..SLEEPY });
    let (_, waker) = bell();
    let mut context = Context::from_waker(&waker);
    for round in 0..200 {
        let mut futures: Vec<_> =
            (0..12).map(|lba| queue.write(lba, client.buffer(512).unwrap())).collect();
        let mut place = 0;
        // Some are polled once, of which some may end at once; most of all are dropped.
        futures.retain_mut(|future| {
            place += 1;
            let ended = (place + round) % 3 != 0 && future.poll_unpin(&mut context).is_ready();
            !ended
        });
        let mut place = 0;
        futures.retain(|_| {
            place += 1;
            (place + round) % 4 == 0
        });
        for (result, _) in run(join_all(futures)) {
            result.unwrap();
        }
    }
    run(queue.flush()).unwrap();
    // All buffers are back.
    let all: Vec<_> = std::iter::from_fn(|| client.buffer(64 << 10).ok()).collect();
    assert_eq!(all.len(), (4 << 20) / (64 << 10));
}

#[test]
fn closing_and_hanging_up_end_every_future() {
    for hang_up in [false, true] {
        let (core, mut fake) = Fake::start();
        let (client, queue) = open(&core, &OpenOptions { spin: Duration::ZERO, ..options() });
        let mut driver = fake.queue();
        let futures: Vec<_> =
            (0..40).map(|lba| queue.read(lba, client.buffer(512).unwrap())).collect();
        let waiting = std::thread::spawn(move || run(join_all(futures)));
        let taken = driver.take_all(16);
        driver.post(taken[5].tag, Outcome::Success);
        driver.publish();
        if hang_up {
            fake.hang_up();
        } else {
            queue::close(&driver.words, 1);
            fake.say(FromCore::Closed { handle: 1, text: "revoked".into() });
        }
        let ended = waiting.join().unwrap();
        assert_eq!(ended.iter().filter(|(result, _)| result.is_ok()).count(), 1);
        for (result, buffer) in ended {
            assert_eq!(buffer.len(), 512);
            assert!(matches!(
                result,
                Ok(())
                    | Err(RequestError::Failed(BlockError::Gone)
                        | RequestError::Refused(SubmitError::Gone))
            ));
        }
        assert!(matches!(run(queue.flush()), Err(RequestError::Refused(SubmitError::Gone))));
        assert!(queue.closed().is_some());
    }
}

#[test]
fn a_question_of_another_thread_takes_no_news_away() {
    // The core's word that the queue is closed comes while another thread waits for an answer,
    // and is taken by it.
    let script: crate::fake::Script = Box::new(|question| match question {
        uniddrv_abi::message::ToCore::List { .. } => Some(vec![
            FromCore::Closed { handle: 1, text: "revoked".into() },
            FromCore::Names(Vec::new()),
        ]),
        _ => None,
    });
    let behaviour = crate::fake::Behaviour { script: Some(script), ..Default::default() };
    let (core, fake) = Fake::with(behaviour);
    let (client, queue) = open(&core, &OpenOptions { spin: Duration::ZERO, ..options() });
    let future = queue.read(0, client.buffer(512).unwrap());
    let waiting = std::thread::spawn(move || run(future));
    fake.queue().take_all(1);
    std::thread::sleep(Duration::from_millis(20));
    core.names("").unwrap();
    let (result, _) = waiting.join().unwrap();
    assert!(matches!(result, Err(RequestError::Failed(BlockError::Gone))));
}

#[test]
fn a_renewal_is_not_seen_by_futures() {
    let (core, mut fake) = Fake::start();
    let (client, queue) = open(&core, &OpenOptions { spin: Duration::ZERO, ..options() });
    let mut driver = fake.queue();
    let futures: Vec<_> =
        (0..16).map(|lba| queue.write(lba, filled(&client, 512, lba as u8 + 1))).collect();
    let waiting = std::thread::spawn(move || run(join_all(futures)));
    driver.take_all(16);
    std::thread::sleep(Duration::from_millis(20));
    driver.renew();
    fake.serve_queue(driver, SLEEPY);
    assert!(waiting.join().unwrap().into_iter().all(|(result, _)| result.is_ok()));
    assert_eq!(fake.disk.lock().unwrap()[15 * 512], 16);
}

#[test]
fn a_sleeping_future_is_woken_once_it_has_ended_and_not_before() {
    let (core, fake) = Fake::start();
    let (client, queue) = open(&core, &OpenOptions { spin: Duration::ZERO, ..options() });
    let mut driver = fake.queue();
    let (bell, waker) = bell();
    let mut context = Context::from_waker(&waker);
    let mut future = queue.read(0, client.buffer(512).unwrap());
    assert!(future.poll_unpin(&mut context).is_pending());
    let tag = driver.take_all(1)[0].tag;
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(bell.1.load(Ordering::SeqCst), 0);
    driver.post(tag, Outcome::Success);
    driver.publish();
    let end = Instant::now() + PATIENCE;
    while bell.1.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < end, "never woken");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(future.poll_unpin(&mut context).is_ready());
    assert_eq!(bell.1.load(Ordering::SeqCst), 1);
}

#[test]
fn the_right_ends_with_the_last_clone_and_future() {
    let (core, mut fake) = Fake::start();
    let (client, queue) = open(&core, &options());
    fake.serve(SLEEPY);
    let future = queue.read(0, client.buffer(512).unwrap());
    drop((client, queue));
    run(future).0.unwrap();
    let closed = |fake: &Fake| {
        let asked = fake.asked.lock().unwrap();
        asked.iter().any(|q| matches!(q, uniddrv_abi::message::ToCore::Close { handle: 1 }))
    };
    // The reactor may hold it for a moment longer.
    let end = Instant::now() + PATIENCE;
    while !closed(&fake) {
        core.names("").unwrap();
        assert!(Instant::now() < end, "never closed");
    }
}

#[test]
fn a_driver_that_wakes_without_end_or_shuts_the_socket_is_endured() {
    let (core, mut fake) = Fake::start();
    let (client, queue) = open(&core, &OpenOptions { spin: Duration::ZERO, ..options() });
    let driver = fake.queue();
    for _ in 0..1_000 {
        driver.wake_client();
    }
    rustix::net::shutdown(&driver.wake, rustix::net::Shutdown::Both).unwrap();
    fake.serve_queue(driver, Style::default());
    for lba in 0..20 {
        run(queue.read(lba, client.buffer(512).unwrap())).0.unwrap();
    }
}
