//! Listing records.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::record::ScopeDigest;
use crate::store::{
    Claim, Cursor, ForgetMode, Lease, ListQuery, ListedRecord, ListedState, OnLapsedLease, Outcome,
    Release, StoreErrorKind,
};

use crate::conformance::answer::answer;
use crate::conformance::expect::{Checked, broken, ensure, held};
use crate::conformance::stage::{
    Handle, LONG, SECOND, SHORT, SLACK, SURELY, Stores, random, request, rival,
};
use crate::conformance::{Rule, rule};

pub(crate) fn rules() -> Vec<Rule> {
    vec![
        rule(
            "a-list-says-what-is-there",
            "A list has a record in each of its states, with its token, attempt and caller, and a \
             query for a state has the records in that state and no other.",
            a_list_says_what_is_there,
        ),
        rule(
            "a-list-keeps-to-its-caller",
            "A query for a caller has the records of that caller and of no other.",
            a_list_keeps_to_its_caller,
        ),
        rule(
            "a-list-keeps-to-the-age-of-the-attempt",
            "A query for old records has those whose current attempt began longer ago, whenever \
             the first one did.",
            a_list_keeps_to_the_age_of_the_attempt,
        ),
        rule(
            "pages-reach-an-end-with-every-record",
            "The pages of a query have no more records than were asked for, have every record that \
             fits and no other, and reach an end.",
            pages_reach_an_end_with_every_record,
        ),
        rule(
            "a-record-that-stays-is-in-a-page",
            "A record that fits the query from the first page to the last is in one of them, \
             whatever records come and go meanwhile.",
            a_record_that_stays_is_in_a_page,
        ),
        rule(
            "what-is-over-is-in-no-list",
            "Past its end, a record is in no list, whatever its state was.",
            what_is_over_is_in_no_list,
        ),
        rule(
            "a-list-refuses-a-foreign-cursor",
            "A list from a cursor that the store did not make fails with `InvalidCursor`.",
            a_list_refuses_a_foreign_cursor,
        ),
    ]
}

/// A store whose pages reach no end is found out after so many of them.
const PAGES: usize = 20_000;

/// Every page of a query, from the handles in turn.
async fn every_page(stores: &Stores, query: &ListQuery) -> Checked<Vec<ListedRecord>> {
    let mut query = query.clone();
    let mut listed = Vec::new();
    for store in stores.in_turn().take(PAGES) {
        listed.extend(page(&store, &mut query).await?);
        if query.cursor.is_none() {
            return Ok(listed);
        }
    }
    broken!("expected the pages of {query:?} to reach an end, there was none after {PAGES} pages")
}

/// One page of a query, which moves on to the next one: without a cursor there is none.
async fn page(store: &Handle, query: &mut ListQuery) -> Checked<Vec<ListedRecord>> {
    let page = store.list(query).await?;
    let size = usize::from(query.page_size());
    ensure!(
        page.records.len() <= size,
        "expected a page of {size} records at most, it has {}",
        page.records.len()
    );
    query.cursor = page.next;
    Ok(page.records)
}

fn of_caller(scope: ScopeDigest) -> Claim {
    Claim { scope, ..request() }
}

async fn seal(store: &Handle, claim: &Claim, retention: Duration) -> Checked<Lease> {
    let owner = store.acquire("the first claim", claim).await?;
    let outcome = Outcome::Sealed { retention };
    held("sealing", store.complete(&owner, &outcome).await?)?;
    Ok(owner)
}

/// Makes a record in this state, of this caller.
async fn in_state(store: &Handle, state: ListedState, scope: ScopeDigest) -> Checked<Lease> {
    let claim = Claim {
        on_lapsed_lease: OnLapsedLease::Refuse,
        ..of_caller(scope)
    };
    match state {
        ListedState::Lapsed => return store.lapsed(&claim).await,
        ListedState::Sealed => return seal(store, &claim, LONG).await,
        _ => {}
    }
    let owner = store.acquire("the first claim", &claim).await?;
    let ended = match state {
        ListedState::Unknown => store.release(&claim, Release::OutcomeUnknown).await?,
        ListedState::Released => store.release(&claim, Release::MayRunAgain).await?,
        ListedState::Completed => store.complete(&owner, &answer().outcome()).await?,
        _ => return Ok(owner),
    };
    held("the end of the operation", ended)?;
    Ok(owner)
}

