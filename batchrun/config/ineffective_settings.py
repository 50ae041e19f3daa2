"""Settings that can have no effect, which is never what their author expects: they are errors."""

from collections.abc import Iterator

from batchrun.config.batch_config import Config


def find_settings_without_effect(config: Config) -> dict[str, str]:
    """Return what is wrong and what to do, by dotted key. A default is never among them."""
    return {**dict(_retries(config)), **dict(_deadlines(config)), **dict(_breaker(config))}


def _retries(config: Config) -> Iterator[tuple[str, str]]:
    retry, output = config.retry, config.output
    for outcome, needed, is_there in (
        ("empty", "expect_items_min", output.expect_items_min is not None),
        ("malformed", "expect_item_schema", output.expect_item_schema is not None),
    ):
        if is_there:
            continue
        problem = f"has no effect: no Run is {outcome} unless output.{needed} is set; set it, or leave this key out"
        if outcome in retry.on:
            yield "retry.on", problem
        if getattr(retry, outcome) is not None:
            yield f"retry.{outcome}", problem


def _deadlines(config: Config) -> Iterator[tuple[str, str]]:
    if config.deadlines.on_quiet == "abort" and config.deadlines.quiet_s is None:
        yield "deadlines.on_quiet", "has no effect unless deadlines.quiet_s is set; set it, or leave this key out"


def _breaker(config: Config) -> Iterator[tuple[str, str]]:
    breaker = config.breaker
    most, window = breaker.max_failed, breaker.window
    if isinstance(most, int) and most > window:
        problem = (
            f"has no effect: it exceeds breaker.window; set the window to {most} or more, or this to {window} or less"
        )
        yield "breaker.max_failed", problem
    is_set = "empty_in_a_row" in breaker.model_fields_set and breaker.empty_in_a_row != "off"
    if is_set and config.output.items == "none":
        problem = 'has no effect while output.items is "none": items are not counted; change it, or leave this key out'
        yield "breaker.empty_in_a_row", problem
