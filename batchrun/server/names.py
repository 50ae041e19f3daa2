"""What the API takes as a name of a task, an Actor or a storage, and as the key of a record."""

import re

from batchrun.server.error_answers import record_key_invalid, value_invalid

#: Max characters of a name. Source: the API reference.
MAX_NAME_LENGTH = 63
_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?")
_RECORD_KEY = re.compile(r"[a-zA-Z0-9!\-_.'()]{1,256}")


def check_name(name: object, what: str, *, min_length: int = 1) -> str:
    """Return `name` if it is valid: DNS-safe and at most 63 characters long."""
    if not isinstance(name, str) or not min_length <= len(name) <= MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        raise value_invalid(
            f"{what} name is not valid: it must have {min_length} to {MAX_NAME_LENGTH} characters, only letters, "
            "digits and hyphens, and neither begin nor end with a hyphen"
        )
    return name


def check_record_key(key: str) -> str:
    """Return `key` if it may name a record of a key-value store."""
    if not _RECORD_KEY.fullmatch(key):
        raise record_key_invalid("it must have 1 to 256 characters out of a-zA-Z0-9!-_.'()")
    return key
