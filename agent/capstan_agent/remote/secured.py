"""TLS that takes from the socket, in one read, all that has arrived.

`ssl.SSLSocket` asks the kernel twice for each record of 16 KiB, which costs about as much as to decrypt it.
Here TLS works on memory, and what stands before it is as much of a socket as `http.client` uses.
"""

import io
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_READ = 256 << 10


class Secured:
    """A connected socket, over which TLS is spoken with a host whose certificate was verified."""

    def __init__(self, context: ssl.SSLContext, plain: socket.socket, host: str) -> None:
        self._plain = plain
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_hostname=host)
        self._buffer = memoryview(bytearray(_READ))
        self._shake_hands()

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        self._tls.write(data)
        self._send()

    def makefile(self, _mode: str) -> BinaryIO:
        """What arrives, as a file. The socket stays open until that is closed too."""
        return io.BufferedReader(_Received(self, self._plain.makefile("rb", buffering=0)))

    def readinto(self, target: memoryview) -> int:
        """What has arrived; when nothing has, what arrives next. 0 at the end."""
        filled = 0
        while filled < len(target):
            try:
                count = cast("int", self._tls.read(len(target) - filled, target[filled:]))
                if not count:  # the other side has said that it says no more
                    break
                filled += count
            except ssl.SSLWantReadError:
                if filled:
                    break
                self._send()  # TLS may have something to say of its own
                self._receive()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                break
        return filled

    def close(self) -> None:
        """Say no more."""
        self._plain.close()

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send()
                self._receive()
            except ssl.SSLError:
                with suppress(OSError):
                    self._send()  # why this side gives up
                raise
            else:
                return self._send()

    def _receive(self) -> None:
        count = self._plain.recv_into(self._buffer)
        if count:
            self._arrived.write(self._buffer[:count])
        else:
            self._arrived.write_eof()

    def _send(self) -> None:
        if self._leaving.pending:
            self._plain.sendall(self._leaving.read())


class _Received(io.RawIOBase):
    """Holds the socket open as long as it is read from."""

    def __init__(self, secured: Secured, hold: io.RawIOBase) -> None:
        self._secured, self._hold = secured, hold

    def readable(self) -> bool:
        return True

    def readinto(self, target: "WriteableBuffer") -> int:
        return self._secured.readinto(memoryview(target).cast("B"))

    def close(self) -> None:
        super().close()
        self._hold.close()
