"""Who is notified, as lines, and what came of a test."""

from collections.abc import Collection, Mapping

from batchrun.cli.terminal import answer
from batchrun.errors import ConfigError


def show_targets(targets: Mapping[str, str], events: Collection[str], results: Mapping[str, str] | None) -> None:
    """Print where notifications go, and of a test what came of it.

    Raises:
        ConfigError: there is no target.
    """
    if not targets:
        raise ConfigError(
            "nobody is notified: name a file with the URL of a webhook as notify.url_file, or a program as"
            " notify.command; see `batchrun help notifications`",
            key="notify",
        )
    for name, target in targets.items():
        outcome = "" if results is None else f": {results.get(name) or 'delivered'}"
        answer(f"{name:<7}  {target}{outcome}")
    answer(f"events   {', '.join(events)}")
