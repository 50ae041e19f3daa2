"""The sections of a configuration: every key with its meaning, unit, default and bounds.

Defaults of a policy stand beside it, in `policy/`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from batchrun.model import JsonObject, RunOptions
from batchrun.policy import breaker, deadlines, retry
from batchrun.runtime.loopback import is_loopback_host

EMBEDDED = "embedded"
#: Max parts of a job file: each batch reads the whole file to find its own.
MAX_SHARDS = 64

_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
#: The ledger can hold integers up to this one.
_PositiveInt = Annotated[int, Field(ge=1, le=(1 << 63) - 1)]
#: Outcomes that may be retried; a rejected or invalid job would be so again.
_Retryable = Literal["failed", "timed_out", "aborted", "lost", "empty", "malformed"]
_Seconds = Annotated[float, Field(ge=0, le=1e9)]
#: What is a token, an address with one slash fewer, as paths have it, or a signing key: no name of a file.
_SECRET = re.compile(r"apify_api_[A-Za-z0-9]{20}|https?:/|whsec_[A-Za-z0-9+/]{20}")
#: Per second; a smaller one is none.
_Rate = Annotated[float, Field(ge=1e-6)]
#: A batch or group of weight 2 has twice the part of one of weight 1.
Weight = Annotated[float, Field(ge=0.001, le=1000)]


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("must be a power of 2, like 256, 512, 1024")
    return value


def _resource_name(value: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9-]{1,61}[a-zA-Z0-9]", value):
        raise ValueError("must be 3 to 63 letters, digits and hyphens, without a hyphen at its ends")
    return value


def _shard(value: list[int]) -> list[int]:
    if len(value) != 2 or not 1 <= value[0] <= value[1] <= MAX_SHARDS:
        raise ValueError(f"must be [number, count], like [1, 8]; the count is {MAX_SHARDS} at most")
    return value


_Memory = Annotated[int, Field(ge=128, le=32768), AfterValidator(_power_of_two)]


def _no_secret(file: Path | None) -> Path | None:
    """Refuse a secret in the place of its file's name: names are shown, and noted in files."""
    if file is not None and _SECRET.search(str(file)):
        raise ValueError("names the file that holds the secret, not the secret itself; put it into one, and name that")
    return file


class Section(BaseModel):
    """A table of a configuration: frozen, strict, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


class ApiConfig(Section):
    """The platform that carries out the Runs."""

    base_url: _Name = "https://api.apify.com"
    """Address of the API, or "embedded" for batchrun's own server inside this process."""
    token_file: Path | None = None
    """File that holds the token; the environment variable APIFY_TOKEN comes first."""
    allow_plain_http: bool = False
    """Whether the token may go to another machine over plain http, where others can read it."""

    _token_is_in_a_file = field_validator("token_file")(_no_secret)

    @model_validator(mode="after")
    def _is_an_address(self) -> Self:
        address = urlsplit(self.base_url)
        if not self.is_embedded and (address.scheme not in ("http", "https") or not address.hostname):
            raise ValueError('base_url must be "embedded" or an address like https://api.apify.com')
        if "@" in address.netloc or address.query or address.fragment:
            raise ValueError(
                "base_url is shown, and noted in files, so it must hold no password and no query; the token goes into"
                " APIFY_TOKEN, or into a file that api.token_file names"
            )
        return self

    @property
    def is_embedded(self) -> bool:
        """True if batchrun's own server, in this process, is the platform."""
        return self.base_url == EMBEDDED

    @property
    def is_loopback(self) -> bool:
        """True if Runs are carried out on this machine and so cost nothing."""
        return self.is_embedded or is_loopback_host(urlsplit(self.base_url).hostname or "")


