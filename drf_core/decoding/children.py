"""Child processes in which bytes from outside are parsed, where they can do no harm.

Not a library's pool: in loky one worker that dies breaks the whole executor, and it knows no
deadlines; pebble has those, but gives its workers the parent's environment, secrets included,
and unpickles what they send, so that who takes over a worker has the parent as well. Here a child
has a clean environment, a limit of memory and a deadline for each answer, and what it says is
read as JSON and buffers (child_messages.py). One takes .2 s of a core to start.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from drf_core.decoding.child_messages import Buffer, Link, LinkClosedError

# What a child may know of its parent's surroundings; no key, token, host or path of credentials.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
_OWN = {
    # Memory that is asked of the system when it is needed, so that the limit means what it says.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONDONTWRITEBYTECODE": "1",
}
_START_SECONDS = 120.0
# From closing its link to its end.
_DYING_SECONDS = 2.0
_MODULES = "numpy,PIL.Image,pyarrow.parquet,tokenizers"


@dataclass(frozen=True)
class Limits:
    """What one task may take: seconds until each answer, bytes beside what a child has at rest."""

    seconds: float = 10.0
    memory: int = 512 << 20


_LIMITS = Limits()


class ChildLostError(Exception):
    """A child died, overran its time or ran out of memory at a task.

    why: "died", "timed_out" or "memory" (and lives). signal: that it died of, where that was not
    ours. used: seconds of a processor, for this answer. what: took the memory, if the task said.
    """

    def __init__(
        self, why: str, signal: int | None = None, used: float = 0.0, what: str = ""
    ) -> None:
        super().__init__(why)
        self.why = why
        self.signal = signal
        self.used = used
        self.what = what


class ChildrenStoppedError(Exception):
    """The children were ended on purpose: the job is being interrupted.

    kind: of the item that was in work, text or image; seconds: since when.
    """

    def __init__(self, kind: str = "", seconds: float = 0.0) -> None:
        super().__init__("stopped")
        self.kind = kind
        self.seconds = seconds


class TaskRaisedError(Exception):
    """A task raised in its child. type, text (one line), number: of the exception (errno)."""

    def __init__(self, message: dict[str, Any]) -> None:
        self.type = str(message.get("type"))
        self.text = str(message.get("text"))
        self.number = message.get("number")
        super().__init__(f"{self.type}: {self.text}")


class Child:
    """One child process; not for several threads at once."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            # Google's libraries set a default time-out, with which sockets come non-blocking: the
            # child, which shares the open file, would take its silence for the parent's end.
            end.setblocking(True)
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
        quiet = None if os.environ.get("DRF_DEBUG") else subprocess.DEVNULL
        command = [sys.executable, "-m", "drf_core.decoding.child"]
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), _MODULES],
                env={**environment, **_OWN, "PYTHONPATH": paths},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=quiet,
                stderr=quiet,
                cwd="/",
                start_new_session=True,
            )
        self._link = Link(ours)
        self._seconds = _START_SECONDS
        self._ready = False
        self._reaping = threading.Lock()
        # Of processor time that it used until its last answer.
        self._used = 0.0
        self._stopped = False
        self.lost = False
        # What it was last made ready for.
        self.setup: object = None

    def ask(
        self,
        task: str,
        message: dict[str, Any],
        buffers: Sequence[Buffer] = (),
        limits: Limits = _LIMITS,
    ) -> None:
        """Give it a task, a function named as module:function, that answers once or more.

        Raises ChildLostError, ChildrenStoppedError, OSError where it does not even start: that says
        nothing of what it is asked.
        """
        if not self._ready:
            try:
                self._answer(_START_SECONDS)
            except ChildLostError as lost:
                why = f"signal {lost.signal}" if lost.signal else "DRF_DEBUG=1 shows why"
                raise OSError(f"a process to read and decode in did not start ({why})") from None
            self._ready = True
        self._seconds = limits.seconds
        limited = {"task": task, "memory": limits.memory, "seconds": limits.seconds}
        try:
            self._link.send({**message, **limited}, buffers)
        except LinkClosedError:
            raise self._lost("died") from None

    def answer(self) -> tuple[dict[str, Any], list[Any]]:
        """Return its next answer. Raises ChildLostError, TaskRaisedError, ChildrenStoppedError."""
        return self._answer(self._seconds)

    def tell(self, message: dict[str, Any], buffers: Sequence[Buffer] = ()) -> None:
        """Answer a question of the task. Raises ChildLostError, ChildrenStoppedError."""
        try:
            self._link.send(message, buffers)
        except LinkClosedError:
            raise self._lost("died") from None

    def end(self) -> None:
        """Kill it and wait for its end; whoever waits for its answer is told that it is stopped."""
        self._stopped = True
        self._wait(0.0)

    def _answer(self, seconds: float) -> tuple[dict[str, Any], list[Any]]:
        try:
            message, buffers = self._link.receive(seconds)
        except TimeoutError:
            raise self._lost("timed_out") from None
        except LinkClosedError:
            raise self._lost("died") from None
        self._used = message.get("used", self._used)
        if message.get("error") == "memory":
            if not message["granted"]:
                raise MemoryError(
                    "the limits of this process (ulimit -v) leave too little memory to decode in"
                )
            raise ChildLostError("memory", what=str(message.get("what", "")))
        if "error" in message:
            raise TaskRaisedError(message)
        return message, buffers

    def _lost(self, why: str) -> Exception:
        """Make sure that it is dead, and say what it died of."""
        self.lost = True
        status, usage = self._wait(_DYING_SECONDS if why == "died" else 0.0)
        self._link.close()
        if self._stopped:
            return ChildrenStoppedError()
        return ChildLostError(
            why,
            signal=os.WTERMSIG(status) if why == "died" and os.WIFSIGNALED(status) else None,
            used=usage.ru_utime + usage.ru_stime - self._used if usage else 0.0,
        )

    def _wait(self, seconds: float) -> tuple[int, resource.struct_rusage | None]:
        """Give it so long to end itself, then kill it; return status and what it used."""
        until = time.monotonic() + seconds
        # Popen's own waiting and killing would take away what the system tells once.
        with self._reaping:
            if self._process.returncode is not None:
                return 0, None
            pid = self._process.pid
            while (found := os.wait4(pid, os.WNOHANG))[0] == 0:
                if time.monotonic() >= until:
                    os.kill(pid, signal.SIGKILL)
                    found = os.wait4(pid, 0)
                    break
                time.sleep(0.01)
            self._process.returncode = os.waitstatus_to_exitcode(found[1])
            return found[1], found[2]


