"""Reads the API token: APIFY_TOKEN before `api.token_file`."""

import os
from collections.abc import Mapping

from pydantic import SecretStr

from batchrun.config.api_settings import ApiConfig
from batchrun.errors import ConfigError
from batchrun.runtime.private_files import input_opener


def read_token(api: ApiConfig, environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """Return the API token from APIFY_TOKEN, or else from `api.token_file`; None only if Runs stay on this machine.

    Raises:
        ConfigError: there is no token, the file cannot be read, or the token holds characters that no token has.
    """
    token, source = (os.environ if environ is None else environ).get("APIFY_TOKEN", ""), "APIFY_TOKEN"
    if not token.strip() and api.token_file is not None:
        source = str(api.token_file)
        try:
            with open(api.token_file, encoding="utf-8", opener=input_opener) as opened:
                token = opened.read()
        except (OSError, UnicodeDecodeError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise ConfigError(f"cannot be read: {reason}", key="api.token_file", file=api.token_file) from error
    token = token.strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"the token in {source} holds characters that no token has; copy it again")
    if token:
        return SecretStr(token)
    if api.is_loopback:
        return None
    empty = f"{api.token_file} is empty; " if api.token_file is not None else ""
    raise ConfigError(
        f"{empty}{api.base_url} needs an API token: export APIFY_TOKEN=… (Apify Console, Settings, API & Integrations),"
        " or name a file that holds it as api.token_file. Without an account: `--api-url embedded` (api.base_url),"
        " whose Runs are processes of this machine"
    )
