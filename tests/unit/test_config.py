import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from batchrun.config import Config, load_api, load_config, parse_setting, read_token
from batchrun.errors import ConfigError
from batchrun.model import Outcome, RunOptions

GOOD = '[task]\nid = "user~task"\n[jobs]\nfile = "jobs.jsonl"\n'
AT_MOST_INT64 = f"the value should be less than or equal to {(1 << 63) - 1}"
AT_LEAST_1 = "the value should be greater than or equal to 1"
TOKEN = "apify_api_SECRETSECRETSECRET"


def load(tmp_path: Path, toml: str = GOOD, *, environ: Mapping[str, str] | None = None, **flags: Any) -> Config:
    """Load a batch from this text; flags are spelled limits__start_rate."""
    file = tmp_path / "batch.toml"
    file.write_text(toml, "utf-8")
    given = {key.replace("__", "."): value for key, value in flags.items()}
    return load_config(file, flags=given, environ=environ or {})


def problem(tmp_path: Path, toml: str, **given: Any) -> str:
    """Return the one error that this configuration makes, with the file's name cut short."""
    with pytest.raises(ConfigError) as error:
        load(tmp_path, toml, **given)
    return str(error.value).replace(str(tmp_path / "batch.toml"), "FILE")


def test_missing_keys_have_their_defaults(tmp_path: Path) -> None:
    """Only a task and a job file are required."""
    config = load(tmp_path)
    assert (config.task.id, config.jobs.file, config.out_dir) == (
        "user~task",
        tmp_path / "jobs.jsonl",
        Path("batch.out"),
    )
    assert (config.api.base_url, config.limits.max_concurrent_runs, config.retry.max_attempts) == (
        "https://api.apify.com", "auto", 2,
    )  # fmt: skip
    assert (config.retry.on, config.run.as_options()) == ([Outcome.FAILED], RunOptions())


def test_flags_beat_the_environment_and_the_environment_beats_the_file(tmp_path: Path) -> None:
    """For each key alone."""
    toml = GOOD + "[limits]\nstart_rate = 1\nmax_concurrent_runs = 1\ndrain_s = 1\n"
    environ = {"BATCHRUN_LIMITS__START_RATE": "2", "BATCHRUN_LIMITS__MAX_CONCURRENT_RUNS": "2", "BATCHRUN_DEBUG": "1"}
    limits = load(tmp_path, toml, environ=environ, limits__start_rate=3.0).limits
    assert (limits.start_rate, limits.max_concurrent_runs, limits.drain_s) == (3.0, 2, 1.0)


def test_a_misspelt_variable_is_an_error(tmp_path: Path) -> None:
    """One underscore instead of two names no key, and is not ignored."""
    with pytest.raises(ConfigError, match="limits_start_rate: is not a known key"):
        load(tmp_path, environ={"BATCHRUN_LIMITS_START_RATE": "2"})


def test_the_environment_may_hold_any_toml_value(tmp_path: Path) -> None:
    """Lists, booleans, and text that needs no quotes."""
    environ = {
        "BATCHRUN_OUTPUT__FIELDS": '["a", "b"]',
        "BATCHRUN_OUTPUT__VALUE": "true",
        "BATCHRUN_JOBS__MERGE": "deep",
        "BATCHRUN_RUN__MEMORY_MB": "256",
    }
    config = load(tmp_path, environ=environ)
    assert (config.output.fields, config.output.value, config.jobs.merge, config.run.memory_mb) == (
        ["a", "b"], True, "deep", 256,
    )  # fmt: skip


def test_paths_of_a_file_are_relative_to_it_and_others_to_the_current_directory(tmp_path: Path) -> None:
    """Absolute paths and stdin are left as they are."""
    toml = (
        '[task]\nid="t"\n[jobs]\nfile="../jobs.csv"\n[output]\ndir="out"\n[api]\ntoken_file="/etc/token"\n'
        '[server]\nactors=["a", "/b"]\n'
    )
    config = load(tmp_path, toml)
    assert (config.jobs.file, config.out_dir) == (tmp_path / "../jobs.csv", tmp_path / "out")
    assert (config.api.token_file, config.server.actors) == (Path("/etc/token"), [tmp_path / "a", Path("/b")])
    flagged = load(tmp_path, toml, output__dir="here", environ={"BATCHRUN_JOBS__FILE": "-"})
    assert (flagged.out_dir, flagged.jobs.file) == (Path("here"), Path("-"))


