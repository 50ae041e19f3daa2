"""What every command leaves behind is for its user only, whatever the umask, also where it was open before."""

import os
import re
import sqlite3
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import anyio
import pytest

import batchrun as batchrun_package
from batchrun.account.connect import open_platform
from batchrun.apify.client import ApifyClient
from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.main import _explain
from batchrun.config import ApiConfig, read_token
from batchrun.config.server_settings import ServerConfig
from batchrun.config.text_bounds import read_bounded
from batchrun.config.worker_config import load_worker_config
from batchrun.errors import BatchrunError, ConfigError, LedgerError, OutputError
from batchrun.ledger.sqlite.connection import Connection, is_blank
from batchrun.ledger.sqlite.start_log import read_start_log
from batchrun.ledger.sqlite.tables import open_ledger
from batchrun.model import RunId
from batchrun.notify.notification import Notification
from batchrun.notify.notify_secrets import read_notify_secrets
from batchrun.notify.outbox import Outbox
from batchrun.output.atomic_write import replace_text
from batchrun.output.kept_logs import KeptLogs
from batchrun.output.layout import (
    ITEMS,
    JOB_FILE,
    LEDGER,
    LOCK,
    NAMES,
    OUTBOX,
    OWN_CONFIG,
    RECORDS,
    RUN_LOGS,
    SERVER_STATE,
    STARTS,
)
from batchrun.output.lock import holder, locked
from batchrun.output.sink import Sink
from batchrun.runtime.private_files import close_to_others, make_private_directory, others_can_read, private_opener
from batchrun.server import open_server
from batchrun.server.accounts.account_book import with_tokens
from batchrun.server.settings import ServerSettings
from batchrun.worker.data_directory import DataDirectory
from batchrun.worker.submission_config import profile_file
from batchrun.worker.token_file import read_or_make_token
from tests.support.api_process import ACTOR, TOKEN
from tests.support.command_line import batchrun, serving
from tests.support.crash import open_api, wait_until
from tests.support.json_lines import to_lines
from tests.support.worker_process import WorkerProcess

#: What users put into a worker's directory; the directories are closed to others, so these are too.
USERS = {".gitignore", "worker.toml", "stderr.txt", "shop.jsonl", "wrong.jsonl", "shop.toml", "wrong.toml"}
BATCH = f'''
[task]
actor = "{ACTOR}"
name = "shop"
options = {{ memory_mb = 128 }}
[jobs]
file = "jobs.jsonl"
on_bad_line = "record"
[retry]
max_attempts = 1
[output]
dir = "results/out"
logs = true
'''


def _open_to_others(directory: Path) -> dict[str, str]:
    """Return the mode of each file and directory that others have any right to, the directory itself included."""
    found = {each: stat.S_IMODE(each.lstat().st_mode) for each in (directory, *directory.rglob("*"))}
    return {str(each.relative_to(directory)): oct(mode) for each, mode in found.items() if mode & 0o077}


def _open_all(directory: Path) -> None:
    """Give everything the modes that an earlier version left."""
    for each in (directory, *directory.rglob("*")):
        each.chmod(0o775 if each.is_dir() else 0o664)


def _write_batch(directory: Path, jobs: Sequence[Any]) -> None:
    (directory / "jobs.jsonl").write_bytes(to_lines(jobs))
    (directory / "shop.toml").write_text(BATCH)


