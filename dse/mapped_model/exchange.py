"""Tensors between processes: raw bytes over local sockets, any process to any other, without deadlock.

Whatever arrives is taken off the socket at once by a thread of the receiver, so that a sender never waits for the
receiver's turn, in whatever order the two send and receive.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from pathlib import Path
from typing import Self

from dse.errors import DseError

HEADER = struct.Struct("!qq")
"""Tag and number of payload bytes, before each message; a connection begins with the sender's number and 0."""

PATIENCE_S = 60.0
"""How long a process is waited for that is to accept a connection."""


class PeerGone(DseError):
    """The other end of a message is not there, or not any more."""


class Exchange:
    """The sockets of one process among those that share a folder, each known by a number.

    `sent_bytes` and `received_bytes` count what went through the sockets, headers left out.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self.sent_bytes = 0
        self.received_bytes = 0
        self._folder = folder
        self._outgoing: dict[int, socket.socket] = {}
        self._arrived: dict[tuple[int, int], deque[bytearray]] = {}
        self._changed = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / str(number)))
        self._listener.listen(socket.SOMAXCONN)
        threading.Thread(target=self._accept, daemon=True).start()

    def send(self, target: int, tag: int, payload: memoryview | bytes | bytearray) -> None:
        """Send bytes to another process, which receives them by this process's number and the tag.

        Raises PeerGone where the other process is not there, or goes away.
        """
        try:
            connection = self._connection(target)
            connection.sendall(HEADER.pack(tag, len(payload)))
            connection.sendall(payload)
        except OSError as error:
            raise PeerGone(f"process {target} does not take what process {self.number} sends: {error}") from None
        self.sent_bytes += len(payload)

    def receive(self, source: int, tag: int, timeout_s: float | None = None) -> bytearray:
        """Return the bytes that another process sent with this tag; of several with one tag the first.

        Raises DseError where nothing arrives for `timeout_s` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._arrived.get((source, tag)), timeout_s):
                raise DseError(f"process {self.number} waited {timeout_s:g} s for message {tag} of process {source}")
            return self._arrived[source, tag].popleft()

    def close(self) -> None:
        """Close the sockets; what has been sent still arrives."""
        for connection in (self._listener, *self._outgoing.values()):
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connection(self, target: int) -> socket.socket:
        if target not in self._outgoing:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(PATIENCE_S)
            connection.connect(str(self._folder / str(target)))
            connection.settimeout(None)
            connection.sendall(HEADER.pack(self.number, 0))
            self._outgoing[target] = connection
        return self._outgoing[target]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._take, args=(connection,), daemon=True).start()

    def _take(self, connection: socket.socket) -> None:
        """Take messages off a connection until its other end closes it."""
        with connection:
            if not (first := _read(connection, HEADER.size)):
                return
            source, _ = HEADER.unpack(first)
            while header := _read(connection, HEADER.size):
                tag, size = HEADER.unpack(header)
                payload = _read(connection, size)
                if len(payload) < size:
                    return
                with self._changed:
                    self.received_bytes += size
                    self._arrived.setdefault((source, tag), deque()).append(payload)
                    self._changed.notify_all()


def _read(connection: socket.socket, size: int) -> bytearray:
    """Return so many bytes; none where the other end closes the connection before they are there."""
    payload = bytearray(size)
    view, read = memoryview(payload), 0
    while read < size:
        try:
            count = connection.recv_into(view[read:])
        except OSError:
            count = 0
        if not count:
            return bytearray()
        read += count
    return payload
