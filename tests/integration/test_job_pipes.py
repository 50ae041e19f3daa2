"""Job files on standard input, read by a process of its own."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def test_stdin_is_read_once(tmp_path: Path) -> None:
    """A pipe is streamed; its head is what it has at hand; it has no count, and cannot be read again."""
    script = """
from batchrun.errors import JobFileError
from batchrun.jobs import JobFormat, JobFile
with JobFile(JobFormat(path="-")) as file:
    bad_lines = [(bad.position.line, bad.reason[:9]) for bad in file.check_head()]
    print(file.is_seekable, file.is_replayable, bad_lines, file.count_estimate())
    found = list(file.read())
    print([(made.position.line, made.position.offset) for made in found])
    try:
        file.reread([found[0].position])
    except JobFileError as error:
        print(error)
"""
    (tmp_path / "given").write_bytes(b'\xef\xbb\xbf{"a":1}\n[]\n')  # a file as stdin is at hand at once
    with (tmp_path / "given").open("rb") as given:
        done = subprocess.run([sys.executable, "-c", script], stdin=given, capture_output=True, check=False)
    assert (done.stdout.decode().splitlines(), done.stderr) == (
        [
            "False False [(2, 'is a JSON')] None",
            "[(1, 3), (2, 11)]",
            "stdin: standard input cannot be read twice; send it again",
        ],
        b"",
    )


@pytest.mark.parametrize("is_pipe", [True, False])
def test_csv_on_stdin_is_read_once(tmp_path: Path, is_pipe: bool) -> None:
    """Its header and its head are looked at, and all of it is read, from a file or a pipe."""
    script = """
from batchrun.jobs import JobFormat, JobFile
with JobFile(JobFormat(path="-", rows="csv")) as file:
    print(file.columns, file.dialect.delimiter)
    print([(bad.position.line, bad.reason) for bad in file.check_head()] or "no bad lines")
    made = [one.body.decode() for one in file.read()]
    print(len(made), made[0], made[-1])
"""
    # More than a pipe holds, and more than the head that is looked at.
    content = b"\xef\xbb\xbfsku;price EUR\n" + b"".join(b"%0100d;1,5\n" % n for n in range(4_000))
    (tmp_path / "given").write_bytes(content)
    with (tmp_path / "given").open("rb") as given:
        source: dict[str, Any] = {"input": content} if is_pipe else {"stdin": given}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, **source)
    assert (done.stdout.decode().splitlines(), done.stderr) == (
        [
            "('sku', 'price EUR') ;",
            "no bad lines",
            f'4000 {{"sku":"{0:0100}","price EUR":"1,5"}} {{"sku":"{3999:0100}","price EUR":"1,5"}}',
        ],
        b"",
    )
