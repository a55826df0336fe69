"""Where a suite's cells run: processes on this machine, a Ray cluster, a Slurm job array.

Every cell is a process of its own with the same command line everywhere, so a cell that runs out of memory, crashes or
is killed takes nothing else with it, and the three engines give the same numbers.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ganbench.errors import EXIT_DIVERGED, UserError
from ganbench.files import atomic_write

POLL = 0.1  # seconds between two looks at the children
GRACE = 60.0  # seconds a cell has to write its checkpoint when the suite is asked to end
ASKED_TO_END = {130: "SIGINT", 143: "SIGTERM", 129: "SIGHUP"}  # exit codes of a training that a signal ended


@dataclass(frozen=True)
class Task:
    """One process to run: `python ARGUMENTS`, with everything it prints going to a log."""

    key: str
    name: str
    arguments: tuple[str, ...]
    folder: str  # where the process writes; results.csv in it is what the suite wants
    log: str
    threads: int = 1
    gpu: str | None = None  # the GPU it may see; "" = none, None = whatever the environment says


@dataclass(frozen=True)
class Event:
    """What an engine reports: begun, ended (with the rest filled in), or tick, a moment to redraw."""

    kind: str
    key: str = ""
    status: str = ""  # ok, diverged, crashed, killed
    reason: str = ""
    seconds: float = 0.0


class Launcher(Protocol):
    """Runs tasks and reports. Nothing that happens to one task may stop another."""

    about: str

    def run(self, tasks: Sequence[Task]) -> Iterator[Event]:
        """Run the tasks, in any order, and report each: begun once, ended once; ticks in between."""


# --- one process, wherever it runs ----------------------------------------------------------------------------------

def launch(task: Task) -> "subprocess.Popen[bytes]":
    """Start a task's process. It dies with its parent, so that a killed driver leaves nothing running."""
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment[name] = str(task.threads)
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    environment["PYTHONUNBUFFERED"] = "1"
    if task.gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = task.gpu
    Path(task.log).parent.mkdir(parents=True, exist_ok=True)
    Path(task.folder).parent.mkdir(parents=True, exist_ok=True)
    with open(task.log, "wb") as log:
        return subprocess.Popen([sys.executable, *task.arguments], stdin=subprocess.DEVNULL, stdout=log,
                                stderr=subprocess.STDOUT, env=environment, start_new_session=True,
                                preexec_fn=_die_with_parent(os.getpid()))


def execute(task: Task, job: "Requeued | None" = None) -> tuple[Event, str]:
    """Run a task to its end here. Returns how it ended and the text of its results, for a driver on another machine.

    job: is given the process, to end it when the job is to make room.
    """
    begun = time.monotonic()
    process = launch(task)
    if job is not None:
        job.process = process
    try:
        while (code := process.poll()) is None:  # not wait(): what a signal interrupts holds a lock that `end` needs
            time.sleep(POLL)
    finally:
        end([process])
    results = Path(task.folder) / "results.csv"
    return ended(task, code, time.monotonic() - begun), results.read_text("utf-8") if results.is_file() else ""


def ended(task: Task, code: int, seconds: float) -> Event:
    """What an exit code means."""
    if code == 0:
        return Event("ended", task.key, "ok", "", seconds)
    last = last_line(task.log)
    if code == EXIT_DIVERGED:
        return Event("ended", task.key, "diverged", last, seconds)
    if code in ASKED_TO_END:
        return Event("ended", task.key, "killed", f"asked to end by {ASKED_TO_END[code]}, with a checkpoint", seconds)
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return Event("ended", task.key, "killed", f"killed by {name}{hint}", seconds)
    return Event("ended", task.key, "crashed", last or f"exit code {code}", seconds)


