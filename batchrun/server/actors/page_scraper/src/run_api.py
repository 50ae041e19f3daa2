"""The API calls of the Run: input, items, status message. One kept-alive connection per thread."""

import http.client
import json
import os
import threading
from typing import Any
from urllib.parse import urlsplit

#: Max tries of one request. If the answer to a push is lost, its retry stores items twice, as the SDKs' retries do.
_MAX_ATTEMPTS = 3


class RunApi:
    """Calls the API that the environment names."""

    def __init__(self) -> None:
        self.base_url = os.environ["APIFY_API_BASE_URL"]
        self._address = urlsplit(self.base_url)
        self._local = threading.local()

    def read_input(self) -> dict[str, Any]:
        store, key = os.environ["ACTOR_DEFAULT_KEY_VALUE_STORE_ID"], os.environ.get("ACTOR_INPUT_KEY", "INPUT")
        given = self._call("GET", f"/v2/key-value-stores/{store}/records/{key}")
        return given if isinstance(given, dict) else {}

    def push(self, items: list[dict[str, Any]]) -> None:
        self._call("POST", f"/v2/datasets/{os.environ['ACTOR_DEFAULT_DATASET_ID']}/items", items)

    def set_status_message(self, message: str, *, is_terminal: bool) -> None:
        body = {"statusMessage": message, "isStatusMessageTerminal": is_terminal}
        self._call("PUT", f"/v2/actor-runs/{os.environ['ACTOR_RUN_ID']}", body)

    def _call(self, method: str, path: str, body: object = None) -> Any:
        payload = json.dumps(body).encode() if body is not None else None
        status, content = self._request(method, path, payload, _MAX_ATTEMPTS)
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {content.decode(errors='replace')}")
        return json.loads(content) if content else None

    def _request(self, method: str, path: str, payload: bytes | None, attempts: int) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {os.environ['APIFY_TOKEN']}", "Content-Type": "application/json"}
        connection = self._connection()
        try:
            connection.request(method, path, payload, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            self._local.connection = None
            if attempts == 1:
                raise
            return self._request(method, path, payload, attempts - 1)

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            is_tls = self._address.scheme == "https"
            kind = http.client.HTTPSConnection if is_tls else http.client.HTTPConnection
            connection = self._local.connection = kind(self._address.netloc, timeout=60)
        return connection
