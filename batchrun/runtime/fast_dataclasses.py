"""Frozen values that cost no more than others: what a job is made of twenty times is held to be frozen by mypy alone.

A frozen dataclass sets each field through `object.__setattr__`, and so takes three times as long to make. `dataclass`
and `replace` mean what the standard library's mean; modules whose values are made for every job take them from here.
"""

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 - so that mypy sees it as the original
    from dataclasses import replace as replace  # noqa: PLC0414 - likewise
else:
    import dataclasses

    T = TypeVar("T")

    def dataclass(*, frozen: bool, **options: Any) -> Any:
        """Make a dataclass that nothing keeps from being changed, but whoever checks types; equal values hash alike."""
        return dataclasses.dataclass(unsafe_hash=frozen, **options)

    def replace(value: T, /, **changes: Any) -> T:
        """Return a value with some fields changed; without `__init__`, for there is nothing to check again."""
        made = object.__new__(type(value))
        for name in value.__slots__:
            setattr(made, name, changes[name] if name in changes else getattr(value, name))
        return made
