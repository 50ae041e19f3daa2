"""The build that all Runs of a batch are pinned to by `run.pin_build`."""

from batchrun.config import Config
from batchrun.errors import ConfigError
from batchrun.ledger.facts import PINNED_BUILD, PinnedBuild
from batchrun.ledger.sqlite.reader import LedgerReader
from batchrun.ledger.sqlite.tables import LedgerTables
from batchrun.preflight.builds import Build


def pinned_before(ledger: LedgerReader, config: Config) -> str | None:
    """Return the number of the build that an earlier process pinned the batch to; None: it is not pinned yet."""
    noted = ledger.fact(PINNED_BUILD)
    # Another run.build is another build; a batch without jobs is pinned again.
    if noted is None or noted.asked != config.run.build or ledger.is_empty:
        return None
    return noted.number


def number_to_pin(build: Build) -> str:
    """Return the number of the build that Runs would use now.

    Raises:
        ConfigError: the platform does not show it.
    """
    if build.number is None:
        problem = f"the build cannot be pinned: {build.why_unchecked or 'it shows no number'}"
        raise ConfigError(problem, key="run.pin_build")
    return build.number


def pin(ledger: LedgerTables, config: Config, number: str) -> None:
    """Note the number of the build."""
    with ledger.transaction():
        ledger.note_fact(PINNED_BUILD, PinnedBuild(asked=config.run.build, number=number))