@pytest.mark.parametrize(
    ("file", "out"),
    [("shop.csv", "shop.out"), ("shop.jsonl.gz", "shop.out"), ("-", "stdin.out"), (".jsonl", "batch.out")],
)
def test_without_a_file_the_output_is_named_after_the_jobs(file: str, out: str) -> None:
    """In the current directory."""
    config = load_config(flags={"task.id": "t", "jobs.file": file}, environ={})
    assert config.out_dir == Path(out)


def test_a_batch_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Windows editors write one."""
    (tmp_path / "b.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_config(tmp_path / "b.toml", environ={}).task.id == "user~task"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[limits]\nstart_rte = 5", "limits.start_rte: is not a known key; did you mean limits.start_rate?"),
        ("[limit]\nstart_rate = 5", "limit: is not a known key; did you mean [limits]?"),
        ("colour = 1", "colour: is not a known key"),
        ("[run.deep]\nkey = 1", "run.deep: is not a known key"),
        ("[template]\nurl = 'x'", "template: is not a known key; did you mean [jobs.template]?"),
        ("[run]\nbudget_usd = 3", "run.budget_usd: is not a known key; did you mean limits.budget_usd?"),
        ("[limits]\nmax_concurrent_runs = 'ten'", 'limits.max_concurrent_runs: must be a whole number or "auto"'),
        ("[breaker]\nmax_failed = 'x'", 'breaker.max_failed: must be a number or "off"'),
        ("[api]\ntoken = \"secret\"", "api.token: is not a known key; did you mean api.token_file?"),
        ("[limits]\nmax_open_polls = -1", "limits.max_open_polls: the value should be greater than or equal to 1"),
        ("[limits]\nmax_open_polls = 0", "limits.max_open_polls: the value should be greater than or equal to 1"),
        (f"[retry]\nmax_attempts = {1 << 63}", f"retry.max_attempts: {AT_MOST_INT64}"),
        ("[limits]\nmax_concurrent_runs = -1", f"limits.max_concurrent_runs: {AT_LEAST_1}"),
        ("[limits]\nmax_concurrent_runs = 0", f"limits.max_concurrent_runs: {AT_LEAST_1}"),
        ("[limits]\nstart_rate = 0", "limits.start_rate: the value should be greater than or equal to 0.000001"),
        ("[limits]\nstart_rate = nan", "limits.start_rate: the value should be a finite number"),
        ("[limits]\nstart_rate = \"fast\"", "limits.start_rate: must be a number"),
        ("[limits]\nstart_rate = true", "limits.start_rate: must be a number"),
        ("[limits]\ndrain_s = -1", "limits.drain_s: the value should be greater than or equal to 0"),
        ("[retry]\nmax_attempts = 0", "retry.max_attempts: the value should be greater than or equal to 1"),
        ("[run]\nmemory_mb = 1000", "run.memory_mb: must be a power of 2, like 256, 512, 1024"),
        ("[run]\nmemory_mb = 64", "run.memory_mb: the value should be greater than or equal to 128"),
        ("[run]\nbuild = \" \"", "run.build: String should have at least 1 character"),
        ("[output]\nitems = \"all\"", 'output.items: must be "file", "inline" or "none"'),
        ("[api]\nbase_url = \"localhost:8000\"", 'api: base_url must be "embedded" or an address like https://api.apify.com'),
        ("input = 5", "input: must be a table"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_by_file_and_key(tmp_path: Path, toml: str, message: str) -> None:
    """Each problem has one line."""
    text = toml + "\n" + GOOD if not toml.startswith("[") else GOOD + toml
    assert problem(tmp_path, text) == f"FILE: {message}"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("", "FILE: task: is missing\nFILE: jobs: is missing"),
        ('[task]\nid="t"\n[jobs]\n', "FILE: jobs.file: is missing"),
        ('[task]\nid=""\n[jobs]\nfile="f"\n', "FILE: task.id: String should have at least 1 character"),
        ('[task]\n[jobs]\nfile="f"\n', "FILE: task: needs either id, or actor and name"),
        ('[task]\nid="t"\nactor="a"\n[jobs]\nfile="f"\n', "FILE: task: needs either id, or actor and name"),
        ('[task]\nactor="a"\n[jobs]\nfile="f"\n', "FILE: task: needs either id, or actor and name"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, toml: str, message: str) -> None:
    """All missing keys are named at once."""
    assert problem(tmp_path, toml) == message


def test_every_bad_key_is_named_at_once(tmp_path: Path) -> None:
    """All errors of a file are reported by one call."""
    text = problem(tmp_path, GOOD + "[limits]\nstart_rate = 0\ncolour = 1\n[retry]\non = ['lucky']\n")
    assert [line.split(": ")[1] for line in text.splitlines()] == ["limits.start_rate", "limits.colour", "retry.on"]


@pytest.mark.parametrize(
    ("toml", "key", "message"),
    [
        ("[retry]\non = ['failed', 'empty']", "retry.on",
         "has no effect: no Run is empty unless output.expect_items_min is set; set it, or leave this key out"),
        ("[retry.malformed]\nmax_attempts = 3\n[output]\nexpect_items_min = 1", "retry.malformed",
         "has no effect: no Run is malformed unless output.expect_item_schema is set; set it, or leave this key out"),
        ("[deadlines]\non_quiet = 'abort'", "deadlines.on_quiet",
         "has no effect unless deadlines.quiet_s is set; set it, or leave this key out"),
        ("[breaker]\nmax_failed = 51", "breaker.max_failed",
         "has no effect: it exceeds breaker.window; set the window to 51 or more, or this to 50 or less"),
        ("[breaker]\nempty_in_a_row = 5\n[output]\nitems = 'none'", "breaker.empty_in_a_row",
         'has no effect while output.items is "none": items are not counted; change it, or leave this key out'),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_refused(tmp_path: Path, toml: str, key: str, message: str) -> None:
    """Its author expects an effect that cannot happen."""
    assert problem(tmp_path, GOOD + toml) == f"FILE: {key}: {message}"


@pytest.mark.parametrize(
    "toml",
    [
        "[output]\nitems = 'none'",
        "[output]\nitems = 'none'\n[breaker]\nempty_in_a_row = 'off'",
        "[retry]\non = ['empty']\n[output]\nexpect_items_min = 1",
        "[breaker]\nmax_failed = 50",
        "[breaker]\nwindow = 10",
        "[deadlines]\non_quiet = 'abort'\nquiet_s = 60",
    ],
)
def test_a_default_without_effect_is_no_error(tmp_path: Path, toml: str) -> None:
    """Only keys that were set are checked."""
    load(tmp_path, GOOD + toml)


def test_errors_of_flags_and_environment_do_not_name_the_file(tmp_path: Path) -> None:
    """They name the key alone."""
    too_low = "limits.start_rate: the value should be greater than or equal to 0.000001"
    assert problem(tmp_path, GOOD, limits__start_rate=-1.0) == too_low
    environ = {"BATCHRUN_LIMITS__COLOUR": "1"}
    assert problem(tmp_path, GOOD, environ=environ) == "limits.colour: is not a known key"
    assert problem(tmp_path, "limits = 5\n" + GOOD, limits__start_rate=1.0) == "limits.start_rate: is not a section"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[task\nid = 1", "is not valid TOML: "),
        (b"\xff\xfe\x00binary", "is not a TOML file (not UTF-8 text)"),
        (b"\x00\x01\x02", "is not valid TOML: "),
        (None, "there is no such file; to write one for a job file: batchrun init "),
    ],
)
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    """The message says what is wrong; there is no traceback."""
    file = tmp_path / "b.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_config(file, environ={})
    assert str(error.value).startswith(f"{file}: {message}")


def test_a_directory_as_a_batch_file_is_refused(tmp_path: Path) -> None:
    """And it is said what to give."""
    with pytest.raises(ConfigError, match="is a directory; give the batch's TOML file"):
        load_config(tmp_path, environ={})


@pytest.mark.parametrize("key", ["start_rate", "request_rate", "start_horizon_s", "listing_lag_s"])
def test_infinity_is_no_rate_and_no_length_of_time(tmp_path: Path, key: str) -> None:
    """TOML has inf; no rate or wait can be computed from it."""
    assert f"limits.{key}: " in problem(tmp_path, GOOD + f"[limits]\n{key} = inf\n")


@pytest.mark.parametrize("toml", ['"a.b" = 1\n' + GOOD, GOOD + '[limits]\n"a.b" = 1\n'])
def test_a_quoted_key_with_a_dot_is_an_unknown_key(tmp_path: Path, toml: str) -> None:
    """There is no traceback."""
    assert "is not a known key" in problem(tmp_path, toml)


def test_the_token_comes_from_the_environment_before_its_file(tmp_path: Path) -> None:
    """Without one in the environment it comes from the file; white space around it is removed."""
    (tmp_path / "token").write_text(f"  {TOKEN}-file\n")
    api = load(tmp_path, GOOD + '[api]\ntoken_file = "token"\n').api
    tokens = [read_token(api, environ) for environ in ({"APIFY_TOKEN": f" {TOKEN}\n"}, {}, {"APIFY_TOKEN": " "})]
    assert [token and token.get_secret_value() for token in tokens] == [TOKEN, f"{TOKEN}-file", f"{TOKEN}-file"]


def test_a_missing_token_is_named_with_how_to_give_one(tmp_path: Path) -> None:
    """So is an empty file; on this machine it may be missing."""
    (tmp_path / "token").write_text("\n")
    for toml, begin in [(GOOD, "https://"), (GOOD + '[api]\ntoken_file = "token"\n', f"{tmp_path / 'token'} is empty")]:
        with pytest.raises(ConfigError, match="export APIFY_TOKEN=") as missing:
            read_token(load(tmp_path, toml).api, {})
        assert str(missing.value).startswith(begin)
    assert read_token(load(tmp_path, api__base_url="http://127.0.0.1:3333").api, {}) is None


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("products.csv", "batchrun init products.csv --task"),
        ("my jobs.jsonl.gz", "batchrun init 'my jobs.jsonl.gz' --task"),
        ("products.xlsx", "save it as CSV, then write one for it: batchrun init products.csv --task"),
    ],
)
def test_a_job_file_in_place_of_a_batch_file_is_recognised(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the command that writes a batch file for it; of a file that is not there it says just that."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no such file"):
        load_config(name, environ={})
    Path(name).touch()
    with pytest.raises(ConfigError, match="is a job file, not a batch file") as error:
        load_config(name, environ={})
    assert command in str(error.value)


def test_an_actor_in_place_of_a_batch_file_is_recognised(tmp_path: Path) -> None:
    """The message has the command that runs it."""
    (tmp_path / ".actor").mkdir()
    with pytest.raises(ConfigError, match=f"is an Actor; run it with --actors {tmp_path} --jobs FILE"):
        load_config(tmp_path, environ={})


@pytest.mark.parametrize("name", ["ab", "a" * 64, "-shop", "shop-", "my shop", "laden_ä"])
def test_a_name_that_the_platform_does_not_take_is_refused_by_plan_too(name: str) -> None:
    """The rule of the platform, before anything is asked of it."""
    with pytest.raises(ConfigError, match=r"task\.name: must be 3 to 63 letters, digits and hyphens"):
        load_config(flags={"task.actor": "a/b", "task.name": name, "jobs.file": "jobs.jsonl"}, environ={})


def test_a_token_never_shows(tmp_path: Path) -> None:
    """Not in a repr, nor in the error about a malformed token, nor in the error about a token in the wrong key."""
    token = read_token(load(tmp_path).api, {"APIFY_TOKEN": TOKEN})
    with pytest.raises(ConfigError) as broken:
        read_token(load(tmp_path).api, {"APIFY_TOKEN": f"{TOKEN} {TOKEN}"})
    shown = [repr(token), str(token), str(broken.value), problem(tmp_path, GOOD + f'[api]\ntoken = "{TOKEN}"\n')]
    assert [text for text in shown if "SECRET" in text] == []
    assert "the token in APIFY_TOKEN holds characters that no token has" in shown[2]


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_token_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    """The message has its file and key."""
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_token(load(tmp_path, GOOD + '[api]\ntoken_file = "token"\n').api, {})
    assert str(error.value).startswith(f"{tmp_path / 'token'}: api.token_file: cannot be read: ")


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("limits.start_rate=5", ("limits.start_rate", 5)),
        ("a.b = 1.5", ("a.b", 1.5)),
        ("a.b=true", ("a.b", True)),
        ("a.b=text", ("a.b", "text")),
        ('a.b="5"', ("a.b", "5")),
        ("a.b=x=y", ("a.b", "x=y")),
        ("a.b=", ("a.b", "")),
        ("a.b=[1, 2]", ("a.b", [1, 2])),
    ],
)
def test_a_setting_is_a_key_and_a_value(text: str, setting: tuple[str, Any]) -> None:
    """The value is read as TOML if it is valid TOML, else as text."""
    assert parse_setting(text) == setting


@pytest.mark.parametrize("text", ["limits.start_rate", "=5", ""])
def test_a_malformed_setting_is_refused(text: str) -> None:
    """The message says how to write it."""
    with pytest.raises(ConfigError, match=r"write it as section\.key=value"):
        parse_setting(text)


def test_without_a_batch_the_platform_comes_from_flag_or_environment() -> None:
    """The flag wins."""
    environ = {"BATCHRUN_API__BASE_URL": "http://127.0.0.1:1"}
    assert [load_api(url, environ=environ).base_url for url in (None, "http://x")] == ["http://127.0.0.1:1", "http://x"]
    with pytest.raises(ConfigError, match="base_url must be"):
        load_api("nowhere", environ={})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("api.base_url", "https://me:SECRET@api.example"),
        ("api.base_url", "https://api.example?token=SECRET"),
        ("api.base_url", "https://api.example#SECRET"),
        ("api.token_file", "apify_api_SECRETSECRETSECRETSECRET"),
        ("notify.url_file", "https://hooks.example/SECRET"),
        ("notify.signing_key_file", "whsec_SECRETSECRETSECRETSECRET"),
    ],
)
def test_a_secret_in_the_place_of_an_address_or_a_file_is_refused_and_not_shown(
    tmp_path: Path, key: str, value: str
) -> None:
    """The log of a continuous integration has the message; ledgers and reports have addresses."""
    section, name = key.split(".")
    with pytest.raises(ConfigError, match=r"put it into one|token goes into APIFY_TOKEN") as refused:
        load(tmp_path, f'{GOOD}[{section}]\n{name} = "{value}"\n')
    assert "SECRET" not in str(refused.value)


def test_a_file_may_be_named_after_what_it_holds(tmp_path: Path) -> None:
    """A short name is no token."""
    for named in ("apify_api_token.txt", "whsec_key", "http"):
        config = load(tmp_path, f'{GOOD}[api]\ntoken_file = "{named}"\n')
        assert config.api.token_file == tmp_path / named


def test_without_a_batch_a_token_file_can_be_named_too() -> None:
    """The environment's path is a path."""
    assert load_api(None, environ={"BATCHRUN_API__TOKEN_FILE": "/x"}).token_file == Path("/x")


