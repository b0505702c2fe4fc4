# SPDX-License-Identifier: Apache-2.0
"""Processes that end when nobody expects it: what goes on, what is cleared away, and what comes back."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from support.acp_client import Client, reason, texts
from support.embedded import Embedded, Start, eventually


def agent_of(client: Client) -> int:
    """The process of a client's agent, which puts it into its sessions' ids."""
    return int(client.session.split("-")[1])


def serves(agentd: Embedded) -> bool:
    with agentd.client() as client:
        return client.open().turn("say fine")[1] == ["fine"]


def links(agentd: Embedded) -> int:
    """How often a worker has linked to a manager."""
    return agentd.log().count(" linked")


def end_orphans(agentd: Embedded) -> None:
    """Workers whose manager was killed and is not coming back wait for it for a minute: not here."""
    for worker in agentd.workers():
        os.kill(worker, signal.SIGTERM)
    eventually(lambda: not agentd.workers(), "the workers have ended")


def another(agentd: Embedded) -> "subprocess.CompletedProcess[str]":
    """A second manager for the same folder."""
    command = [sys.executable, "-m", "agentd", "serve", *agentd.places()]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


# The manager is killed


def test_session_goes_on_when_the_manager_is_killed(agentd: Embedded) -> None:
    with agentd.client() as client:
        turn = client.open().prompt("say one", "hold", "say two")
        client.until_text("one")
        agentd.kill()
        client.notify("_release")
        assert texts(client.answer_to(turn)[1]) == ["two"]
        assert client.turn("say three")[1] == ["three"]
    end_orphans(agentd)


def test_new_manager_knows_the_worker_of_the_old_one(start: Start) -> None:
    agentd = start(bus="private")
    with agentd.client() as client:
        client.open()
        [worker] = agentd.workers()
        agentd.kill()
        agentd.start()
        known = eventually(lambda: agentd.container()["worker_pid"] and agentd.container())
        assert (known["worker_pid"], known["state"], known["clients"]) == (worker, "serving", 1)
        assert [each["id"] for each in known["sessions"]] == [client.session]


def test_new_manager_gives_new_connections_to_the_old_worker(agentd: Embedded) -> None:
    with agentd.client() as old:
        old.open()
        workers = agentd.workers()
        agentd.kill()
        agentd.start()
        eventually(lambda: links(agentd) == 2, "the worker has linked again")
        with agentd.client() as new:
            assert new.open().turn("say new")[1] == ["new"]
        assert old.turn("say old")[1] == ["old"]
        assert agentd.workers() == workers


def test_connection_right_behind_a_restart_is_served_by_whoever_is_there(agentd: Embedded) -> None:
    with agentd.client() as old:
        old.open()
        for _ in range(3):
            agentd.kill()
            agentd.start()
            assert serves(agentd)
            assert old.turn("say still here")[1] == ["still here"]
        eventually(lambda: len(agentd.workers()) == 1, "one container, one worker")


def test_worker_of_a_killed_manager_ends_with_the_next_one(agentd: Embedded) -> None:
    assert serves(agentd)
    agentd.kill()
    agentd.start()
    eventually(lambda: links(agentd) == 2, "the worker has linked again")
    assert agentd.stop() == 0
    eventually(lambda: not agentd.workers(), "the worker has ended too")


def test_worker_whose_manager_never_comes_back_can_be_ended(agentd: Embedded) -> None:
    assert serves(agentd)
    agentd.kill()
    assert len(agentd.workers()) == 1
    end_orphans(agentd)


def test_watcher_and_bus_end_with_a_killed_manager(start: Start) -> None:
    agentd = start(bus="private")
    eventually(agentd.watchers)
    agentd.kill()
    eventually(lambda: not agentd.processes(), "all ended")


def test_stale_sockets_are_replaced(agentd: Embedded) -> None:
    sockets = [agentd.runtime_dir / "agentd.sock", agentd.runtime_dir / "containers" / "here.sock"]
    agentd.kill()
    assert all(path.is_socket() for path in sockets)
    agentd.start()
    for path in sockets:
        with Client(path) as client:
            assert "result" in client.call("initialize", {"protocolVersion": 1})


def test_sockets_are_gone_after_a_stop(agentd: Embedded) -> None:
    assert serves(agentd) and agentd.stop() == 0
    assert not [path for path in agentd.runtime_dir.rglob("*") if path.is_socket()]


def test_turn_whose_permission_is_asked_meanwhile_survives_the_manager(agentd: Embedded) -> None:
    with agentd.client() as client:
        turn = client.open().prompt("ask May I?")
        asked = client.until("session/request_permission")
        agentd.kill()
        client.send({"id": asked["id"], "result": {"outcome": {"outcome": "selected", "optionId": "yes"}}})
        assert texts(client.answer_to(turn)[1]) == ["permission: yes"]
    end_orphans(agentd)


def inside(agentd: Embedded) -> dict[str, object]:
    """What Status tells of the container, all but how its worker ended before."""
    return {key: value for key, value in agentd.container().items() if key != "last_error"}


def test_worker_is_back_with_all_its_state(start: Start) -> None:
    agentd = start(bus="private")
    with agentd.client() as one, agentd.client() as two:
        turn = one.open().prompt("say one", "hold")
        one.until_text("one")
        two.open().turn("say two")
        eventually(lambda: inside(agentd)["turns"] == 1 and len(inside(agentd)["sessions"]) == 2)  # type: ignore[arg-type]
        before = inside(agentd)
        assert (before["clients"], len(before["agents"])) == (2, 1)  # type: ignore[arg-type]
        agentd.kill()
        agentd.start()
        eventually(lambda: inside(agentd) == before, f"as before: {before}")
        one.notify("_release")
        assert one.answer_to(turn)[0]["result"]["stopReason"] == "end_turn"


def test_drain_goes_on_under_its_number_and_ends_though_nobody_heard_its_end(start: Start) -> None:
    agentd = start(bus="private")
    with agentd.client() as client:
        turn = client.open().prompt("say one", "hold")
        client.until_text("one")
        assert agentd.agentctl("drain", "here", "--timeout", "60").returncode == 0
        [before] = agentd.status()["jobs"]
        agentd.kill()
        client.notify("_release")
        assert "result" in client.answer_to(turn)[0]
        agentd.start()
        [job] = eventually(lambda: [each for each in agentd.status()["jobs"] if each["state"] == "done"])
        assert job == {**before, "state": "done", "remaining": 0, "drained": [client.session]}
        assert agentd.agentctl("drain").returncode == 0
        assert [each["id"] for each in agentd.status()["jobs"]] == [1, 2]


@pytest.mark.parametrize("target", ["here", ""])
def test_what_is_drained_is_so_after_a_stop_and_a_start(start: Start, target: str) -> None:
    agentd = start(bus="private")
    assert agentd.agentctl("drain", *([target] if target else [])).returncode == 0
    assert agentd.stop() == 0
    agentd.start()
    assert (agentd.container()["state"], agentd.status()["draining"]) == ("drained", not target)
    with agentd.client() as client:
        assert reason(client.attach("here")) == "draining"
    assert agentd.agentctl("undrain", *([target] if target else [])).returncode == 0
    agentd.kill()
    agentd.start()
    assert serves(agentd)


def test_file_of_drains_that_is_damaged_keeps_nobody_from_starting_and_nothing_is_forgotten(
    start: Start,
) -> None:
    agentd = start(bus="private")
    agentd.kill()
    (agentd.runtime_dir / "state" / "manager" / "drains.json").write_text("{")
    agentd.start()
    eventually(lambda: "drains.json cannot be used" in agentd.log(), "it is logged")
    assert "agentctl undrain" in agentd.log()
    with agentd.client() as client:
        assert reason(client.attach("here")) == "draining"
    assert agentd.agentctl("undrain").returncode == 0
    assert serves(agentd)


def test_worker_that_is_stopped_with_the_manager_gone_is_not_drained_for_the_next(start: Start) -> None:
    """It drains before its end, but nobody has ordered that."""
    agentd = start(bus="private")
    with agentd.client() as client:
        turn = client.open().prompt("say one", "hold")
        client.until_text("one")
        agentd.kill()
        os.kill(agentd.workers()[0], signal.SIGTERM)
        agentd.start()
        eventually(lambda: agentd.container()["state"] == "draining")
        client.notify("_release")
        assert "result" in client.answer_to(turn)[0]
    assert serves(agentd)


def test_connection_that_wants_no_worker_started_gets_the_one_there_is(agentd: Embedded) -> None:
    with agentd.client() as first:
        first.open()
        with agentd.client() as second:
            answer = second.call("_agentd/attach", {"container": "here", "session": "s", "start": False})
            assert "result" in answer


def test_drain_outlives_the_manager(start: Start) -> None:
    """What was ordered stays ordered: a restart of the manager does not let work begin again."""
    agentd = start(bus="private")
    with agentd.client() as client:
        turn = client.open().prompt("say one", "hold")
        client.until_text("one")
        assert agentd.agentctl("drain", "here", "--timeout", "60").returncode == 0
        agentd.kill()
        agentd.start()
        eventually(lambda: agentd.container()["state"] == "draining")
        with agentd.client() as late:
            assert reason(late.attach("here")) == "draining"
        client.notify("_release")
        assert client.answer_to(turn)[0]["result"]["stopReason"] == "end_turn"


# A worker is killed


def test_client_of_a_killed_worker_sees_the_end_and_can_connect_again(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().prompt("say one", "hold")
        client.until_text("one")
        os.kill(agentd.workers()[0], signal.SIGKILL)
        assert client.at_end()
    assert serves(agentd)


def test_connections_right_behind_a_killed_worker_are_served(agentd: Embedded) -> None:
    for _ in range(3):
        with agentd.client() as client:
            client.open()
            os.kill(agentd.workers()[0], signal.SIGKILL)
            assert client.at_end()


def test_nothing_of_a_killed_worker_is_left_when_the_next_is_up(start: Start) -> None:
    agentd = start("--ignore-eof", "--ignore-sigterm", "--child-at-start")
    with agentd.client() as client:
        client.open().turn("child")
        before = agentd.agents()
        assert len(before) == 3
        os.kill(agentd.workers()[0], signal.SIGKILL)
        assert client.at_end()
    with agentd.client() as client:
        assert "result" in client.attach("here")
        assert not set(before) & set(agentd.agents())


def test_worker_that_cannot_start_is_an_error_with_a_reason_each_time(agentd: Embedded) -> None:
    state = agentd.runtime_dir / "state" / "containers"
    shutil.rmtree(state, ignore_errors=True)
    state.write_text("in the way of the worker's folder")
    for _ in range(2):
        with agentd.client() as client:
            assert reason(client.attach("here")) in ("worker_failed", "configuration_invalid")
    state.unlink()
    state.mkdir(0o700)
    assert serves(agentd)


# An agent is killed


def test_killed_agent_is_replaced_by_the_next_session(agentd: Embedded) -> None:
    with agentd.client() as client:
        turn = client.open().prompt("say one", "hold")
        client.until_text("one")
        os.kill(agent_of(client), signal.SIGKILL)
        answer = client.answer_to(turn)[0]
        assert (reason(answer), answer["error"]["data"]["exit_status"]) == ("agent_exited", -9)
        client.session = client.new_session()
        assert client.turn("say fine")[1] == ["fine"]


def test_idle_agent_that_is_killed_leaves_no_trace(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().turn("child")
        os.kill(agent_of(client), signal.SIGKILL)
        eventually(lambda: not agentd.agents(), "its child has gone too")
        client.session = client.new_session()
        assert client.turn("say fine")[1] == ["fine"]


# SIGTERM


def test_stop_lets_a_running_turn_end(agentd: Embedded) -> None:
    with agentd.client() as client:
        turn = client.open().prompt("say one", "hold", "say two")
        client.until_text("one")
        assert agentd.process is not None
        agentd.process.terminate()
        eventually(lambda: "draining" in agentd.log())
        client.notify("_release")
        answer, before = client.answer_to(turn)
        assert (texts(before), answer["result"]["stopReason"]) == (["two"], "end_turn")
        assert agentd.process.wait(20) == 0


def test_stop_refuses_new_turns_and_connections(agentd: Embedded) -> None:
    with agentd.client() as client:
        turn, queued = client.open().prompt("say one", "hold"), client.prompt("say never")
        client.until_text("one")
        assert agentd.process is not None
        agentd.process.terminate()
        assert reason(client.answer_to(queued)[0]) == "draining"
        assert reason(client.answer_to(client.prompt("say never"))[0]) == "draining"
        assert reason(client.call("session/new", {"cwd": "/", "mcpServers": []})) == "draining"
        client.notify("_release")
        assert "result" in client.answer_to(turn)[0]
        assert agentd.process.wait(20) == 0


def test_stop_cuts_off_a_turn_that_does_not_end(start: Start) -> None:
    agentd = start("--ignore-cancel", "--ignore-sigterm", "--ignore-eof", limits="cancel_sec = 60.0")
    with agentd.client() as client:
        turn = client.open().prompt("say one", "hold")
        client.until_text("one")
        assert agentd.stop() == 0  # 5 s of drain, 3 s of cancelling, 1 s of SIGTERM, then SIGKILL
        assert client.answer_to(turn)[0]["result"] == {"stopReason": "cancelled"}
    assert not agentd.agents()


def test_stop_without_work_is_quick(agentd: Embedded) -> None:
    assert serves(agentd)
    began = time.monotonic()
    assert agentd.stop() == 0
    assert time.monotonic() - began < 5


def test_second_signal_does_not_wait_for_turns(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().prompt("say one", "hold")
        client.until_text("one")
        assert agentd.process is not None
        agentd.process.terminate()
        eventually(lambda: "draining" in agentd.log())
        agentd.process.terminate()
        began = time.monotonic()
        agentd.process.wait(10)
        eventually(lambda: not agentd.workers() and not agentd.agents(), "its worker and agent have ended")
        assert time.monotonic() - began < 4.5  # the drain alone would take 5 s


def test_stop_during_a_start_leaves_nothing_behind(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.request("_agentd/attach", {"container": "here"})
        eventually(agentd.workers)
        assert agentd.stop() == 0
    assert not agentd.workers()


# Two of a kind


def test_second_manager_is_refused_and_disturbs_nothing(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open()
        done = another(agentd)
        assert done.returncode == 73
        assert "running already" in done.stderr and str(agentd.runtime_dir) in done.stderr
        assert done.stderr.startswith("agentd: ") and done.stderr.count("\n") == 1
        assert client.turn("say fine")[1] == ["fine"]
    assert serves(agentd)


def test_second_manager_is_refused_on_the_bus_too(start: Start) -> None:
    agentd = start(bus="private")
    assert another(agentd).returncode == 73
    assert agentd.container()["name"] == "here"


def test_second_worker_is_refused_and_disturbs_nothing(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open()
        command = [sys.executable, "-m", "agentd", "worker", "here", *agentd.places()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 73 and "worker of here" in done.stderr
        assert client.turn("say fine")[1] == ["fine"]


def test_second_watcher_does_not_fight_with_the_first(agentd: Embedded) -> None:
    """One of the two has the manager's ear, and that does not change all the time."""
    eventually(lambda: "the watcher is here" in agentd.log())
    second = subprocess.Popen(
        [sys.executable, "-m", "agentd", "watch", *agentd.places()], stderr=subprocess.DEVNULL
    )
    try:
        with pytest.raises(TimeoutError), agentd.client() as client:
            client.sock.settimeout(2)
            client.line()  # nothing comes: this is how long they may fight
    finally:
        second.terminate()
        second.wait(20)
    assert agentd.log().count("the watcher is here") <= 2


# The watcher


def test_watcher_that_is_killed_is_missed_and_comes_back(start: Start) -> None:
    agentd = start(bus="private")
    eventually(lambda: agentd.status()["watcher"]["connected"])
    [watcher] = agentd.watchers()
    os.kill(watcher, signal.SIGKILL)
    eventually(lambda: "the watcher has gone" in agentd.log(), "its absence is told")
    assert serves(agentd)
    eventually(lambda: agentd.status()["watcher"]["connected"], "it is back")
    assert agentd.watchers() != [watcher]


# The bus


def test_bus_that_is_killed_does_not_disturb_a_session(start: Start) -> None:
    agentd = start(bus="private")
    with agentd.client() as client:
        client.open()
        bus = [pid for pid, text in agentd.processes().items() if "dbus-daemon" in text]
        os.kill(bus[0], signal.SIGKILL)
        assert client.turn("say fine")[1] == ["fine"]
        with agentd.client() as late:
            assert late.open().turn("say fine")[1] == ["fine"]
