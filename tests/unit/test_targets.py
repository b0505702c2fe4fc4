# SPDX-License-Identifier: Apache-2.0

import pytest

from agentd.errors import NoSuchTarget
from agentd.manager.targets import EVERYTHING, Scope, Target, Targets

LONG = "x" * 128


@pytest.mark.parametrize(
    ("text", "target", "scope"),
    [
        ("", EVERYTHING, Scope.ALL),
        ("box", Target("box"), Scope.CONTAINER),
        ("my-box.1_a", Target("my-box.1_a"), Scope.CONTAINER),
        (LONG, Target(LONG), Scope.CONTAINER),
        ("box/claude", Target("box", "claude"), Scope.AGENT),
        ("box#s1", Target("box", session="s1"), Scope.SESSION),
        ("box#a#b/c \n", Target("box", session="a#b/c \n"), Scope.SESSION),
        ("box#/", Target("box", session="/"), Scope.SESSION),
        ("box#ä", Target("box", session="ä"), Scope.SESSION),
    ],
)
def test_a_target_is_read_and_written_alike(text: str, target: Target, scope: Scope) -> None:
    assert Target.parse(text) == target == Target.split(text)
    assert (str(target), target.scope) == (text, scope)
    assert (target.is_all, target.is_part) == (not text, scope in ("agent", "session"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("box/", "box/ names no agent"),
        ("box#", "box# names no session"),
        ("/", "'/' names no container"),
        ("#", "'#' names no container"),
        ("/x", "'/x' names no container"),
        ("#s", "'#s' names no container"),
        (" box", "' box' is no container's name"),
        ("box\n", r"'box\\n' is no container's name"),
        ("-box", "'-box' is no container's name"),
        (LONG + "x", "is no container's name"),
        ("box/a b", "'a b' is no agent's name"),
        ("box/claude\n", r"'claude\\n' is no agent's name"),
        ("box/claude/x", "'claude/x' is no agent's name"),
        ("box/claude#s1", "'claude#s1' is no agent's name"),
        ("box/" + "x" * 65, "is no agent's name"),
    ],
)
def test_what_is_no_target_is_refused_with_the_forms_there_are(text: str, reason: str) -> None:
    with pytest.raises(NoSuchTarget, match=rf"{reason}.*NAME/AGENT"):
        Target.parse(text)


def test_a_refusal_of_something_long_is_short() -> None:
    with pytest.raises(NoSuchTarget) as caught:
        Target.parse("ä" * 1_000_000)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("target", "covered"),
    [
        ("", ["", "box", "box/claude", "box#s1", "cat", "cat/claude"]),
        ("box", ["box", "box/claude", "box#s1"]),
        ("box/claude", ["box/claude"]),
        ("box#s1", ["box#s1"]),
    ],
)
def test_a_target_covers_itself_and_its_parts(target: str, covered: list[str]) -> None:
    there = ["", "box", "box/claude", "box#s1", "cat", "cat/claude"]
    assert [each for each in there if Target.parse(target).covers(Target.parse(each))] == covered


def texts(targets: Targets, under: str = "") -> list[str]:
    return [str(each) for each in targets.under(Target.parse(under))]


def test_a_set_of_targets_knows_those_of_one_container() -> None:
    targets = Targets(map(Target.parse, ["cat", "box/claude", "box#s1", "boxer", "box"]))
    assert texts(targets) == ["box", "box#s1", "box/claude", "boxer", "cat"]
    assert (
        [str(each) for each in targets.of("box")] == texts(targets, "box") == ["box", "box#s1", "box/claude"]
    )
    assert (texts(targets, "box#s1"), texts(targets, "box/codex"), targets.of("none")) == (
        ["box#s1"],
        [],
        [],
    )


def test_what_is_taken_out_of_a_set_is_not_in_it() -> None:
    targets = Targets([Target("box")])
    targets.discard(Target("box", "claude"))
    assert Target("box") in targets
    targets.discard(Target("box"))
    targets.discard(Target("cat"))
    assert (Target("box") in targets, list(targets)) == (False, [])