def test_a_batch_is_for_its_user_only(tmp_path):
    """What run, retry, report and repair write; each closes what an earlier version left open."""
    _write_batch(tmp_path, [{"n": 1}, {"n": 2, "fails": True, "log_bytes": 9}, {"n": 1}, 3])
    out = tmp_path / "results/out"
    with open_api(tmp_path / "api") as api:

        def call(*command: str) -> None:
            said = batchrun(*command, cwd=tmp_path, environ={"APIFY_TOKEN": TOKEN})
            assert said.code in {0, 1}, said.err
            assert _open_to_others(out) == {}, command
            files = [each.read_bytes() for each in out.rglob("*") if each.is_file()]
            assert not any(TOKEN.encode() in each for each in (*files, said.out.encode(), said.err.encode()))

        call("run", "shop.toml", "--api-url", api.base_url)
        call("report", "results/out")
        assert {each.name for each in out.iterdir()} >= set(NAMES) - {SERVER_STATE, OWN_CONFIG, JOB_FILE, OUTBOX}
        _open_all(out)
        call("retry", "results/out", "--yes")
        _open_all(out)
        (out / ITEMS).unlink()
        (out / LEDGER).write_bytes(b"damaged")
        call("repair", "results/out")
        assert list(out.glob(f"{LEDGER}.damaged-*")), "the ledger was rebuilt"
        assert _open_to_others(tmp_path / "api") == {}


def test_a_report_that_a_person_wants_elsewhere_has_the_modes_that_he_wants(tmp_path):
    """Those that his umask leaves, as any program's files."""
    _write_batch(tmp_path, [{"n": 1}])
    with open_api(tmp_path / "api") as api:
        batchrun("run", "shop.toml", "--api-url", api.base_url, cwd=tmp_path, environ={"APIFY_TOKEN": TOKEN})
    assert batchrun("report", "results/out", "--out", "shown.html", cwd=tmp_path).code == 0
    assert (tmp_path / "shown.html").stat().st_mode == (tmp_path / "shop.toml").stat().st_mode


def test_a_worker_is_for_its_user_only(tmp_path):
    """Its log, submissions and the batches of its spool, killed and started again; also what was open before."""
    with open_api(tmp_path / "api") as api:
        worker = WorkerProcess(tmp_path / "data", api.base_url)
        with worker.running():
            worker.put_batch("shop", [{"n": 1}])
            worker.put_batch("wrong", [{"n": 1}], "unknown = 1\n")
            worker.wait_for_end("shop")
            wait_until((worker.data_dir / "spool/failed/wrong.toml.txt").exists)
            _write_batch(tmp_path, [{"n": 3}])
            submitted = batchrun("worker", "submit", "shop.toml", "--data", "data", "--wait", cwd=tmp_path)
            assert submitted.code == 0, submitted.err
            assert worker.ask("/")[0] == 200
            assert {Path(each).name for each in _open_to_others(worker.data_dir)} <= USERS
        assert {Path(each).name for each in _open_to_others(worker.data_dir)} <= USERS
        _open_all(worker.data_dir)
        with worker.running():
            found = _open_to_others(worker.data_dir)
            assert {each for each in found if not each.startswith("spool/")} <= USERS
            assert _open_to_others(worker.data_dir / "spool").get(".") is None


def test_what_a_batch_carries_along_and_serve_are_for_their_user_only(tmp_path):
    """The state of an embedded server, with an Actor that has run, and that of `batchrun serve`."""
    (tmp_path / "jobs.jsonl").write_text("{}\n")
    batch = (
        '[api]\nbase_url = "embedded"\n[task]\nactor = "apify/hello-world"\nname = "hello"\n[jobs]\nfile = "jobs.jsonl"'
    )
    (tmp_path / "hello.toml").write_text(batch)
    said = batchrun("run", "hello.toml", "--out", "out", cwd=tmp_path)
    assert said.code == 0, said.err
    assert (tmp_path / "out" / SERVER_STATE).is_dir()
    assert _open_to_others(tmp_path / "out") == {}
    with serving(tmp_path / "state", TOKEN):
        assert _open_to_others(tmp_path / "state") == {}
    assert _open_to_others(tmp_path / "state") == {}