@pytest.mark.parametrize(
    ("url", "is_loopback"),
    [
        ("embedded", True),
        ("http://localhost:8000", True),
        ("http://127.0.0.1", True),
        ("http://[::1]:1", True),
        ("https://api.apify.com", False),
        ("https://localhost.evil.com", False),
    ],
)
def test_runs_on_this_machine_cost_nothing(url: str, is_loopback: bool) -> None:
    """Only addresses of this machine count as such."""
    assert load_api(url, environ={}).is_loopback is is_loopback


def test_options_of_all_runs_reach_the_engine(tmp_path: Path) -> None:
    """Webhooks included."""
    toml = GOOD + '[run]\nbuild = "beta"\ntimeout_s = 0\n[[run.webhooks]]\nrequestUrl = "https://x"\n'
    assert load(tmp_path, toml).run.as_options() == RunOptions(
        build="beta", timeout_s=0, webhooks=({"requestUrl": "https://x"},)
    )


def test_a_configuration_does_not_change(tmp_path: Path) -> None:
    """Frozen, all the way down its sections."""
    config = load(tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        setattr(config.limits, "start_rate", 5.0)  # noqa: B010 - what mypy knows, pydantic must know too


def test_the_real_environment_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read by each call, not when the module is imported."""
    monkeypatch.setitem(os.environ, "BATCHRUN_LIMITS__START_RATE", "7")
    (tmp_path / "b.toml").write_text(GOOD)
    assert load_config(tmp_path / "b.toml").limits.start_rate == 7.0


@pytest.mark.parametrize("given", ["input = { a = 1 }", "options = { memory_mb = 256 }"])
def test_a_description_beside_an_id_is_refused(tmp_path: Path, given: str) -> None:
    """It would be passed over: the task has its own input and options already."""
    with pytest.raises(ConfigError, match=r"task: input and options describe a new task; beside id, write \[input\]"):
        load(tmp_path, f'[task]\nid="t"\n{given}\n[jobs]\nfile="jobs.csv"\n')
