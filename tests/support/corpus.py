# SPDX-License-Identifier: Apache-2.0
"""Messages of every kind there is, made from the protocol's own JSON schema.

Each definition gives a fullest instance (every member, `_meta` and unknown members at every level), as many
more as it takes to choose every variant of every union once, and a barest one. A newer schema gives more.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from support import peers

Json = Any
Schema = dict[str, Any]

HARD = ("beyond_double",)
"""What not every reader takes, so only some messages have it."""

# What JSON can say and a careless reader loses. json.dumps would not write these, so `frame` puts them in.
LITERALS = {
    "exponent": "1.0E+2",
    "minus_zero": "-0",
    "long_fraction": "0.1000000000000000055511151231257827",
    "beyond_double": "1e400",
    "beyond_64_bits": "123456789012345678901234567890",
    "escapes": r'"\u0041\/\b\ud83d\ude00"',
    "twice": '{"a": 1,"a" :\t2}',
}
RICH = 'ü€😀 "quoted" \\ / \u2028\x00\x7f\n\t<&>'
ANYTHING: dict[str, Json] = {
    **{name: f"@{name}@" for name in LITERALS if name not in HARD},
    RICH: RICH,
    "": [None, True, False, 0, -1, 2**53 + 1, -(2**63), 2**64 - 1, 1.5, "", {}, [], [[]]],
    "sessionId": "not one",
    "deep": {"_meta": {"_meta": None}, "cwd": {"path": []}},
}
UNKNOWN: dict[str, Json] = {"_meta": ANYTHING, "notInTheSchema": ANYTHING, "_alsoNot": None}
ANY_VALUE: list[Json] = [ANYTHING, [], {}, [ANYTHING, []], RICH, "@exponent@", 0, False, None]

STRINGS: dict[str, Json] = {
    "cwd": "/",
    "path": "/tmp/ü b/c.txt",
    "additionalDirectories": "/tmp",
    "uri": "file:///tmp/%C3%BC%20b/c.txt",
    "url": "file:///tmp/%C3%BC%20b/c.txt",
}
"""Members that a hub may look into; the rest is any text."""
RANGES = {
    "uint16": (65535, 0),
    "uint32": (2**32 - 1, 0),
    "uint64": (2**64 - 1, 0),
    "int32": (2**31 - 1, -(2**31)),
    "int64": (2**63 - 1, -(2**63)),
}
STYLES: list[dict[str, Any]] = [
    {"ensure_ascii": False, "separators": (",", ":")},
    {"ensure_ascii": True},
    {"ensure_ascii": False, "separators": (" ,  ", "\t: ")},
]

ERRORS: list[Json] = [
    {"code": -32000, "message": RICH},
    {"code": -32002, "message": "no such thing", "data": {"uri": "file:///x", **UNKNOWN}},
    {"code": -32603, "message": "", "data": None, **UNKNOWN},
    {"code": -32800, "message": "cancelled", "data": [ANYTHING]},
    {"code": -32601, "message": "no such method", "data": RICH},
    {"code": 429, "message": "slow down", "data": 1.5},
    {"code": 2**31 - 1, "message": "a code of its own", "data": False},
    {"code": 0, "message": "none at all", "data": {}},
]

UNKNOWN_METHODS = [
    "_ext", "_vendor/ü/x", "qwen/notify/session/mode-update", "_auth/status_update", "session/set_model",
    "session/set_title", "session/archive", "session/unarchive", "session/status", "auth/status",
    "$/nobody_knows", "session/not_invented_yet", "x",
]  # fmt: skip
UNKNOWN_UPDATES = ["subagent_update", "session_message", "not_invented_yet", "ü", ""]


# The schema


def protocol() -> Schema:
    """As it comes with the SDK that is a peer of the tests."""
    text = (peers.modules() / "@agentclientprotocol" / "sdk" / "schema" / "schema.json").read_text()
    schema = json.loads(text)
    assert isinstance(schema, dict)
    return schema


class Definition(NamedTuple):
    """A message the schema knows: `side` is who handles the method, agent, client, both or protocol."""

    name: str
    method: str
    side: str
    kind: str

    def on(self, side: str) -> bool:
        return self.side in (side, "both")


def definitions(schema: Schema, kind: str) -> list[Definition]:
    """All that are a Request, a Response or a Notification."""
    return [
        Definition(name, each["x-method"], each["x-side"], kind)
        for name, each in schema["$defs"].items()
        if "x-method" in each and name.endswith(kind)
    ]


# Instances


class Corpus:
    """Instances of the definitions. `fixed` gives the values of those that stand for something real.

    Two corpora of the same schema have the same instances in the same order, but for what is fixed.
    """

    def __init__(self, schema: Schema, fixed: Mapping[str, list[Json]]) -> None:
        self._definitions = schema["$defs"]
        self._fixed = fixed

    def of(self, name: str) -> list[Json]:
        """The fullest instance first, the barest last."""
        return self._values({"$ref": f"#/$defs/{name}"}, "")

    def _values(self, schema: Schema, name: str) -> list[Json]:
        return [value for shape in self._shapes(schema) for value in self._shape_values(shape, name)]

    def _shapes(self, schema: Schema) -> list[Schema]:
        """The schemas without references or unions that it is made of."""
        if "$ref" in schema:
            return self._referred(schema["$ref"].rpartition("/")[2])
        shapes = [{key: schema[key] for key in schema.keys() - {"allOf", "anyOf", "oneOf"}}]
        for part in schema.get("allOf", []):
            shapes = _combined(shapes, self._shapes(part))
        for union in ("oneOf", "anyOf"):
            if union in schema:
                variants = [shape for variant in schema[union] for shape in self._shapes(variant)]
                shapes = _combined(shapes, variants)
        return shapes

    def _referred(self, name: str) -> list[Schema]:
        if name in self._fixed:
            return [{"enum": self._fixed[name]}]
        return self._shapes(self._definitions[name])

    def _shape_values(self, shape: Schema, name: str) -> list[Json]:
        if "const" in shape or "enum" in shape:
            return list(shape.get("enum", [shape.get("const")]))
        kinds = shape.get("type", "anything")
        return [
            value
            for kind in (kinds if isinstance(kinds, list) else [kinds])
            for value in self._typed(kind, shape, name)
        ]

    def _typed(self, kind: str, shape: Schema, name: str) -> list[Json]:
        match kind:
            case "object":
                return self._objects(shape) if "properties" in shape else self._maps(shape)
            case "array":
                return [self._values(shape.get("items", {}), name), []]
            case "string":
                return [STRINGS.get(name, RICH), STRINGS.get(name, "")]
            case "integer":
                most, least = RANGES.get(shape.get("format", ""), (2**53 + 1, -1))
                return [shape.get("maximum", most), shape.get("minimum", least)]
            case "number":
                return ["@exponent@", "@long_fraction@", -1.5e-7, 0]
            case "boolean":
                return [True, False]
            case "null":
                return [None]
            case _:
                return ANY_VALUE

    def _objects(self, shape: Schema) -> list[Json]:
        """Full ones, until each member has had each of its values, and one with as little as may be."""
        members = {name: self._values(schema, name) for name, schema in shape["properties"].items()}
        full = [
            {**UNKNOWN, **{name: values[i % len(values)] for name, values in members.items()}}
            for i in range(max(map(len, members.values())))
        ]
        return [*full, {name: members[name][-1] for name in shape.get("required", [])}]

    def _maps(self, shape: Schema) -> list[Json]:
        of = shape.get("additionalProperties", True)
        if not isinstance(of, dict):
            return [ANYTHING, {}]
        return [{f"{RICH}{i}": value for i, value in enumerate(self._values(of, ""))}, {}]


def _combined(shapes: list[Schema], others: list[Schema]) -> list[Schema]:
    """Every shape with every other laid over it."""
    return [
        {
            **shape,
            **other,
            **_union("properties", shape, other),
            "required": [*shape.get("required", []), *other.get("required", [])],
        }
        for shape in shapes
        for other in others
    ]


def _union(key: str, shape: Schema, other: Schema) -> Schema:
    both = {**shape.get(key, {}), **other.get(key, {})}
    return {key: both} if both else {}


# Frames


def frame(number: int, members: Json, **literals: str) -> bytes:
    """A message in one of the ways to write the same JSON, now and then with members JSON-RPC does not know.

    "@name@" in it stands for that literal.
    """
    message = {"jsonrpc": "2.0", **members}
    if number % 4 == 1:
        message |= {"_trace": ANYTHING, "notInTheSchema": None}
    if number % 5 == 2:
        message = dict(reversed(message.items()))
    dumped = json.dumps(message, **STYLES[number % len(STYLES)])
    return re.sub(r'"@(\w+)@"', lambda found: (LITERALS | literals)[found[1]], dumped).encode()


def read(line: bytes) -> Json:
    return json.loads(line, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


def differences(sent: Json, came: Json, where: str = "") -> Iterator[str]:
    """Where two values differ, in words."""
    if _kind(sent) is not _kind(came):
        yield f"{where}: {_short(sent)} became {_short(came)}"
    elif isinstance(sent, dict):
        for name in sent.keys() | came.keys():
            if name not in came:
                yield f"{where}.{name}: lost"
            elif name not in sent:
                yield f"{where}.{name}: added: {_short(came[name])}"
            else:
                yield from differences(sent[name], came[name], f"{where}.{name}")
    elif isinstance(sent, list) and len(sent) == len(came):
        for i, (one, other) in enumerate(zip(sent, came, strict=True)):
            yield from differences(one, other, f"{where}[{i}]")
    elif sent != came:
        yield f"{where}: {_short(sent)} became {_short(came)}"


def _kind(value: Json) -> type:
    """True is no number, but 1.0 and 1 are; how one is written counts only where nothing is rewritten."""
    return float if type(value) is int else type(value)


def _short(value: Json) -> str:
    return repr(value)[:100]
