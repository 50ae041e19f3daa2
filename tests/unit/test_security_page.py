"""The page about security promises what tests hold, and nothing else."""

from importlib import resources
from pathlib import Path
from typing import Any

import typer.main

from batchrun.cli.main import app

TESTS = Path(__file__).parents[1]
PAGE = resources.files("batchrun").joinpath("docs/security.md").read_text("utf-8")
#: What the page says, and the tests that hold it.
HELD = {
    "never to a proxy, to another host after a redirect, or over plain HTTP to another machine": (
        "integration/test_token_safety.py::test_a_proxy_is_asked_for_a_tunnel_and_told_no_token",
        "integration/test_token_safety.py::test_a_redirect_to_another_server_carries_no_token",
        "integration/test_token_safety.py::test_a_redirect_leads_from_https_to_https_only",
        "integration/test_token_safety.py::test_a_token_is_not_sent_over_plain_http_to_another_machine",
    ),
    "only programs of your user, root, and the user who answered the command first": (
        "integration/test_squatters.py::test_a_batch_sends_nothing_to_a_program_that_has_taken_its_servers_port",
        "integration/test_squatters.py::test_a_server_may_run_as_another_user",
        "integration/test_squatters.py::test_while_it_cannot_be_asked_whose_program_answers_nothing_is_sent",
        "integration/test_squatters.py::test_nothing_is_sent_where_all_other_users_are_one",
    ),
    "A batch leaves it in no file or message": (
        "integration/test_private_files.py::test_a_batch_is_for_its_user_only",
        "integration/test_private_files.py::test_an_output_directory_holds_no_token_of_its_server",
        "integration/test_worker_process.py::test_spans_arrive_at_a_collector_without_a_token_in_them",
        "integration/test_token_safety.py::test_what_an_actor_says_is_read_without_the_token",
    ),
    "No flag takes a token": ("unit/test_security_page.py::test_no_flag_takes_a_token",),
    "A token that may run one task and list its Runs is enough": (
        "integration/test_few_rights.py::test_a_batch_needs_only_the_right_to_run_its_task",
    ),
    "It opens the worker's HTTP API": ("integration/test_worker_http.py::test_a_request_without_the_token_is_refused",),
    "A submitted batch can read and write only in its own directory": (
        "unit/test_submission_config.py::test_a_path_outside_the_batch_s_directory_is_refused_with_the_way_to_send_the_file",
        "unit/test_submission_config.py::test_the_batch_s_own_paths_cannot_be_moved",
    ),
    "cannot send the account token to another platform": (
        "unit/test_submission_config.py::test_a_submission_names_no_other_platform",
    ),
    "holds a key to its first account": ("integration/test_server_page.py::test_the_links_token_ends_with_the_server",),
    "Both keys end with the process": (
        "integration/test_server_page.py::test_the_links_token_ends_with_the_server",
        "integration/test_worker_page.py::test_the_page_of_each_worker_has_another_name",
    ),
    "at a loopback address by a new name": (
        "integration/test_server_page.py::test_what_a_program_before_has_left_in_a_browser_is_ended",
        "integration/test_worker_http.py::test_what_a_program_before_has_left_in_a_browser_is_ended",
        "integration/test_worker_http.py::test_nobody_else_can_listen_where_a_browser_looks_for_the_page",
        "integration/test_server_page.py::test_nobody_else_can_listen_where_a_browser_looks_for_the_page",
        "integration/test_worker_page.py::test_the_page_of_each_worker_has_another_name",
        "integration/test_server_page.py::test_the_links_token_ends_with_the_server",
    ),
    "The worker's link opens its page once": (
        "integration/test_worker_http.py::test_a_link_to_the_page_opens_it_once",
    ),
    "in no cookie, that opens what the worker token does, and gives it to tabs of this address": (
        "integration/test_worker_page.py::test_the_key_of_the_page_stays_in_tabs_of_its_address",
    ),
    "Links to one batch's output last minutes": (
        "integration/test_worker_http.py::test_a_signed_link_opens_the_output_of_one_batch_for_a_while",
    ),
    "if no other user can have made it": (
        "integration/test_worker_socket.py::test_nothing_is_sent_to_a_socket_that_another_user_may_have_made",
        "integration/test_worker_socket.py::test_a_request_goes_to_the_directory_that_was_looked_at",
    ),
    "A program that takes a killed worker's port gets no token": (
        "integration/test_worker_socket.py::test_a_program_that_takes_a_killed_workers_port_never_gets_its_token",
    ),
    "run a command, or name who is notified": (
        "unit/test_submission_config.py::test_a_submission_cannot_name_who_is_notified",
    ),
    "follow no redirect, and stand in no batch's files or messages": (
        "integration/test_notify_channels.py::test_a_refusal_shows_the_status_and_no_url",
        "integration/test_notify_channels.py::test_a_receiver_that_is_gone_is_named_without_its_url",
        "integration/test_notifications.py::test_a_dead_receiver_holds_up_no_batch_and_gets_its_notification_later",
    ),
    "The command of `[notify]` gets no token": (
        "integration/test_notify_channels.py::test_a_command_gets_the_notification_and_no_secret",
    ),
    "It acts for its Run's account": ("integration/test_server_accounts.py::test_a_runs_token_acts_for_its_account",),
    "It ends with its Run, or the server": (
        "integration/test_server_processes.py::test_a_runs_token_dies_with_its_run",
        "integration/test_server_processes.py::test_a_killed_server_leaves_no_process_that_the_next_one_does_not_end",
        "integration/test_server_accounts.py::test_what_a_run_has_begun_is_not_carried_out_after_its_end",
        "integration/test_server_events.py::test_what_is_followed_ends_with_the_right_to_it",
    ),
    "What it made or signed (URLs of its Run's storages alone) lasts": (
        "integration/test_server_signed_urls.py::test_a_run_signs_urls_of_its_own_storages_alone",
    ),
    "It opens one storage or stored value": (
        "integration/test_server_signed_urls.py::test_the_official_clients_urls_open_what_is_restricted",
        "integration/test_server_signed_urls.py::test_no_value_has_a_key_whose_signature_opens_its_whole_store",
    ),
    "It gets no token, and chooses no platform, no command to paste": (
        "unit/test_platform_of_log.py::test_a_configuration_that_only_a_shared_log_has_gets_no_token",
        "unit/test_platform_of_log.py::test_no_command_of_a_shared_log_is_shown_to_be_pasted",
    ),
    "`abort`, `repair`, `resolve` and `retry` refuse it until you run its batch with your own file": (
        "integration/test_supplied_directory.py::test_a_directory_of_somebody_else_chooses_nothing",
        "integration/test_supplied_directory.py::test_no_ledger_is_rebuilt_by_the_configuration_of_somebody_else",
    ),
    "No file that it names is shown or deleted, no process killed": (
        "integration/test_supplied_directory.py::test_no_line_is_shown_of_a_file_that_somebody_else_names",
        "integration/test_supplied_directory.py::test_no_log_is_shown_that_a_link_leads_to",
        "integration/test_private_files.py::test_no_file_is_deleted_that_a_journal_names",
        "integration/test_server_processes.py::test_a_state_directory_chooses_no_process_that_is_killed",
    ),
    "no file outside the batch's directory": (
        "unit/test_shared_log.py::test_a_damaged_log_is_refused_and_changes_nothing",
        "unit/test_platform_of_log.py::test_a_configuration_that_only_a_shared_log_has_names_no_file_of_this_machine",
        "unit/test_shared_log.py::test_an_entry_of_another_shape_is_refused",
        "unit/test_shared_log.py::test_a_statement_without_an_end_is_given_up",
        "unit/test_shared_log.py::test_no_link_in_a_shared_log_leads_to_another_directory",
        "unit/test_shared_log.py::test_no_link_in_the_place_of_a_log_of_several_leads_to_another_directory",
        "unit/test_shared_log.py::test_a_link_that_comes_while_a_batch_runs_ends_it",
        "unit/test_shared_log.py::test_a_link_in_the_place_of_a_file_that_is_not_whole_brings_nothing_into_the_log",
    ),
    "Write access to a fleet's store opens what the worker token does": (
        "unit/test_fleet_list.py::test_an_entry_that_leads_out_of_its_directory_is_skipped",
        "unit/test_fleet_list.py::test_a_file_that_would_fill_the_disk_is_not_begun",
        "unit/test_fleet_list.py::test_a_batch_of_the_page_has_an_id",
    ),
    "have mode 0700, files 0600": (
        "integration/test_private_files.py::test_a_batch_is_for_its_user_only",
        "integration/test_private_files.py::test_a_worker_is_for_its_user_only",
        "integration/test_private_files.py::test_what_a_batch_carries_along_and_serve_are_for_their_user_only",
        "integration/test_server_safety.py::test_its_files_are_for_its_user_only",
    ),
    "a symbolic link, FIFO or device in a file's place are refused": (
        "integration/test_private_files.py::test_no_symbolic_link_is_followed_out_of_an_output_directory",
        "integration/test_private_files.py::test_nothing_is_written_to_a_directory_that_is_put_in_the_place_of_a_locked_one",
        "integration/test_private_files.py::test_no_configuration_is_read_from_a_directory_that_is_put_in_the_place_of_a_locked_one",
        "integration/test_private_files.py::test_no_ledger_is_taken_from_a_directory_that_stood_there_for_a_moment",
        "integration/test_private_files.py::test_a_server_writes_nothing_to_a_directory_that_is_put_in_the_place_of_its_own",
        "integration/test_private_files.py::test_a_directory_that_all_users_share_is_refused",
        "integration/test_private_files.py::test_what_belongs_to_another_user_is_refused",
        "integration/test_private_files.py::test_nothing_in_a_workers_directory_is_read_before_it_is_known_whose_it_is",
        "integration/test_private_files.py::test_the_owner_of_a_directory_is_trusted_by_root_alone",
        "integration/test_private_files.py::test_no_directory_is_taken_that_another_user_has_made_where_all_may",
        "integration/test_private_files.py::test_no_way_leads_to_a_directory_by_what_another_user_has_put_where_others_may",
        "integration/test_private_files.py::test_a_fifo_in_the_place_of_a_file_holds_nobody_up",
        "integration/test_private_files.py::test_what_others_may_have_put_there_is_opened_in_one_way",
    ),
    "A batch file in the spool may name files of the spool only": (
        "unit/test_submission_config.py::test_a_spooled_batch_file_names_files_of_the_spool_only",
        "integration/test_worker_page_data.py::test_what_is_noted_beside_a_spooled_batch_names_no_file_and_no_log",
        "integration/test_worker_life.py::test_no_link_in_the_spool_takes_a_file_elsewhere",
        "integration/test_worker_life.py::test_a_worker_opens_no_file_outside_of_the_spool_by_a_path_in_it",
    ),
    "each sees and changes only its own tasks, Runs, storages and webhooks": (
        "integration/test_server_accounts.py::test_lists_show_ones_own",
        "integration/test_server_accounts.py::test_tasks_and_actors_of_others_do_not_exist",
        "integration/test_server_accounts.py::test_an_id_does_not_open_anything_for_writing",
        "integration/test_server_webhooks.py::test_webhooks_are_private",
    ),
    "Whoever knows the id of a Run or a storage can read it": (
        "integration/test_server_accounts.py::test_an_id_opens_a_run_and_its_storages_for_reading",
    ),
    "within its own limits": (
        "integration/test_server_accounts.py::test_limits_are_each_accounts_own",
        "integration/test_server_usage.py::test_a_spending_limit_stops_starts",
        "integration/test_server_webhooks.py::test_an_accounts_slow_receivers_delay_no_other_account",
        "integration/test_server_webhooks.py::test_webhooks_that_come_at_once_are_counted",
        "integration/test_server_containment.py::test_a_run_that_breaks_the_servers_code_fails_alone",
    ),
    "with `--restricted`, only its account can": (
        "integration/test_server_accounts.py::test_access_can_be_restricted_to_the_owner",
        "integration/test_server_signed_urls.py::test_an_accounts_setting_decides_for_the_tokens_of_others",
        "integration/test_server_events.py::test_strangers_take_no_place_of_a_runs_own",
    ),
    "cannot read an open server's environment": (
        "integration/test_server_processes.py::test_an_actor_inherits_only_what_programs_need",
        "integration/test_server_processes.py::test_a_server_hides_its_environment_before_its_first_run",
    ),
    "An Actor inherits a fixed list of variables": (
        "integration/test_server_processes.py::test_an_actor_inherits_only_what_programs_need",
    ),
    "Elsewhere they and their commands warn": (
        "unit/test_worker_address.py::test_a_token_is_exposed_over_plain_http_to_another_machine",
        "integration/test_server_safety.py::test_a_server_that_others_reach_is_warned_about",
        "integration/test_worker_process.py::test_a_worker_that_others_reach_is_warned_about",
    ),
    "the oldest without a credential makes room": (
        "integration/test_worker_http.py::test_a_stranger_s_connections_are_few_and_do_not_last",
        "integration/test_worker_http.py::test_strangers_cut_off_nobody_who_has_shown_a_credential",
        "integration/test_server_safety.py::test_above_a_number_the_oldest_connection_of_a_stranger_is_reset",
    ),
    "an empty page": ("integration/test_worker_http.py::test_the_page_shows_nothing_by_itself",),
    "for loopback names only": (
        "integration/test_worker_http.py::test_what_needs_no_token_is_not_for_web_pages_that_rebind_their_name",
    ),
    "reach no loopback or private address but the server itself": (
        "integration/test_server_webhooks.py::test_a_webhook_reaches_no_private_address",
        "integration/test_server_scraper.py::test_the_scraper_reaches_no_private_address",
        "integration/test_server_scraper.py::test_the_scraper_reaches_no_private_address_through_a_proxy",
        "unit/test_public_addresses.py::test_only_addresses_of_the_internet_are_public",
    ),
    "run and load nothing": (
        "integration/test_worker_http.py::test_what_strangers_wrote_does_not_run_in_a_browser",
        "integration/test_server_safety.py::test_a_browser_runs_nothing_of_what_others_have_stored",
        "integration/test_server_safety.py::test_a_browser_plays_a_stored_video_and_loads_nothing_else",
    ),
    "No printed text controls a terminal": ("unit/test_terminal.py::test_no_text_controls_the_terminal",),
    "no cell that a spreadsheet takes for a formula": (
        "unit/test_terminal.py::test_a_spreadsheet_computes_no_text_of_others",
        "unit/test_export_file.py::test_no_text_of_a_record_is_a_formula_and_items_are_as_they_are",
    ),
    "are `***` in reports, messages and logs, unless only the platform knows them": (
        "integration/test_secrets.py::test_secret_fields_are_sent_and_never_shown",
        "integration/test_worker_page_data.py::test_secrets_of_inputs_are_not_shown_while_runs_are_live_nor_later",
    ),
}


