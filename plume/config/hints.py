"""What a field's type admits: a leaf that pydantic checks, or a dataclass of its own in the tree.

Over a whole tree pydantic fails on ABC and Protocol fields and lets instances through unchecked, so the tree is
walked here and pydantic sees leaves only (DESIGN section 2).
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from plume.config.sentences import listed
from plume.errors import UserError

_SEQUENCES = (tuple, list, Sequence)
_MAPPINGS = (dict, Mapping)


def is_dataclass_value(obj: Any) -> bool:
    """Whether ``obj`` is an instance of a dataclass."""
    return dataclasses.is_dataclass(obj) and not isinstance(obj, type)


def is_frozen(cls: type) -> bool:
    """Whether ``cls`` itself (not only a parent) is a frozen dataclass."""
    parameters = vars(cls).get("__dataclass_params__")
    return parameters is not None and bool(parameters.frozen)


def fields_of(cls: Any) -> dict[str, dataclasses.Field[Any]]:
    """The fields that a configuration gives, by name."""
    return {f.name: f for f in dataclasses.fields(cls) if f.init}


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@cache
def hint_of(cls: type, name: str) -> Any:
    """The type of a field, read where its class was written.

    Raises:
        UserError: it names something that is imported for type checking only.
    """
    owner = next(c for c in cls.__mro__ if name in _annotations(c))
    hint = _annotations(owner)[name]
    if not isinstance(hint, str):
        return hint
    try:
        return typing.get_type_hints(_OneField(name, hint), vars(sys.modules[owner.__module__]))[name]
    except NameError as error:
        raise UserError(
            f"the type of {cls.__name__}.{name} cannot be read ({error}): import it outside TYPE_CHECKING"
        ) from None


class _OneField:
    """Carries one annotation, so that a class's other ones need not be readable."""

    def __init__(self, name: str, hint: str) -> None:
        self.__annotations__ = {name: hint}


@cache
def adapter(hint: Any) -> Any:
    """Pydantic's validator of a leaf type."""
    from pydantic import TypeAdapter  # 60 ms that --help does not need

    try:
        return TypeAdapter(hint)
    except Exception as error:  # pydantic has one of its own for every kind of type it has no schema for
        raise UserError(f"a setting cannot have the type {hint}: {type(error).__name__}") from error


def members(hint: Any) -> list[Any]:
    """The members of a union, or the type alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [m for argument in typing.get_args(hint) for m in members(argument)]
    return [hint]


def union(parts: Sequence[Any]) -> Any:
    """The union of a list of types."""
    return typing.Union[tuple(parts)]  # noqa: UP007 - of a list that only the run knows


def origin(hint: Any) -> Any:
    """``Objective`` of ``Objective[Window]``."""
    return typing.get_origin(hint) or hint


def is_structured(hint: Any) -> bool:
    """Whether values of this type are dataclasses of their own in the tree, or tuples of them."""
    kind = origin(hint)
    if kind in _SEQUENCES + _MAPPINGS:
        return any(is_structured(m) for a in typing.get_args(hint) if a is not ... for m in members(a))
    if not isinstance(kind, type):
        return hint is Any
    return dataclasses.is_dataclass(kind) or inspect.isabstract(kind) or _is_protocol(kind)


def leaves(hint: Any) -> list[Any]:
    """The members that pydantic can check."""
    return [m for m in members(hint) if not is_structured(m)]


def element(hint: Any, *, structured: bool = True) -> Any:
    """The type of the elements, where a member is a tuple (with ``structured``: of dataclasses); else None."""
    for member in members(hint):
        if origin(member) in _SEQUENCES and (not structured or is_structured(member)):
            return next(iter(typing.get_args(member)), Any)
    return None


def mapped(hint: Any) -> Any:
    """The type of a mapping's values; Any where it has none."""
    return next((typing.get_args(m)[1] for m in members(hint) if origin(m) in _MAPPINGS), Any)


def admits(hint: Any, cls: type) -> bool:
    """Whether a value of class ``cls`` may stand where ``hint`` is declared."""
    for member in map(origin, members(hint)):
        if member is Any:
            return True
        if not isinstance(member, type):
            continue
        if _is_protocol(member):
            has = {name for c in cls.__mro__ for name in (*vars(c), *_annotations(c))}
            if _protocol_names(member) <= has:
                return True
        elif issubclass(cls, member):
            return True
    return False


def wanted(hint: Any) -> str:
    """The type in words."""
    names = [
        getattr(origin(m), "__name__", str(m)) for m in members(hint) if m is not Any and m is not type(None)
    ]
    return listed(names, "or") or "a configuration"


def _is_protocol(cls: type) -> bool:
    return bool(getattr(cls, "_is_protocol", False))


def _protocol_names(cls: type) -> set[str]:
    bases = [c for c in cls.__mro__ if _is_protocol(c)]
    return {n for c in bases for n in (*vars(c), *_annotations(c)) if not n.startswith("_")}


def _annotations(cls: type) -> dict[str, Any]:
    annotations: dict[str, Any] = vars(cls).get("__annotations__", {})
    return annotations
