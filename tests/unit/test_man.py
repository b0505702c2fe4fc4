# SPDX-License-Identifier: Apache-2.0
"""The man pages: well formed, and about what there really is."""

import argparse
import importlib
import importlib.util
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin
from xml.dom import minidom

import msgspec
import pytest

from agentd import __main__ as agentd
from agentd import config, errors
from agentd.acp import extensions
from agentd.ctl import list as containers
from agentd.ctl import options
from agentd.ctl.doctor import findings
from agentd.ctl.events import changes
from agentd.ctl.prompt import scheduled
from agentd.ctl.top import activity
from agentd.errors import NotInstalled
from agentd.manager import status
from agentd.systemd import journal

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "packaging" / "man"
XML = ROOT / "dbus" / "org.agentd1.xml"
PAGES = ("agentctl.1", "agentd.8", "agentd.toml.5", "org.agentd1.5")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("interface", FOLDER / "interface.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


INTERFACE = generator()


def source(page: str) -> str:
    return INTERFACE.page(str(XML)) if page == "org.agentd1.5" else (FOLDER / page).read_text()


def mandoc(page: str, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["mandoc", *options], input=source(page), capture_output=True, text=True, check=False, timeout=60
    )


# All of them


@pytest.mark.parametrize("page", PAGES)
def test_page_is_well_formed(page: str) -> None:
    found = mandoc(page, "-Tlint", "-W", "warning")
    assert (found.stdout, found.stderr, found.returncode) == ("", "", 0)


@pytest.mark.parametrize("page", PAGES)
def test_page_refers_to_our_other_pages(page: str) -> None:
    named = set(re.findall(r"\.Xr (\S+) (\d)", source(page).partition(".Sh SEE ALSO")[2]))
    ours = {tuple(each.rsplit(".", 1)) for each in PAGES}
    assert ours - {tuple(page.rsplit(".", 1))} - named <= {("agentd.toml", "5")}
    assert not {name for name, section in named if "agent" in name and (name, section) not in ours}


# agentd.toml(5)

TABLES: dict[str, Any] = {
    "OPTIONS": config.Configuration,
    "[access]": config.Access,
    "[limits]": config.Limits,
    "[permissions]": config.Permissions,
    "[store]": config.Store,
    "[budget]": config.Budget,
    "[agents.NAME]": config.Agent,
    "[agents.NAME.env.VARIABLE]": config.SecretReference,
    "[containers.NAME]": config.Container,
    "prompts/NAME.toml": scheduled.Prompt,
}
"""What is listed below each heading."""
LISTED_APART = {"access", "limits", "permissions", "store", "budget", "agents", "containers"}
"""Tables of the top level that have a heading of their own."""


def sections(page: str) -> dict[str, str]:
    """The source below each heading, by its title."""
    parts = re.split(r"^\.S[hs] (.+)\n", source(page), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def listed(text: str) -> dict[str, str]:
    """Keys and what the page says is their default."""
    found = re.findall(r'^\.It Ic (.+) Pq "(.+); (.+)"$', text, flags=re.MULTILINE)
    return {name: default for names, _, default in found for name in names.split(" , ")}


def defaults(table: Any) -> dict[str, str]:
    return {field.name: spelled(field) for field in msgspec.structs.fields(table)}


def spelled(field: Any) -> str:
    """A default as the page has it."""
    if field.required:
        return "needed"
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if default is None:
        return "not set"
    if isinstance(default, msgspec.Struct):
        return "{}"
    if isinstance(default, float):
        return f"{default:.10g}"
    return json.dumps(default).replace('"', r"\(dq")


@pytest.mark.parametrize("title", TABLES)
def test_every_key_is_listed_with_its_default(title: str) -> None:
    wanted = defaults(TABLES[title])
    if title == "OPTIONS":
        wanted = {name: value for name, value in wanted.items() if name not in LISTED_APART}
    assert listed(sections("agentd.toml.5")[title]) == wanted


def test_no_key_is_listed_elsewhere() -> None:
    found = {title for title, text in sections("agentd.toml.5").items() if listed(text)}
    assert found == set(TABLES)


def test_agents_that_are_known_are_named() -> None:
    text = sections("agentd.toml.5")["[agents.NAME]"].partition(".Bl")[0]
    assert set(re.findall(r"^\.Ql (\w+)", text, flags=re.MULTILINE)) == set(config.KNOWN_AGENTS)


EXAMPLES = re.findall(
    r"^\.Bd -literal .*?\n(.*?)^\.Ed", sections("agentd.toml.5")["EXAMPLES"], flags=re.MULTILINE | re.DOTALL
)
UNIT = ("[Service]", "[Timer]")


@pytest.mark.parametrize("example", [each for each in EXAMPLES if not each.startswith(UNIT)])
def test_examples_are_valid(example: str, tmp_path: Path) -> None:
    file = tmp_path / "example.toml"
    file.write_text(example)
    if example.startswith("container ="):
        assert scheduled.load(str(file)).container == "box"
    else:
        assert config.load([file]).sources


# agentctl(1)

VERBS: dict[str, argparse.ArgumentParser] = next(
    dict(action.choices)
    for action in options.parser()._actions
    if isinstance(action, argparse._SubParsersAction)
)
MEANT = {"--system", "--user", "--runtime-dir", "-H", "--host"}
EVERYWHERE = MEANT | {"-h", "--help", "--version", "--json", "--no-pager"}
"""Options that are listed without the verbs that have them."""


def items(page: str, title: str) -> list[tuple[str, str]]:
    """The head of each item of a section, its subsections included, and what is said of it."""
    text = source(page).partition(f".Sh {title}\n")[2].partition("\n.Sh ")[0]
    parts = re.split(r"^\.It (.+)\n", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def option_strings(head: str) -> set[str]:
    """The options in the head of an item: `Fl n` is -n, and `Fl Fl lines` is --lines."""
    return {
        f"--{long}" if long else f"-{short}" for long, short in re.findall(r"Fl (?:Fl (\S+)|(\w)\b)", head)
    }


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {each for action in parser._actions for each in action.option_strings}


def test_every_verb_is_there_and_no_other() -> None:
    found = {re.match(r"Cm (\w+)", head)[1] for head, _ in items("agentctl.1", "VERBS")}  # type: ignore[index]
    assert found == set(VERBS)


def test_every_option_is_there_and_no_other() -> None:
    found = set().union(*(option_strings(head) for head, _ in items("agentctl.1", "OPTIONS")))
    assert found == options_of(options.parser()).union(*map(options_of, VERBS.values()))


def test_an_option_is_listed_with_the_verbs_that_have_it() -> None:
    for head, text in items("agentctl.1", "OPTIONS"):
        if special := option_strings(head) - EVERYWHERE:
            having = {verb for verb, parser in VERBS.items() if special <= options_of(parser)}
            assert having == set(re.findall(r"^\.Cm (\w+)", text, flags=re.MULTILINE)) & set(VERBS), head


def test_every_reason_is_listed_under_its_exit_status() -> None:
    listed = {
        int(head.removeprefix("Li ")): set(re.findall(r"^\.Li ([a-z_]+) ?[,.]?$", text, flags=re.MULTILINE))
        for head, text in items("agentctl.1", "EXIT STATUS")
        if head.startswith("Li ")
    }
    wanted: dict[int, set[str]] = {2: set(), 130: set()}
    family: list[type[errors.AgentdError]] = [errors.Internal, NotInstalled, *errors.BY_REASON.values()]
    for each in family:
        wanted.setdefault(each.exit_status, set()).add(each.reason)
    assert listed == wanted


# What --json has


def shape(kind: Any) -> str:
    """A type as the page has it, without blanks; "" for one that has no keys."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return f"{{{','.join(map(member, msgspec.structs.fields(kind)))}}}"
    if get_origin(kind) is dict:
        return "{NAME}"
    inner = "".join(map(shape, get_args(kind)))
    return f"[{inner}]" if inner and get_origin(kind) is list else inner


def member(field: Any) -> str:
    inner = shape(field.type)
    return f"{field.encode_name}:{inner}" if inner else str(field.encode_name)


SHAPES = {
    "list": f"[{{{','.join(containers.KEYS)}}}]",
    "status": shape(status.Status),
    "agents": shape(extensions.Agents),
    "paths": shape(extensions.SharedPaths),
    "sessions": shape(extensions.SessionList).replace("[{", "[{container,"),
    "top": shape(activity.Round),
    "events": shape(changes.Event),
    "doctor": f"{{place,problems,findings:[{{{','.join(('check', *findings.Finding._fields))}}}]}}",
    "prompt": "{update}{result}",
}
IN_WORDS = {"history", "metrics", "check", "drain", "undrain", "cancel", "start", "stop", "reload"}
"""Have it in the docstrings of their modules."""
AS_OTHERS_HAVE_IT = {"show", "logs"}
"""What their JSON is made of is not agentctl's to say."""


def shown() -> dict[str, str]:
    """What is displayed for each verb, without blanks."""
    found: dict[str, str] = {}
    for head, text in items("agentctl.1", "JSON OUTPUT"):
        display = "".join(re.findall(r"^\.Bd -literal\n(.*?)^\.Ed", text, flags=re.MULTILINE | re.DOTALL))
        display = re.sub(r"\{[A-Z]+\}", "{NAME}", re.sub(r"\s", "", display))
        found |= dict.fromkeys(head.removeprefix("Cm ").split(" , "), display)
    return found


def said(verb: str) -> set[str]:
    """The keys of the first object after --json, in the docstring of a verb's module."""
    text = (importlib.import_module(f"agentd.ctl.{verb}").__doc__ or "").partition("--json")[2]
    found = re.search(r"\{(?:[^{}]|\{[^{}]*\})*\}", text)
    assert found is not None, text
    return set(re.findall(r'(?<![:\w] )"?\b([a-z_]+)\b"?(?=\s*[,:}\]])', found[0]))


def test_json_of_every_verb_is_described_that_has_any() -> None:
    assert set(shown()) == {verb for verb, parser in VERBS.items() if "--json" in options_of(parser)}
    assert set(shown()) == {*SHAPES, *IN_WORDS, *AS_OTHERS_HAVE_IT}


@pytest.mark.parametrize("verb", SHAPES)
def test_json_has_this_shape(verb: str) -> None:
    assert shown()[verb] == SHAPES[verb]


@pytest.mark.parametrize("verb", sorted(IN_WORDS))
def test_json_has_these_keys(verb: str) -> None:
    assert set(re.findall("[a-z_]+", shown()[verb])) == said(verb)


# agentd(8)

PROCESSES: dict[str, argparse.ArgumentParser] = next(
    dict(action.choices)
    for action in agentd.parser()._actions
    if isinstance(action, argparse._SubParsersAction)
)


def test_every_process_is_there_with_its_options() -> None:
    assert {head.split()[1] for head, _ in items("agentd.8", "VERBS")} == set(PROCESSES)
    found = set().union(*(option_strings(head) for head, _ in items("agentd.8", "OPTIONS")))
    assert found == options_of(agentd.parser()).union(*map(options_of, PROCESSES.values()))


def test_every_unit_is_there() -> None:
    found = {
        unit for head, _ in items("agentd.8", "UNITS") for unit in head.removeprefix("Pa ").split(" , ")
    }
    assert found == {each.name for each in (ROOT / "units").iterdir() if each.is_file()}


def test_every_field_of_the_journal_is_there() -> None:
    found = {
        name for head, _ in items("agentd.8", "JOURNAL") for name in head.removeprefix("Va ").split(" , ")
    }
    assert found == {"MESSAGE_ID", *(f"AGENTD_{name.upper()}" for name in journal.CONTEXT)}


# org.agentd1(5)


def contract() -> minidom.Element:
    node = minidom.parse(str(XML)).documentElement
    assert node is not None
    return node


def members() -> Iterator[tuple[str, minidom.Element]]:
    """Each with the name of its interface."""
    for interface in contract().getElementsByTagName("interface"):
        for kind in ("method", "signal", "property"):
            yield from (
                (interface.getAttribute("name"), each) for each in interface.getElementsByTagName(kind)
            )


def test_every_member_of_the_contract_is_in_the_page() -> None:
    page = source("org.agentd1.5")
    for interface, member in members():
        text = page.partition(f".Sh INTERFACE {interface}\n")[2].partition("\n.Sh ")[0]
        assert re.search(rf"^\.It (Fn|Va) {member.getAttribute('name')}( |$)", text, flags=re.MULTILINE)


def test_arguments_are_in_the_page_with_their_types() -> None:
    assert '.It Fn Drain "in s target" "in a{sv} options" "out o job"' in source("org.agentd1.5")
    assert '.It Va Version Pq "s, constant"' in source("org.agentd1.5")


def test_a_member_without_a_comment_is_refused(tmp_path: Path) -> None:
    bare = XML.read_text().replace("<!-- A job has begun. -->", "")
    (tmp_path / "bare.xml").write_text(bare)
    with pytest.raises(LookupError, match=r"org\.agentd1\.Manager\.JobNew"):
        INTERFACE.page(str(tmp_path / "bare.xml"))


def test_a_line_that_would_be_a_macro_is_none() -> None:
    assert list(INTERFACE.prose("`name`: .Xr is a macro, see agentctl(1).")) == [
        ".Fa name :",
        r"\&.Xr is a macro, see",
        ".Xr agentctl 1 .",
    ]
