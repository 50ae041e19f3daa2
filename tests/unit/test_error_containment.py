"""An error that ends what it belongs to, and nothing else."""

import pytest
from structlog.testing import CapturedCall, CapturingLogger

from batchrun.runtime import error_containment
from batchrun.runtime.error_containment import contained


@pytest.mark.parametrize(
    ("is_known", "call"),
    [
        (False, CapturedCall("exception", ("broken",), {"run_id": "r"})),
        (True, CapturedCall("warning", ("broken",), {"reason": "disk is full", "run_id": "r"})),
    ],
)
def test_an_error_is_logged_with_a_traceback_unless_it_is_known(
    monkeypatch: pytest.MonkeyPatch, is_known: bool, call: CapturedCall
) -> None:
    """A full disk is no bug."""
    said = CapturingLogger()
    monkeypatch.setattr(error_containment, "_log", said)
    with contained("broken", is_known=lambda _: is_known, run_id="r"):
        raise ValueError("disk is full")
    assert said.calls == [call]