_ALL: weakref.WeakSet[Children] = weakref.WeakSet()


def stop_all_children() -> None:
    """End all children of this process at once: it is being interrupted."""
    for children in list(_ALL):
        children.stop()


# Nothing is left behind, also where nobody stops them.
atexit.register(stop_all_children)


class Children:
    """Child processes that are lent one task at a time; safe to use from many threads.

    Started when they are first needed, kept for the next task, replaced when they die. There are
    as many as tasks run at once: whoever uses them bounds that.
    """

    def __init__(self) -> None:
        _ALL.add(self)
        self._idle: list[Child] = []
        self._lent: set[Child] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def borrow(self, fresh: bool = False) -> Iterator[Child]:
        """Lend a child; one that ran out of memory or was left with its task is ended.

        fresh: one that did nothing before.
        """
        with self._lock:
            child = self._idle.pop() if self._idle and not fresh else None
        child = child or Child()
        with self._lock:
            self._lent.add(child)
        sound = False
        try:
            yield child
            sound = not child.lost
        except (TaskRaisedError, GeneratorExit):
            # Which was told in an orderly way, and ended the task: a night may have many such. Or
            # who asked has had the last answer, and does not come back.
            sound = not child.lost
            raise
        finally:
            with self._lock:
                self._lent.discard(child)
                if sound:
                    self._idle.append(child)
            if not sound:
                child.end()

    def start(self, count: int) -> None:
        """Start so many already, so that they are there when they are needed."""
        with self._lock:
            missing = count - len(self._idle) - len(self._lent)
            self._idle += [Child() for _ in range(missing)]

    def stop(self) -> None:
        """End all of them at once; tasks at work end with ChildrenStoppedError."""
        with self._lock:
            children = [*self._idle, *self._lent]
            self._idle.clear()
        for child in children:
            child.end()
