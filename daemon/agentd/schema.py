# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a value, in words: data compared with the types that msgspec would convert it to.

The type of every value carries a `Meta` whose description completes the sentence "must be …".
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Meta

Key = tuple[str, ...]
Problem = tuple[Key, str]


def learn(kind: Any) -> None:
    """Have msgspec look at a type now: two threads that are the first to use one, at once, crash there."""
    msgspec.json.Decoder(kind)


def problems(raw: object, kind: Any, key: Key) -> Iterator[Problem]:
    """Everything that msgspec would stumble over, where msgspec itself stops at the first."""
    table = table_of(kind)
    if isinstance(raw, dict) and table is not None:
        yield from (_mapping_problems if get_origin(table) is dict else _table_problems)(raw, table, key)
    elif table is kind:
        yield key, f"must be a table, not {_shown(raw)}"
    else:
        yield from _value_problems(raw, kind, key)


def table_of(kind: Any) -> Any:
    """The table that may stand there: the type itself or one part of a union. None where none may."""
    return next((each for each in (kind, *get_args(kind)) if is_table(each)), None)


def is_table(kind: Any) -> bool:
    return get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, msgspec.Struct))


def kinds_of(table: Any, names: Iterable[str]) -> dict[str, Any]:
    """The type of each value in a table, by name; where a table takes any name, of those given."""
    if get_origin(table) is dict:
        return dict.fromkeys(names, get_args(table)[1])
    return {field.name: field.type for field in msgspec.structs.fields(table)}


def _table_problems(raw: dict[str, Any], struct: Any, key: Key) -> Iterator[Problem]:
    kinds = kinds_of(struct, raw)
    for name, value in raw.items():
        if name in kinds:
            yield from problems(value, kinds[name], (*key, name))
        else:
            yield (*key, name), _unknown(name, kinds)


def _mapping_problems(raw: dict[str, Any], mapping: Any, key: Key) -> Iterator[Problem]:
    name_kind, value_kind = get_args(mapping)
    for name, value in raw.items():
        if not fits(name, name_kind):
            yield (*key, name), f"must be {meta_of(name_kind).description}"
        yield from problems(value, value_kind, (*key, name))


def _value_problems(raw: object, kind: Any, key: Key) -> Iterator[Problem]:
    element = _element_kind(kind)
    if element is not None and isinstance(raw, list) and raw:
        for number, item in enumerate(raw, 1):
            if not fits(item, element):
                yield key, f"element {number} {_must(item, element)}"
    elif not fits(raw, kind):
        hint = _list_hint(raw) if element is not None and isinstance(raw, str) else ""
        yield key, _must(raw, kind) + hint


def _must(raw: object, kind: Any) -> str:
    meta = meta_of(kind)
    secret = (meta.extra or {}).get("secret")
    return f"must be {meta.description}" + ("" if secret else f", not {_shown(raw)}")


def _list_hint(raw: str) -> str:
    return f": write [{', '.join(map(quoted, raw.split()))}]"


def _element_kind(kind: Any) -> Any:
    """The type of a list's elements, None where the value is no list."""
    inner = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return get_args(inner)[0] if get_origin(inner) is tuple else None


def fits(raw: object, kind: Any) -> bool:
    try:
        msgspec.convert(raw, kind)
    except msgspec.ValidationError:
        return False
    return True


def meta_of(kind: Any) -> Meta:
    """What the schema says about a type: its own annotation, or that of its part of a union."""
    if get_origin(kind) is Annotated:
        return next(meta for meta in kind.__metadata__ if isinstance(meta, Meta))
    return next(meta_of(part) for part in get_args(kind) if get_origin(part) is Annotated)


def _unknown(name: str, known: Iterable[str]) -> str:
    there = sorted(known)
    hint = suggestion(name, there) or f"; this table has {', '.join(there)}"
    return f"unknown key{hint}"


def suggestion(name: str, there: Iterable[str]) -> str:
    import difflib  # for those who have made a mistake

    close = difflib.get_close_matches(name, list(there), n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def _shown(raw: object) -> str:
    """What stands in the file, short enough for a line of a journal."""
    match raw:
        case bool():
            return str(raw).lower()
        case int() if raw.bit_length() > 64:
            return "a number of that many digits"
        case int() | float():
            return str(raw)
        case str():
            return quoted(raw[:64])
        case dict():
            return "a table"
        case list():
            return "a list" if raw else "an empty list"
        case _:
            return "a date or time"


def quoted(text: str) -> str:
    """A TOML string that is safe to show on a terminal."""
    return '"' + printable(text.replace("\\", r"\\").replace('"', r"\"")) + '"'


def printable(text: str) -> str:
    """The text with TOML's escapes for what a terminal or a line would take as an order."""
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in text)