@pytest.mark.parametrize("name", [LOCK, RECORDS, LEDGER])
def test_no_symbolic_link_is_followed_out_of_an_output_directory(tmp_path, name):
    """Who puts it there would choose which file is written, emptied or closed to others."""
    _write_batch(tmp_path, [{"n": 1}])
    aim = tmp_path / "precious"
    aim.touch()
    (tmp_path / "results/out").mkdir(parents=True)
    (tmp_path / "results/out" / name).symlink_to(aim)
    before = aim.stat().st_mode
    url = "http://127.0.0.1:1"
    said = batchrun("run", "shop.toml", "--api-url", url, cwd=tmp_path, environ={"APIFY_TOKEN": TOKEN})
    assert said.code == 6, said.err
    assert f"{name}: it is a symbolic link" in said.err
    assert (aim.read_text(), aim.stat().st_mode) == ("", before)


def test_no_link_that_comes_while_a_batch_runs_leads_its_files_elsewhere(tmp_path):
    """Root may work in a directory of another user, who would have one of root's closed, and a file put into it."""
    aim, out = tmp_path / "of-root", tmp_path / "out"
    aim.mkdir(mode=0o755)
    out.mkdir()
    with locked(out):
        for name in (RUN_LOGS, OUTBOX):
            (out / name).symlink_to(aim)
        with pytest.raises(OSError, match=r"it is a symbolic link.*: 'logs'"):
            KeptLogs(out).write(RunId("a"), b"lines of an Actor", ())
        with pytest.raises(OutputError, match="outbox: it is a symbolic link"):
            Outbox(out / OUTBOX).put(Notification(id="a", event="test", text="any"))
        (out / SERVER_STATE).symlink_to(aim)
        with pytest.raises(OSError, match="it is a symbolic link"):
            make_private_directory(out / SERVER_STATE, follows_link=False)
    assert (oct(aim.stat().st_mode), [*aim.iterdir()]) == ("0o40755", [])


