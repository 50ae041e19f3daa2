"""Signatures in the URLs of stored data: who has such a URL may read without a token.

The form is that of the official clients, which make signatures themselves from a storage's `urlSigningSecretKey`.
Source: the clients' `createHmacSignature` and `createStorageContentSignature`. Pure.
"""

import base64
import binascii
import hashlib
import hmac
import string

_DIGITS = string.digits + string.ascii_letters
_VERSION = 0


def record_signature(secret: str, key: str) -> str:
    """Return the signature of one record of a key-value store."""
    number = int(hmac.new(secret.encode(), key.encode(), hashlib.sha256).hexdigest()[:30], 16)
    digits = ""
    while number or not digits:
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits


def storage_signature(secret: str, storage_id: str, until_ms: int = 0) -> str:
    """Return the signature of a whole storage, until a wall time in milliseconds; 0: for good."""
    signed = record_signature(secret, f"{_VERSION}.{until_ms}.{storage_id}")
    return base64.urlsafe_b64encode(f"{_VERSION}.{until_ms}.{signed}".encode()).decode().rstrip("=")


def is_signed_as_storage(key: str, storage_id: str) -> bool:
    """True if a key is the text that the signature of its whole storage is of: nobody may get the key's own."""
    return key.startswith(f"{_VERSION}.") and key.endswith(f".{storage_id}")


def is_signature_of(signature: str, secret: str, storage_id: str, key: str | None, at_ms: int) -> bool:
    """True if a signature permits to read a storage, or its record `key`, at a wall time."""
    given = signature.encode(errors="replace").rstrip(b"=")
    if key is not None and hmac.compare_digest(given, record_signature(secret, key).encode()):
        return True
    try:
        _, until, _ = base64.urlsafe_b64decode(given + b"=" * (-len(given) % 4)).decode().split(".")
        until_ms = int(until)
    except (binascii.Error, ValueError):
        return False
    is_same = hmac.compare_digest(given, storage_signature(secret, storage_id, until_ms).encode())
    return is_same and (until_ms == 0 or at_ms < until_ms)
