"""Does what a test asks of a process: exit, eat memory, hang, leave a child behind, show its environment."""

import json
import os
import subprocess
import sys
import time
import urllib.request

API = os.environ["APIFY_API_BASE_URL"]


def call(method: str, path: str, body: object = None) -> bytes:
    """Carry out one request with the Run's token."""
    request = urllib.request.Request(
        f"{API}/v2/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {os.environ['APIFY_TOKEN']}", "Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request) as response:
        return bytes(response.read())


def push(item: object) -> None:
    """Append an item to the Run's dataset."""
    call("POST", f"datasets/{os.environ['ACTOR_DEFAULT_DATASET_ID']}/items", item)


given = json.loads(call("GET", f"key-value-stores/{os.environ['ACTOR_DEFAULT_KEY_VALUE_STORE_ID']}/records/INPUT"))
print("one\ntwo ü\nthree without end", end="", flush=True)  # noqa: T201 - its log is what is tested


def start(code: str) -> int:
    """Start a child, in a session of its own if it is to escape; return its pid."""
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=given.get("escapes", False)).pid


match given["do"]:
    case "exit":
        sys.exit(given.get("code", 0))
    case "environment":
        push(dict(os.environ))
        push(json.loads(call("GET", "users/me"))["data"])
        time.sleep(given.get("wait_s", 0))
    case "eat":
        hoard = []
        while True:
            hoard.append(os.urandom(16 << 20))
    case "hang":
        push({"pids": [os.getpid(), start("import time; time.sleep(1000)")]})
        time.sleep(1000)
    case "leave":
        push({"pids": [start("import time; time.sleep(1000)")]})
    case "feed":
        push({"pids": [os.getpid(), start("import os, time; hoard = os.urandom(200 << 20); time.sleep(1000)")]})
        time.sleep(1000)
