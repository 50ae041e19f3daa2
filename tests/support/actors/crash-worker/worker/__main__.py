"""Does what the coroutine Actor of the crash tests does, as a process: waits, pushes items, fails where told to."""

import json
import os
import sys
import time
from urllib.request import Request, urlopen

API = f"{os.environ['APIFY_API_BASE_URL'].rstrip('/').removesuffix('/v2')}/v2"


def call(method: str, path: str, body: object = None) -> bytes:
    """Send one request to the platform."""
    headers = {"Authorization": f"Bearer {os.environ['APIFY_TOKEN']}", "Content-Type": "application/json"}
    data = json.dumps(body).encode() if body is not None else None
    with urlopen(Request(API + path, data=data, method=method, headers=headers), timeout=30) as answer:
        content: bytes = answer.read()
    return content


given = json.loads(call("GET", f"/key-value-stores/{os.environ['ACTOR_DEFAULT_KEY_VALUE_STORE_ID']}/records/INPUT"))
time.sleep(given.get("ms", 0) / 1000)
items = [{"n": n, "of": given["n"]} for n in range(given.get("items", 1))]
if items:
    call("POST", f"/datasets/{os.environ['ACTOR_DEFAULT_DATASET_ID']}/items", items)
sys.exit(1 if given.get("fails") else 0)
