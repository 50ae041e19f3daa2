"""The secrets of `[notify]`: the webhook's URL and the signing key, from the environment or from files."""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretBytes, SecretStr

from batchrun.config.notify_settings import NotifyConfig
from batchrun.errors import ConfigError
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.private_files import input_opener

URL_VARIABLE = "BATCHRUN_NOTIFY_URL"
KEY_VARIABLE = "BATCHRUN_NOTIFY_KEY"
#: What a signing key begins with. Source: Standard Webhooks, which also asks for 24 to 64 bytes.
KEY_PREFIX = "whsec_"
MIN_KEY_BYTES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifySecrets:
    """The secrets; None: not set."""

    url: SecretStr | None = None
    signing_key: SecretBytes | None = None


def read_notify_secrets(config: NotifyConfig, environ: Mapping[str, str]) -> NotifySecrets:
    """Read the secrets; a variable comes before a file.

    Raises:
        ConfigError: a file cannot be read, or what it holds is no URL or no key. The message shows neither.
    """
    url = _read(environ, URL_VARIABLE, config.url_file, "notify.url_file")
    key = _read(environ, KEY_VARIABLE, config.signing_key_file, "notify.signing_key_file")
    if url is not None:
        _check_url(url)
    return NotifySecrets(
        url=None if url is None else SecretStr(url),
        signing_key=None if key is None else SecretBytes(_key_bytes(key)),
    )


def _read(environ: Mapping[str, str], variable: str, file: Path | None, config_key: str) -> str | None:
    text = environ.get(variable, "").strip()
    if text or file is None:
        return text or None
    try:
        with open(file, encoding="utf-8", opener=input_opener) as opened:
            text = opened.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot be read: {reason}", key=config_key, file=file) from error
    if not text:
        raise ConfigError("is empty", key=config_key, file=file)
    return text


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number
        is_address = False
    if not is_address or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError(
            f"the webhook's URL (notify.url_file or {URL_VARIABLE}) must be an address like https://example.com/hook"
        )


def _key_bytes(text: str) -> bytes:
    try:
        key = base64.b64decode(text.removeprefix(KEY_PREFIX), validate=True) if text.startswith(KEY_PREFIX) else b""
    except binascii.Error:
        key = b""
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(
            f"the signing key (notify.signing_key_file or {KEY_VARIABLE}) must be {KEY_PREFIX} followed by Base64 of at"
            f" least {MIN_KEY_BYTES} random bytes, as from: echo {KEY_PREFIX}$(head -c 32 /dev/urandom | base64)"
        )
    return key