class OptionsConfig(Section):
    """Options of a Run."""

    build: _Name | None = None
    """Tag or number of the Actor's build."""
    timeout_s: Annotated[int, Field(ge=0)] | None = None
    """The Run's own time limit in seconds; 0 means none."""
    memory_mb: _Memory | None = None
    """Memory of the Run in megabytes, a power of 2 from 128 to 32768."""
    max_items: _PositiveInt | None = None
    """Most dataset items that a pay-per-result Actor may charge for."""
    max_total_charge_usd: Annotated[float, Field(gt=0)] | None = None
    """Most that a pay-per-event Actor may charge."""
    restart_on_error: bool | None = None
    """Whether the platform restarts the Run when its process fails."""
    webhooks: list[JsonObject] | None = None
    """Ad-hoc webhooks in the API's own spelling: eventTypes, requestUrl, payloadTemplate, …"""

    def as_options(self) -> RunOptions:
        """Return these options as the engine takes them."""
        values = self.model_dump(include=OptionsConfig.model_fields.keys() - {"webhooks"})
        return RunOptions(**values, webhooks=tuple(self.webhooks) if self.webhooks is not None else None)


class RunConfig(OptionsConfig):
    """Options of every Run. A job's `@options` override them; the task's apply where neither sets one."""

    pin_build: bool = False
    """Whether all Runs use the build that the tag names when the batch is begun, even if a new one is released."""


class TaskConfig(Section):
    """The task: named by id, or described so that it is created if it is missing."""

    # For editors: nearly the rule of `_is_named_or_described`.
    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["id"]}, {"required": ["actor", "name"]}]})

    id: _Name | None = None
    """Id of the task, or user~name."""
    actor: _Name | None = None
    """The Actor of a described task, like apify/hello-world."""
    name: Annotated[_Name, AfterValidator(_resource_name)] | None = None
    """The name of a described task: 3 to 63 letters, digits and hyphens."""
    input: JsonObject = {}
    """The input of a described task."""
    options: OptionsConfig = OptionsConfig.model_construct()
    """The options of a described task."""

    @model_validator(mode="after")
    def _is_named_or_described(self) -> Self:
        described = self.actor is not None and self.name is not None
        if (self.id is None) == (not described) or (self.id is not None and self.actor is not None):
            raise ValueError("needs either id, or actor and name")
        if self.id is not None and (self.input or self.options.model_fields_set):
            raise ValueError("input and options describe a new task; beside id, write [input] and [run] instead")
        return self


class JobsConfig(Section):
    """The job file and how its lines become jobs."""

    file: Path
    """The job file: .jsonl .ndjson .json .csv .tsv, each also .gz or .zst; - is stdin."""
    format: Literal["jsonl", "json", "csv", "tsv"] | None = None
    """Format of the file; default: by its name, JSONL on stdin."""
    encoding: _Name | None = None
    """Text encoding of a CSV file; default UTF-8, with or without a byte order mark."""
    delimiter: Annotated[str, StringConstraints(min_length=1, max_length=1)] | None = None
    """Delimiter of a CSV file; default: recognised from the header and the rows after it."""
    quote: str | None = None
    """Character that quotes cells of a CSV file, or "none" where quotes are ordinary characters; default: '"'."""
    trim: bool | None = None
    """Whether blanks around the cells of a CSV file are left out; default: true."""
    empty: list[str] = []
    """Cells that count as empty, like ["NA", "NaN", "None"]."""
    key: str | None = None
    """Template of the job key, like "{{sku}}"; default: derived from the content."""
    group: str | None = None
    """Template of the group, like "{{country}}"."""
    meta: list[_Name] = []
    """Columns that are copied to the record."""
    template: JsonObject | None = None
    """Turns a row into an override: strings hold {{column}}, {{n:int}}, {{tags:split(|)}}, {{x:json?}}."""
    matrix: dict[_Name, Annotated[list[Any], Field(min_length=1)]] = {}
    """Multiplies every line by every combination of these lists."""
    merge: Literal["shallow", "deep"] = "shallow"
    """How an override is merged into the task's input: at the top level, as the API does it, or at every level."""
    on_bad_line: Literal["stop", "record"] = "stop"
    """What a bad line among the first 10,000 does before the first start: stop the batch, or become a record."""
    check_inputs: bool = True
    """Whether the first 10,000 inputs are checked against the Actor's input schema before the first start."""
    unknown_properties: Literal["stop", "allow"] = "stop"
    """Whether a new batch that costs money stops where lines set nothing: properties that the schema does not name."""
    limit: _PositiveInt | None = None
    """Number of jobs from the top of the file that are carried out; default: all."""
    shard: Annotated[list[int], AfterValidator(_shard)] | None = None
    """[2, 8]: only the jobs whose keys are in the second of eight parts of the file; default: all jobs."""
    max_window_mb: Annotated[int, Field(ge=8, le=2048)] = 2048
    """Most memory that a .zst file may need to be decompressed, in megabytes; in a worker 8 at most."""


