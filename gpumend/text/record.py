"""A record: what typing.NamedTuple gives, without a line compiled for each class.

NamedTuple compiles a constructor for each class and a forward reference for each annotation: of 160 classes that was a quarter of
what it costs to load the rules and judge a host (tests/bench/imports.py). For a type checker a record is a NamedTuple.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NamedTuple as Record
else:
    from collections import _tuplegetter  # what reads a field of a named tuple, in C

    class _RecordType(type):
        """Makes a class of `class Name(Record)`: each annotation is a field, what stands behind it the field's default."""

        def __new__(cls, name, bases, body):
            body.setdefault("__slots__", ())
            if bases[0].__base__ is tuple:  # a child of Record, not a child of that
                fields = tuple(body.get("__annotations__", ()))
                defaults = {field: body[field] for field in fields if field in body}
                if fields[len(fields) - len(defaults) :] != tuple(defaults):
                    raise TypeError(f"{name}: a field without a default follows one with a default")
                body.update((field, _tuplegetter(index, None)) for index, field in enumerate(fields))
                body.update(_fields=fields, _field_defaults=defaults, __match_args__=fields)
            return super().__new__(cls, name, bases, body)

    class Record(tuple, metaclass=_RecordType):
        """As typing.NamedTuple: a tuple whose values have names. Fields that are given by name or left out cost more."""

        _fields = ()
        _field_defaults = {}

        def __new__(cls, /, *values, **named):
            if not values and tuple(named) == cls._fields:  # as most are written that have many
                return tuple.__new__(cls, named.values())
            if named or len(values) != len(cls._fields):
                rest, defaults = cls._fields[len(values) :], cls._field_defaults
                try:
                    values += tuple(
                        [named.pop(field) if field in named else defaults[field] for field in rest]
                    )
                except KeyError as missing:
                    raise TypeError(f"{cls.__name__}: the field {missing} is not given") from None
                if named or len(values) != len(cls._fields):
                    more = ", ".join(named) or f"{len(values)} values"
                    raise TypeError(f"{cls.__name__}: more than {', '.join(cls._fields)} is given: {more}")
            return tuple.__new__(cls, values)

        @classmethod
        def _make(cls, values):
            made = tuple.__new__(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"{cls.__name__}: {len(made)} values for {', '.join(cls._fields)}")
            return made

        def _replace(self, /, **changed):
            return type(self)(**{**self._asdict(), **changed})

        def _asdict(self):
            return dict(zip(self._fields, self))

        def __repr__(self):
            return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._asdict().items())})"

        def __getnewargs__(self):
            return tuple(self)


__all__ = ["Record"]
