"""The configuration of a submission: it writes and reads in its own directory only, whatever is submitted."""

from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from batchrun.config import ApiConfig, Config
from batchrun.config.batch_config import PATHS
from batchrun.config.job_format_builder import job_format
from batchrun.config.notify_settings import NotifyConfig
from batchrun.config.text_bounds import parse_json
from batchrun.config.worker_config import WorkerConfig
from batchrun.errors import ConfigError
from batchrun.worker.data_directory import DataDirectory
from batchrun.worker.submission import Submission
from batchrun.worker.submission_config import config_of, profile_file

TASK = '[task]\nid = "abc"\n'


@pytest.fixture
def directory(tmp_path: Path) -> DataDirectory:
    """A worker's data directory, with a profile of its operator."""
    directory = DataDirectory(tmp_path / "data")
    directory.make()
    directory.of("one").mkdir()
    (directory.profiles / "shop.toml").write_text(
        f'{TASK}[jobs]\nfile = "x"\n[output]\nexpect_item_schema = "shop.json"\n'
    )
    return directory


def read(
    directory: DataDirectory,
    text: str = "",
    *,
    environ: dict[str, str] | None = None,
    worker: WorkerConfig | None = None,
    **fields: Any,
) -> Config:
    """Return the configuration of a submission over HTTP, or from the spool if `spooled` is given."""
    if "spooled" in fields:
        (directory.spool / fields["spooled"]).write_text(TASK + text)
    elif "profile" not in fields:
        (directory.of("one") / "batch.toml").write_text(TASK + text)
        fields["batch_file"] = "batch.toml"
    submission = Submission(id="one", name="one", created_at=datetime.now(UTC), **fields)
    return config_of(submission, directory, worker or WorkerConfig(), environ or {})


def test_the_environment_of_a_worker_sets_its_own_tables_only(directory: DataDirectory) -> None:
    """A service unit names the token file in the environment, `worker.toml` the platform: both are the worker's."""
    api = ApiConfig(base_url="http://127.0.0.1:3333", token_file=Path("/run/token"))
    environ = {"BATCHRUN_API__TOKEN_FILE": "/run/token", "BATCHRUN_LIMITS__DRAIN_S": "7"}
    config = read(directory, environ=environ, worker=WorkerConfig(api=api), profile="shop")
    assert (config.api, config.limits.drain_s) == (api, 7.0)


@pytest.mark.parametrize("asked_mb", [8, 2048])
def test_a_submission_has_little_memory_for_its_compressed_file(directory: DataDirectory, asked_mb: int) -> None:
    """A file of 100 KB may need 2 GB, in each plan and each open batch."""
    config = read(directory, settings={"jobs.max_window_mb": asked_mb}, jobs_file="jobs.jsonl.zst")
    assert job_format(config).max_window_bytes == 8 << 20


def test_every_path_of_a_configuration_is_among_the_checked_keys() -> None:
    """A path that stands deeper than in a section would be missed."""

    def walk(model: type[BaseModel], above: str) -> set[str]:
        found: set[str] = set()
        for name, field in model.model_fields.items():
            for each in _all_args(field.annotation):
                if each is Path:
                    found.add(f"{above}{name}")
                elif isinstance(each, type) and issubclass(each, BaseModel):
                    found |= walk(each, f"{above}{name}.")
        return found

    assert walk(Config, "") == set(PATHS)
    assert walk(WorkerConfig, "") <= set(PATHS)


def _all_args(annotation: Any) -> list[Any]:
    return [annotation, *(deeper for each in get_args(annotation) for deeper in _all_args(each))]


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ('[jobs]\nfile = "/etc/hosts.json"\n', {}),
        ('[jobs]\nfile = "../two/jobs.jsonl"\n', {}),
        ('[jobs]\nfile = "link"\n', {}),
        ('[jobs]\nfile = "-"\n', {}),
        ('[jobs]\nfile = "a\\u0000b"\n', {}),
        ("", {"jobs.file": "/etc/hosts.json"}),
        ("", {"jobs": {"file": "/etc/hosts.json"}}),
        ('[jobs]\nfile = "jobs.jsonl"\n[output]\nexpect_item_schema = "/etc/item.json"\n', {}),
        ('[jobs]\nfile = "jobs.jsonl"\n', {"output.expect_item_schema": "/etc/item.json"}),
        ('[jobs]\nfile = "jobs.jsonl"\n', {"output": {"expect_item_schema": "/etc/item.json"}}),
    ],
)
def test_a_path_outside_the_batch_s_directory_is_refused_with_the_way_to_send_the_file(
    directory: DataDirectory, text: str, settings: dict[str, Any]
) -> None:
    """In the batch file or among the settings, by name, up and down again, or over a link."""
    (directory.of("one") / "link").symlink_to("/etc/hosts.json")
    with pytest.raises(ConfigError, match=r"is not a file of this batch; send it as the form field (jobs|schema)"):
        read(directory, text, settings=settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"output.dir": "/etc"},
        {"output": {"dir": "/etc"}},
        {"output.dir": "", "output": {"dir": "/etc"}, "jobs.file": "", "jobs": {"file": "/etc/hosts"}},
    ],
)
def test_the_batch_s_own_paths_cannot_be_moved(directory: DataDirectory, settings: dict[str, Any]) -> None:
    """By a key, a table, or a key before a table; other keys of that table hold, and the settings stay as they were."""
    settings = {**settings, "output.value": True}
    before = repr(settings)
    config = read(
        directory,
        '[output]\ndir = "/etc"\nexpect_item_schema = "/etc/item.json"\n',
        settings=settings,
        jobs_file="jobs.csv",
        schema_file="item.schema.json",
    )
    own = directory.of("one")
    assert config.out_dir == own / "out"
    assert config.jobs.file == own / "jobs.csv"
    assert config.output.expect_item_schema == own / "item.schema.json"
    assert config.output.value
    assert repr(settings) == before


