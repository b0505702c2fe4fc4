# SPDX-License-Identifier: Apache-2.0
"""Nothing is lost on the way: all that the protocol can say, and more, arrives as it was sent, both ways."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path

import jsonschema
import pytest

from support import corpus
from support.corpus import (
    ANY_VALUE,
    ERRORS,
    UNKNOWN,
    Corpus,
    Json,
    Schema,
    definitions,
    differences,
    frame,
    read,
)
from support.embedded import Embedded
from support.stage import End, Stage
from support.wire import FRESH, VERSION_1, Case, Script, Theatre, Wire, result_of, without_id, without_picker

HUB_ANSWERS = {"session/list", "session/load", "session/resume", "session/close", "session/delete"}
OWN_CAPABILITIES = ("list", "resume", "close", "delete")
STRUCTURES = [each for each in ANY_VALUE if each is None or isinstance(each, list | dict)]


# Fixtures


@pytest.fixture(scope="module")
def schema() -> Schema:
    return corpus.protocol()


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory, schema: Schema) -> Iterator[Theatre]:
    folder = tmp_path_factory.mktemp("fidelity")
    script = Script(schema)
    stage = Stage(folder / "stage", script.answer)
    agentd = Embedded(folder, configuration(folder, stage))
    try:
        agentd.start()
        yield Theatre(agentd, stage, script)
    finally:
        agentd.clean_up()
        stage.close()


def configuration(folder: Path, stage: Stage) -> str:
    return f"""
