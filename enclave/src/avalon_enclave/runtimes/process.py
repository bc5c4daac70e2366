"""Runs a workload in child processes: it can be killed, and holds no keys.

Children stay warm between orders of the same workload, up to a number for all workloads together; each serves one
order at a time. They die with the thread that started them (those of the executor live as long as the enclave), and
at the latest with the channel.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

from avalon_core.channel.frames import FrameDecoder
from avalon_core.errors import ChannelError
from avalon_core.protocol.errors import failed_order
from avalon_enclave.events import Event, Journal
from avalon_enclave.runtimes.base import Control, workload_failed, workload_overran
from avalon_enclave.runtimes.child_messages import (
    Broken,
    FromChild,
    Raised,
    Ran,
    Ready,
    Run,
    decode_from_child,
    encode,
)
from avalon_enclave.workloads.base import Context, Description, Item, Limits, OutputRefused, check_outputs

START_SECONDS = 60.0
"""For the interpreter and the workload's own imports."""

_INHERITED_VARIABLES = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LANG", "LC_ALL", "TZ")
_RECEIVE_BYTES = 64 * 1024


class ChildDied(ChannelError):
    """The child ended, or said something that is no answer."""


class Child:
    """One child process with its end of the channel. For one order at a time; :meth:`kill` from any thread."""

    def __init__(self, workload_name: str) -> None:
        """Start the process; it is not ready yet."""
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._decoder = FrameDecoder()
        self._lock = threading.Lock()
        with theirs:
            descriptor = theirs.fileno()
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "avalon_enclave.runtimes.child"),
                    *("--workload", workload_name, "--channel", f"fd:{descriptor}"),
                ],
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ},
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """The process has not ended."""
        return self._process.poll() is None

    def wait_ready(self) -> Description:
        """Wait until the workload is loaded.

        Raises:
            ChildDied: it cannot be; the message says why, in our own words or by the name of the error's type.
            TimeoutError
        """
        answer = self._receive(time.monotonic() + START_SECONDS)
        if isinstance(answer, Broken):
            raise ChildDied(answer.error)
        if not isinstance(answer, Ready):
            raise ChildDied("it did not start as a child does")
        return answer.description

    def run(self, order: Run, seconds: float) -> Ran | Raised:
        """Have an order processed.

        Raises:
            TimeoutError: it takes longer than that.
            ChildDied
        """
        deadline = time.monotonic() + seconds
        try:
            self._socket.settimeout(seconds)
            self._socket.sendall(encode(order))
        except ConnectionError as exc:
            raise ChildDied from exc
        answer = self._receive(deadline)
        if not isinstance(answer, Ran | Raised):
            raise ChildDied
        return answer

    def kill(self) -> None:
        """End it and everything that it started. Its resources are freed by :meth:`reap`."""
        with self._lock:
            # Until it is reaped, its number cannot be another process's.
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def reap(self) -> None:
        """Kill it where it still runs, and free what it held."""
        self.kill()
        with self._lock:
            self._process.wait()
        self._socket.close()

    def _receive(self, deadline: float) -> FromChild:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except ConnectionError as exc:
                raise ChildDied from exc
            if not data:
                raise ChildDied
            for payload in self._decoder.feed(data):
                return decode_from_child(payload)


class WarmChildren:
    """Children of all workloads that are ready and have nothing to do, up to a number. For any number of threads."""

    def __init__(self, room: int) -> None:
        """``room``: of more than so many, the one that has been idle for longest is ended."""
        self._room = room
        self._lock = threading.Lock()
        self._idle: OrderedDict[Child, str] = OrderedDict()
        """With the names of their workloads, the longest idle first."""

    def give(self, name: str, child: Child) -> None:
        """Keep a child for the workload's next order."""
        with self._lock:
            self._idle[child] = name
            surplus = self._idle.popitem(last=False)[0] if len(self._idle) > self._room else None
        if surplus is not None:
            surplus.reap()

    def take(self, name: str) -> Child | None:
        """A child of this workload that lives, the one that worked last; None where there is none."""
        while True:
            with self._lock:
                child = next((child for child in reversed(self._idle) if self._idle[child] == name), None)
                if child is not None:
                    del self._idle[child]
            if child is None or child.alive:
                return child
            child.reap()

    def close(self) -> None:
        """End them all."""
        with self._lock:
            idle, self._idle = self._idle, OrderedDict()
        for child in idle:
            child.reap()


class ProcessRuntime:
    """Satisfies :class:`avalon_enclave.runtimes.base.Runtime`."""

    in_child = True

    def __init__(self, description: Description, *, journal: Journal, warm: WarmChildren) -> None:
        """``description``: what the workload said of itself. ``warm``: where its children are kept between orders."""
        self.limits: Limits = description.limits
        self._name = description.name
        self._journal = journal
        self._warm = warm

    def run(self, inputs: Sequence[Item], context: Context, control: Control) -> Sequence[Item]:
        order = Run(
            inputs=tuple((item.index, item.data) for item in inputs),
            work_order_id=context.work_order_id,
            worker_id=context.worker_id,
            requester_id=context.requester_id,
            requester_key=context.requester_key,
        )
        child = self._warm.take(self._name) or self._start()
        healthy = False
        control.stop_with(child.kill)
        try:
            answer = child.run(order, self.limits.seconds)
            healthy = not (isinstance(answer, Raised) and answer.error == MemoryError.__name__)
        except TimeoutError:
            self._journal.record(Event.WORKLOAD_OVERRAN, workload=self._name, seconds=self.limits.seconds)
            raise workload_overran(self.limits.seconds) from None
        except ChannelError as exc:
            if control.cancelled:
                raise failed_order("the order was cancelled") from None
            raise workload_failed(self._journal, self._name, exc) from None
        finally:
            control.stop_with(None)
            if healthy:
                self._warm.give(self._name, child)
            else:
                child.reap()
        return self._outputs_of(answer)

    def close(self) -> None:
        self._warm.close()

    def _outputs_of(self, answer: Ran | Raised) -> Sequence[Item]:
        try:
            if isinstance(answer, Ran):
                outputs = [Item(index=index, data=data) for index, data in answer.outputs]
                check_outputs(outputs, self.limits)
                return outputs
            if answer.refused is None:
                raise workload_failed(self._journal, self._name, answer.error)
        except OutputRefused as exc:
            failure = exc.as_failure()
        else:
            # The child's words are not ours: they could hold plaintext.
            failure = failed_order("the workload failed: its output is refused (too large, or not items)")
        self._journal.record(Event.WORKLOAD_FAILED, workload=self._name, error=OutputRefused.__name__)
        raise failure

    def _start(self) -> Child:
        child = Child(self._name)
        try:
            child.wait_ready()
        except (ChannelError, TimeoutError) as exc:
            child.reap()
            raise workload_failed(self._journal, self._name, exc) from None
        return child