class AccountLimitsConfig(Section):
    """Limits of what we use of the account: one batch, or all batches of a worker together."""

    max_concurrent_runs: _PositiveInt | Literal["auto"] = "auto"
    """Most Runs live at once; never more than the account has free. "auto": all that it has free."""
    leave_free_runs: Annotated[int, Field(ge=0)] = 1
    """With "auto": Runs that are left to others; one is always ours."""
    max_total_memory_mb: Annotated[int, Field(ge=128)] | Literal["auto"] = "auto"
    """Most memory of all live Runs in megabytes; never more than the account has free. "auto": all that it has free."""
    leave_free_memory_mb: Annotated[int, Field(ge=0)] = 0
    """With "auto": memory that is left to others, in megabytes."""
    request_rate: _Rate = 3958.0
    """Most requests per second of all kinds; the platform allows 250,000 per minute and account."""
    max_open_polls: _PositiveInt = 1000
    """Most requests at once that wait for the end of a Run."""
    min_free_disk_mb: Annotated[int, Field(ge=0)] | None = None
    """Free megabytes of the disk below which no Run is started; default: 256, or 5 % of a disk below 5 GB."""
    max_buffer_mb: Annotated[int, Field(ge=16)] = 256
    """Most memory for items and OUTPUT values on their way to disk, in megabytes; larger ones are read one by one."""

    @property
    def wanted_runs(self) -> int | None:
        """`max_concurrent_runs` as a number; None: "auto"."""
        return None if self.max_concurrent_runs == "auto" else self.max_concurrent_runs

    @property
    def wanted_memory_mb(self) -> int | None:
        """`max_total_memory_mb` as a number; None: "auto"."""
        return None if self.max_total_memory_mb == "auto" else self.max_total_memory_mb


class LimitsConfig(AccountLimitsConfig):
    """Limits of one batch."""

    start_rate: _Rate = 380.0
    """Most starts per second; the platform allows 400 per task. If it announces a lower limit, that one is kept."""
    start_horizon_s: _Seconds = 60.0
    """Seconds after which a start request that was sent can no longer take effect."""
    listing_lag_s: _Seconds = 5.0
    """Seconds for which a new Run may be missing from the platform's lists."""
    drain_s: _Seconds = 60.0
    """Seconds that the first Ctrl-C waits for live Runs."""
    budget_usd: Annotated[float, Field(gt=0)] | None = None
    """Most that the batch may cost in US dollars, over all its processes."""
    budget_mode: Literal["strict", "best_effort"] = "strict"
    """"strict" starts no Run without a bound of its cost; "best_effort" estimates it from earlier Runs."""
    compute_unit_usd: Annotated[float, Field(ge=0)] | None = None
    """Price of a compute unit (1 GB for 1 hour) in US dollars; default: from the account's monthly usage."""


class RetryRuleConfig(Section):
    """How an attempt that ended for one cause is retried; a missing key is taken from [retry]."""

    max_attempts: _PositiveInt | None = None
    """Attempts per job in all, the first included."""
    backoff_s: _Seconds | None = None
    """Seconds before the second attempt; doubles with each further one."""
    max_backoff_s: _Seconds | None = None
    """Longest wait between attempts, in seconds."""


class OutOfMemoryConfig(RetryRuleConfig):
    """How a Run is retried that failed for lack of memory."""

    memory_factor: Literal[1, 2, 4, 8] = retry.MEMORY_FACTOR
    """Factor on the memory of the Run that failed."""
    memory_ceiling_mb: _Memory = retry.MEMORY_CEILING_MB
    """Most memory in megabytes; a Run that had as much is not retried."""


class TimedOutConfig(RetryRuleConfig):
    """How a Run is retried that timed out."""

    timeout_factor: Annotated[float, Field(ge=1)] = 1.0
    """Factor on the time limit of the Run that timed out."""
    timeout_ceiling_s: _PositiveInt | None = None
    """Longest time limit in seconds."""


