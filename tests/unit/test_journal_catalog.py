# SPDX-License-Identifier: Apache-2.0
"""packaging/agentd.catalog, which `journalctl -x` shows below the records of an Event."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from agentd.systemd.events import Event
from agentd.systemd.journal import CONTEXT

FILE = Path(__file__).parents[2] / "packaging" / "agentd.catalog"
FIELDS = {f"AGENTD_{name.upper()}" for name in CONTEXT}


class Entry(NamedTuple):
    id: str
    headers: dict[str, str]
    text: str


def entry(part: str) -> Entry:
    top, _, text = part.partition("\n\n")
    number, *headers = top.splitlines()
    return Entry(number, dict(line.split(": ", 1) for line in headers), text.strip())


ENTRIES = [entry(part) for part in FILE.read_text().split("\n-- ")[1:]]


def test_every_event_has_one_entry_and_there_are_no_others() -> None:
    assert sorted(entry.id for entry in ENTRIES) == sorted(event.value for event in Event)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_entry_has_a_subject_and_a_few_sentences(entry: Entry) -> None:
    assert list(entry.headers) == ["Subject", "Defined-By", "Support"]
    assert entry.headers["Defined-By"] == "agentd"
    assert entry.headers["Support"] in ("man:agentd(8)", "man:agentd.toml(5)")
    assert 1 <= len(re.findall(r"[.](\s|$)", entry.text)) <= 5
    assert all(len(line) <= 90 for line in entry.text.splitlines())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_entry_uses_only_fields_that_records_have(entry: Entry) -> None:
    assert set(re.findall(r"@([^@\s]+)@", entry.headers["Subject"] + entry.text)) <= FIELDS


def test_systemd_understands_it(tmp_path: Path) -> None:
    for folder in ("usr/lib/systemd/catalog", "var/lib/systemd/catalog"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(FILE, tmp_path / "usr/lib/systemd/catalog")
    assert "".join(journalctl(tmp_path, "--update-catalog")) == ""
    listed = [line.partition(" agentd: ") for line in journalctl(tmp_path, "--list-catalog")]
    assert {number: subject for number, _, subject in listed} == {
        entry.id: entry.headers["Subject"] for entry in ENTRIES
    }


def journalctl(root: Path, order: str) -> list[str]:
    """The lines that it prints, complaints included."""
    done = subprocess.run(
        ["journalctl", f"--root={root}", order], capture_output=True, text=True, check=True, timeout=60
    )
    return (done.stdout + done.stderr).splitlines()
