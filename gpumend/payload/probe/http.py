"""HTTP/1.1 over a unix socket, as far as a Docker Engine speaks it: one answer after another, each with bounds to its time and its
bytes (RFC 9112). http.client would do, but takes 16 ms of CPU time to import: it brings e-mail and TLS along. Of `socket` what is
below it suffices."""

import _socket
import re
import time
from typing import Dict, List, Optional, Tuple

MAX_ANSWER = 16 << 20  # bytes of one answer: 10,000 images are 5 MB
MAX_ANSWERS = 64 << 20  # of all: 2,000 containers are 30 MB
MAX_LINE = 1 << 16  # of a line of its head; http.client has the same
MAX_LINES = 100
STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: |$)")


class Excess(OSError):
    """More was sent than anybody may send."""


class BadAnswer(ValueError):
    """What was sent is no answer of HTTP, or not a whole one."""


class Budget:
    """How many bytes all answers together may have; connections of one look share it."""

    def __init__(self, left: int, wide: bool = True) -> None:
        self.left = left
        self.wide = wide  # as many connections as dockerd is good for

    def spend(self, size: int) -> None:
        """Raises Excess where it is used up."""
        self.left -= size
        if self.left < 0:
            raise Excess("it answers with more bytes than a dockerd does")


class BoundedSocket(_socket.socket):
    """A unix socket with one deadline for all that is sent and received over it until the next `until`, however little
    comes at a time, and with a budget of bytes for all that is received."""

    deadline = 0.0
    budget: Optional[Budget] = None

    def until(self, deadline: float) -> None:
        self.deadline = deadline

    def hurry(self) -> None:
        """No call waits beyond the deadline. Raises socket.timeout where it is over."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise _socket.timeout("timed out")
        self.settimeout(left)

    def received(self) -> bytes:
        """What has come, an empty text at the end. Waits where there is nothing."""
        self.hurry()
        data = self.recv(65536)
        if self.budget:
            self.budget.spend(len(data))
        return data

    def send_all(self, data: bytes) -> None:
        self.hurry()
        self.sendall(data)


class UnixConnection:
    """HTTP over a unix socket. Each request and its answer have `timeout` seconds, and all of them end at `deadline`."""

    def __init__(
        self, path: str, timeout: float, deadline: Optional[float] = None, budget: Optional[Budget] = None
    ) -> None:
        self.path, self.seconds, self.deadline = path, timeout, deadline
        self.budget = budget or Budget(MAX_ANSWERS)
        self.socket: Optional[BoundedSocket] = None
        self.data = b""  # has come, and is not used yet

    def connect(self) -> BoundedSocket:
        """The seconds of the next answer begin. Raises OSError."""
        found = self.socket
        if found is None:
            found = self.socket = BoundedSocket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            found.budget, self.data = self.budget, b""
        end = time.monotonic() + self.seconds
        found.until(end if self.deadline is None else min(end, self.deadline))
        return found

    def ask(self, url: str, method: str = "GET") -> Tuple[int, bytes]:
        """The HTTP status and the body of the answer to one request. Raises OSError, socket.timeout among them, or BadAnswer."""
        if not re.match(r"[!-~]+$", url):
            raise BadAnswer("no URL: %r" % url)
        new = self.socket is None
        sock = self.connect()
        if new:
            sock.hurry()
            sock.connect(self.path)
        length = "Content-Length: 0\r\n" if method != "GET" else ""
        sock.send_all(("%s %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % (method, url, length)).encode("ascii"))
        while True:
            status, fields, later = self.head(sock)
            if status >= 200:  # else the answer is still to come
                break
        body = self.body(sock, status, fields)
        if not later or fields.get("connection", "").lower() == "close":
            self.close()
        return status, body

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
        self.socket = None

    def more(self, sock: BoundedSocket) -> None:
        """Some more has come. Raises BadAnswer where nothing will."""
        data = sock.received()
        if not data:
            raise BadAnswer("the answer broke off")
        self.data += data

    def line(self, sock: BoundedSocket) -> bytes:
        """The next line, without its end."""
        while b"\n" not in self.data:
            if len(self.data) > MAX_LINE:
                raise BadAnswer("a line of more than %d bytes" % MAX_LINE)
            if not self.data:  # nothing of an answer yet
                self.data = sock.received()
                if not self.data:
                    raise ConnectionResetError("closed without an answer")
                continue
            self.more(sock)
        line, _, self.data = self.data.partition(b"\n")
        if len(line) > MAX_LINE:
            raise BadAnswer("a line of more than %d bytes" % MAX_LINE)
        return line.rstrip(b"\r")

    def head(self, sock: BoundedSocket) -> Tuple[int, Dict[str, str], bool]:
        """(Status, fields by name in small letters, whether the connection is for more than one answer)."""
        first = STATUS.match(self.line(sock))
        if not first:
            raise BadAnswer("its first line is none of HTTP")
        fields: Dict[str, str] = {}
        for _ in range(MAX_LINES):
            line = self.line(sock).decode("latin-1")
            if not line:
                return int(first.group(2)), fields, first.group(1) == b"1"
            name, sign, value = line.partition(":")
            if not sign or (
                name.lower() in fields and name.lower() in ("content-length", "transfer-encoding")
            ):
                raise BadAnswer("its head is none of HTTP")
            fields[name.lower()] = value.strip(" \t")
        raise BadAnswer("a head of more than %d lines" % MAX_LINES)

    def body(self, sock: BoundedSocket, status: int, fields: Dict[str, str]) -> bytes:
        """Read piece by piece: what its head says of its length is reserved nowhere. Raises Excess."""
        if status in (204, 304):
            return b""
        if "transfer-encoding" in fields:
            if fields["transfer-encoding"].lower() != "chunked":
                raise BadAnswer("its encoding is %r" % fields["transfer-encoding"][:40])
            return self.chunks(sock)
        if "content-length" in fields:
            if not re.match(r"[0-9]{1,18}$", fields["content-length"]):
                raise BadAnswer("its length is no number")
            return self.exactly(sock, int(fields["content-length"]), 0)
        pieces = [self.data]
        while pieces[-1] or len(pieces) == 1:  # to the end
            pieces.append(sock.received())
            within(sum(map(len, pieces)))
        self.data = b""
        self.close()
        return b"".join(pieces)

    def exactly(self, sock: BoundedSocket, size: int, before: int) -> bytes:
        """So many bytes, after some of the same answer."""
        within(before + size)
        pieces, have = [self.data], len(self.data)
        while have < size:
            pieces.append(sock.received())
            have += len(pieces[-1])
            if not pieces[-1]:
                raise BadAnswer("the answer broke off at byte %d of %d" % (before + have, before + size))
        data = b"".join(pieces)
        self.data = data[size:]
        return data[:size]

    def chunks(self, sock: BoundedSocket) -> bytes:
        """A body of chunks (RFC 9112, 7.1); what stands behind the last is read and left."""
        pieces: List[bytes] = []
        size = 0
        while True:
            length = re.match(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;|$)", self.line(sock))
            if not length:
                raise BadAnswer("a chunk has no length")
            wanted = int(length.group(1), 16)
            if not wanted:
                break
            pieces.append(self.exactly(sock, wanted, size))
            size += wanted
            if self.line(sock):
                raise BadAnswer("a chunk is longer than it says")
        for _ in range(MAX_LINES):
            if not self.line(sock):
                return b"".join(pieces)
        raise BadAnswer("more than %d lines behind the last chunk" % MAX_LINES)


def within(size: int) -> None:
    """Raises Excess for an answer of more bytes than one may have."""
    if size > MAX_ANSWER:
        raise Excess("an answer has more than %d bytes" % MAX_ANSWER)
