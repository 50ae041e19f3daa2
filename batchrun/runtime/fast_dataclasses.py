"""Frozen dataclasses that are cheap to define and to make: the type checker alone keeps them from being changed.

A frozen dataclass of the standard library compiles six methods, which for all of batchrun's values is a sixth of the
time until a command does something. Only `__init__` has to be compiled, and it is when the first object is made: many
classes are not used by a command. The standard library's sets each field through `object.__setattr__`, and so takes
three times as long. To mypy, `dataclass` and `replace` are the standard library's. At run time, a change is possible.
"""

from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 - so that mypy sees it as the original
    from dataclasses import replace as replace  # noqa: PLC0414 - so that mypy sees it as the original
else:
    import dataclasses
    from collections.abc import Callable
    from functools import cache

    T = TypeVar("T")

    def dataclass(*, frozen: bool = False, eq: bool = True, **options: Any) -> Any:
        """Make a dataclass; one that is `frozen` can be hashed, but is not frozen at run time."""

        def make(cls: type[T]) -> type[T]:
            made = dataclasses.dataclass(cls, init=False, eq=False, repr=False, **options)
            made.__init__ = _first_init(made)
            if eq and "__eq__" not in vars(made):
                made.__eq__, made.__hash__ = _comparison(made)
                if not frozen:
                    made.__hash__ = None
            if made.__repr__ is object.__repr__:
                made.__repr__ = _repr
            return made

        return make

    def _first_init(cls: type) -> Callable[..., None]:
        """Return what makes the first object: it compiles `__init__`, as that of a class with the same fields."""

        def init(self: Any, *args: Any, **values: Any) -> None:
            fields = [(each.name, each.type, each) for each in dataclasses.fields(cls)]
            alike = dataclasses.make_dataclass(
                cls.__name__, fields, eq=False, repr=False, slots=hasattr(cls, "__slots__")
            )
            cls.__init__ = alike.__init__
            cls.__init__(self, *args, **values)

        return init

    def _comparison(cls: type) -> tuple[Callable[[Any, Any], bool], Callable[[Any], int]]:
        """Return `__eq__` and `__hash__` of a class: by the values of the fields that count, as a tuple."""
        names = [each.name for each in dataclasses.fields(cls) if each.compare]
        values_of = attrgetter(*names) if names else lambda _: ()

        def eq(self: Any, other: object) -> bool:
            return values_of(self) == values_of(other) if other.__class__ is self.__class__ else NotImplemented

        def hash_of(self: Any) -> int:
            return hash(values_of(self))

        return eq, hash_of

    def _repr(value: Any) -> str:
        """Return what the standard library's dataclasses show; one function for all of them."""
        shown = [f"{each.name}={getattr(value, each.name)!r}" for each in dataclasses.fields(value) if each.repr]
        return f"{type(value).__qualname__}({', '.join(shown)})"

    def replace(value: T, /, **changes: Any) -> T:
        """Return a copy, of an object with slots, with some of them changed; none needs a check again."""
        made = object.__new__(type(value))
        _copier(type(value))(value, made)
        for name, changed in changes.items():
            setattr(made, name, changed)
        return made

    @cache
    def _copier(cls: type) -> Callable[[Any, Any], None]:
        """Return what copies all fields of an object to another one: compiled, it takes a tenth as long as a loop."""
        lines = ["def copy(value, made):", *(f" made.{name} = value.{name}" for name in cls.__slots__)]
        defined: dict[str, Any] = {}
        exec("\n".join(lines), defined)  # noqa: S102 - as the standard library makes `__init__`, of the same names
        return defined["copy"]