def last_line(path: str | Path, most: int = 500) -> str:
    """The last line of a log that says something."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 8192))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return next((line.strip()[:most] for line in reversed(text.splitlines()) if line.strip()), "")


def _die_with_parent(parent: int) -> Any:
    """What the child does before it becomes its program: ask the kernel (Linux) to be killed when its parent dies."""
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    # not Linux: the child's own lock on its folder then keeps two writers apart
    except (OSError, AttributeError, TypeError):
        return None

    def before_exec() -> None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # the parent died before we could ask
            os._exit(1)

    return before_exec


def end(processes: "Sequence[subprocess.Popen[bytes]]") -> None:
    """Ask processes to end, which a training does with a checkpoint; whoever takes too long is killed."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    until = time.monotonic() + GRACE
    try:
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
    finally:  # after a second Ctrl-C, too
        for process in running:
            _kill(process)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End a process and what it started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            if os.name == "nt":  # no process groups to signal
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# --- this machine ---------------------------------------------------------------------------------------------------

class LocalEngine:
    """A pool of processes: one a GPU, or `jobs` of them on the CPU.

    Args:
        jobs: processes at once. gpus: identifiers of the GPUs, or none for the CPU; they are taken in turn.
    """

    def __init__(self, jobs: int, gpus: Sequence[str] = ()):
        self.jobs, self.gpus = jobs, list(gpus)
        self.about = f"{jobs} process{'es' if jobs > 1 else ''} on " + (f"{len(gpus)} GPU(s)" if gpus else "the CPU")

    def run(self, tasks: Sequence[Task]) -> Iterator[Event]:
        """Run the tasks, as many at once as there are slots; as Launcher.run."""
        waiting = list(reversed(tasks))
        free = list(range(self.jobs))
        running: dict[int, tuple[Task, subprocess.Popen[bytes], float]] = {}
        try:
            while waiting or running:
                while waiting and free:
                    slot, task = free.pop(0), waiting.pop()
                    gpu = self.gpus[slot % len(self.gpus)] if self.gpus else None
                    running[slot] = (task, launch(replace(task, gpu=gpu)), time.monotonic())
                    yield Event("begun", task.key)
                for slot, (task, process, begun) in list(running.items()):
                    code = process.poll()
                    if code is not None:
                        del running[slot]
                        free.append(slot)
                        yield ended(task, code, time.monotonic() - begun)
                yield Event("tick")
                time.sleep(POLL)
        finally:
            end([process for _, process, _ in running.values()])


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES would name them."""
    import torch
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()][:torch.cuda.device_count()]
    return [str(index) for index in range(torch.cuda.device_count())]


# --- Ray ------------------------------------------------------------------------------------------------------------

class RayEngine:
    """A Ray cluster: the one at $RAY_ADDRESS, or one of `jobs` workers started on this machine.

    GPUs are resources (one a cell if the cluster has any). When a worker dies, Ray runs its cell again elsewhere, and
    it goes on from its checkpoint if the folder is shared, from the start if not: the numbers are the same.
    """

    RETRIES = 3

    def __init__(self, jobs: int, threads: int = 1):
        try:
            import ray
        except ImportError:
            raise UserError("--engine ray needs Ray: pip install 'ganbench[ray]'") from None
        self.ray, self.threads = ray, threads
        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS")
            local: dict[str, Any] = {} if address else {"num_cpus": jobs * threads, "include_dashboard": False}
            try:
                ray.init(address=address, log_to_driver=False, configure_logging=False, **local)
            except Exception as error:  # Ray raises a bare Exception where its own processes take too long to start
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"Ray did not start ({reason}): try again when the machine is less busy, or run this "
                                "with --engine local") from None
        self.gpus = int(ray.cluster_resources().get("GPU", 0))
        self.about = f"Ray, {ray.cluster_resources().get('CPU', 0):g} CPUs and {self.gpus} GPUs"

    def run(self, tasks: Sequence[Task]) -> Iterator[Event]:
        """Run the tasks wherever the cluster has room; as Launcher.run."""
        ray = self.ray
        remote = ray.remote(num_cpus=self.threads, num_gpus=1 if self.gpus else 0, max_retries=self.RETRIES)(execute)
        pending = {remote.remote(task): task for task in tasks}
        for task in tasks:
            yield Event("begun", task.key)
        try:
            while pending:
                done, _ = ray.wait(list(pending), num_returns=1, timeout=POLL)
                for reference in done:
                    task = pending.pop(reference)
                    try:
                        event, results = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        reason = str(error).strip().splitlines()[0]
                        yield Event("ended", task.key, "killed", f"Ray: {reason}")
                        continue
                    _bring_home(task, results)
                    yield event
                yield Event("tick")
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)


# --- Slurm ----------------------------------------------------------------------------------------------------------

class Requeued:
    """`execute` as a Slurm job that comes back: when its time is up or it is preempted, submitit calls `checkpoint`,
    the training writes one and ends, and the job queues again and goes on from there."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self, task: Task) -> tuple[Event, str]:
        """What the job runs: the task to its end."""
        return execute(task, self)

    def checkpoint(self, task: Task) -> Any:
        """Called by submitit before the job is taken away: end the training, and queue again."""
        import submitit
        if self.process is not None:
            end([self.process])
        return submitit.helpers.DelayedSubmission(Requeued(), task)


