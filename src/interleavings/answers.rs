//! Responses that are sent while they are read, and clients that leave.

use super::*;
use crate::message::pipe::{Demand, End, Pipe, PipeBody};
use crate::runtime::background::Background;

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

/// The two sides of the pipe alone, so that the schedules meet at each of its steps.
#[test]
fn the_two_sides_of_an_answer_never_miss_each_other() {
    explore(|| {
        let stream = Arc::new(Pipe::default());
        let mut sender = PipeBody::new(Arc::clone(&stream), &Background::up_to(1), None);
        let client = spawn(async move {
            let mut read = 0;
            while let Some(frame) = poll_fn(|cx| sender.poll_frame(cx)).await {
                read += frame.unwrap().into_data().unwrap().len();
                // The client never has all bytes without the end.
                assert_eq!(sender.is_end(), read == 120 << 10);
            }
            read
        });
        let reader = spawn(async move {
            let frame = Bytes::from_static(&[b'.'; 40 << 10]);
            for _ in 0..2 {
                poll_fn(|cx| match stream.demand(true, cx) {
                    Demand::Enough => Poll::Pending,
                    Demand::More | Demand::Gone => Poll::Ready(()),
                })
                .await;
                stream.push(frame.clone());
            }
            stream.end(Some(frame), End::Full(None));
        });
        block_on(reader).unwrap();
        assert_eq!(block_on(client).unwrap(), 120 << 10);
    });
}
