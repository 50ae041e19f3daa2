"""`[api]`: the platform that carries out the Runs. The token is read by `api_token.py`."""

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from batchrun.config.section import Name, Section, refuse_secret
from batchrun.runtime.loopback import is_loopback_host

EMBEDDED = "embedded"


class ApiConfig(Section):
    """The platform that carries out the Runs."""

    base_url: Name = "https://api.apify.com"
    """Address of the API, or "embedded" for batchrun's own server inside this process."""
    token_file: Path | None = None
    """File that holds the token; the environment variable APIFY_TOKEN comes first."""
    allow_plain_http: bool = False
    """Whether the token may go to another machine over plain http, where others can read it."""

    _token_is_in_a_file = field_validator("token_file")(refuse_secret)

    @model_validator(mode="after")
    def _is_an_address(self) -> Self:
        address = urlsplit(self.base_url)
        if not self.is_embedded and (address.scheme not in ("http", "https") or not address.hostname):
            raise ValueError('base_url must be "embedded" or an address like https://api.apify.com')
        if "@" in address.netloc or address.query or address.fragment:
            raise ValueError(
                "base_url is shown, and noted in files, so it must hold no password and no query; the token goes into"
                " APIFY_TOKEN, or into a file that api.token_file names"
            )
        return self

    @property
    def is_embedded(self) -> bool:
        """True if batchrun's own server, in this process, is the platform."""
        return self.base_url == EMBEDDED

    @property
    def is_loopback(self) -> bool:
        """True if Runs are carried out on this machine and so cost nothing."""
        return self.is_embedded or is_loopback_host(urlsplit(self.base_url).hostname or "")
