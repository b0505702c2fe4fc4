# SPDX-License-Identifier: Apache-2.0
"""An agent that is only a pipe: whatever it hears, and says, is up to the test on the socket it is given."""

import os
import socket
import sys
import threading

CHUNK = 1 << 18


def said(sock: socket.socket) -> None:
    """What the test says, to stdout."""
    while data := sock.recv(CHUNK):
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]
    os._exit(0)


def main() -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(sys.argv[1])
    threading.Thread(target=said, args=(sock,), daemon=True).start()
    while data := os.read(0, CHUNK):
        sock.sendall(data)


if __name__ == "__main__":
    main()
