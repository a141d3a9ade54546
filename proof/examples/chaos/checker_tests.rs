//! Each history here is written by hand and has one thing wrong.

use std::time::Duration;

use super::super::arguments::Options;
use super::super::history::{
    Answer, Attempt, Broken, End, Entry, Execution, Micros, Quest, Saw, digest,
};
use super::super::killer::Blows;
use super::super::plan::Body;
use super::super::table::Table;
use super::{Rule, Run, check};

const SECOND: Micros = 1_000_000;

fn answer(entry: &str) -> Saw {
    Saw::Answer(Answer {
        entry: entry.to_owned(),
        operation: 0,
        digest: digest(201, entry.as_bytes()),
        replayed: false,
    })
}

fn refused(code: &str) -> Saw {
    Saw::Refused(code.to_owned())
}

fn attempt(client: usize, body: Body, sent: Micros, ended: Micros, saw: Saw) -> Attempt {
    Attempt {
        operation: 0,
        client,
        body,
        sent,
        ended,
        saw,
    }
}

fn entry(execution: &str) -> Entry {
    Entry {
        operation: 0,
        body: Body::Own,
        execution: execution.to_owned(),
    }
}

fn execution(name: &str, attempt: u64, began: Micros, completing: Micros, end: End) -> Execution {
    Execution {
        name: name.to_owned(),
        operation: 0,
        token: 100 + attempt,
        attempt,
        began,
        completing: Some(completing),
        end,
    }
}

/// In this history a frozen owner is overtaken, wakes up, and has its completion
/// refused. Its client receives the other owner's response, and requests with
/// another body are rejected all the time.
fn good() -> Run {
    let quest = |client, begun, settled| Quest {
        operation: 0,
        client,
        begun,
        settled: Some(settled),
        gave_up: settled,
    };
    Run {
        operations: 1,
        patience: Duration::from_secs(6),
        entries: vec![entry("b")],
        attempts: vec![
            attempt(0, Body::Own, 10, 900, Saw::Late),
            attempt(1, Body::Other, 20, 30, refused("key-reused")),
            attempt(0, Body::Own, 1000, 1010, refused("in-flight")),
            attempt(0, Body::Own, 2000, 2100, answer("b")),
            attempt(1, Body::Other, 2200, 2210, refused("key-reused")),
            attempt(0, Body::Own, 3000, 3010, answer("b")),
        ],
        quests: vec![quest(0, 10, 2100), quest(1, 20, 2210)],
        executions: vec![
            execution("a", 1, 15, 2500, End::Refused),
            execution("b", 2, 2010, 2050, End::Completed),
        ],
        broken: vec![Broken { from: 12, to: 2400 }],
    }
}

/// Returns the rules that a change to the good history breaks.
fn broken(change: impl FnOnce(&mut Run)) -> Vec<Rule> {
    let mut run = good();
    change(&mut run);
    let mut rules: Vec<_> = check(&run).into_iter().map(|own| own.rule).collect();
    rules.dedup();
    rules
}

#[test]
fn a_frozen_owner_that_is_overtaken_and_refused_is_as_it_should_be() {
    assert_eq!(check(&good()), []);
}

#[test]
fn a_second_entry_is_a_duplicate() {
    assert_eq!(broken(|run| run.entries.push(entry("a"))), [Rule::OneEntry]);
}

#[test]
fn an_answer_without_an_entry_is_lost() {
    let rules = broken(|run| run.entries[0].execution = "c".to_owned());
    assert_eq!(rules, [Rule::NothingLost]);
}

#[test]
fn a_late_response_is_counted_as_late_and_only_a_lost_one_as_lost() {
    let lost_and_late = |change: fn(&mut Run)| {
        let mut run = good();
        change(&mut run);
        let (options, found) = (Options::default(), check(&run));
        let table = Table::new(&options, &run, Blows::default(), 0, Duration::ZERO, found);
        (table.counts.lost, table.counts.unanswered)
    };
    assert_eq!(lost_and_late(|_| ()), (0, 0));
    assert_eq!(lost_and_late(|run| run.quests[0].settled = None), (0, 1));
    assert_eq!(
        lost_and_late(|run| run.entries[0].execution = "c".to_owned()),
        (1, 0)
    );
}

#[test]
fn a_key_of_which_nothing_is_known_has_no_entry() {
    assert_eq!(broken(|run| run.operations = 2), [Rule::OneEntry]);
}

#[test]
fn the_answer_of_another_operation_is_found() {
    let rules = broken(|run| {
        for own in &mut run.attempts {
            if let Saw::Answer(answer) = &mut own.saw {
                answer.operation = 7;
            }
        }
    });
    assert_eq!(rules, [Rule::NothingLost]);
}

#[test]
fn two_answers_to_one_key_are_not_the_same_bytes() {
    let rules = broken(|run| {
        if let Saw::Answer(answer) = &mut run.attempts[5].saw {
            answer.digest = digest(201, b"other bytes");
        }
    });
    assert_eq!(rules, [Rule::SameBytes, Rule::Linearizable]);
}

