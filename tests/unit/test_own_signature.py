"""What a user signs is recognised by that user on that machine only."""

import os
from pathlib import Path

import pytest

from batchrun.notify.notification import Notification
from batchrun.notify.outbox import Outbox
from batchrun.runtime.own_signature import _make_key, is_own, sign


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_only_the_holder_of_the_key_can_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither other content, nor what somebody else has signed, is taken for one's own."""
    signature = sign(b"content")
    assert sign(b"content") == signature
    assert [is_own(b"content", signature), is_own(b"other", signature), is_own(b"content", "")] == [True, False, False]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    assert not is_own(b"content", signature)
    assert sign(b"content") != signature


def test_a_key_that_others_may_read_is_replaced(tmp_path: Path) -> None:
    """Its signatures prove nothing."""
    before = sign(b"content")
    key = tmp_path / "state" / "batchrun" / "key"
    assert key.stat().st_mode & 0o077 == 0
    key.chmod(0o644)
    assert not is_own(b"content", before)
    assert sign(b"content") != before


def test_processes_that_make_the_key_at_once_have_the_same(tmp_path: Path) -> None:
    """What each of them signs is recognised later."""
    file = tmp_path / "state" / "batchrun" / "key"
    first = _make_key(file)
    assert _make_key(file) == first == file.read_bytes()
    assert [each.name for each in file.parent.iterdir()] == ["key"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("theirs", ["state/batchrun/key", "state/batchrun", "state"])
def test_root_leaves_the_key_in_the_home_of_a_user_alone(tmp_path: Path, theirs: str) -> None:
    """Sudo may keep the user's home: what that user has signed must stay so, and no link of that user be followed."""
    state = tmp_path / "state"
    state.mkdir()
    if "/" in theirs:
        sign(b"content")
    before = {each: each.read_bytes() for each in state.rglob("*") if each.is_file() and theirs.endswith("key")}
    if theirs == "state/batchrun":
        (state / "batchrun").rename(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "key").unlink()
        (state / "batchrun").symlink_to(tmp_path / "elsewhere")
    os.chown(tmp_path / theirs, 54321, 54321, follow_symlinks=False)
    assert sign(b"content") == ""
    assert {each: each.read_bytes() for each in tmp_path.rglob("key")} == before


def test_without_a_home_nothing_is_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch runs all the same."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert sign(b"content") == ""
    assert not is_own(b"content", "")


def test_no_notification_of_somebody_else_goes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would go by the user's own way, signed with the key of that."""
    outbox = Outbox(tmp_path / "outbox", is_signed=True)
    outbox.put(Notification(id="mine", event="test", text="mine"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    outbox.put(Notification(id="theirs", event="test", text="theirs"))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert [each.id for each in outbox.load()] == ["mine"]


def test_files_of_a_person_in_a_directory_called_outbox_are_left_alone(tmp_path: Path) -> None:
    """`--out .` names a directory with anything in it; only what an outbox has named itself is removed."""
    for name in ("order-1.json", "mail.json", f"{'0' * 32}.json"):
        (tmp_path / name).write_text("of the user")
    assert Outbox(tmp_path).load() == []
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mail.json", "order-1.json"]
