# SPDX-License-Identifier: Apache-2.0
"""`agentctl start` and `agentctl stop`, as an administrator types them."""

import json

from support.embedded import Start, eventually


def test_a_worker_is_started_and_stopped_by_name(start: Start) -> None:
    agentd = start(bus="private")
    assert agentd.workers() == []
    done = agentd.agentctl("start", "here")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert agentd.container()["state"] == "serving"
    done = agentd.agentctl("stop", "here")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    eventually(lambda: agentd.workers() == [], "it has gone")


def test_a_container_that_is_not_there_is_named(start: Start) -> None:
    agentd = start(bus="private")
    for verb in ("start", "stop"):
        done = agentd.agentctl(verb, "nowhere")
        assert (done.returncode, done.stdout) == (66, "")
        assert "nowhere" in done.stderr


def test_what_came_of_it_as_json(start: Start) -> None:
    agentd = start(bus="private")
    for verb, state in (("start", "serving"), ("stop", "idle")):
        done = agentd.agentctl(verb, "here", "--json")
        assert json.loads(done.stdout) == {"container": "here", "state": state}
