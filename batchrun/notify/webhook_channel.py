"""Delivers a notification to a webhook: one POST, signed as Standard Webhooks describes it."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

import aiohttp
from pydantic import SecretBytes, SecretStr

from batchrun.apify.aiohttp_errors import reason_of
from batchrun.apify.proxies import proxy_for
from batchrun.notify.notification import Notification, Undelivered
from batchrun.runtime.certificate_authorities import need_authorities
from batchrun.runtime.name_lookups import NameLookups
from batchrun.version import __version__

#: Seconds for one call, from the connection to the status line.
CALL_TIMEOUT_S = 10.0
#: Refusals that may pass: timeout, too early, too many requests. Another 4xx is final.
_PASSING = (408, 425, 429)


class WebhookChannel:
    """A webhook.

    Args:
        url: a secret; no message shows more of it than the host.
        is_slack: whether it takes the form of Slack instead of JSON.
        signing_key: signs each call; None: calls are not signed.
        environ: names proxies.

    Raises:
        ConfigError: a proxy in the environment cannot be used.
    """

    name = "webhook"

    def __init__(
        self, url: SecretStr, *, is_slack: bool, signing_key: SecretBytes | None, environ: Mapping[str, str]
    ) -> None:
        self._url = url
        self._is_slack = is_slack
        self._signing_key = signing_key
        self.host = urlsplit(url.get_secret_value()).hostname or ""
        self.target = f"{self.host} (slack)" if is_slack else self.host
        self._lookups = NameLookups()
        self._proxy = proxy_for(url.get_secret_value(), environ, has_token=False)

    async def deliver(self, notification: Notification) -> None:
        """Call the webhook once; redirects are not followed.

        Raises:
            Undelivered: it did not answer with 2xx.
        """
        body = notification.as_slack() if self._is_slack else notification.as_json()
        headers = {"Content-Type": "application/json", "User-Agent": f"batchrun/{__version__}"}
        if self._signing_key is not None:
            key, sent_at = self._signing_key.get_secret_value(), int(datetime.now(UTC).timestamp())
            headers |= signature_headers(key, notification.id, body, sent_at)
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
        await need_authorities()
        connector = aiohttp.TCPConnector(use_dns_cache=False, resolver=self._lookups)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout
                ) as session,
                session.post(
                    self._url.get_secret_value(),
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    proxy=self._proxy,
                ) as response,
            ):
                status = response.status
        except TimeoutError as error:
            raise Undelivered(f"{self.host} did not answer within {CALL_TIMEOUT_S:g} s") from error
        except (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError) as error:
            raise Undelivered(f"no connection to {self.host}: {reason_of(error)}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Its text may hold the URL.
            raise Undelivered(f"the call to {self.host} failed ({type(error).__name__})") from None
        if not 200 <= status < 300:
            is_final = 300 <= status < 500 and status not in _PASSING
            raise Undelivered(f"{self.host} answered with status {status}", is_final=is_final)


def signature_headers(key: bytes, notification_id: str, body: bytes, sent_at: int) -> dict[str, str]:
    """Return the headers by which a receiver sees who sent a call, and when.

    Args:
        key: shared with the receiver.
        notification_id: of the notification.
        body: as it is sent.
        sent_at: seconds since 1970.
    """
    signed = b".".join([notification_id.encode(), str(sent_at).encode(), body])
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": notification_id,
        "webhook-timestamp": str(sent_at),
        "webhook-signature": f"v1,{signature}",
    }
