"""The sections of a configuration: every key with its meaning, unit, default and bounds."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from batchrun.model import JsonObject, RunOptions

EMBEDDED = "embedded"
#: Keys that hold paths: in a file they are relative to it, in flags to the current directory.
PATHS = ("api.token_file", "jobs.file", "output.dir", "server.actors")

_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_PositiveInt = Annotated[int, Field(ge=1)]
#: Outcomes of a Run; what was rejected or invalid would be so again.
_Retryable = Literal["failed", "timed_out", "aborted", "lost"]
_Seconds = Annotated[float, Field(ge=0)]


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("must be a power of 2, like 256, 512, 1024")
    return value


_Memory = Annotated[int, Field(ge=128, le=32768), AfterValidator(_power_of_two)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ApiConfig(_Section):
    """Which platform carries out the Runs."""

    base_url: _Name = "https://api.apify.com"
    """Address of the API, or "embedded" for batchrun's own server inside this process."""
    token_file: Path | None = None
    """File that holds the token; the environment variable APIFY_TOKEN comes first."""

    @model_validator(mode="after")
    def _is_an_address(self) -> Self:
        address = urlsplit(self.base_url)
        if not self.is_embedded and (address.scheme not in ("http", "https") or not address.hostname):
            raise ValueError('base_url must be "embedded" or an address like https://api.apify.com')
        return self

    @property
    def is_embedded(self) -> bool:
        """Whether batchrun's own server, in this process, is the platform."""
        return self.base_url == EMBEDDED

    @property
    def is_loopback(self) -> bool:
        """Whether Runs are carried out on this machine and so cost nothing."""
        host = urlsplit(self.base_url).hostname or ""
        return self.is_embedded or host in ("localhost", "::1") or host.startswith("127.")


class RunConfig(_Section):
    """Options of every Run; a job's own `@options` come first, what both leave open is the task's."""

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
        values = self.model_dump(exclude={"webhooks"})
        return RunOptions(**values, webhooks=tuple(self.webhooks) if self.webhooks is not None else None)


class TaskConfig(_Section):
    """The task: named by id, or described so that it is created when missing."""

    id: _Name | None = None
    """Id of the task, or user~name."""
    actor: _Name | None = None
    """The Actor of a described task, like apify/hello-world."""
    name: _Name | None = None
    """The name of a described task."""
    input: JsonObject = {}
    """The input of a described task."""
    options: RunConfig = RunConfig()
    """The options of a described task."""

    @model_validator(mode="after")
    def _is_named_or_described(self) -> Self:
        described = self.actor is not None and self.name is not None
        if (self.id is None) == (not described) or (self.id is not None and self.actor is not None):
            raise ValueError("needs either id, or actor and name")
        return self


class JobsConfig(_Section):
    """The job file and how its lines become jobs."""

    file: Path
    """The job file: .jsonl .ndjson .json .csv .tsv, each also .gz or .zst; - is JSONL on stdin."""
    encoding: _Name | None = None
    """Text encoding of a CSV file; default UTF-8, with or without a byte order mark."""
    delimiter: Annotated[str, StringConstraints(min_length=1, max_length=1)] | None = None
    """Delimiter of a CSV file; default: recognised from the header row."""
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
    """How an override meets the task's input: as the API does it (top level), or merged in depth by us."""
    on_bad_line: Literal["stop", "record"] = "stop"
    """What a bad line among the first 10,000 does before anything was started."""
    limit: _PositiveInt | None = None
    """Carry out only the first so many jobs of the file."""


class LimitsConfig(_Section):
    """How many, how fast, how long."""

    max_concurrent_runs: _PositiveInt | Literal["auto"] = "auto"
    """Most Runs live at once; "auto" takes what the account has free."""
    leave_free_runs: Annotated[int, Field(ge=0)] = 1
    """With "auto": Runs of the account that are left to others; one is always ours."""
    start_rate: Annotated[float, Field(gt=0)] = 380.0
    """Most starts per second; the platform allows 400 per task."""
    request_rate: Annotated[float, Field(gt=0)] = 3958.0
    """Most requests per second of all kinds; the platform allows 250,000 per minute and account."""
    max_open_polls: _PositiveInt = 1000
    """Most requests that wait for the end of a Run at once."""
    start_horizon_s: _Seconds = 60.0
    """A start request takes effect within so many seconds after it was sent, or never."""
    listing_lag_s: _Seconds = 5.0
    """How long a new Run may be missing from the platform's lists."""
    drain_s: _Seconds = 60.0
    """How long a first Ctrl-C waits for what runs."""


class RetryConfig(_Section):
    """Which Runs get another attempt."""

    max_attempts: _PositiveInt = 2
    """Attempts per job in all, the first included."""
    on: list[_Retryable] = ["failed"]
    """Outcomes that get another attempt."""
    backoff_s: _Seconds = 1.0
    """Wait before the second attempt; doubles with each further one."""
    max_backoff_s: _Seconds = 60.0
    """Longest wait between attempts."""


class OutputConfig(_Section):
    """What is collected, and where it goes."""

    dir: Path | None = None
    """The output directory; default: the stem of the batch or job file + .out, in the current directory."""
    items: Literal["file", "inline", "none"] = "file"
    """Dataset items: to items.jsonl, into the record (at most max_inline_items), or not fetched."""
    max_inline_items: _PositiveInt = 1000
    """Most items of one Run that go into its record."""
    page_size: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Items per request."""
    value: bool = False
    """Whether the OUTPUT value of each Run goes into its record."""
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


class ServerConfig(_Section):
    """The embedded server, when `api.base_url` is "embedded"."""

    actors: list[Path] = []
    """Directories of Actors besides the bundled ones."""
    max_concurrent_runs: _PositiveInt = 25
    """The account's limit of concurrent Runs."""
    max_total_memory_mb: Annotated[int, Field(ge=128)] = 8192
    """The account's limit of memory in all Runs together."""


class Config(_Section):
    """A batch, whole."""

    api: ApiConfig = ApiConfig()
    task: TaskConfig
    jobs: JobsConfig
    input: JsonObject = {}
    """Constants under every override."""
    run: RunConfig = RunConfig()
    limits: LimitsConfig = LimitsConfig()
    retry: RetryConfig = RetryConfig()
    output: OutputConfig = OutputConfig()
    server: ServerConfig = ServerConfig()

    def as_noted(self) -> JsonObject:
        """Return the configuration as JSON that holds wherever it is read again: all paths absolute."""
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


def relative_to(base: Path, value: Any) -> Any:
    """Resolve a path key's value against a directory; stdin's - and nothing stay what they are."""
    if isinstance(value, list):
        return [relative_to(base, each) for each in value]
    return str(base / value) if isinstance(value, str) and value not in ("", "-") else value