class RetryConfig(Section):
    """Which Runs are retried, and with what options."""

    max_attempts: _PositiveInt = retry.MAX_ATTEMPTS
    """Attempts per job in all, the first included."""
    on: list[_Retryable] = ["failed"]
    """Outcomes that are retried; so is every outcome with a table below."""
    backoff_s: _Seconds = retry.FIRST_BACKOFF_S
    """Seconds before the second attempt; doubles with each further one."""
    max_backoff_s: _Seconds = retry.MAX_BACKOFF_S
    """Longest wait between attempts, in seconds."""
    failed: RetryRuleConfig | None = None
    """After Runs that failed."""
    out_of_memory: OutOfMemoryConfig | None = None
    """After Runs that failed for lack of memory; default: as failed, with memory doubled up to 8192 MB."""
    timed_out: TimedOutConfig | None = None
    """After Runs that timed out."""
    aborted: RetryRuleConfig | None = None
    """After Runs that were aborted by others."""
    lost: RetryRuleConfig | None = None
    """After Runs that the platform no longer knows."""
    empty: RetryRuleConfig | None = None
    """After Runs with fewer items than expected."""
    malformed: RetryRuleConfig | None = None
    """After Runs with items that break the expected schema."""


class DeadlinesConfig(Section):
    """Deadlines of jobs, of the batch and of Runs, and what happens then."""

    max_job_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds from a job's first start to its end; then its live Run is aborted, and no other is started."""
    max_batch_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which this process starts no more Runs; the same command resumes the batch."""
    overdue_grace_s: _Seconds = deadlines.OVERDUE_GRACE_S
    """Seconds past its time limit after which a live Run is overdue."""
    on_overdue: Literal["report", "abort"] = "report"
    """What happens to an overdue Run."""
    quiet_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds without a new status message, item or log line after which a Run is quiet."""
    on_quiet: Literal["report", "abort"] = "report"
    """What happens to a quiet Run."""


class BreakerConfig(Section):
    """When new starts stop because too many jobs fail."""

    max_failed: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)] | Literal["off"] = breaker.MAX_FAILED
    """Jobs without success among the last `window` settled ones, of the batch or a group: a number, or a fraction."""
    window: _PositiveInt = breaker.WINDOW
    """Number of last settled jobs that count."""
    empty_in_a_row: _PositiveInt | Literal["off"] = breaker.EMPTY_IN_A_ROW
    """Successes in a row without any item, after some with items."""


class GroupConfig(Section):
    """Weight and limit of the jobs of one `@group`."""

    weight: Weight | None = None
    """Weight of its starts against other groups, default 1. If set, the file is read ahead, up to 10,000 jobs."""
    max_concurrent_runs: _PositiveInt | None = None
    """Most Runs of the group live at once."""


class OutputConfig(Section):
    """What is collected, and where it is written."""

    dir: Path | None = None
    """The output directory; default: the stem of the batch or job file + .out, in the current directory."""
    items: Literal["file", "inline", "none"] = "file"
    """Dataset items go to items.jsonl, into the record (at most max_inline_items), or are not fetched."""
    max_inline_items: _PositiveInt = 1000
    """Most items of one Run that go into its record."""
    page_size: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Items per request."""
    value: bool = False
    """Whether the OUTPUT value of each Run goes into its record."""
    logs: bool = True
    """Whether the last 64 KB of the log are kept for Runs whose jobs did not succeed, at most 1,000 Runs."""
    report: bool = False
    """Whether report.html is written into the output directory whenever a process ends its work on the batch."""
    expect_items_min: _PositiveInt | None = None
    """A succeeded Run with fewer items has the outcome empty."""
    expect_item_schema: Path | None = None
    """JSON Schema file; a succeeded Run whose first 100 items do not all fit it has the outcome malformed."""
    clean: bool | None = None
    """The API's `clean`: only non-empty items, without hidden fields."""
    fields: list[_Name] | None = None
    """The API's `fields`: only these."""
    omit: list[_Name] | None = None
    """The API's `omit`: all but these."""
    unwind: list[_Name] | None = None
    """The API's `unwind`: fields that become items."""
    flatten: list[_Name] | None = None
    """The API's `flatten`: objects that become dotted fields."""


