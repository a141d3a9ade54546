use std::collections::HashSet;
use std::time::Duration;

use super::super::history::{
    Answered, Asked, End, Execution, LeftRecord, LeftState, Moment, Overtake, Pause, Seen, Stage,
    What, WholeAnswer,
};
use super::{Rule, Run, Violation, check};

fn at(order: u64) -> Moment {
    let at = Duration::from_millis(order);
    Moment { order, at }
}

/// Returns an execution of operation 1 with a response `201 ok`. Its token is
/// `1000 * (number + 1)`.
fn execution(number: u64, begun: u64, ended: u64) -> Execution {
    Execution {
        operation: 1,
        asked: Asked::Own,
        token: 1000 * (number + 1),
        attempt: number + 1,
        begun: at(begun),
        ended: Some((at(ended), End::Whole)),
        answer: Some(Answered {
            status: 201,
            length: 2,
            digest: [u8::try_from(number).unwrap(); 32],
        }),
        lost: false,
    }
}

fn saw(sent: u64, ended: u64, what: What) -> Seen {
    Seen {
        operation: 1,
        client: 0,
        asked: Asked::Own,
        sent: at(sent),
        ended: at(ended),
        what,
    }
}

fn answer(execution: u32, replayed: bool) -> WholeAnswer {
    WholeAnswer {
        status: 201,
        execution: Some(execution),
        replayed,
        lacks: None,
        digest: [u8::try_from(execution).unwrap(); 32],
    }
}

fn refused(status: u16, code: &str) -> What {
    let code = code.to_owned();
    What::Refused { status, code }
}

/// A `Case` is a good history that a test makes wrong in one place.
struct Case {
    refuses: fn(u32) -> bool,
    executions: Vec<Execution>,
    seen: Vec<Seen>,
    overtakes: Vec<Overtake>,
    troubled: HashSet<u64>,
    pauses: Vec<Pause>,
    records: Vec<LeftRecord>,
}

impl Case {
    /// Returns a history of a 503, then a recorded response, then its replay.
    fn good() -> Self {
        let mut first = execution(0, 10, 20);
        first.answer.as_mut().unwrap().status = 503;
        let mut failed = answer(0, false);
        failed.status = 503;
        Self {
            refuses: |_| false,
            executions: vec![first, execution(1, 40, 50)],
            seen: vec![
                saw(5, 25, What::Answer(failed)),
                saw(35, 55, What::Answer(answer(1, false))),
                saw(60, 65, What::Answer(answer(1, true))),
            ],
            overtakes: Vec::new(),
            troubled: HashSet::new(),
            pauses: Vec::new(),
            records: vec![LeftRecord {
                token: 2000,
                state: LeftState::Completed([1; 32]),
            }],
        }
    }

    fn violations(&self) -> Vec<Violation> {
        check(&Run {
            protected: true,
            lease: Duration::from_secs(1),
            max_recorded: 100,
            refuses: self.refuses,
            executions: &self.executions,
            seen: &self.seen,
            overtakes: &self.overtakes,
            troubled: &self.troubled,
            pauses: &self.pauses,
            records: &self.records,
        })
    }

    fn broken(&self) -> Vec<Rule> {
        let mut rules: Vec<_> = self.violations().into_iter().map(|own| own.rule).collect();
        rules.dedup();
        rules
    }

    /// The second execution overtakes the first one while the first one runs.
    fn overtaken(unrenewed: u64, paused: u64) -> Self {
        let mut case = Self::good();
        case.executions[0] = execution(0, 10, 3000);
        case.executions[1] = execution(1, 2000, 2100);
        case.seen = vec![saw(1900, 2200, What::Answer(answer(1, false)))];
        case.overtakes = vec![Overtake {
            from: 1000,
            to: 2000,
            at: at(1990),
            unrenewed: Duration::from_millis(unrenewed),
        }];
        case.pauses = vec![Pause {
            from: Duration::from_millis(1500),
            to: Duration::from_millis(1500 + paused),
        }];
        case
    }
}

#[test]
fn a_good_history_is_good() {
    assert_eq!(Case::good().violations(), []);
}