async def test_git_leaves_out_directories_with_tokens(tmp_path, blockbuster):
    """A person's `git add .` takes what is his: configuration, and what else he keeps there."""
    blockbuster.deactivate()
    for name in ("his/source.py", "worker/worker.toml", "worker/profiles/shop.toml", "earlier/token", "state/token"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked/.gitignore").write_text("token\n")
    for name in ("his", "worker", "earlier", "asked", "new"):
        DataDirectory(tmp_path / name).make()
        (tmp_path / name / "token").touch()
        (tmp_path / name / "batches/inputs").touch()
    for name in (".batchrun", "state"):
        async with open_server(ServerSettings(data_dir=tmp_path / name)):
            pass
    git = ("git", "-C", str(tmp_path))
    await anyio.run_process([*git, "init", "-q"])
    await anyio.run_process([*git, "add", "."])
    found = (await anyio.run_process([*git, "ls-files"])).stdout.decode().split()
    assert [each for each in found if not each.startswith("asked")] == [
        "his/source.py",
        "worker/profiles/shop.toml",
        "worker/worker.toml",
    ]
    assert (tmp_path / "asked/.gitignore").read_text() == "token\n"


def test_nothing_is_written_to_a_directory_that_is_put_in_the_place_of_a_locked_one(tmp_path):
    """Its owner can exchange it for a link while root works there: files, and the modes of directories, are safe."""
    out, victim = tmp_path / "out", tmp_path / "victim"
    for each in (out / "server", victim / "server"):
        each.mkdir(parents=True, mode=0o755)
    (victim / "batch.log").write_text("old\n")
    with locked(out):
        with open(out / "server" / "kept", "x", opener=private_opener):
            pass
        out.rename(tmp_path / "moved")
        out.symlink_to(victim)
        for name in ("batch.log", "new", "server/token"):
            with pytest.raises(OSError, match="another directory was put in its place"):
                os.close(private_opener(str(out / name), os.O_WRONLY | os.O_CREAT))
        with pytest.raises(OSError, match="another directory was put in its place"):
            make_private_directory(out / "server")
        with pytest.raises(OutputError, match="another directory was put in its place"):
            replace_text(out / "report.html", "")
    assert {str(each.relative_to(victim)) for each in victim.rglob("*")} == {"batch.log", "server"}
    assert (stat.S_IMODE((victim / "server").stat().st_mode), (victim / "batch.log").read_text()) == (0o755, "old\n")


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that all users reach, unlike those of pytest."""
    with TemporaryDirectory(dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@pytest.mark.parametrize("arguments", [("run", "b.toml"), ("worker", "start"), ("serve", "--token-file", "a token")])
def test_a_token_that_other_users_can_read_is_warned_of(open_directory, arguments):
    """With the command that closes its file; then there is no word of it. All end at once, as it is no token."""
    file = open_directory / "a token"
    file.write_text("no token")
    file.chmod(0o644)
    (open_directory / "b.toml").write_text('[task]\nid = "a~b"\n[jobs]\nfile = "j.jsonl"\n')
    (open_directory / "j.jsonl").write_text("{}")
    (open_directory / "worker").mkdir()  # a start that would make it ends before that
    environ = {"BATCHRUN_API__TOKEN_FILE": str(file), "BATCHRUN_API__BASE_URL": "https://api.example.com"}
    said = batchrun(*arguments, cwd=open_directory, environ=environ)
    assert (said.code, said.err.count("WARNING: other users can read")) == (2, 1), said
    subprocess.run(said.err.split("`")[1], shell=True, check=True, cwd=open_directory)
    assert "WARNING" not in batchrun(*arguments, cwd=open_directory, environ=environ).err


def test_a_file_that_others_cannot_read_or_this_user_cannot_close_is_not_warned_of(open_directory):
    """In a closed directory, or another user's, as the secrets of containers are, or none that can be looked at."""
    file = open_directory / "token"
    file.write_text("")
    found = []
    for mode in (0o640, 0o604, 0o600):
        file.chmod(mode)
        found.append(others_can_read(file))
    assert found == [True, True, False]
    file.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(file, 65534, -1)
        assert not others_can_read(file)
        os.chown(file, 0, -1)
    open_directory.chmod(0o700)
    assert not any(map(others_can_read, (file, open_directory, open_directory / "none", Path("\0"))))


def test_no_configuration_is_read_from_a_directory_that_is_put_in_the_place_of_a_locked_one(tmp_path):
    """Who may write to the directory in which it stands would have a command of his run at the next SIGHUP."""
    data = DataDirectory(tmp_path / "worker")
    data.make()
    with locked(data.path):
        with pytest.raises(OutputError, match="in use by process"), locked(data.path):
            pass
        named = {"url": "https://example.com/his", "token": "apify_api_of_his"}
        files = {
            data.path / "worker.toml": "[notify]\nurl_file = 'url'\n[api]\ntoken_file = 'token'",
            **{data.path / name: text for name, text in named.items()},
            data.profiles / "shop.toml": "",
        }
        for file, text in files.items():
            file.write_text(text)
        data.path.rename(tmp_path / "moved")
        for is_empty in (True, False):
            data.profiles.mkdir(parents=True, exist_ok=True)
            for file in () if is_empty else files:
                file.write_text("https://example.com/of-another")
            config = load_worker_config(data.path, environ={})
            secrets = read_notify_secrets(config.notify, {}).url, read_token(config.api, {})
            assert [each and each.get_secret_value() for each in secrets] == list(named.values())
            assert read_bounded(profile_file(data, "shop")) == b""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="a process does not see there what it has opened")
