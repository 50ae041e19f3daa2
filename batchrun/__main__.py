"""The entry point: `batchrun`, or `python -m batchrun`.

It imports the rest only once a Ctrl-C would end the process quietly and the standard streams are there.
"""

import gc
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

#: New objects between two collections of cyclic garbage while a command imports what it needs, which makes no garbage.
#: With Python's own 700, imports take a tenth longer.
_GC_THRESHOLD = 200_000


def main() -> None:
    """Run the command line and exit."""
    gc.set_threshold(_GC_THRESHOLD)
    # Until there is something to drain, Ctrl-C just ends the process; what was ignored (nohup) stays ignored.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _open_closed_streams()
    _keep_descriptors()
    if sys.argv[1:2] == ["serve"]:  # an Actor that an earlier server has left may look while the rest loads
        from batchrun.server.runs.process_groups import hide_own_environment  # noqa: PLC0415 - for this command alone

        hide_own_environment()
    from batchrun.cli import main as command_line  # noqa: PLC0415 - see above

    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command_line.main()


def _open_closed_streams() -> None:
    """Put the null device where a standard stream was closed (`2>&-`): its number must not go to another file."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, "r" if fd == 0 else "w", closefd=False))


def _keep_descriptors() -> None:
    """Keep the descriptors that this process was started with from its children, in which uvloop leaves them open."""
    with suppress(OSError):
        opened = [int(each.name) for each in Path("/dev/fd").iterdir()]
        for fd in opened:
            with suppress(OSError):  # the one that has read the directory is closed
                os.set_inheritable(fd, fd <= 2)


if __name__ == "__main__":
    main()