#[test]
fn two_executions_of_a_key_at_once_are_found() {
    let mut case = Case::good();
    case.executions[0].ended = Some((at(45), End::Whole));
    assert_eq!(case.broken(), [Rule::OneAtATime]);
    assert_eq!(case.violations()[0].operation, Some(1));
    assert_eq!(case.violations()[0].why, "execution 1 began while 0 ran");
    // The same key of two callers names two operations.
    case.executions[0].operation = 2;
    case.seen.remove(0);
    assert_eq!(case.violations(), []);
}

#[test]
fn an_overtake_is_excused_only_by_a_lapse_and_a_pause() {
    assert_eq!(Case::overtaken(1200, 200).violations(), []);
    // The first execution left no record, and only an excused overtake explains
    // that.
    let both = [Rule::OneAtATime, Rule::RecordsMatch];
    assert_eq!(Case::overtaken(1200, 90).broken(), both);
    assert_eq!(Case::overtaken(900, 200).broken(), both);
    // The layer discards the first execution's response once the layer knows of the
    // overtake.
    let mut discarded = Case::overtaken(1200, 200);
    discarded.executions[0].ended = Some((at(3000), End::Dropped));
    assert_eq!(discarded.broken(), [Rule::NeverCancelled]);
    discarded.executions[0].lost = true;
    assert_eq!(discarded.violations(), []);
    // The pause is before the time in which the lease was not renewed, so the pause
    // is no excuse.
    let mut early = Case::overtaken(1200, 200);
    early.pauses[0].from -= Duration::from_secs(1);
    early.pauses[0].to -= Duration::from_secs(1);
    assert_eq!(early.broken(), both);
}

#[test]
fn an_execution_after_one_that_was_done_is_found() {
    let mut case = Case::good();
    case.executions[0] = execution(0, 10, 20);
    case.seen.remove(0);
    // The first execution left no record either.
    let both = [Rule::OnceRecordedNeverAgain, Rule::RecordsMatch];
    assert_eq!(case.broken(), both);
    // An execution that broke off has had its effect.
    case.executions[0].ended = Some((at(20), End::BrokeOff));
    assert_eq!(case.broken(), both);
}

#[test]
fn an_execution_after_its_answer_was_seen_is_found() {
    let mut case = Case::good();
    case.seen[1].ended = at(39);
    let found = case.violations();
    assert!(
        found
            .iter()
            .any(|own| own.rule == Rule::OnceRecordedNeverAgain)
    );
    // A response that is marked as unrecorded promises nothing.
    let What::Answer(answer) = &mut case.seen[1].what else {
        panic!()
    };
    answer.lacks = Some("unrecorded".to_owned());
    let found = case.violations();
    assert!(
        found
            .iter()
            .all(|own| own.rule != Rule::OnceRecordedNeverAgain)
    );
}

#[test]
fn two_recorded_answers_of_a_key_are_found() {
    let mut case = Case::good();
    let What::Answer(answer) = &mut case.seen[2].what else {
        panic!()
    };
    answer.digest = [7; 32];
    let found = case.broken();
    assert_eq!(found, [Rule::SameAnswer, Rule::AnswersAreTheirs]);
}

#[test]
fn a_recorded_answer_that_is_not_given_again_is_found() {
    let mut case = Case::good();
    for code in ["in-flight", "response-unavailable"] {
        case.seen[2].what = refused(409, code);
        assert!(case.broken().contains(&Rule::SameAnswer), "{code}");
    }
    // The store may be down, and a response that is too large is not kept.
    case.seen[2].what = refused(503, "store-unavailable");
    assert_eq!(case.violations(), []);
    case.executions[1].answer.as_mut().unwrap().length = 101;
    case.records[0].state = LeftState::Sealed;
    case.seen[2].what = refused(409, "response-unavailable");
    assert_eq!(case.violations(), []);
    case.seen[2].what = refused(409, "in-flight");
    assert_eq!(case.broken(), [Rule::SameAnswer]);
    // A request that was sent before the response was seen proves nothing.
    case.seen[2].sent = at(54);
    assert_eq!(case.violations(), []);
}

#[test]
fn a_cancelled_execution_is_found() {
    for end in [None, Some((at(20), End::Dropped))] {
        let mut case = Case::good();
        case.executions.remove(1);
        case.executions[0].ended = end;
        case.seen = vec![saw(5, 15, What::Left(Stage::WhileItRuns))];
        case.records.clear();
        assert_eq!(case.broken(), [Rule::NeverCancelled]);
    }
}