@pytest.mark.parametrize("moment", ["open", "read"])
def test_no_ledger_is_taken_from_a_directory_that_stood_there_for_a_moment(tmp_path, monkeypatch, moment):
    """SQLite opens it by path, and its log with the first statement that reads; it says which jobs have run."""
    here, connect, exchanges = tmp_path / "out", sqlite3.connect, [1]

    @contextmanager
    def exchanging(now: str) -> Iterator[None]:
        """Put another batch's directory there meanwhile, once."""
        if now != moment or not exchanges:
            yield
            return
        exchanges.clear()
        here.rename(tmp_path / "kept")
        (tmp_path / "his").rename(here)
        yield
        here.rename(tmp_path / "his")
        (tmp_path / "kept").rename(here)

    class Exchanged(Connection):
        def execute(self, *statement: Any) -> sqlite3.Cursor:
            with exchanging("read"):
                return super().execute(*statement)

    def connect_there(*args: Any, **options: Any) -> sqlite3.Connection:
        with exchanging("open"):
            connection: sqlite3.Connection = connect(*args, **(options | {"factory": Exchanged}))
            return connection

    for name in ("out", "his"):
        (tmp_path / name).mkdir()
        with open_ledger(tmp_path / name):
            pass
    monkeypatch.setattr(sqlite3, "connect", connect_there)
    with (
        locked(here),
        pytest.raises(OutputError, match="another directory was put in its place"),
        open_ledger(here),
    ):
        pass
    assert not exchanges


def test_a_path_that_leads_out_of_a_locked_directory_is_no_part_of_it(tmp_path, monkeypatch):
    """Batches of one program may have `.` and `../b` as their directories."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with locked(Path()), locked(Path("../b")), open(Path("../b/new"), "x", opener=private_opener):
        assert (tmp_path / "b/new").exists()


async def test_an_output_directory_holds_no_token_of_its_server(tmp_path):
    """Copies are given away; a token that an earlier version kept there, or `serve`, opens no later batch's server."""

    def embedded() -> AbstractAsyncContextManager[tuple[ApifyClient, str | None]]:
        api = ApiConfig(base_url="embedded")
        return open_platform(
            api, environ={}, request_rate_per_s=9, server=ServerConfig(), server_dir=tmp_path, inline_actors={}
        )

    async with embedded() as (client, _):
        await client.get_account()
    assert [*tmp_path.glob("token*")] == []
    async with open_server(ServerSettings(data_dir=tmp_path)) as served:
        kept = served.token
    async with embedded(), aiohttp.ClientSession(headers={"Authorization": f"Bearer {kept}"}) as session:
        async with session.get(f"{served.base_url}/v2/users/me") as answer:
            assert answer.status == 401
        assert (tmp_path / "token").read_text() == f"{kept}\n", "serve makes no other one"


async def test_a_server_writes_nothing_to_a_directory_that_is_put_in_the_place_of_its_own(tmp_path, blockbuster):
    """Its log would tell of Runs, and a token that it looks for there would be another's."""
    blockbuster.deactivate()
    data = tmp_path / "data"
    async with open_server(ServerSettings(data_dir=data)):
        with pytest.raises(OutputError, match="another server uses the data directory"):
            await _open_state(data)
        data.rename(tmp_path / "kept")
        data.mkdir()
        for name in ("server.log", "token"):
            with pytest.raises(OSError, match="another directory was put in its place"):
                private_opener(str(data / name), os.O_WRONLY | os.O_CREAT)


async def test_the_server_of_a_batch_follows_no_link(tmp_path):
    """Its directory lies in the batch's; that of `serve` may be a link."""
    (tmp_path / "aim").mkdir(mode=0o755)
    (tmp_path / "server").symlink_to(tmp_path / "aim")
    with pytest.raises(OutputError, match="symbolic link"):
        async with open_platform(
            ApiConfig(base_url="embedded"),
            environ={},
            request_rate_per_s=1.0,
            server=ServerConfig(),
            server_dir=tmp_path / "server",
            inline_actors={},
        ):
            pass
    assert (oct((tmp_path / "aim").stat().st_mode), [*(tmp_path / "aim").iterdir()]) == ("0o40755", [])
    async with open_server(ServerSettings(data_dir=tmp_path / "server")):
        assert (tmp_path / "aim" / "token").exists()


