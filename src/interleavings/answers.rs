//! Responses that are sent while they are read, and clients that leave.

use super::*;
use crate::limits::{Limit, Limits, Resource};
use crate::message::kept::Room;
use crate::message::pipe::{Demand, End, Pipe};
use crate::message::pipe_body::PipeBody;

fn streamed(run: usize) -> Script {
    Script {
        frames: vec![Bytes::from_static(b"one "), Bytes::from_static(b"two")],
        length: false,
        ..created(run)
    }
}

/// A body larger than what may wait for a client once it is too large to record.
fn large(run: usize) -> Script {
    Script {
        frames: vec![Bytes::from_static(&[b'.'; 40 << 10]); 4],
        ..streamed(run)
    }
}

/// G2 and G4: the task that reads the response records it without its client.
#[test]
fn a_streamed_answer_is_recorded_whoever_leaves() {
    explore(|| {
        let bench = Bench::new(streamed, |options| options);
        let leaves = bench.ask_and_leave("K");
        let retries = bench.insist("K");
        block_on(leaves).unwrap();
        let answer = block_on(retries).unwrap();
        assert!(answer.ends_with(b" one two"), "{answer:?}");
        assert_eq!(bench.settled("K"), answer);
        assert_eq!(bench.runs(), 1);
    });
}

/// The client waits for the task that reads the body, and the task waits for a slow
/// client. Neither may miss the other's wake-up, nor that the client left.
#[test]
fn a_large_answer_flows_to_its_end_or_without_its_client() {
    explore(|| {
        let bench = Bench::new(large, |options| options.max_recorded_body(8));
        let leaves = bench.ask_and_leave("K");
        let reads = spawn(bench.ask("L"));
        block_on(leaves).unwrap();
        let (status, body) = block_on(reads).unwrap();
        assert_eq!(status, StatusCode::CREATED);
        assert!(body.unwrap().len() > 160 << 10, "all of it");
        bench.come_to_rest();
        let stats = bench.store.stats();
        assert_eq!(stats.sealed, bench.runs(), "each that began");
        assert_eq!(block_on(bench.ask("L")).0, StatusCode::CONFLICT);
    });
}

/// The task that reads is held up by a client that reads nothing, which no poll of the client
/// will ever tell. Time alone lets the operation end.
#[test]
fn a_client_that_stops_reading_is_let_go_and_its_operation_ends() {
    explore(|| {
        let bench = Bench::new(large, |options| options.max_recorded_body(8));
        let mut body = block_on(bench.send("K")).into_body();
        for _ in 0..thread_rng().gen_range(0..3) {
            block_on(body.frame()).unwrap().unwrap();
        }
        let (reads, watched) = (Arc::clone(&bench), Arc::clone(&bench));
        reads.as_time_passes(0, async move {
            while watched.store.stats().in_flight > 0 {
                yield_now().await;
            }
        });
        assert_eq!(bench.store.stats().sealed, 1);
        assert!(block_on(body.collect()).is_err(), "a part is not the whole");
        bench.come_to_rest();
        assert_eq!(
            bench
                .layer
                .core()
                .accounts
                .limits()
                .total(Resource::UnsentBytes),
            0
        );
    });
}

const FRAME: usize = 40 << 10;

/// The reading side: frames are kept while there is room for them.
async fn read_ahead(pipe: Arc<Pipe>, frames: usize) -> bool {
    let mut is_kept = true;
    for frame in 0..frames {
        poll_fn(|cx| match pipe.demand(!is_kept, cx) {
            Demand::Enough => Poll::Pending,
            Demand::More | Demand::Gone => Poll::Ready(()),
        })
        .await;
        let data = Bytes::from(vec![u8::try_from(frame).unwrap(); FRAME]);
        if is_kept && !pipe.keep(&data, frames * FRAME) {
            is_kept = false;
            pipe.forgo_record();
        }
        if frame + 1 == frames {
            let whole = is_kept.then(|| pipe.whole());
            assert!(whole.is_none_or(|whole| whole.len() == frames * FRAME));
            drop(pipe.end(Some(data), End::Full(None)));
        } else {
            pipe.push(data);
        }
    }
    is_kept
}

/// The client's side: the client never has all bytes without the end.
async fn take(pipe: Arc<Pipe>, frames: usize) {
    let mut body = PipeBody::new(pipe, None);
    let mut taken = Vec::new();
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        taken.extend(frame.unwrap().into_data().unwrap());
        assert_eq!(body.is_end(), taken.len() == frames * FRAME);
    }
    let frames = (0..frames).map(|frame| vec![u8::try_from(frame).unwrap(); FRAME]);
    let whole = frames.collect::<Vec<_>>().concat();
    assert!(taken == whole, "each byte once, in order");
}

/// The two sides of two pipes alone, so that the schedules meet at each of their steps. There is
/// room for one of the two, so at times each has a part of it and no more is given: no side may
/// wait for room that only the two hold.
#[test]
fn the_two_sides_of_an_answer_never_miss_each_other_with_room_and_without() {
    explore(|| {
        let limits = Limits::new(|_| Limit::of(2 * FRAME));
        let sides = [3, 3].map(|frames| {
            let account = limits.account(None);
            let pipe = Pipe::new(&account, Room::default());
            let pipe = Arc::new(pipe);
            let client = spawn(take(Arc::clone(&pipe), frames));
            (client, spawn(read_ahead(pipe, frames)))
        });
        for (client, reader) in sides {
            block_on(reader).unwrap();
            block_on(client).unwrap();
        }
        for of in Resource::ALL {
            assert_eq!(limits.total(of), 0, "{of:?}");
        }
    });
}