class ServerConfig(Section):
    """The embedded server, if `api.base_url` is "embedded"."""

    actors: list[Path] = []
    """Directories of Actors besides the bundled ones."""
    max_concurrent_runs: _PositiveInt = 25
    """The account's limit of concurrent Runs."""
    max_total_memory_mb: Annotated[int, Field(ge=128)] = 8192
    """The account's limit of memory in all Runs together."""
    allow_private_addresses: bool = False
    """Webhooks and the page-scraper may reach loopback and private addresses, besides the server itself."""
    faults: Path | None = None
    """TOML file of faults that the server simulates, as with `batchrun serve --faults`."""


class ReplicaConfig(Section):
    """The shared log of the batch, from which another machine can take it over."""

    url: _Name | None = None
    """Where the log is kept, for this batch alone: s3://bucket/path, gs://, az://, nats://host:4222/name, file:///path."""
    lease_s: Annotated[float, Field(gt=0)] = 20.0
    """Seconds of silence after which this machine starts nothing more; another one takes over after 1.5 times that."""
    standby: bool = True
    """Whether to wait while another machine carries the batch out; false refuses to."""


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
    command: list[_Name] = []
    """Program and arguments, run without a shell; it gets the notification as JSON on stdin, and 30 seconds."""
    failed_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of jobs without success above which `failed_share` is sent, once 20 jobs are settled."""
    budget_share: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the budget that is spent when `budget_share` is sent."""
    outage_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds without the platform after which `outage` is sent."""

    _secrets_are_in_files = field_validator("url_file", "signing_key_file")(_no_secret)


class Config(Section):
    """The configuration of a batch."""

    api: ApiConfig = ApiConfig.model_construct()
    task: TaskConfig
    jobs: JobsConfig
    input: JsonObject = {}
    """Constants under every override."""
    run: RunConfig = RunConfig.model_construct()
    limits: LimitsConfig = LimitsConfig.model_construct()
    retry: RetryConfig = RetryConfig.model_construct()
    deadlines: DeadlinesConfig = DeadlinesConfig.model_construct()
    breaker: BreakerConfig = BreakerConfig.model_construct()
    groups: dict[_Name, GroupConfig] = {}
    """By `@group`; other groups have weight 1 and no limit."""
    output: OutputConfig = OutputConfig.model_construct()
    server: ServerConfig = ServerConfig.model_construct()
    replica: ReplicaConfig = ReplicaConfig.model_construct()
    notify: NotifyConfig = NotifyConfig.model_construct()

    @model_validator(mode="after")
    def _has_a_lease_below_the_horizon(self) -> Self:
        if self.replica.url is not None and self.replica.lease_s >= self.limits.start_horizon_s:
            raise ValueError("replica.lease_s must be less than limits.start_horizon_s")
        return self

    def as_noted(self) -> JsonObject:
        """Return the configuration as JSON with absolute paths, so that it can be read in any directory."""
        noted: JsonObject = self.model_dump(mode="json")
        for key in PATHS:
            section, name = key.split(".")
            noted[section][name] = relative_to(Path.cwd(), noted[section][name])
        return noted

    @property
    def out_dir(self) -> Path:
        """The batch's output directory; `load_config` has filled it in."""
        assert self.output.dir is not None, "load_config fills it in"
        return self.output.dir


def _path_keys() -> Iterator[str]:
    for section, table in Config.model_fields.items():
        fields = getattr(table.annotation, "model_fields", {})
        yield from (f"{section}.{name}" for name, field in fields.items() if _holds_path(field.annotation))


def _holds_path(annotation: Any) -> bool:
    return annotation is Path or any(_holds_path(each) for each in get_args(annotation))


#: Keys that hold paths: in a file they are relative to it, in flags to the current directory.
PATHS = tuple(_path_keys())


def relative_to(base: Path, value: Any) -> Any:
    """Resolve the value of a path key against a directory; "-" (stdin) and an empty value are left as they are."""
    if isinstance(value, list):
        return [relative_to(base, each) for each in value]
    return str(base / value) if isinstance(value, str) and value not in ("", "-") else value