async fn a_list_says_what_is_there(stores: Stores) -> Checked {
    let scope = ScopeDigest::from_bytes(random());
    let mut owners = Vec::new();
    for state in ListedState::ALL {
        owners.push((state, in_state(&stores.a, state, scope).await?));
    }
    let own = ListQuery::new().scope(scope);
    let listed = every_page(&stores, &own).await?;
    for (state, owner) in &owners {
        let Some(record) = listed.iter().find(|it| it.id == owner.claim.id) else {
            broken!("expected the record that is {state} in the list of its caller, it is not");
        };
        ensure!(
            record.state == *state,
            "expected a record to be listed as {state}, it is listed as {}",
            record.state
        );
        ensure!(
            (record.token, record.attempt) == (owner.token, owner.attempt),
            "a record that is {state}: expected token {} and attempt {}, they were {} and {}",
            owner.token,
            owner.attempt,
            record.token,
            record.attempt
        );
        ensure!(
            record.scope == Some(scope),
            "a record that is {state}: expected the caller of its claim, it was another"
        );
    }
    for asked in ListedState::ALL {
        for query in [own.clone().state(asked), ListQuery::new().state(asked)] {
            let listed = every_page(&stores, &query).await?;
            if let Some(wrong) = listed.iter().find(|record| record.state != asked) {
                broken!(
                    "asked for what is {asked}: expected no other, found one that is {}",
                    wrong.state
                );
            }
            for (state, owner) in &owners {
                let is_there = listed.iter().any(|it| it.id == owner.claim.id);
                ensure!(
                    is_there == (*state == asked),
                    "asked for what is {asked}: expected {} record that is {state}, it was {}",
                    if *state == asked { "the" } else { "no" },
                    if is_there { "there" } else { "missing" }
                );
            }
        }
    }
    Ok(())
}

async fn a_list_keeps_to_its_caller(stores: Stores) -> Checked {
    let scopes = [(); 2].map(|()| ScopeDigest::from_bytes(random()));
    for scope in scopes {
        for state in [ListedState::InFlight, ListedState::Completed] {
            in_state(&stores.a, state, scope).await?;
        }
    }
    for scope in scopes {
        let own = ListQuery::new().scope(scope);
        for query in [own.clone(), own.clone().state(ListedState::Completed)] {
            let listed = every_page(&stores, &query).await?;
            let expected = if query.state.is_some() { 1 } else { 2 };
            let foreign = listed.iter().any(|record| record.scope != Some(scope));
            ensure!(
                listed.len() == expected && !foreign,
                "expected the list of a caller to have its {expected} records and no other, it has \
                 {}",
                if foreign {
                    "one of another caller".to_owned()
                } else {
                    listed.len().to_string()
                }
            );
        }
    }
    let listed = every_page(&stores, &ListQuery::new().scope(request().scope)).await?;
    ensure!(
        listed.is_empty(),
        "expected nothing in the list of a caller who has made no claim, found a record"
    );
    Ok(())
}

async fn a_list_keeps_to_the_age_of_the_attempt(stores: Stores) -> Checked {
    let claim = request();
    let own = ListQuery::new().scope(claim.scope);
    let older = async |than| every_page(&stores, &own.clone().older_than(than)).await;
    stores.a.acquire("the first claim", &claim).await?;
    sleep(SURELY).await;
    ensure!(
        older(SECOND).await?.len() == 1,
        "expected a claim of {SURELY:?} ago in the list of what is older than {SECOND:?}, it is not"
    );
    ensure!(
        older(LONG).await?.is_empty(),
        "expected a claim of some seconds ago not to be older than {LONG:?}, it is listed so"
    );
    let released = stores.b.release(&claim, Release::MayRunAgain).await?;
    held("a release", released)?;
    let again = Instant::now();
    stores.b.acquire("the next claim", &rival(&claim)).await?;
    let listed = older(SECOND).await?;
    // On a slow machine the second attempt may be that old by now.
    let is_young = again.elapsed() + SLACK < SECOND;
    ensure!(
        listed.is_empty() || !is_young,
        "expected the age of a record to be that of its second attempt, it was that of the first"
    );
    Ok(())
}

async fn pages_reach_an_end_with_every_record(stores: Stores) -> Checked {
    let scope = ScopeDigest::from_bytes(random());
    let mut expected = BTreeSet::new();
    for _ in 0..12 {
        let owner = seal(&stores.a, &of_caller(scope), LONG).await?;
        expected.insert(owner.claim.id);
    }
    let own = ListQuery::new().scope(scope);
    for size in [1, 5, 12, 1000] {
        let size = NonZeroU16::new(size).expect("none of them is zero");
        for query in [own.clone(), own.clone().state(ListedState::Sealed)] {
            let listed = every_page(&stores, &query.limit(size)).await?;
            let listed: BTreeSet<_> = listed.into_iter().map(|record| record.id).collect();
            let missed = expected.difference(&listed).count();
            let foreign = listed.difference(&expected).count();
            ensure!(
                (missed, foreign) == (0, 0),
                "expected 12 records in pages of {size}, {missed} were in none, and {foreign} others \
                 were in some"
            );
        }
    }
    Ok(())
}

