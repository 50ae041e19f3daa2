import os
import subprocess
import sys
from pathlib import Path

from blockbuster import BlockBuster

from batchrun.output.replacement import replace_text


def test_what_killed_processes_left_is_removed(blockbuster: BlockBuster, tmp_path: Path) -> None:
    """The files of live processes and of other names stay."""
    blockbuster.deactivate()
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    dead = tmp_path / f".report[1].html.{process.pid}.new"
    kept = [tmp_path / name for name in (f".report[1].html.{os.getppid()}.new", f".report1.html.{process.pid}.new")]
    for file in (dead, *kept):
        file.write_bytes(b"")
    replace_text(tmp_path / "report[1].html", "page")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "report[1].html", *kept])
