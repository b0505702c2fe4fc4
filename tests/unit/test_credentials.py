# SPDX-License-Identifier: Apache-2.0

import os
from pathlib import Path

import pytest

from agentd.config import EnvValue, SecretReference
from agentd.errors import CredentialUnavailable
from agentd.worker import credentials


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where systemd puts the worker's credentials."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    return tmp_path


def from_file(file: Path) -> dict[str, EnvValue]:
    return {"KEY": SecretReference(file=str(file))}


def refusal(env: dict[str, EnvValue]) -> CredentialUnavailable:
    with pytest.raises(CredentialUnavailable) as caught:
        credentials.resolve(env)
    return caught.value


def test_every_value_comes_from_where_it_is_kept(given: Path) -> None:
    (given / "anthropic").write_text("from-systemd")
    (file := given / "elsewhere").write_text("from-a-file")
    env: dict[str, EnvValue] = {
        "LANG": "C.UTF-8",
        "KEY": SecretReference(credential="anthropic"),
        "TOKEN": SecretReference(file=str(file)),
    }
    assert credentials.resolve(env) == {"LANG": "C.UTF-8", "KEY": "from-systemd", "TOKEN": "from-a-file"}


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("x", "x"),
        ("x\n", "x"),
        ("x\n\n", "x\n"),
        ("\n x ", "\n x "),
        ("", ""),
        ("é" * (credentials.VALUE_BYTES // 2), "é" * (credentials.VALUE_BYTES // 2)),
    ],
)
def test_the_last_newline_is_not_part_of_the_value(tmp_path: Path, content: str, value: str) -> None:
    (file := tmp_path / "file").write_text(content, encoding="utf-8")
    assert credentials.resolve(from_file(file)) == {"KEY": value}


def test_a_rotated_file_is_read_anew(tmp_path: Path) -> None:
    (file := tmp_path / "file").write_text("old")
    assert credentials.resolve(from_file(file)) == {"KEY": "old"}
    (tmp_path / "new").write_text("new")
    (tmp_path / "new").rename(file)
    assert credentials.resolve(from_file(file)) == {"KEY": "new"}


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "version-1").write_text("value")
    (link := tmp_path / "link").symlink_to("version-1")
    assert credentials.resolve(from_file(link)) == {"KEY": "value"}


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"hunter2\0", "has a NUL"),
        (b"hunter2 caf\xe9", "is not UTF-8"),
        (b"hunter2" + b"x" * credentials.VALUE_BYTES, "is longer than 65536 bytes"),
    ],
)
def test_a_value_that_no_variable_can_have_is_refused_and_not_shown(
    tmp_path: Path, content: bytes, part: str
) -> None:
    (file := tmp_path / "file").write_bytes(content)
    error = refusal(from_file(file))
    assert error.message.startswith(f"KEY is read from {file}, which {part}")
    assert error.data == {"variable": "KEY", "file": str(file)}
    assert "hunter2" not in error.message
    assert error.__cause__ is None


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "which can't be read (Is a directory)" in refusal(from_file(tmp_path)).message


def test_a_fifo_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(fifo := tmp_path / "fifo")
    assert "which is not a regular file" in refusal(from_file(fifo)).message


def test_a_device_is_refused() -> None:
    assert "which is not a regular file" in refusal(from_file(Path("/dev/zero"))).message


def test_a_missing_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "missing"
    assert refusal(from_file(file)).message == (
        f"KEY is read from {file}, which can't be read (No such file or directory); "
        "put the value there, as UTF-8 text"
    )


def test_a_missing_credential_is_told_with_what_to_do(given: Path) -> None:
    error = refusal({"KEY": SecretReference(credential="anthropic")})
    assert error.message.startswith("KEY is the credential anthropic, which can't be read (No such file")
    assert "LoadCredential=anthropic:/PATH in a drop-in of agentd@.service" in error.message
    assert error.data == {"variable": "KEY", "credential": "anthropic"}
    assert str(given) not in error.message


@pytest.mark.parametrize("directory", [None, ""])
def test_a_worker_without_credentials_says_so(
    monkeypatch: pytest.MonkeyPatch, directory: str | None
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    if directory is not None:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", directory)
    error = refusal({"KEY": SecretReference(credential="anthropic")})
    assert "anthropic, which this worker has not been given; " in error.message
    assert "LoadCredential=anthropic:/PATH" in error.message