async fn a_record_that_stays_is_in_a_page(stores: Stores) -> Checked {
    let Stores { a, b, .. } = stores.clone();
    let scope = ScopeDigest::from_bytes(random());
    let (mut stay, mut go) = (Vec::new(), Vec::new());
    for at in 0..24 {
        let owner = seal(&a, &of_caller(scope), LONG).await?;
        let kept = if at % 2 == 0 { &mut go } else { &mut stay };
        kept.push(owner.claim.id);
    }
    for by_state in [false, true] {
        let mut query = ListQuery::new().scope(scope);
        query.limit = NonZeroU16::new(3).expect("three is not zero");
        query.state = by_state.then_some(ListedState::Sealed);
        let mut listed = Vec::new();
        for _ in 0..PAGES {
            listed.extend(page(&a, &mut query).await?);
            if query.cursor.is_none() {
                break;
            }
            // For a while only, so that the pages can reach their end.
            if !go.is_empty() {
                let gone = go.remove(0);
                b.forget(&gone, ForgetMode::Forced).await?;
                seal(&b, &of_caller(scope), LONG).await?;
            }
        }
        ensure!(
            query.cursor.is_none(),
            "expected the pages to reach an end, there was none after {PAGES} pages"
        );
        let missed = stay
            .iter()
            .filter(|id| !listed.iter().any(|it| it.id == **id));
        let missed = missed.count();
        ensure!(
            missed == 0,
            "expected all {} records that stayed in the pages, {missed} were in none",
            stay.len()
        );
        go.extend(
            listed
                .iter()
                .map(|it| it.id)
                .filter(|id| !stay.contains(id)),
        );
    }
    Ok(())
}

async fn what_is_over_is_in_no_list(stores: Stores) -> Checked {
    let scope = ScopeDigest::from_bytes(random());
    let brief = || Claim {
        lease: SHORT,
        retention: SHORT,
        ..of_caller(scope)
    };
    let Stores { a, .. } = &stores;
    seal(a, &brief(), SHORT).await?;
    a.acquire("a claim that lapses", &brief()).await?;
    for how in [Release::OutcomeUnknown, Release::MayRunAgain] {
        // A slow server may take longer than a short lease until the release.
        let claim = Claim {
            lease: LONG,
            ..brief()
        };
        a.acquire("the first claim", &claim).await?;
        held("a release", a.release(&claim, how).await?)?;
    }
    sleep(2 * SHORT + SURELY).await;
    let own = ListQuery::new().scope(scope);
    let states = ListedState::ALL.map(|state| own.clone().state(state));
    for query in states.iter().chain([&own]) {
        if let [over, ..] = &every_page(&stores, query).await?[..] {
            broken!(
                "expected nothing of what is over, found a record that is {}",
                over.state
            );
        }
    }
    Ok(())
}

async fn a_list_refuses_a_foreign_cursor(stores: Stores) -> Checked {
    let scope = ScopeDigest::from_bytes(random());
    for _ in 0..3 {
        seal(&stores.a, &of_caller(scope), LONG).await?;
    }
    let mut query = ListQuery::new().scope(scope).limit(NonZeroU16::MIN);
    page(&stores.a, &mut query).await?;
    let own = query.cursor.as_ref().map_or(&[][..], Cursor::as_bytes);
    let mut foreign = vec![vec![0xff; Cursor::MAX_LENGTH], [own, &[0]].concat()];
    if let [most @ .., _] = own {
        foreign.push(most.to_vec());
    }
    for bytes in foreign {
        let length = bytes.len();
        let Some(cursor) = Cursor::from_bytes(bytes) else {
            continue;
        };
        let came = stores.b.try_list(&query.clone().cursor(cursor)).await;
        match came {
            Err(error) if error.kind() == StoreErrorKind::InvalidCursor => {}
            Err(error) => broken!(
                "expected a foreign cursor of {length} bytes to be an InvalidCursor, it is {:?}",
                error.kind()
            ),
            Ok(_) => broken!(
                "expected a foreign cursor of {length} bytes to be an InvalidCursor, it gave a page"
            ),
        }
    }
    Ok(())
}
