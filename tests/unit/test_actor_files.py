"""The source files of an Actor's directory: how much of them is read."""

from pathlib import Path

from batchrun.server.catalog.actor_files import digest, signature, source_files


def test_a_link_counts_with_the_size_of_what_it_leads_to(tmp_path: Path) -> None:
    """Else a model of gigabytes would be read into memory at each look at the Actor."""
    folder = tmp_path / "actor"
    folder.mkdir()
    (folder / "main.py").write_text("print()")
    with (tmp_path / "model").open("wb") as model:
        model.truncate(1 << 40)
    (folder / "model").symlink_to(tmp_path / "model")
    assert digest(folder) == signature(folder)
    assert [shown["name"] for shown in source_files(folder)] == ["main.py"]


def test_a_file_that_cannot_be_read_keeps_no_actor_from_its_work(tmp_path: Path) -> None:
    """It may be another user's, or vanish between two looks."""
    (tmp_path / "main.py").write_text("print()")
    (tmp_path / "mem").symlink_to("/proc/self/mem")
    assert digest(tmp_path) == digest(tmp_path)
    assert {each["name"]: each["content"] for each in source_files(tmp_path)} == {"main.py": "print()", "mem": ""}
