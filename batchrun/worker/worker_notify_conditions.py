"""Notifies people of what concerns all batches of a worker: an outage, a full disk, the budget of all.

Each is sent once while it lasts, and once more by a worker that is restarted meanwhile.
"""

import secrets
from dataclasses import asdict

from batchrun.config.notify_settings import NotifyEvent
from batchrun.engine.notices import BudgetNearlySpent, DiskLow, Notice, OutageLasts
from batchrun.notify.delivery import Notifier
from batchrun.notify.notification import Notification
from batchrun.policy.budget import Budget
from batchrun.runtime.condition_age import ConditionAge
from batchrun.words.notice_words import notice_words


class WorkerNotifyConditions:
    """Watches one worker.

    Args:
        notifier: delivers what is found.
        budget: of all batches together.
    """

    def __init__(self, notifier: Notifier, budget: Budget) -> None:
        self._notifier = notifier
        self._budget = budget
        self._outage_lasts = ConditionAge()
        #: The events that last and were sent.
        self._sent: set[NotifyEvent] = set()

    async def look(self, outage: str, disk_low: DiskLow | None) -> None:
        """Look once; called every second or so.

        Args:
            outage: why the platform cannot be reached, or refuses the account; empty while neither is so.
            disk_low: why nothing is started; None: the disk has room.
        """
        await self._note("outage", self._lasting(outage))
        await self._note("disk_low", disk_low)
        await self._note("budget_share", self._spent())

    def _lasting(self, outage: str) -> OutageLasts | None:
        lasted_s = self._outage_lasts.look(holds=bool(outage))
        return OutageLasts(reason=outage, lasted_s=lasted_s) if lasted_s >= self._notifier.config.outage_s else None

    def _spent(self) -> BudgetNearlySpent | None:
        limit_usd, spent_usd = self._budget.limit_usd, self._budget.spent_usd + self._budget.gone_usd
        if limit_usd is None or spent_usd < self._notifier.config.budget_share * limit_usd:
            return None
        return BudgetNearlySpent(spent_usd=spent_usd, limit_usd=limit_usd, is_of_all=True)

    async def _note(self, event: NotifyEvent, notice: Notice | None) -> None:
        if notice is None:
            self._sent.discard(event)
        elif event not in self._sent:
            self._sent.add(event)
            notification = Notification(
                id=f"{secrets.token_hex(8)}-{event}",
                event=event,
                text=f"Worker: {notice_words(notice)}",
                data=asdict(notice),
            )
            await self._notifier.send(notification)
