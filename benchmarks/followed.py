"""Memory with many Runs followed at once, plain and with TLS, and the requests that following takes."""

import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks import pictures
from benchmarks.command import running
from benchmarks.counterpart import open_responder
from benchmarks.results import Size, print_table

RUNS = (1_000, 10_000)
#: All are live together when the last one has been started.
RUN_S = (45.0, 60.0)
#: The platform allows no more starts of one task per second.
START_RATE = 400.0
SAMPLE_INTERVAL_S = 0.2


def measure(size: Size) -> dict[str, Any]:
    """Follow 1,000 and 10,000 Runs at once, each plain and with TLS; takes about five minutes."""
    cases = {
        f"{runs:,}{', TLS' if is_tls else ''}": _case(runs, is_tls=is_tls)
        for runs in ((size.jobs,) if size.jobs else RUNS)
        for is_tls in (False, True)
    }
    figures = {"run_s": RUN_S, "cases": cases}
    headings = ("Runs", "live at once", "peak RSS, MB", "polls per Run", "lists per Run", "took")
    rows = [
        (
            name,
            f"{each['most_live']:,}",
            each["peak_rss_mb"],
            each["polls_per_run"],
            each["lists_per_run"],
            f"{each['elapsed_s']} s",
        )
        for name, each in cases.items()
    ]
    print_table("Runs followed at once", headings, rows)
    pictures.followed(figures)
    return figures


def _case(runs: int, *, is_tls: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="batchrun-bench-") as name:
        directory = Path(name)
        (directory / "jobs.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(runs)))
        behaviour, environ = {"run_s": RUN_S}, dict[str, str]()
        if is_tls:
            certificate = str(_certificate(directory))
            behaviour |= {"certificate": certificate}  # type: ignore[dict-item]  # the responder takes both
            environ["SSL_CERT_FILE"] = certificate
        began_at, peak = time.monotonic(), 0
        with (
            open_responder(**behaviour) as responder,
            running(directory, responder.base_url, slots=runs, start_rate=START_RATE, environ=environ) as batch,
        ):
            process = psutil.Process(batch.pid)
            while batch.poll() is None:
                peak = max(peak, process.memory_info().rss)
                time.sleep(SAMPLE_INTERVAL_S)
            assert batch.returncode == 0, f"the batch ended with {batch.returncode}"
            stats = responder.stats()
    requests = stats["requests"]
    return {
        "most_live": stats["most_live"],
        "peak_rss_mb": round(peak / 1e6, 1),
        "polls_per_run": round(requests["poll"] / runs, 2),
        "lists_per_run": round(requests.get("list", 0) / runs, 3),
        "elapsed_s": round(time.monotonic() - began_at, 1),
    }


def _certificate(directory: Path) -> Path:
    """Make a key and a certificate of 127.0.0.1 that signs itself, in one file."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    certificate.write_bytes(certificate.read_bytes() + key.read_bytes())
    return certificate