def _plain(text: str) -> str:
    return " ".join(text.split())


def test_what_the_page_promises_is_held_by_tests() -> None:
    """Each promise is on the page, and its tests exist; each paragraph before the exceptions has one."""
    assert [promise for promise in HELD if promise not in _plain(PAGE)] == []
    tests = {test for each in HELD.values() for test in each}
    named = {test: test.split("::") for test in sorted(tests)}
    assert [
        test for test, (file, name) in named.items() if f"def {name}(" not in (TESTS / file).read_text("utf-8")
    ] == []
    promises = PAGE.partition("## Credentials")[2].partition("## Not promised")[0]
    paragraphs = [_plain(each) for each in promises.split("\n\n") if each.strip() and not each.startswith("#")]
    assert [each for each in paragraphs if not any(promise in each for promise in HELD)] == []


def test_the_page_is_short_enough_to_be_read() -> None:
    """At most 770 words."""
    assert len(PAGE.split()) <= 770


def test_no_flag_takes_a_token() -> None:
    """Only the name of a file with one."""

    def flags(command: Any) -> set[str]:
        own = {flag for parameter in command.params for flag in parameter.opts}
        return own.union(*(flags(each) for each in getattr(command, "commands", {}).values()))

    assert {flag for flag in flags(typer.main.get_command(app)) if "token" in flag} == {"--token-file"}