def _open_database(directory: Path) -> object:
    return is_blank(directory / LEDGER)


#: What opens a file of an output directory; the others are SQLite's.
_OPENS: dict[str, Callable[[Path], object]] = {
    LOCK: holder,
    RECORDS: lambda directory: Sink(directory / RECORDS, None),
    STARTS: lambda directory: list(read_start_log(directory)),
}


@pytest.mark.parametrize("name", [LOCK, LEDGER, f"{LEDGER}-wal", RECORDS, STARTS])
def test_a_fifo_in_the_place_of_a_file_holds_nobody_up(tmp_path, name):
    """Who puts it there would stop every command that opens the file, for ever."""
    with locked(tmp_path), open_ledger(tmp_path):
        pass
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(BatchrunError, match=f"{name}: it is no regular file"):
        _OPENS.get(name, _open_database)(tmp_path)


@pytest.mark.parametrize("room", ["ledger", "maintenance", "output", "report", "worker"])
def test_what_others_may_have_put_there_is_opened_in_one_way(room):
    """As a regular file that no link leads to; texts that the package brings along are its own."""
    opens = re.compile(r'\.read_bytes\(|\.read_text\(|\.open\("|(?<!\.)\bopen\(|\bopen_file\(')
    root = Path(batchrun_package.__file__).parent
    assert [
        f"{file.relative_to(root)}: {line.strip()}"
        for file in (root / room).rglob("*.py")
        for line in file.read_text("utf-8").splitlines()
        if opens.search(line) and not re.search(r"opener=|os\.open\(|joinpath|__file__|def open\(", line)
    ] == []


def test_a_link_that_takes_a_files_place_meanwhile_changes_nothing_elsewhere(tmp_path, monkeypatch):
    """The owner of a directory in which root works chooses the moment: after the look, before the change."""
    (tmp_path / "aim").mkdir(mode=0o755)
    (tmp_path / "aim/precious").touch(0o644)
    (tmp_path / "out/logs").mkdir(parents=True, mode=0o755)
    (tmp_path / "out/file").touch(0o644)
    look = os.stat

    def look_and_swap(path: Any, **how: Any) -> os.stat_result:
        found = look(path, **how)
        if str(path).endswith(("file", "logs")) and not how.get("follow_symlinks", True):
            before = tmp_path / "out" / Path(path).name
            before.rename(before.with_name(f"{before.name}.old"))
            before.symlink_to(tmp_path / ("aim/precious" if before.name == "file" else "aim"))
        return found

    monkeypatch.setattr(os, "stat", look_and_swap)
    (tmp_path / "out").chmod(0o755)
    close_to_others(tmp_path / "out")
    monkeypatch.undo()
    assert _open_to_others(tmp_path / "aim") == {".": "0o755", "precious": "0o644"}
    assert (tmp_path / "out/file").is_symlink()
    assert (tmp_path / "out/logs").is_symlink()


def test_a_file_beside_a_report_is_not_written_through_a_link(tmp_path):
    """A report is written to a new file first, whose name can be guessed."""
    aim = tmp_path / "precious"
    aim.write_text("keep")
    (tmp_path / f".report.html.{os.getpid()}.new").symlink_to(aim)
    replace_text(tmp_path / "report.html", "new", is_private=False)
    assert (aim.read_text(), (tmp_path / "report.html").read_text()) == ("keep", "new")


def test_a_directory_that_all_users_share_is_refused(tmp_path):
    """Closing it would lock them out; who runs batches there wants a directory inside it."""
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(OutputError, match=r"tmp: all users share it; name a directory inside it"), locked(shared):
        pass
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777
    with locked(tmp_path), pytest.raises(OutputError, match=r"/: all users share it"), locked(Path("/")):
        pass


