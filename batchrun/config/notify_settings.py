"""`[notify]`: what is sent to people who do not watch, and how."""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from batchrun.config.section import Name, Section, refuse_secret

#: What a notification can be about.
NotifyEvent = Literal[
    "finished",
    "stopped",
    "tripped",
    "out_of_budget",
    "failed_share",
    "budget_share",
    "quiet_run",
    "in_doubt",
    "outage",
    "disk_low",
]


class NotifyConfig(Section):
    """Notifications for people who do not watch: by a webhook, by a command, or both."""

    events: list[NotifyEvent] = list(get_args(NotifyEvent))
    """What is sent; default: all."""
    kind: Literal["json", "slack"] = "json"
    """Form of the webhook: "json" is signed and has all fields, "slack" is a text for an incoming webhook of Slack."""
    url_file: Path | None = None
    """File that holds only the webhook's URL, which is a secret; the variable BATCHRUN_NOTIFY_URL comes first."""
    signing_key_file: Path | None = None
    """File that holds only the key that signs the JSON form, `whsec_` and Base64; BATCHRUN_NOTIFY_KEY comes first."""
    command: list[Name] = []
    """Program and arguments, run without a shell; it gets the notification as JSON on stdin, and 30 seconds."""
    failed_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of jobs without success above which `failed_share` is sent, once 20 jobs are settled."""
    budget_share: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the budget that is spent when `budget_share` is sent."""
    outage_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds without the platform after which `outage` is sent."""

    _secrets_are_in_files = field_validator("url_file", "signing_key_file")(refuse_secret)
