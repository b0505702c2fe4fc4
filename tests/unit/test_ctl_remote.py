# SPDX-License-Identifier: Apache-2.0

import pytest

from agentd.ctl.remote import parts, ssh, without_host
from agentd.errors import InvalidArgs


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("box", ("box", "")),
        ("ann@box", ("ann@box", "")),
        ("ann@box:22", ("ann@box", "22")),
        ("::1", ("::1", "")),
        ("[::1]", ("::1", "")),
        ("ann@[fe80::1]:2222", ("ann@fe80::1", "2222")),
        ("a@b@box", ("a@b@box", "")),
    ],
)
def test_a_host_has_a_user_and_a_port(host: str, found: tuple[str, str]) -> None:
    assert parts(host) == found


@pytest.mark.parametrize(
    "host",
    ["", "-oProxyCommand=x", "-l@box", "ann@-x", "ann@", "@box", "box:", "box:0", "box:70000", "box:ssh",
     "[::1", "[::1]22", "[::1]:", ":22", "[-x]"],
)  # fmt: skip
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(InvalidArgs):
        parts(host)


@pytest.mark.parametrize(
    "spelled",
    [["-H", "box"], ["-Hbox"], ["--host", "box"], ["--host=box"], ["--hos", "box"], ["--ho=box"]],
)
def test_every_spelling_of_the_option_is_taken_out(spelled: list[str]) -> None:
    assert without_host([*spelled, "list", "--json"]) == ["list", "--json"]
    assert without_host(["logs", *spelled, "box", "-f"]) == ["logs", "box", "-f"]


def test_what_comes_after_two_dashes_is_no_option() -> None:
    arguments = ["prompt", "box", "--", "-H"]
    assert without_host(["-H", "there", *arguments]) == arguments
    assert without_host(["-H", "--host", "prompt", "box", "x"]) == ["prompt", "box", "x"]


def test_one_among_other_letters_is_refused() -> None:
    with pytest.raises(InvalidArgs, match="by itself"):
        without_host(["logs", "-fH", "box"])


def test_arguments_are_quoted_for_the_shell_there() -> None:
    command = ssh("ann@box:22", ["prompt", "box", "it's $HOME; x", ""], terminal=False)
    assert command[:6] == ["ssh", "-p", "22", "--", "ann@box", "agentctl"]
    assert command[6:] == ["prompt", "box", "'it'\"'\"'s $HOME; x'", "''"]


def test_a_terminal_here_is_a_terminal_there() -> None:
    assert ssh("box", ["top"], terminal=True) == ["ssh", "-t", "--", "box", "agentctl", "top"]


def test_what_is_shown_here_is_made_harmless_there() -> None:
    """Without a terminal of its own, agentctl of the other host cannot see that there is one here."""
    arguments = ["prompt", "box", "-"]
    assert ssh("box", arguments, terminal=False, shown=True)[2:5] == ["box", "env", "AGENTCTL_SHOWN=1"]
    assert ssh("box", arguments, terminal=True, shown=True) == [
        "ssh",
        "-t",
        "--",
        "box",
        "agentctl",
        *arguments,
    ]
    assert ssh("box", arguments, terminal=False) == ["ssh", "--", "box", "agentctl", *arguments]
