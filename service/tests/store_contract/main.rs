//! The contract of the record, as claims that every engine has to pass.
//!
//! A claim is a function over a [`Harness`], which makes fresh records of one engine and opens them again. To have another
//! engine checked, write its harness and add a line with its name at the end of this file.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

mod attempts;
mod build;
mod cluster;
mod deliveries;
mod executor;
mod faults;
mod grants;
mod hands;
mod harness;
mod imports;
mod inbox;
mod looks;
mod model;
mod portal;
mod secrets;
mod sqlite;

use harness::Harness;

/// Runs every claim over one engine.
macro_rules! contract {
    ($engine:ident: $harness:ty, $($topic:ident { $($claim:ident,)* })*) => {
        mod $engine {
            $(mod $topic {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $claim() {
                        use crate::harness::Harness;
                        crate::$topic::$claim(<$harness>::fresh().await).await;
                    }
                )*
            })*
        }
    };
    ($($engine:ident: $harness:ty;)*) => { $(contract! {
        $engine: $harness,
        inbox {
            an_event_is_kept_once,
            of_many_tellings_at_once_exactly_one_is_new,
            bodies_come_back_byte_for_byte,
            events_are_listed_by_the_time_they_came,
            a_page_follows_the_last_though_events_come_in,
            conditions_on_events_hold_together,
            an_ignored_event_asks_for_no_look,
            a_replayed_event_counts_as_new,
            bodies_are_forgotten_when_nothing_waits_for_them,
            a_payment_that_no_purchase_claims_is_let_go,
            what_was_answered_survives_a_crash,
        }
        looks {
            tickets_grow_also_over_a_restart,
            an_event_asks_for_a_look_at_its_session,
            objects_whose_ids_end_alike_are_kept_apart,
            an_earlier_time_to_look_stays,
            a_decision_ends_the_look,
            a_mark_made_during_a_look_survives_it,
            a_look_may_be_asked_for_later,
            a_late_answer_never_replaces_a_newer_one,
            a_decision_may_be_repeated,
            an_orphan_is_joined_when_its_link_comes,
            what_a_look_has_seen_of_an_orphan_is_taken_in,
            whoever_waits_at_the_till_is_looked_at_first,
            an_orphan_joined_during_another_look_waits_for_the_next,
            a_failed_look_is_put_off,
            a_mark_made_during_a_failed_look_keeps_its_time,
            an_ended_look_tells_its_events_why,
            parked_events_are_taken_in_by_a_later_decision,
            the_next_due_time_is_the_earliest_of_all,
            what_a_clock_that_ran_ahead_put_off_is_due_once_it_is_set_back,
        }
        grants {
            a_decision_makes_the_grant,
            what_has_sold_a_license_is_remembered,
            terms_and_payment_are_fixed_once,
            the_same_decision_again_changes_nothing,
            a_changed_declaration_brings_work,
            a_round_that_a_decision_has_overtaken_writes_nothing,
            what_is_about_to_be_written_outlasts_whatever_overtakes_it,
            a_shrunken_declaration_loses_no_license,
            a_grant_that_is_over_has_no_work,
            who_paid_last_is_served_first,
            conditions_on_grants_hold_together,
            a_page_of_grants_follows_the_last,
            a_grant_is_found_by_all_its_names,
            counts_tell_what_waits,
        }
        attempts {
            an_attempt_is_opened_by_one_writer_only,
            records_come_back_as_written,
            keeping_a_key_twice_changes_nothing,
            a_key_has_one_grant,
            revocations_by_rule_are_counted_over_all_grants,
            who_spend_the_budget_at_once_never_overspend,
            attempts_need_a_grant,
            labels_are_remembered_by_app,
        }
        deliveries {
            the_first_sending_is_begun_once,
            a_try_says_when_to_come_back,
            a_resend_has_the_next_number,
            what_was_not_sent_yet_gives_way_to_a_resend,
            a_mail_without_an_address_goes_out_once_stripe_tells_one,
            of_what_waited_for_an_address_the_newest_goes_out,
            a_mail_whose_address_came_while_it_was_tried_goes_out,
            a_warning_is_as_old_as_its_time,
            a_planned_warning_is_not_waiting,
            a_parked_warning_goes_with_what_it_warns_of,
            a_parked_warning_is_tried_again_with_the_keys,
            a_parked_warning_tells_the_end_as_it_is_by_then,
        }
        cluster {
            a_grant_that_people_deleted_is_mailed_no_more,
            a_grant_that_people_declare_again_is_mailed_what_was_not_sent,
            what_is_taken_back_while_it_is_tried_stays_so,
            a_forgotten_address_does_not_come_back_from_the_cluster,
        }
        imports {
            an_imported_key_is_kept_once,
            a_key_that_is_to_be_found_is_declared_by_its_name,
            a_key_that_was_not_found_gives_way_and_no_other,
            a_declared_license_without_a_key_gets_the_imported_one,
            what_a_purchase_says_outranks_what_its_imported_key_shows,
        }
        hands {
            a_promise_is_a_grant_of_its_own,
            a_request_counts_once_for_a_month,
            a_refused_ask_writes_nothing,
            a_hand_is_never_lost_to_a_look,
            a_round_that_a_hand_has_overtaken_writes_nothing,
            what_a_cluster_tells_of_devices_ends_the_wishes_that_it_takes_in,
            a_hand_is_taken_back,
            an_address_set_by_hand_outlasts_stripes,
            another_address_gets_one_mail,
            a_replacement_is_told_when_the_old_key_is_gone,
            a_release_serves_one_revocation,
        }
        portal {
            a_wish_is_answered_to_the_address_on_record,
            a_purchase_that_is_not_ours_makes_no_address_known,
            no_hour_has_more_wishes_than_it_may,
            a_token_is_spent_once_before_its_end_and_on_its_use,
            of_many_who_spend_a_token_at_once_one_succeeds,
            a_buyer_may_ask_for_so_many_sendings_an_hour,
            an_address_that_the_buyer_gave_stays,
            what_is_over_is_forgotten,
        }
        executor {
            a_crash_at_every_call_leaves_one_live_key,
        }
        model {
            random_looks_agree_with_a_model,
        }
        secrets {
            no_secret_is_in_journal_or_debug,
        }
        faults {
            a_second_process_is_told_that_the_record_is_in_use,
            a_newer_record_is_left_alone,
            a_record_held_by_somebody_else_is_unavailable_and_comes_back,
            the_check_writes,
        }
    })* };
}

contract! {
    on_sqlite: crate::sqlite::SqliteHarness;
}
