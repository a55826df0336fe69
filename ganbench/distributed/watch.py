"""Each of several processes shows the others that it is alive, and sees who of them is not."""

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

PULSE = 1.0  # seconds between two signs of life
ANSWER = 8.0  # seconds within which the store answers, or counts as gone
GRACE = 20.0  # seconds a process has to write its checkpoint when torchrun has gone


T = TypeVar("T")


def _answer(question: Callable[[], T]) -> T:
    """What a question to the store brings. Raises RuntimeError where it has gone, or does not answer in time.

    The store is with rank 0. Stopped, that process keeps its connections, and a question to it would wait for ever.
    """
    answers: list[T] = []
    failures: list[RuntimeError] = []

    def ask() -> None:
        try:
            answers.append(question())
        except RuntimeError as error:
            failures.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER)
    if not answers:
        raise failures[0] if failures else RuntimeError("the store does not answer")
    return answers[0]


class Watch(threading.Thread):
    """Shows the other processes that this one is alive, and ends it when another has failed or torchrun has gone.

    They meet in the store through which they found each other (`failed`: the rank and exit code of the first to fail;
    `pulse/R`: a number that rank R counts up; `gone/R`: rank R is about to end because another failed).
    """

    def __init__(self, rank: int, world: int):
        super().__init__(name="ganbench-watch", daemon=True)
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # a connection of its own: the process group's may be busy waiting
        self.store = dist.PrefixStore("ganbench", dist.TCPStore(address, port, is_master=False,
                                                                timeout=timedelta(seconds=30)))
        self.rank, self.world = rank, world
        self.agent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self.ending = threading.Event()  # this process has failed itself, and its main thread says why

    def run(self) -> None:
        """The thread: show a sign of life each second, and look whether another process has failed."""
        count = 0
        while not self.ending.wait(PULSE):
            if self.agent is not None and os.getppid() != self.agent:
                self._end_without_agent()
            count += 1
            try:
                self.store.set(f"pulse/{self.rank}", str(count))
                failed = self._failed()
            except RuntimeError:  # the store has gone, and rank 0 or torchrun with it; the main thread will notice
                continue
            if failed is not None and failed[0] != self.rank and not self.ending.is_set():
                self.store.set(f"gone/{self.rank}", "1")
                os._exit(failed[1])

    def fail(self, code: int) -> bool:
        """Let the others know that this process ends with an exit code. Returns whether it is the first to fail."""
        self.ending.set()
        try:
            mine = f"{self.rank} {code}"
            return _answer(lambda: self.store.compare_set("failed", "", mine)) == mine.encode()
        except RuntimeError:  # the store has gone
            return True

    def silent(self) -> list[int]:
        """The ranks that show no sign of life; [0] where the store, which is with rank 0, does not answer."""
        try:
            before = _answer(self._pulses)
            time.sleep(3 * PULSE)
            after = _answer(self._pulses)
        except RuntimeError:
            return [0]
        return [r for r in range(self.world) if r != self.rank and before[r] == after[r]]

    def wait_for_the_others(self, seconds: float = 5.0) -> None:
        """Rank 0 takes the store with it when it ends, so the others get a moment to read in it what happened."""
        until = time.monotonic() + seconds
        others = [f"gone/{r}" for r in range(self.world) if r != self.rank]
        try:
            _answer(lambda: self.store.set(f"gone/{self.rank}", "1"))
            while not _answer(lambda: all(self.store.check([key]) for key in others)) and time.monotonic() < until:
                time.sleep(0.05)
        except RuntimeError:
            pass

    def _failed(self) -> tuple[int, int] | None:
        if not self.store.check(["failed"]):
            return None
        rank, code = self.store.get("failed").split()
        return int(rank), int(code)

    def _pulses(self) -> list[bytes]:
        keys = [f"pulse/{r}" for r in range(self.world)]
        return [self.store.get(key) if self.store.check([key]) else b"" for key in keys]

    def _end_without_agent(self) -> None:
        """torchrun was killed: write a checkpoint, as at a SIGTERM, and end; if that hangs, end all the same."""
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(128 + signal.SIGTERM)
