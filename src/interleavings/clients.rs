//! Clients that retry, wait and leave, on a store whose leases live with their owners.

use super::*;

fn wait(options: RouteOptions) -> RouteOptions {
    options.on_in_flight(OnInFlight::Wait(LONG))
}

#[test]
fn of_clients_at_once_one_executes() {
    explore(|| {
        let bench = Bench::new(created, |options| options);
        let clients = [(); 3].map(|()| bench.insist("K"));
        for client in clients {
            block_on(client).unwrap();
        }
        bench.settled("K");
        assert_eq!(bench.runs(), 1);
    });
}

/// No time passes, so only wake-ups can end the waits.
#[test]
fn those_who_wait_get_the_one_answer() {
    explore(|| {
        let bench = Bench::new(created, wait);
        let clients = [(); 3].map(|()| spawn(bench.ask("K")));
        for client in clients {
            assert_eq!(block_on(client).unwrap().0, StatusCode::CREATED);
        }
        bench.settled("K");
        assert_eq!(bench.runs(), 1);
    });
}

/// G4; and a claim whose handler has not begun is given back.
#[test]
fn a_client_that_leaves_changes_nothing_for_its_retry() {
    explore(|| {
        let bench = Bench::new(created, |options| options);
        let leaves = bench.ask_and_leave("K");
        let retries = bench.insist("K");
        block_on(leaves).unwrap();
        block_on(retries).unwrap();
        bench.settled("K");
        assert_eq!(bench.runs(), 1);
    });
}

#[test]
fn a_client_that_leaves_changes_nothing_for_those_who_wait() {
    explore(|| {
        let bench = Bench::new(created, wait);
        let leaves = bench.ask_and_leave("K");
        let waits = [(); 2].map(|()| spawn(bench.ask("K")));
        block_on(leaves).unwrap();
        for client in waits {
            // The claim that is given back may also go to a request that comes later.
            let (status, _) = block_on(client).unwrap();
            assert_eq!(status, StatusCode::CREATED);
        }
        bench.settled("K");
        assert_eq!(bench.runs(), 1);
    });
}

/// The first run is released, and one waiter is woken for that. If this waiter leaves,
/// another waiter must be woken in its place.
#[test]
fn a_release_lets_one_go_on_though_another_leaves() {
    explore(|| {
        let first_fails = |run| match run {
            0 => Script {
                status: StatusCode::SERVICE_UNAVAILABLE,
                ..created(run)
            },
            _ => created(run),
        };
        let bench = Bench::new(first_fails, wait);
        let leaves = bench.ask_and_leave("K");
        let waits = [(); 2].map(|()| spawn(bench.ask("K")));
        block_on(leaves).unwrap();
        let waited = waits.map(|client| block_on(client).unwrap().0);
        assert!(waited.contains(&StatusCode::CREATED), "{waited:?}");
        bench.settled("K");
        assert_eq!(bench.runs(), 2);
    });
}

/// When `drain` returns zero, every operation without a client has ended.
#[test]
fn drain_waits_for_whoever_leaves_meanwhile() {
    explore(|| {
        let bench = Bench::new(created, |options| options);
        let leaves = ["K", "L"].map(|key| bench.ask_and_leave(key));
        let draining = Arc::clone(&bench);
        let drains = spawn(async move { draining.layer.drain(LONG).await });
        for client in leaves {
            block_on(client).unwrap();
        }
        assert_eq!(block_on(bench.layer.drain(LONG)), 0);
        assert_eq!(bench.store.stats().in_flight, 0);
        assert_eq!(block_on(drains).unwrap(), 0);
        bench.come_to_rest();
    });
}