#[test]
fn a_client_without_an_answer_is_found() {
    let rules = broken(|run| run.quests[0].settled = None);
    assert_eq!(rules, [Rule::InTime]);
}

#[test]
fn an_answer_that_comes_late_is_excused_by_what_was_broken_only() {
    let late = |broken: &[(Micros, Micros)]| {
        let mut run = good();
        run.quests[0].settled = Some(20 * SECOND);
        run.broken = broken
            .iter()
            .map(|(from, to)| Broken {
                from: *from * SECOND,
                to: *to * SECOND,
            })
            .collect();
        check(&run).iter().any(|own| own.rule == Rule::InTime)
    };
    assert!(late(&[]));
    assert!(late(&[(1, 5)]));
    assert!(late(&[(13, 14)]), "calm for 13 s before");
    assert!(!late(&[(1, 15)]));
    assert!(!late(&[(5, 7), (1, 2), (6, 9), (15, 16)]));
    assert!(!late(&[(1, 3), (2, 30)]));
    assert!(!late(&[(1, 30), (40, 50)]));
}

#[test]
fn in_flight_after_an_answer_is_found() {
    let rules = broken(|run| run.attempts[5].saw = refused("in-flight"));
    assert_eq!(rules, [Rule::OverIsOver, Rule::Linearizable]);
}

#[test]
fn an_execution_that_begins_after_an_answer_is_found() {
    let rules = broken(|run| {
        let late = execution("c", 3, 5000, 5010, End::Refused);
        run.executions.push(late);
    });
    assert_eq!(rules, [Rule::OverIsOver]);
    // This execution's claim is older than that of the response: its server was
    // frozen in between.
    let rules = broken(|run| {
        let late = execution("c", 0, 5000, 5010, End::Refused);
        run.executions.push(late);
    });
    assert_eq!(rules, []);
}

#[test]
fn an_overtaken_owner_whose_completion_counts_is_found() {
    let rules = broken(|run| run.executions[0].end = End::Completed);
    assert_eq!(rules, [Rule::LateIsRefused]);
    // The execution completed first: nobody had taken over yet.
    let rules = broken(|run| {
        run.executions[0].end = End::Completed;
        run.executions[0].completing = Some(2000);
    });
    assert_eq!(rules, []);
}

#[test]
fn another_body_that_succeeds_is_found() {
    let rules = broken(|run| run.attempts[4].saw = answer("b"));
    assert_eq!(rules, [Rule::OtherBodies, Rule::Linearizable]);
}

#[test]
fn refusals_for_no_reason_are_found() {
    let rules = broken(|run| run.attempts[2].saw = refused("response-unavailable"));
    assert_eq!(rules, [Rule::RefusalsAreTrue]);
    let rules = broken(|run| run.attempts[2].saw = Saw::Failed(500));
    assert_eq!(rules, [Rule::RefusalsAreTrue]);
    // All requests have the same body, so `key-reused` has no other body to differ
    // from.
    let rules = broken(|run| {
        run.attempts.retain(|own| own.body == Body::Own);
        run.attempts[1].saw = refused("key-reused");
    });
    assert_eq!(rules, [Rule::RefusalsAreTrue]);
}

#[test]
fn tokens_and_attempts_that_do_not_rise_are_found() {
    let rules = broken(|run| run.executions[1].token = 101);
    assert_eq!(rules, [Rule::TokensRise]);
    let rules = broken(|run| run.executions[1].attempt = 1);
    assert_eq!(rules, [Rule::TokensRise]);
}

#[test]
fn a_refusal_of_the_body_that_was_done_has_no_order() {
    let rules = broken(|run| {
        run.attempts[5].saw = refused("key-reused");
    });
    assert_eq!(rules, [Rule::Linearizable]);
}

#[test]
fn a_request_without_an_answer_may_be_carried_out_at_any_time() {
    let rules = broken(|run| {
        run.attempts.truncate(1);
        run.quests.clear();
    });
    assert_eq!(rules, []);
    // But some request must have asked for what was done.
    let rules = broken(|run| {
        run.attempts.truncate(1);
        run.quests.clear();
        run.attempts[0].body = Body::Other;
    });
    assert_eq!(rules, [Rule::Linearizable]);
}

#[test]
fn a_history_that_no_order_explains_is_searched_to_its_end() {
    let rules = broken(|run| {
        run.quests.clear();
        run.attempts = (0..20)
            .map(|client| attempt(client, Body::Own, 10, 900, Saw::Cut))
            .collect();
        run.attempts
            .push(attempt(20, Body::Own, 950, 960, answer("b")));
        run.attempts
            .push(attempt(21, Body::Own, 970, 980, refused("in-flight")));
    });
    assert_eq!(rules, [Rule::OverIsOver, Rule::Linearizable]);
}
