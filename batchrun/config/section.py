"""A table of a configuration, and the kinds of values that several tables have."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
#: The ledger can hold integers up to this one.
PositiveInt = Annotated[int, Field(ge=1, le=(1 << 63) - 1)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
#: Per second; a smaller one is none.
Rate = Annotated[float, Field(ge=1e-6)]
#: A batch or group of weight 2 has twice the part of one of weight 1.
Weight = Annotated[float, Field(ge=0.001, le=1000)]
#: What is a token, an address with one slash fewer, as paths have it, or a signing key: no name of a file.
_SECRET = re.compile(r"apify_api_[A-Za-z0-9]{20}|https?:/|whsec_[A-Za-z0-9+/]{20}")


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("must be a power of 2, like 256, 512, 1024")
    return value


Memory = Annotated[int, Field(ge=128, le=32768), AfterValidator(_power_of_two)]


def refuse_secret(file: Path | None) -> Path | None:
    """Refuse a secret in the place of its file's name: names are shown, and noted in files."""
    if file is not None and _SECRET.search(str(file)):
        raise ValueError("names the file that holds the secret, not the secret itself; put it into one, and name that")
    return file


class Section(BaseModel):
    """A table of a configuration: frozen, strict, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)
