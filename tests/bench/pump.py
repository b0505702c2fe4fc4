# SPDX-License-Identifier: Apache-2.0
"""The physical limit: a process that moves bytes between a client's socket and an agent, no more.

Usage: pump.py SOCKET COMMAND… . One connection at a time; two blocking threads, as fast as Python can.
"""

import os
import socket
import subprocess
import sys
import threading

CHUNK = 1 << 18


def inward(connection: socket.socket, agent: int) -> None:
    while data := connection.recv(CHUNK):
        os.write(agent, data)
    os.close(agent)


def serve(connection: socket.socket, command: list[str]) -> None:
    agent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert agent.stdin is not None and agent.stdout is not None
    threading.Thread(target=inward, args=(connection, os.dup(agent.stdin.fileno())), daemon=True).start()
    agent.stdin.close()
    while data := os.read(agent.stdout.fileno(), CHUNK):
        connection.sendall(data)
    connection.close()
    agent.wait()


def main() -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(sys.argv[1])
    listener.listen()
    while True:
        connection, _ = listener.accept()
        serve(connection, sys.argv[2:])


if __name__ == "__main__":
    main()