def test_settings_that_were_accepted_can_be_read_again(directory: DataDirectory) -> None:
    """After a restart, from the stored submission; also the deepest ones."""
    settings = parse_json('{"input":' + '{"a":' * 63 + "1" + "}" * 64)
    submission = Submission(id="one", name="one", created_at=datetime.now(UTC), settings=settings)
    assert Submission.model_validate_json(submission.model_dump_json()) == submission
    with pytest.raises(ValueError, match="nests more than 64"):
        parse_json('{"input":' + '{"a":' * 64 + "1" + "}" * 65)


def test_a_file_of_many_unknown_keys_is_refused_in_few_words(directory: DataDirectory) -> None:
    """The first twenty are named."""
    with pytest.raises(ConfigError) as refused:
        read(directory, "".join(f"a{n} = 1\n" for n in range(1000)), jobs_file="jobs.csv")
    assert str(refused.value).count("is not a known key") == 20


def test_a_spooled_batch_file_names_files_of_the_spool_only(directory: DataDirectory, tmp_path: Path) -> None:
    """Otherwise it is refused with the next step."""
    config = read(directory, '[jobs]\nfile = "a.jsonl"\n', spooled=PurePosixPath("a.toml"))
    assert (config.jobs.file, config.out_dir) == (directory.spool / "a.jsonl", directory.spool / "a.out")
    for elsewhere in (tmp_path / "jobs.jsonl", "../profiles/shop.toml"):
        with pytest.raises(
            ConfigError, match=r"jobs\.file: .* is outside the spool; move it beside the batch file, or"
        ):
            read(directory, f'[jobs]\nfile = "{elsewhere}"\n', spooled=PurePosixPath("a.toml"))


def test_a_profile_that_cannot_be_followed_is_refused(directory: DataDirectory) -> None:
    """As one that is a link into a home which is closed to the worker."""
    (directory.profiles / "linked.toml").symlink_to("a" * 300)
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        profile_file(directory, "linked")


def test_the_operator_s_profile_and_environment_may_name_any_file(directory: DataDirectory) -> None:
    """A submission under the profile may not: it names one of its own."""
    config = read(directory, profile="shop", jobs_file="jobs.csv")
    assert config.output.expect_item_schema == directory.profiles / "shop.json"
    environ = {"BATCHRUN_OUTPUT__EXPECT_ITEM_SCHEMA": "/srv/item.json"}
    config = read(directory, '[jobs]\nfile = "jobs.jsonl"\n', environ=environ)
    assert config.output.expect_item_schema == Path("/srv/item.json")
    with pytest.raises(ConfigError, match="is not a file of this batch"):
        read(directory, profile="shop", jobs_file="jobs.csv", settings={"output.expect_item_schema": "/srv/item.json"})


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ('[api]\nbase_url = "http://elsewhere.example"\n', {}),
        ("", {"api.base_url": "http://elsewhere.example"}),
        ("", {"api": {"base_url": "http://elsewhere.example"}}),
        ("", {"api.token_file": "/etc/passwd"}),
        ("", {"server.actors": ["/tmp"]}),
    ],
)
def test_a_submission_names_no_other_platform(directory: DataDirectory, text: str, settings: dict[str, Any]) -> None:
    """It would get the token of the worker's account."""
    with pytest.raises(ConfigError, match="belongs to the worker"):
        read(directory, f'{text}[jobs]\nfile = "jobs.jsonl"\n', settings=settings)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ('[notify]\ncommand = ["sh", "-c", "id"]\n', {}),
        ('[notify]\nurl_file = "batch.toml"\n', {}),
        ("", {"notify.command": ["id"]}),
        ("", {"notify": {"url_file": "/run/secrets/token"}}),
    ],
)
def test_a_submission_cannot_name_who_is_notified(
    directory: DataDirectory, text: str, settings: dict[str, Any]
) -> None:
    """It could run a program on the worker's machine, call an address inside its network, or send a secret file."""
    with pytest.raises(ConfigError, match="belongs to the worker: it notifies people of all its batches"):
        read(directory, f'[jobs]\nfile = "jobs.jsonl"\n{text}', settings=settings)
    assert read(directory, '[jobs]\nfile = "jobs.jsonl"\n[notify]\n').notify == NotifyConfig()
