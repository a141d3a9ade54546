//! These tests are short soaks. With the layer the guarantees hold, and without the
//! layer the checker reports violations. The checker's own tests stand beside the
//! checker and run here.

use std::sync::{Mutex, PoisonError};

#[expect(dead_code, reason = "it has a `main` of its own")]
#[path = "../examples/soak.rs"]
mod soak;

/// The runs take turns, because they measure whether the process gets to run.
static ALONE: Mutex<()> = Mutex::new(());

/// Returns the exit status, and what the program printed on stdout and stderr.
fn soak(arguments: &[&str]) -> (u8, String, String) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let arguments = arguments.iter().map(|own| (*own).to_owned());
    let status = soak::soak(arguments, false, &mut out, &mut err);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status, text(out), text(err))
}

#[test]
fn all_guarantees_hold_while_clients_leave_and_the_store_fails() {
    let (status, out, err) = soak(&["--operations", "2000", "--seed", "11"]);
    assert_eq!(status, 0, "{out}{err}");
    assert!(!out.contains("VIOLATED"), "{out}");
    // Each of these events must have happened.
    for happened in [
        "2000",
        "before the body was sent",
        "while it ran",
        "after a timeout",
        "in the answer",
        "before the last byte",
        "broke off",
        "failed",
        "panicked",
        "panicked in their answer",
        "409 in-flight",
        "409 outcome-unknown",
        "409 response-unavailable",
        "422 key-reused",
        "503 store-unavailable",
        "renew: done, answer lost",
        "complete: stalled",
        "replays",
        "unrecorded",
    ] {
        assert!(out.contains(happened), "no `{happened}` in\n{out}");
    }
}

#[test]
fn without_the_layer_the_checker_names_the_keys_it_goes_wrong_for() {
    let (status, out, _) = soak(&["--operations", "400", "--unprotected"]);
    assert_eq!(status, 1, "{out}");
    for rule in ["G1", "G2", "G3", "G4"] {
        let verdict = out.lines().find(|line| line.starts_with(rule)).unwrap();
        assert!(verdict.contains("VIOLATED"), "{verdict}");
    }
    // The report shows everything that happened under the violating keys.
    for part in [
        "operation ",
        "  ! G2",
        "begins: attempt 2",
        "saw the whole answer",
    ] {
        assert!(out.contains(part), "no `{part}` in\n{out}");
    }
}

#[test]
fn wrong_arguments_end_in_status_2_and_the_usage() {
    for arguments in [
        &["--forever"][..],
        &["--operations"],
        &["--operations", "0"],
        &["--operations", "many"],
        &["--seed", "-1"],
        &["3000"],
    ] {
        let (status, out, err) = soak(arguments);
        assert_eq!((status, out.as_str()), (2, ""), "{arguments:?}");
        assert!(err.starts_with("soak: "), "{err}");
        assert!(err.contains("Usage: soak [--operations N]"), "{err}");
    }
    let (status, out, _) = soak(&["--help"]);
    assert_eq!(status, 0);
    assert!(out.starts_with("Usage: soak"));
}
