# SPDX-License-Identifier: Apache-2.0
"""What is kept of sessions on disk: a SQLite database for each container.

`schema` has its tables and how they came to be, `records` what a row is here, `batch` what is to be written
next, `writer` the one thread that writes and the one that reads, and `store` the face of it all: nothing
there blocks, what is changed together reaches the disk together, and `sync` tells when it has.
"""
