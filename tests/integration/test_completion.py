# SPDX-License-Identifier: Apache-2.0
"""Tab, in real shells, with a real agentd: each asks as packaging/completions has it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.embedded import Embedded, house
from support.screen import Screen

SCRIPTS = Path(__file__).parents[2] / "packaging" / "completions"
SHELLS = ("bash", "zsh", "fish")
END = "~~end~~"

Tab = Callable[[str], list[str]]
"""What a shell offers for a line, each with its description after a tab, where the shell has any."""

BASH = f"""
source {SCRIPTS}/agentctl.bash
read -r _ _ function _ < <(complete -p agentctl)
COMP_LINE=$1 COMP_POINT=${{#1}} COMP_TYPE=9
compopt() {{ :; }}
"$function" agentctl
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

ZSH = """
autoload -Uz compinit
compinit -u -D
PS1="ready> "
compadd() {
    if (( ${@[(I)-[OAD]]} )); then builtin compadd "$@"; return; fi
    local -a hits about
    local -i at=${@[(I)-d]} each
    (( at )) && about=("${(@P)@[at+1]}")
    builtin compadd -O hits -D about "$@"
    for (( each = 1; each <= $#hits; each++ )); do print -r -- $'\\n~'"$hits[each]"$'\\t'"$about[each]"; done
}
typed() { print -r -- "~~end~~" }
listing() { comppostfuncs=(typed); _main_complete }
zle -C listing list-choices listing
bindkey "^I" listing
"""
"""Shows what would be offered, and when that is all, instead of offering it."""


AGENTCTL = """\
#!/bin/sh
[ -n "$_ARGCOMPLETE" ] || printf '%s\\n' "$@" >{got}
exec {python} -m agentd.ctl "$@"
"""
TAKEN = {"bash": b"\\!x", "zsh": b"\\!x", "fish": b"#!x"}
"""The end of EVIL as each shell quotes it."""
EVIL = """a'b"c;>pwned;$(>pwned)`>pwned`|>pwned&>pwned#!x"""
"""What an agent may call a session."""


class Shells:
    """Shells in a folder of their own, in which there is an agentctl."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.got = folder / "got"
        """The arguments of the last agentctl that was to complete nothing, a line each."""
        (folder / "bin").mkdir(parents=True)
        program = folder / "bin" / "agentctl"
        program.write_text(AGENTCTL.format(got=self.got, python=sys.executable))
        program.chmod(0o755)
        path = f"{folder / 'bin'}:{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "HOME": str(folder), "TERM": "dumb"}

    def bash(self, line: str) -> list[str]:
        return self._run("bash", "--norc", "-c", BASH, "bash", line)

    def fish(self, line: str) -> list[str]:
        return self._run(
            "fish", "--no-config", "-c", f"source {SCRIPTS}/agentctl.fish; complete -C $argv[1]", line
        )

    def zsh(self, line: str) -> list[str]:
        """In a terminal: nothing else can have its line completed."""
        with self._zsh(ZSH) as screen:
            screen.until(b"ready> ")
            screen.type(f"{line}\t".encode())
            screen.until(END.encode())
            shown = screen.shown.decode(errors="replace").splitlines()
        return [each[1:] for each in shown if each.startswith("~") and END not in each]

    def _zsh(self, script: str) -> Screen:
        functions = self._folder / "functions"
        functions.mkdir(exist_ok=True)
        shutil.copy(SCRIPTS / "agentctl.zsh", functions / "_agentctl")
        (self._folder / ".zshrc").write_text(f"fpath=({functions} $fpath)\n{script}")
        return Screen(
            ["zsh", "-o", "no_global_rcs", "-i"], {**self.environment, "ZDOTDIR": str(self._folder)}
        )

    def on_terminal(self, shell: str) -> Screen:
        """As a person has it, but for the prompt."""
        if shell == "zsh":
            return self._zsh("autoload -Uz compinit\ncompinit -u -D\nPS1='ready> '\n")
        begin = f"source {SCRIPTS}/agentctl.{shell}\n"
        if shell == "fish":
            begin += "function fish_prompt; echo 'ready> '; end"
            return Screen(["fish", "--no-config", "-i", "-C", begin], self.environment)
        (self._folder / "bashrc").write_text(f"{begin}PS1='ready> '\n")
        return Screen(["bash", "--rcfile", str(self._folder / "bashrc"), "-i"], self.environment)

    def _run(self, *command: str) -> list[str]:
        """The lines that it prints; any complaint is a failure."""
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.environment, timeout=60, check=False
        )
        assert (done.stderr, done.returncode) == ("", 0)
        return [each for each in done.stdout.splitlines() if each]


@pytest.fixture(scope="module")
def shells(tmp_path_factory: pytest.TempPathFactory) -> Shells:
    return Shells(tmp_path_factory.mktemp("shells") / "of")


@pytest.fixture(params=SHELLS)
def tab(request: pytest.FixtureRequest, shells: Shells) -> Tab:
    complete = getattr(shells, request.param)
    return lambda line: [each.partition("\t")[0] for each in complete(line)]


@pytest.fixture(scope="module")
def agentd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """One with the containers here and shed, and an open session in the first of them."""
    folder = tmp_path_factory.mktemp("agentd")
    shed = f'[containers.shed]\nruntime = "host"\ndirectory = "{folder}"\nagents = ["alpha"]\n'
    agentd = Embedded(folder, house(folder, {"alpha": "", "beta": ""}) + shed, bus="private")
    try:
        agentd.start()
        with agentd.client() as client:
            client.open()
            yield agentd
    finally:
        agentd.clean_up()


@pytest.fixture
def at(agentd: Embedded) -> str:
    """The beginning of a line that means this agentd."""
    return f"agentctl --runtime-dir {agentd.runtime_dir}"


@pytest.fixture
def session(agentd: Embedded) -> str:
    [session] = agentd.container()["sessions"]
    return str(session["id"])


def test_verbs(tab: Tab) -> None:
    assert sorted(tab("agentctl dr")) == ["drain"]
    assert {"attach", "list", "undrain"} <= set(tab("agentctl "))


def test_options_and_their_values(tab: Tab) -> None:
    assert sorted(tab("agentctl drain --w")) == ["--wait"]
    assert sorted(tab("agentctl prompt box --permission ")) == ["allow", "reject"]


def test_containers_that_are_not_named_yet(tab: Tab, at: str) -> None:
    assert sorted(tab(f"{at} status ")) == ["here", "shed"]
    assert sorted(tab(f"{at} status here ")) == ["shed"]
    assert tab(f"{at} stop h") == ["here"]


def test_the_manager_is_the_one_of_the_line_wherever_it_says_so(tab: Tab, agentd: Embedded) -> None:
    assert sorted(tab(f"agentctl status --runtime-dir {agentd.runtime_dir} ")) == ["here", "shed"]


def test_sessions_and_agents_of_a_container(tab: Tab, at: str, session: str) -> None:
    assert tab(f"{at} cancel ") == [f"here#{session}"]
    assert tab(f"{at} history --container here ") == [session]
    assert sorted(tab(f"{at} drain here/")) == ["here/alpha"]
    assert tab(f"{at} drain here#") == [f"here#{session}"]
    assert sorted(tab(f"{at} attach here --agent ")) == ["alpha", "beta"]
    assert sorted(tab(f"{at} login shed ")) == ["alpha"]


def test_what_was_drained_can_be_undrained(tab: Tab, at: str, agentd: Embedded) -> None:
    assert tab(f"{at} undrain ") == []
    assert agentd.agentctl("drain", "shed", "--wait").returncode == 0
    assert tab(f"{at} undrain ") == ["shed"]
    assert agentd.agentctl("undrain", "shed").returncode == 0


def test_properties(tab: Tab, at: str) -> None:
    assert sorted(tab(f"{at} show here -p WorkerP")) == ["WorkerPID"]


def test_a_line_for_a_manager_that_is_not_there_is_left_alone(tab: Tab, tmp_path: Path) -> None:
    assert tab(f"agentctl --runtime-dir {tmp_path} status ") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_shells_that_can_show_what_a_choice_is(shell: str, shells: Shells) -> None:
    wanted = "let running turns end and none begin"
    assert any(wanted in each for each in getattr(shells, shell)("agentctl dr"))


@pytest.mark.parametrize("shell", SHELLS)
def test_an_id_that_is_completed_is_a_word_and_no_command(
    shell: str, shells: Shells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    agentd = Embedded(tmp_path, house(tmp_path, {"evil": f"--session {EVIL}"}), bus="private")
    try:
        agentd.start()
        with agentd.client() as client:
            client.open()
            with shells.on_terminal(shell) as screen:
                screen.until(b"ready> ")
                screen.type(f"agentctl --runtime-dir {agentd.runtime_dir} cancel here#\t".encode())
                screen.until(TAKEN[shell])
                screen.type(b"\r" + b"echo the' 'end\r")
                screen.until(b"the end")
    finally:
        agentd.clean_up()
    assert shells.got.read_text().splitlines()[-1] == f"here#{EVIL}"
    assert list(tmp_path.rglob("pwned")) == []
