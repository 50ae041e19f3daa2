"""Frozen dataclasses that are cheap to make: the type checker alone keeps them from being changed.

A frozen dataclass of the standard library sets each field through `object.__setattr__`, and so takes three times as
long to make. Modules whose values are made many times for each job take `dataclass` and `replace` from here; to mypy
they are the standard library's. At run time nothing prevents a change.
"""

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 - so that mypy sees it as the original
    from dataclasses import replace as replace  # noqa: PLC0414 - so that mypy sees it as the original
else:
    import dataclasses

    T = TypeVar("T")

    def dataclass(*, frozen: bool, **options: Any) -> Any:
        """Make a dataclass that can be hashed, but is not frozen at run time."""
        return dataclasses.dataclass(unsafe_hash=frozen, **options)

    def replace(value: T, /, **changes: Any) -> T:
        """Return a copy with some fields changed, without calling `__init__`: no field needs a check again."""
        made = object.__new__(type(value))
        for name in value.__slots__:
            setattr(made, name, changes[name] if name in changes else getattr(value, name))
        return made
