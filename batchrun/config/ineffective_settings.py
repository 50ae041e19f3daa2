"""Settings that could never do anything: whoever made them expects something that is not going to happen."""

from collections.abc import Iterator

from batchrun.config.sections import Config


def find_settings_without_effect(config: Config) -> dict[str, str]:
    """Return what is wrong and what to do, by dotted key. Defaults are never among them."""
    return {**dict(_retries(config)), **dict(_deadlines(config)), **dict(_breaker(config))}


def _retries(config: Config) -> Iterator[tuple[str, str]]:
    retry, output = config.retry, config.output
    for outcome, needed, is_there in (
        ("empty", "expect_items_min", output.expect_items_min is not None),
        ("malformed", "expect_item_schema", output.expect_item_schema is not None),
    ):
        if is_there:
            continue
        problem = f"no Run is ever {outcome}, since nothing is expected of items: set output.{needed}, or leave it out"
        if outcome in retry.on:
            yield "retry.on", problem
        if getattr(retry, outcome) is not None:
            yield f"retry.{outcome}", problem


def _deadlines(config: Config) -> Iterator[tuple[str, str]]:
    if config.deadlines.on_quiet == "abort" and config.deadlines.quiet_s is None:
        yield "deadlines.on_quiet", "no Run is ever quiet: set deadlines.quiet_s, after how many seconds it is"


def _breaker(config: Config) -> Iterator[tuple[str, str]]:
    breaker = config.breaker
    most, window = breaker.max_failed, breaker.window
    if isinstance(most, int) and most > window:
        problem = f"the last {window} jobs hold no {most}: set breaker.window to {most} or more, or a smaller number"
        yield "breaker.max_failed", problem
    is_set = "empty_in_a_row" in breaker.model_fields_set and breaker.empty_in_a_row != "off"
    if is_set and config.output.items == "none":
        problem = 'nobody counts items where output.items is "none": change that, or leave this out'
        yield "breaker.empty_in_a_row", problem