default_agent = "recorder"
runtimes = []
[limits]
sessions = 10000
sessions_per_uid = 10000
[agents.recorder]
command = {json.dumps(stage.command)}
[containers.here]
runtime = "host"
directory = "{folder}"
agents = ["recorder"]
"""


@pytest.fixture
def transparent(theatre: Theatre, request: pytest.FixtureRequest) -> Iterator[Wire]:
    """A connection that has named its agent."""
    with Wire(theatre, request.node.name) as wire:
        yield wire


@pytest.fixture
def minted(theatre: Theatre, request: pytest.FixtureRequest) -> Iterator[Wire]:
    """The same, with a session id that another agent has given to a session of its own."""
    name = request.node.name
    with Wire(theatre, f"{name} before", session="0"), Wire(theatre, name, session="0") as wire:
        yield wire


@pytest.fixture
def aggregated(theatre: Theatre, request: pytest.FixtureRequest) -> Iterator[Wire]:
    """A connection to no agent in particular."""
    with Wire(theatre, request.node.name, agent="") as wire:
        yield wire


@pytest.fixture(params=["transparent", "minted", "aggregated"])
def wire(request: pytest.FixtureRequest) -> Wire:
    wire = request.getfixturevalue(request.param)
    assert isinstance(wire, Wire)
    return wire


# Tables


def cases(schema: Schema, kind: str, side: str, sent: Corpus, wanted: Corpus) -> Iterator[Case]:
    """All messages of a kind that this side handles."""
    for each in definitions(schema, kind):
        if each.on(side) and each.method not in HUB_ANSWERS | {"initialize"}:
            for one, other in zip(sent.of(each.name), wanted.of(each.name), strict=True):
                yield call(each.method, one, other)


def call(method: str, sent: Json, wanted: Json) -> Case:
    return Case(method, {"method": method, "params": sent}, {"method": method, "params": wanted})


def unheard_of(sent: str, wanted: str) -> Iterator[Case]:
    """Calls of methods that are in no schema, with a session, without, and with parameters of any shape."""
    for method in corpus.UNKNOWN_METHODS:
        yield Case(method, {"method": method}, {"method": method})
        for params in (*STRUCTURES, {"sessionId": 17}):
            yield call(method, params, params)
        yield call(method, {"sessionId": sent, **UNKNOWN}, {"sessionId": wanted, **UNKNOWN})


def unheard_of_updates(sent: str, wanted: str) -> Iterator[Case]:
    for kind in corpus.UNKNOWN_UPDATES:
        yield call("session/update", update(sent, kind), update(wanted, kind))


def update(session: str, kind: str) -> Json:
    """An update of a kind that is in no schema, with ids wherever they are known to stand."""
    ids = {
        "subagent_update": {"sessionId": session},
        "session_message": {"senderSessionId": session, "recipientSessionId": session},
    }
    return {"sessionId": session, "update": {"sessionUpdate": kind, **UNKNOWN, **ids.get(kind, {})}}


def answers(schema: Schema, method: str, sent: str, wanted: str) -> list[Case]:
    """Every result there is for a method, or any where it is unknown, and every error."""
    kinds = [each.name for each in definitions(schema, "Response") if each.method == method]
    results = [value for name in kinds for value in Corpus(schema, FRESH).of(name)] or ANY_VALUE
    gone = [
        {"code": -32002, "message": "no session", "data": {"sessionId": session}}
        for session in (sent, wanted)
    ]
    return [
        *(Case(f"result of {method}", {"result": each}, {"result": each}) for each in results),
        *(Case(f"error of {method}", {"error": each}, {"error": each}) for each in ERRORS),
        Case(f"error of {method}", {"error": gone[0]}, {"error": gone[1]}),
    ]


def dialogues(asked: list[Case], answers: Callable[[str], list[Case]]) -> Iterator[tuple[Case, Case]]:
    """Every request and every answer of its method, at least once each."""
    by_method: dict[str, list[Case]] = {}
    for case in asked:
        by_method.setdefault(case.name, []).append(case)
    for method, requests in by_method.items():
        known = answers(method)
        yield from islice(zip(cycle(requests), cycle(known)), max(len(requests), len(known)))


# The corpus itself


def test_corpus_is_what_the_schema_says(schema: Schema) -> None:
    wrong = []
    for each in messages(schema):
        validator = jsonschema.Draft202012Validator({"$ref": f"#/$defs/{each}", "$defs": schema["$defs"]})
        for number, instance in enumerate(Corpus(schema, {}).of(each)):
            value = json.loads(frame(number, {"params": instance}))["params"]
            wrong += [f"{each}: {error.message[:200]}" for error in validator.iter_errors(value)]
    assert not wrong


def test_corpus_has_every_variant_that_the_schema_has(schema: Schema) -> None:
    wanted = {tag for name in schema["$defs"] for tag in tags_in_schema(schema["$defs"][name])}
    made = {tag for name in messages(schema) for each in Corpus(schema, {}).of(name) for tag in tags(each)}
    assert wanted and wanted <= made


def messages(schema: Schema) -> list[str]:
    kinds = ("Request", "Response", "Notification")
    return [each.name for kind in kinds for each in definitions(schema, kind)]


def tags_in_schema(schema: Json) -> Iterator[tuple[str, str]]:
    """Strings that a member must be equal to, and those that anything must be equal to."""
    if isinstance(schema, list):
        for each in schema:
            yield from tags_in_schema(each)
    elif isinstance(schema, dict):
        if isinstance(schema.get("const"), str):
            yield "", schema["const"]
        members = {name: each for name, each in schema.get("properties", {}).items() if "const" in each}
        yield from ((name, each["const"]) for name, each in members.items())
        for each in schema.values():
            yield from tags_in_schema(each)


def tags(value: Json, name: str = "") -> Iterator[tuple[str, str]]:
    """All strings, with and without the names of the members that they are."""
    if isinstance(value, str):
        yield from ((name, value), ("", value))
    elif isinstance(value, list):
        for each in value:
            yield from tags(each)
    elif isinstance(value, dict):
        for member, each in value.items():
            yield from tags(each, member)


# Passing through


def test_requests_of_the_client(wire: Wire, schema: Schema) -> None:
    mine, its = wire.corpora()
    known = cases(schema, "Request", "agent", mine, its)
    asked = wire.routed([*known, *unheard_of(wire.public, wire.own)])
    for request, answer in dialogues(asked, lambda method: answers(schema, method, wire.own, wire.public)):
        wire.exchange(request, answer, wire.client, wire.actor)
    wire.finish()


def test_notifications_of_the_client(wire: Wire, schema: Schema) -> None:
    mine, its = wire.corpora()
    known = cases(schema, "Notification", "agent", mine, its)
    for case in wire.routed([*known, *unheard_of(wire.public, wire.own)]):
        wire.pass_on(case, wire.client, wire.actor)
    wire.finish()


def test_requests_of_the_agent(wire: Wire, schema: Schema) -> None:
    pending = wire.pending("_pending", wire.client, wire.actor)
    mine, its = wire.corpora(pending)
    known = cases(schema, "Request", "client", its, mine)
    asked = wire.routed([*known, *unheard_of(wire.own, wire.public)])
    for request, answer in dialogues(asked, lambda method: answers(schema, method, wire.public, wire.own)):
        wire.exchange(request, answer, wire.actor, wire.client)
    wire.finish()


def test_notifications_of_the_agent(wire: Wire, schema: Schema) -> None:
    mine, its = wire.corpora()
    updates = unheard_of_updates(wire.own, wire.public)
    known = cases(schema, "Notification", "client", its, mine)
    for case in wire.routed([*known, *updates, *unheard_of(wire.own, wire.public)]):
        wire.pass_on(case, wire.actor, wire.client)
    wire.finish()


@pytest.mark.parametrize("asker", ["client", "actor"])
def test_withdrawals_name_the_request_by_the_id_it_has_there(
    transparent: Wire, schema: Schema, asker: str
) -> None:
    wire, direction = transparent, ends(transparent, asker)
    for number in range(len(withdrawals(schema, 0))):
        here, there = wire.pending(f"_pending{number}", *direction)
        sent, wanted = withdrawals(schema, here)[number], withdrawals(schema, there)[number]
        wire.pass_on(call("$/cancel_request", sent, wanted), *direction)
    wire.finish()


def withdrawals(schema: Schema, request: Json) -> list[Json]:
    return Corpus(schema, {"RequestId": [request]}).of("CancelRequestNotification")


@pytest.mark.parametrize("teller", ["client", "actor"])
@pytest.mark.parametrize("literal", corpus.HARD)
def test_what_not_every_reader_takes_passes(transparent: Wire, literal: str, teller: str) -> None:
    update = {"sessionUpdate": "x", "content": f"@{literal}@"}
    case = call("session/update", *[{"sessionId": transparent.public, "update": update}] * 2)
    answer = Case("result", {"result": update}, {"result": update})
    transparent.pass_on(case, *ends(transparent, teller))
    transparent.exchange(case, answer, *ends(transparent, teller))
    transparent.finish()


def ends(wire: Wire, first: str) -> tuple[End, End]:
    return (wire.client, wire.actor) if first == "client" else (wire.actor, wire.client)


# Beginnings


def test_initialize_but_for_what_the_hub_can_do_itself(theatre: Theatre, schema: Schema) -> None:
    hellos = Corpus(schema, VERSION_1).of("InitializeRequest")
    replies = Corpus(schema, VERSION_1).of("InitializeResponse")
    faults: list[str] = []
    for number in range(max(len(hellos), len(replies))):
        hello, reply = hellos[number % len(hellos)], replies[number % len(replies)]
        faults += initialize(theatre, f"hello {number}.", hello, reply)
    theatre.script.results["initialize"] = replies[0]
    assert not faults, "\n".join(faults)


def initialize(theatre: Theatre, token: str, hello: Json, reply: Json) -> list[str]:
    """Begin a connection; what was not as it should be."""
    ours = {"clientCapabilities": {"_token": token} | hello.get("clientCapabilities", {})}
    sent = frame(0, {"id": token, "method": "initialize", "params": hello | ours})
    theatre.script.results["initialize"] = reply
    client = theatre.client("recorder")
    client.say(sent)
    came = client.hear()
    client.close()
    assert came is not None, (
        f"{token} was not answered: {sent.decode()}, {reply}\n{theatre.agentd.log()[-3000:]}"
    )
    _, heard = theatre.stage.actor_told(token)
    wanted = frame(
        0,
        {
            "result": reply
            | {"agentCapabilities": with_own(reply.get("agentCapabilities", {}))}
            | {name: offered(reply[name], hello) for name in ("authMethods",) if reply.get(name)}
        },
    )
    pairs = ((sent, heard), (wanted, came))
    return [
        f"{token}{fault}"
        for one, other in pairs
        for fault in differences(without_id(read(one)), without_id(read(other)))
    ]


def offered(methods: list[Json], hello: Json) -> list[Json]:
    """Ways to log in: those in a terminal only for a client that has said that it has one."""
    auth = (hello.get("clientCapabilities") or {}).get("auth") or {}
    return [by_agentctl(each) for each in methods if auth.get("terminal") or each.get("type") != "terminal"]


def by_agentctl(method: Json) -> Json:
    """A way to log in, which in a terminal is through agentctl."""
    if method.get("type") != "terminal":
        return method
    shown = {name: value for name, value in method.items() if name != "env"}
    return shown | {"args": ["--login", f"recorder/{method['id']}"]}


def with_own(capabilities: Json) -> Json:
    """An agent's capabilities and the hub's."""
    theirs = capabilities.get("sessionCapabilities", {})
    session = theirs | {name: theirs.get(name) or {} for name in OWN_CAPABILITIES}
    return capabilities | {"loadSession": True, "sessionCapabilities": session}


def test_sessions_of_the_same_id_are_told_apart(minted: Wire) -> None:
    assert minted.public != minted.own


def test_new_session_is_what_the_agent_has_said_of_it(wire: Wire, theatre: Theatre) -> None:
    said = read(frame(0, {"result": theatre.script.results["session/new"]}, fresh=json.dumps(wire.public)))[
        "result"
    ]
    came = without_picker({"result": wire.made})["result"] if wire.aggregated else wire.made
    assert not list(differences(said, came))


def test_updates_from_before_session_new_is_answered(transparent: Wire, schema: Schema) -> None:
    wire, lines = transparent, updates(schema, "new here")
    wire.client.say(frame(0, {"id": 1, "method": "session/new", "params": {"cwd": "/", "mcpServers": []}}))
    asked = read(wire.actor.hear() or b"{}")
    for line in lines:
        wire.actor.say(line)
    answer = {"sessionId": "new here"}
    wire.actor.say(frame(0, {"id": int(asked["id"]), "result": answer}))
    came = wire.client.hear_all(len(lines) + 1)
    assert [line for line in came if line in lines] == lines
    assert [read(line)["result"] for line in came if line not in lines] == [answer]


# What the hub knows of a session


@pytest.fixture
def known(transparent: Wire) -> Wire:
    """A session whose agent answers by itself: whether it is asked is up to the hub."""
    transparent.actor.play(False)
    return transparent


@pytest.mark.parametrize("method", ["session/load", "session/resume"])
def test_who_comes_later_is_told_what_session_new_said(known: Wire, method: str) -> None:
    with closing(known.another_client()) as later:
        told = result_of(later.call(method, opening(known.public)))
    assert not list(differences(known.made, told | {"sessionId": known.public}))


def test_load_replays_every_update_as_it_was(known: Wire, schema: Schema) -> None:
    lines = updates(schema, known.public)
    for line in lines:
        known.actor.say(line)
    assert known.client.hear_all(len(lines)) == lines
    with closing(known.another_client()) as later:
        _, replayed = later.call("session/load", opening(known.public))
    assert replayed == lines


def test_who_reads_along_hears_every_update_as_it_is(known: Wire, schema: Schema) -> None:
    lines = updates(schema, known.public)
    with closing(known.another_client()) as watcher:
        result_of(watcher.call("session/resume", opening(known.public)))
        for line in lines:
            known.actor.say(line)
        assert watcher.hear_all(len(lines)) == lines
    assert known.client.hear_all(len(lines)) == lines


def test_list_loses_nothing_of_what_was_asked_for_or_what_the_agent_says(
    known: Wire, theatre: Theatre
) -> None:
    said = {"title": corpus.RICH, **UNKNOWN}
    theatre.script.results["session/list"] = {"sessions": [{"sessionId": known.own, "cwd": "/", **said}]}
    listed = result_of(known.client.call("session/list", {}))["sessions"]
    (entry,) = (each for each in listed if each["sessionId"] == known.public)
    agent_was_asked = any(b'"session/list"' in line for line in known.actor.history)
    wanted = {"cwd": "/", "additionalDirectories": ["/tmp"]} | (said if agent_was_asked else {})
    faults = differences(read(frame(0, {"entry": wanted}))["entry"], entry)
    assert not [fault for fault in faults if ": added: " not in fault]


def opening(session: str) -> Json:
    return {"sessionId": session, "cwd": "/", "mcpServers": []}


def updates(schema: Schema, session: str) -> list[bytes]:
    """A frame of every kind of session/update."""
    instances = Corpus(schema, {"SessionId": [session]}).of("SessionNotification")
    known = (call("session/update", each, each) for each in instances)
    every = (*known, *unheard_of_updates(session, session))
    return [frame(number, case.sent) for number, case in enumerate(every)]