class SlurmEngine:
    """A Slurm job array through submitit: one array task a cell, on a file system that all nodes share.

    Args:
        folder: where submitit keeps its scripts and logs. jobs: array tasks at once. parameters: for sbatch, by
        submitit's names (slurm_partition, timeout_min, gpus_per_node ...). cluster: None = Slurm; "local" and "debug"
        are submitit's own stand-ins.
    """

    def __init__(self, folder: Path, jobs: int, threads: int = 1, parameters: dict[str, Any] | None = None,
                 cluster: str | None = "slurm"):
        try:
            import submitit
        except ImportError:
            raise UserError("--engine slurm needs submitit: pip install 'ganbench[slurm]'") from None
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        except RuntimeError as error:
            raise UserError(f"--engine slurm: {str(error).splitlines()[0]}; "
                            "run it on a machine that has sbatch") from None
        arguments = {"cpus_per_task": threads, "timeout_min": 24 * 60, "name": "ganbench", **(parameters or {})}
        if cluster == "slurm":
            arguments["slurm_array_parallelism"] = jobs
        self.executor.update_parameters(**arguments)
        # jobs outlive a killed driver: the next one goes on waiting for them instead of starting them twice
        self.attach = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}.get(cluster or "slurm")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.ledger = folder, folder / "jobs.json"
        self.about = f"Slurm, an array of at most {jobs} at once"

    def run(self, tasks: Sequence[Task]) -> Iterator[Event]:
        """Submit the tasks, or wait for those that an earlier call submitted; as Launcher.run."""
        jobs = self._still_running(tasks)
        fresh = [task for task in tasks if task not in jobs.values()]
        if fresh:
            jobs |= dict(zip(self.executor.map_array(Requeued(), fresh), fresh))
        self.ledger.write_text(json.dumps({task.key: job.job_id for job, task in jobs.items()}), encoding="utf-8")
        for task in tasks:
            yield Event("begun", task.key)
        try:
            while jobs:
                for job in [job for job in jobs if job.done()]:
                    task = jobs.pop(job)
                    error = job.exception()
                    if error is not None:
                        reason = f"Slurm job {job.job_id}: {str(error).strip().splitlines()[0]}"
                        yield Event("ended", task.key, "killed", reason)
                        continue
                    event, results = job.result()
                    _bring_home(task, results)
                    yield event
                yield Event("tick")
                time.sleep(POLL)
        finally:
            for job in jobs:
                job.cancel()

    def _still_running(self, tasks: Sequence[Task]) -> dict[Any, Task]:
        """The jobs of an earlier call that have not ended."""
        if self.attach is None or not self.ledger.is_file():
            return {}
        known = json.loads(self.ledger.read_text(encoding="utf-8"))
        found = {self.attach(self.folder, known[task.key]): task for task in tasks if task.key in known}
        return {job: task for job, task in found.items() if not job.done()}


def _bring_home(task: Task, results: str) -> None:
    """Keep the results of a cell that ran where this machine cannot see its folder."""
    target = Path(task.folder) / "results.csv"
    if results and not target.is_file():
        atomic_write(target, results)