#[test]
fn a_token_that_does_not_rise_is_found() {
    let mut case = Case::good();
    case.executions[0].token = 3000;
    assert_eq!(case.broken(), [Rule::TokensRise]);
}

#[test]
fn an_answer_of_another_request_is_found() {
    let wrong: [fn(&mut Case); 6] = [
        |case| case.seen[2].operation = 2,
        |case| case.seen[2].asked = Asked::Other,
        |case| case.executions[1].asked = Asked::Crossed,
        // Here a part of a response passes for the whole response.
        |case| case.executions[1].ended = Some((at(50), End::BrokeOff)),
        // Here two responses both claim to be the first one.
        |case| case.seen[2].what = What::Answer(answer(1, false)),
        |case| {
            let mut of_nobody = answer(1, false);
            (of_nobody.execution, of_nobody.status) = (None, 500);
            case.seen[2].what = What::Answer(of_nobody);
        },
    ];
    for (number, wrong) in wrong.into_iter().enumerate() {
        let mut case = Case::good();
        wrong(&mut case);
        let found = case.broken();
        assert!(
            found.contains(&Rule::AnswersAreTheirs),
            "{number}: {found:?}"
        );
    }
}

#[test]
fn a_refusal_that_is_not_so_is_found() {
    for (status, code) in [
        (409, "response-unavailable"),
        (409, "outcome-unknown"),
        (422, "key-reused"),
        (400, "key-invalid"),
        (500, "in-flight"),
    ] {
        let mut case = Case::good();
        case.seen.push(saw(70, 75, refused(status, code)));
        assert!(case.broken().contains(&Rule::RefusalsAreTrue), "{code}");
    }
}

#[test]
fn a_refusal_that_is_so_is_fine() {
    let mut sealed = Case::good();
    sealed.executions[1].answer.as_mut().unwrap().length = 101;
    sealed.records[0].state = LeftState::Sealed;
    sealed.seen[2].what = refused(409, "response-unavailable");
    assert_eq!(sealed.violations(), []);
    // The rejection came before the execution was done.
    sealed.seen[2].ended = at(49);
    assert_eq!(sealed.broken(), [Rule::RefusalsAreTrue]);

    let mut unknown = Case::good();
    unknown.refuses = |_| true;
    unknown.executions[1].ended = Some((at(50), End::Panicked));
    unknown.records[0].state = LeftState::Lapsed;
    unknown.seen.truncate(1);
    unknown
        .seen
        .push(saw(60, 65, refused(409, "outcome-unknown")));
    assert_eq!(unknown.violations(), []);
    // Nothing is refused where a lapsed operation runs again.
    unknown.refuses = |_| false;
    let both = [Rule::RefusalsAreTrue, Rule::RecordsMatch];
    assert_eq!(unknown.broken(), both);
}

#[test]
fn an_answer_that_breaks_off_without_a_reason_is_found() {
    for what in [What::Cut(Some(1)), What::Cut(None), What::Hung] {
        let mut case = Case::good();
        case.seen[1].what = what.clone();
        assert_eq!(case.broken(), [Rule::AnswersArrive], "{what:?}");
        // A difficult completion excuses a cut response, but not a response that
        // never ends.
        case.troubled.insert(2000);
        let hangs = matches!(what, What::Hung);
        assert_eq!(case.broken().is_empty(), !hangs, "{what:?}");
    }
}

#[test]
fn a_record_that_the_ledger_does_not_account_for_is_found() {
    for state in [
        LeftState::InFlight,
        LeftState::Lapsed,
        LeftState::Completed([9; 32]),
        LeftState::Sealed,
        LeftState::Released,
    ] {
        let mut case = Case::good();
        case.records[0].state = state;
        assert_eq!(case.broken(), [Rule::RecordsMatch], "{state:?}");
    }
    let mut case = Case::good();
    case.records[0].token = 77;
    assert_eq!(case.broken(), [Rule::RecordsMatch]);
    case.records.clear();
    assert_eq!(case.broken(), [Rule::RecordsMatch]);
}
