//! The guarantees, with files for each. The tests of G7 that need a server are in
//! `proof/tests/stores/once/`.

#![cfg(feature = "memory")]
#![allow(
    clippy::unchecked_time_subtraction,
    reason = "of lengths that stand here"
)]

#[path = "../support/mod.rs"]
mod support;

mod by_hand;
mod filled;
#[cfg(feature = "encryption")]
mod g10_answers_encrypted_at_rest;
mod g10_keys_and_callers_only_as_digests;
mod g11_large_bodies_hold_up_nobody;
mod g11_no_caller_starves_another;
mod g11_records_of_one_caller;
mod g11_what_is_held_comes_back;
mod g12_bad_steps_are_refused;
mod g12_steps_done_stay_done;
mod g1_a_lease_is_kept;
mod g1_one_at_a_time;
mod g1_renewals;
mod g1_waiters;
mod g2_once_recorded_never_again;
mod g2_streamed_answers;
mod g3_answers_without_a_body;
mod g3_broken_after_the_last_byte;
mod g3_lengths_that_lie;
mod g3_recorded_before_delivered;
mod g3_streamed_answers;
mod g3_streams_that_lose_their_reader;
mod g4_a_client_that_leaves_changes_nothing;
mod g4_streamed_answers;
mod g5_stale_owners_are_powerless;
mod g6_no_answer_crosses_callers;
#[cfg(feature = "sqlite")]
mod g7_effect_and_answer_are_committed_together;
mod g8_other_traffic_is_untouched;
mod g9_bad_input_is_refused;
mod g9_bodies_are_bounded;
mod identity;
mod owners;
mod steering;
mod written;
