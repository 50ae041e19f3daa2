"""Greet, and store the input as one item and as the OUTPUT value.

Uses plain HTTP by the standard library, so that a Run costs a few dozen milliseconds.
"""

import http.client
import json
import os
from urllib.parse import urlsplit


def main() -> None:
    """Read the input, print the greeting, store it."""
    given = call("GET", f"/v2/key-value-stores/{os.environ['ACTOR_DEFAULT_KEY_VALUE_STORE_ID']}/records/INPUT")
    message = given.get("message") if isinstance(given, dict) else None
    greeting = message if isinstance(message, str) else "Hello, world!"
    print(greeting, flush=True)  # noqa: T201 - an Actor's output is its log
    item = {"greeting": greeting, "input": given}
    call("POST", f"/v2/datasets/{os.environ['ACTOR_DEFAULT_DATASET_ID']}/items", item)
    call("PUT", f"/v2/key-value-stores/{os.environ['ACTOR_DEFAULT_KEY_VALUE_STORE_ID']}/records/OUTPUT", item)


def call(method: str, path: str, body: object = None) -> object:
    """Carry out one request; return None for a missing record."""
    api = urlsplit(os.environ["APIFY_API_BASE_URL"])
    connection = http.client.HTTPConnection(api.netloc, timeout=30)
    headers = {"Authorization": f"Bearer {os.environ['APIFY_TOKEN']}", "Content-Type": "application/json"}
    connection.request(method, path, json.dumps(body) if body is not None else None, headers)
    response = connection.getresponse()
    content = response.read()
    if response.status == 404:
        return None
    if response.status >= 400:
        raise SystemExit(f"{method} {path}: {response.status} {content.decode(errors='replace')}")
    is_json = "json" in response.headers.get("Content-Type", "")
    return json.loads(content) if is_json and content else content.decode(errors="replace")


if __name__ == "__main__":
    main()
