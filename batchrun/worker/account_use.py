"""How much of the account a closed batch uses: spent and reserved money, and Runs that may be live."""

from typing import NamedTuple

import structlog

from batchrun.errors import LedgerError
from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.worker.data_directory import DataDirectory, has_begun
from batchrun.worker.submission import Submission

_log = structlog.get_logger()


class AccountUse(NamedTuple):
    """Money that a batch has spent and reserved, in US dollars, and its Runs that are or may be live."""

    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    live_runs: int = 0


def read_account_use(submission: Submission, directory: DataDirectory, *, has_budget: bool) -> AccountUse:
    """Return the account use of a batch that is not open, from its ledger; `has_budget` if the worker has a budget.

    If the ledger was moved away or cannot be read, it is what the worker noted last: the money is spent all the same.
    """
    before_usd = submission.spent_before_usd
    if submission.state.is_over and not has_budget:
        # Close enough if a budget is set later; opening the ledgers of a thousand finished batches is slow.
        return AccountUse(spent_usd=before_usd + submission.counts.cost_usd)
    noted = AccountUse(spent_usd=before_usd + submission.counts.noted_usd)
    out_dir = directory.out_dir(submission)
    if not has_begun(out_dir):
        return noted
    try:
        with open_for_reading(out_dir) as ledger:
            money, totals = ledger.money(), ledger.totals()
    except (LedgerError, OSError) as error:
        _log.warning("ledger_unreadable", batch=submission.id, reason=str(error))
        return noted
    return AccountUse(before_usd + money.spent_usd, money.reserved_usd, totals.live_runs + totals.in_doubt)