def test_what_belongs_to_another_user_is_refused(tmp_path, monkeypatch):
    """With the next step. A lock that another user may open, he could hold."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / LOCK).touch()
    (tmp_path / LOCK).chmod(0o644)
    tmp_path.chmod(0o700)
    for module, name in ((os, "chmod"), (os, "fchmod"), (Path, "chmod")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(OutputError, match=r"lock: it belongs to another user; make it yours"), locked(tmp_path):
        pass


def test_no_token_is_taken_that_another_user_has_put_there(tmp_path):
    """He who could write to the directory before it was closed would know it, and command the worker or the server."""
    anothers, link = tmp_path / "token", tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("known\n")
    with pytest.raises(OutputError, match=r"link: it is a symbolic link"):
        read_or_make_token(link)
    if os.geteuid() != 0:
        return  # only root can give a file away
    anothers.write_text("known\n")
    os.chown(anothers, 54321, 54321)
    with pytest.raises(OutputError, match=r"token: it belongs to another user"):
        read_or_make_token(anothers)
    with pytest.raises(OutputError, match=r"token cannot be used: it belongs to another user"):
        with_tokens(ServerSettings(data_dir=tmp_path))
    os.chown(tmp_path, 54321, 54321)  # root in the directory of a user, as in a container
    assert read_or_make_token(anothers) == with_tokens(ServerSettings(data_dir=tmp_path))[0].token == "known"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_no_directory_is_taken_that_another_user_has_made_where_all_may(tmp_path):
    """Root works in directories of others that he was led to; in /tmp, their tokens would lie in wait for him."""
    shared, planted = tmp_path / "shared", tmp_path / "shared/planted"
    planted.mkdir(parents=True, mode=0o700)
    shared.chmod(0o1777)
    os.chown(planted, 54321, 54321)
    with pytest.raises(OSError, match="another user has made it in a directory that others may write to"):
        make_private_directory(planted)
    shared.chmod(0o755)
    make_private_directory(planted)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o775])
def test_no_way_leads_to_a_directory_by_what_another_user_has_put_where_others_may(tmp_path, monkeypatch, mode):
    """A link, whose aim looks as if root was led there by its owner; a directory that another's may be put into."""
    shared, his, own = tmp_path / "open", tmp_path / "his", tmp_path / "own"
    for each in (shared / "made", his, own):
        each.mkdir(parents=True)
    (shared / "to-his").symlink_to(his)
    (shared / "to-own").symlink_to("../own")
    (own / "on").symlink_to("../open/to-own/..")
    shared.chmod(mode)
    for each in (his, shared / "made", shared / "to-his", shared / "to-own"):
        os.chown(each, 54321, 54321, follow_symlinks=False)
    monkeypatch.chdir(shared)
    for planted, way in (
        ("to-his", "to-his"),
        ("to-his", "to-his/any"),
        ("to-own", "../own/on"),
        ("made", "made"),
        ("made", "made/any"),
    ):
        for path in (Path(way), Path.cwd() / way):
            with pytest.raises(OSError, match=f"another user has made it in a directory that others.*/{planted}'"):
                make_private_directory(path)
    for each in (his, Path("../own"), shared / "../his"):
        make_private_directory(each)
    with monkeypatch.context() as of_another_user:
        of_another_user.setattr(os, "geteuid", lambda: 12345)
        if mode & 0o002:
            with pytest.raises(OSError, match=r"another user has made it in a directory that others.*/to-own'"):
                make_private_directory(Path("to-own"))
        else:  # they share the directory
            make_private_directory(Path("to-own"))
    os.chown(shared, 54321, 54321)  # root was led there by the one who owns both
    make_private_directory(Path("made"))
    make_private_directory(Path("to-his"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_nothing_in_a_workers_directory_is_read_before_it_is_known_whose_it_is(tmp_path):
    """Its maker could take it away meanwhile: the worker would make its own, and keep what it had read."""
    planted = tmp_path / "worker"
    planted.mkdir()
    (planted / "worker.toml").write_text("wrong")
    (planted / "token").touch(0o644)
    tmp_path.chmod(0o1777)
    os.chown(planted, 54321, 54321)
    said = batchrun("worker", "start", cwd=tmp_path, environ={"APIFY_TOKEN": TOKEN})
    assert (said.code, "worker: another user has made it in a directory" in said.err) == (6, True), said.err
    assert {each.name for each in planted.iterdir()} == {"token", "worker.toml"}
    assert (planted / "token").stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_owner_of_a_directory_is_trusted_by_root_alone(tmp_path, monkeypatch):
    """Another user who works there would take his platform, and send it the token."""
    (tmp_path / "worker.toml").touch()
    for each in (tmp_path, tmp_path / "worker.toml"):
        os.chown(each, 54321, 54321)
    load_worker_config(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match=r"worker.toml: it belongs to another user"):
        load_worker_config(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_no_configuration_is_taken_that_another_user_has_put_there(tmp_path):
    """He would choose the platform that gets the token. What root or the directory's owner has put there counts."""
    data = DataDirectory(tmp_path)
    data.make()
    for file, read in (
        (tmp_path / "worker.toml", lambda: load_worker_config(tmp_path)),
        (data.profiles / "shop.toml", lambda: profile_file(data, "shop")),
    ):
        file.touch()
        read()
        os.chown(file, 54321, 54321)
        with pytest.raises(ConfigError, match=f"{file.name}: it belongs to another user"):
            read()
        os.chown(file.parent, 54321, 54321)
        read()


def test_no_file_is_deleted_that_a_journal_names(tmp_path):
    """SQLite deletes the file that the journal of a database names as another journal, whatever it is."""
    victim = tmp_path / "victim"
    with open_ledger(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    (tmp_path / "server.sqlite3").write_bytes((tmp_path / LEDGER).read_bytes())
    journals = [_name_file(tmp_path / name, victim) for name in (LEDGER, "server.sqlite3")]
    victim.write_text("of the user")
    with pytest.raises(LedgerError, match="journal: it names a file that SQLite would delete"), open_ledger(tmp_path):
        pass
    with pytest.raises(OutputError, match="journal cannot be used: it names a file that SQLite would delete"):
        anyio.run(_open_state, tmp_path)
    assert victim.exists()
    for journal in journals:
        with closing(sqlite3.connect(journal.with_name(journal.name.removesuffix("-journal")))) as connection:
            connection.execute("SELECT * FROM sqlite_schema")
        assert not victim.exists(), "SQLite does no harm any more"
        victim.write_text("of the user")


async def _open_state(directory: Path) -> None:
    async with open_server(ServerSettings(data_dir=directory)):
        pass


def _name_file(database: Path, victim: Path) -> Path:
    """Write a journal that is to be undone and names a file as another journal; return it."""
    page_bytes, magic, name = 4096, bytes.fromhex("d9d505f920a163d7"), bytes(victim)
    pages = database.stat().st_size // page_bytes
    head = magic + struct.pack(">IIIII", 0, 1, pages, 512, page_bytes)
    page_of_locks = 0x40000000 // page_bytes + 1
    tail = struct.pack(">I", page_of_locks) + name + struct.pack(">II", len(name), sum(name)) + magic
    journal = database.with_name(f"{database.name}-journal")
    journal.write_bytes(head.ljust(512, b"\0") + tail)
    return journal


def test_what_another_user_has_closed_is_no_bug(capsys):
    """Its path is named, with the next step; root, as whom tests run in containers, is refused nothing."""
    error = PermissionError(13, "Permission denied", "out/ledger.sqlite3")
    assert _explain(error) is ExitCode.LOCAL_TROUBLE
    words = "batchrun: out/ledger.sqlite3: Permission denied; run this as the user whom it belongs to\n"
    assert capsys.readouterr().err == words
