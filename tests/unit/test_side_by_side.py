"""Files of tests that are run by several processes: nothing is reported twice, and nothing is passed over."""

import pytest

pytest_plugins = ["pytester"]

_CONFTEST = """
from tests.support.side_by_side import run_forked

def pytest_runtestloop(session):
    run_forked(session, 2)
    return True
"""
_FILE = """
import os

def test_it_passes(tmp_path):
    pass

def test_it_fails(tmp_path):
    os.system("echo said by a child")
    assert not {end}

def test_it_comes_last(tmp_path):
    pass
"""


def _run(pytester: pytest.Pytester, end: str) -> pytest.RunResult:
    """Run three files with two processes; in the first file, a test ends in a way of its own."""
    pytester.makeconftest(_CONFTEST)
    files = {"test_a": end, "test_b": "0", "test_c": "0"}
    pytester.makepyfile(**{name: _FILE.format(end=end) for name, end in files.items()})
    return pytester.runpytest_inprocess()


def test_each_test_is_reported_once_with_what_it_printed(pytester):
    result = _run(pytester, "1")
    result.assert_outcomes(passed=8, failed=1)
    result.stdout.fnmatch_lines(["*said by a child*", "FAILED test_a.py::test_it_fails*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("os._exit(3)", "*the process that ran test_a.py::test_it_fails has died: exit code 3*"),
        ("os._exit(0)", "*2 tests were not run to their ends*"),
        ("os.kill(os.getpid(), 2)", "*2 tests were not run to their ends*"),
    ],
)
def test_a_process_that_ends_early_fails_the_run(pytester, end, message):
    """The test that ended it is named; tests that it leaves are counted."""
    result = _run(pytester, end)
    result.stdout.fnmatch_lines([message])
    assert result.ret == pytest.ExitCode.TESTS_FAILED
