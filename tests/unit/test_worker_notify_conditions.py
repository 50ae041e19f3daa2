"""What a worker notifies people of by itself: once while it lasts, for all its batches."""

import anyio

from batchrun.config.notify_settings import NotifyConfig
from batchrun.notify.delivery import Notifier
from batchrun.notify.notification import Notification
from batchrun.policy.budget import Budget
from batchrun.worker.worker_notify_conditions import WorkerNotifyConditions


class Recorder(Notifier):
    """A notifier that keeps what it is to send."""

    def __init__(self, config: NotifyConfig) -> None:
        self.config = config
        self.sent: list[Notification] = []

    async def send(self, notification: Notification) -> None:
        """Keep it."""
        self.sent.append(notification)


async def test_an_outage_and_a_budget_are_notified_once_while_they_last() -> None:
    """A second outage, and a budget that was raised and is spent again, are notified again."""
    recorder, budget = Recorder(NotifyConfig(outage_s=100)), Budget(10.0)
    watch = WorkerNotifyConditions(recorder, budget)
    for outage, spent_usd, seconds in (("no answer", 8.0, 300), ("", 7.0, 10), ("no answer", 9.0, 300)):
        budget.spent_usd = spent_usd
        for _ in range(seconds):
            await watch.look(outage, None)
            await anyio.sleep(1)
    assert [(each.event, each.batch) for each in recorder.sent] == [
        ("budget_share", None),
        ("outage", None),
        ("budget_share", None),
        ("outage", None),
    ]
    words = "The platform has not been usable for 1 min 40 s (no answer). No job fails because of this"
    assert recorder.sent[1].text == f"Worker: {words}"
    assert len({each.id for each in recorder.sent}) == 4
