"""Engines: processes of every kind of ending, the pool's width, and that nothing outlives its driver."""

import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from ganbench.bench.engines import LocalEngine, RayEngine, Requeued, SlurmEngine, Task, ended
from ganbench.errors import UserError


def make_task(folder, name, code, **options):
    """A process that runs `code` with its folder in sys.argv[1]."""
    place = folder / name
    return Task(name, name, ("-c", code, str(place)), str(place), str(folder / "logs" / f"{name}.txt"), **options)


RESULT = ("import sys, pathlib as p; d = p.Path(sys.argv[1]); d.mkdir(exist_ok=True); "
          "(d / 'results.csv').write_text('{}')")
ENDINGS = {
    "ok": ("print('fine')", "ok", ""),
    "diverged": ("import sys; print('ganbench: x diverged: at step 3', file=sys.stderr); sys.exit(3)", "diverged",
                 "ganbench: x diverged: at step 3"),
    "refused": ("import sys; print('ganbench: no such preset', file=sys.stderr); sys.exit(2)", "crashed",
                "ganbench: no such preset"),
    "raises": ("1 / 0", "crashed", "ZeroDivisionError: division by zero"),
    "silent": ("import os; os._exit(7)", "crashed", "exit code 7"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "killed", "killed by SIGKILL (out of memory?)"),
    "segfault": ("import os; os.kill(os.getpid(), 11)", "killed", "killed by SIGSEGV"),
}


@pytest.mark.parametrize("jobs", [1, 3])
def test_each_ending_is_told_apart_and_none_stops_the_others(tmp_path, jobs):
    tasks = [make_task(tmp_path, name, code) for name, (code, _, _) in ENDINGS.items()]
    events = list(LocalEngine(jobs).run(tasks))
    ended = {e.key: (e.status, e.reason) for e in events if e.kind == "ended"}
    assert ended == {name: (status, reason) for name, (_, status, reason) in ENDINGS.items()}
    assert [e.key for e in events if e.kind == "begun"] == list(ENDINGS)


def test_never_more_processes_than_jobs_and_each_gpu_is_used_once_at_a_time(tmp_path):
    code = ("import os, pathlib, sys, time; here = pathlib.Path(sys.argv[1]).parent\n"
            "gpu = os.environ['CUDA_VISIBLE_DEVICES']\n"
            "mine = here / f'busy-{gpu}'; mine.touch(exist_ok=False)\n"  # fails if another process holds this GPU
            "assert len(list(here.glob('busy-*'))) <= 2 and os.environ['OMP_NUM_THREADS'] == '3'\n"
            "time.sleep(0.2); mine.unlink(); print(gpu)")
    tasks = [make_task(tmp_path, f"t{i}", code, threads=3) for i in range(6)]
    events = list(LocalEngine(2, gpus=["4", "7"]).run(tasks))
    assert [e.status for e in events if e.kind == "ended"] == ["ok"] * 6
    assert {Path(t.log).read_text().strip() for t in tasks} == {"4", "7"}


def test_stopping_the_driver_stops_what_it_started(tmp_path):
    sleeper = make_task(tmp_path, "sleeper", "import os, sys, time; print(os.getpid(), flush=True); time.sleep(60)")
    running = LocalEngine(1).run([sleeper])
    next(running)
    pid = wait_for_number(Path(sleeper.log))
    running.close()
    assert not alive(pid)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's part in this is Linux's")
def test_children_die_with_a_killed_driver(tmp_path):
    driver = ("from ganbench.bench.engines import LocalEngine, Task; import sys\n"
              "t = Task('a', 'a', ('-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'),"
              " sys.argv[1] + '/a', sys.argv[1] + '/log')\n"
              "list(LocalEngine(1).run([t]))")
    process = subprocess.Popen([sys.executable, "-c", driver, str(tmp_path)])
    pid = wait_for_number(tmp_path / "log")
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(100):
        if not alive(pid):
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child went on after its driver was killed")


# writes what a training would: a checkpoint when it is asked to end, the results when it comes to its end
TRAINS = """import os, signal, sys, time; from pathlib import Path
place = Path(sys.argv[1]); place.mkdir(exist_ok=True)
def asked(*_): (place / "checkpoint").write_text("5"); os._exit(143)
signal.signal(signal.SIGTERM, asked); print(os.getpid(), flush=True)
time.sleep(0 if (place / "checkpoint").exists() else 60)
(place / "results.csv").write_text("run,origin,x")
"""


def test_a_driver_that_is_stopped_lets_its_cells_write_their_checkpoint(tmp_path):
    task = make_task(tmp_path, "cell", TRAINS)
    running = LocalEngine(1).run([task])
    next(running)
    wait_for_number(Path(task.log))
    running.close()  # what a signal's exception does to it
    assert (tmp_path / "cell" / "checkpoint").exists()
    assert ended(task, 143, 1.0).status == "killed"


def test_whoever_does_not_end_when_asked_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("ganbench.bench.engines.GRACE", 0.5)
    task = make_task(tmp_path, "deaf", "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                                       "print(os.getpid(), flush=True); time.sleep(60)")
    running = LocalEngine(1).run([task])
    next(running)
    pid = wait_for_number(Path(task.log))
    running.close()
    assert not alive(pid)


@pytest.mark.slow
def test_a_preempted_slurm_job_writes_its_checkpoint_and_queues_again(tmp_path):
    """submitit's own stand-in for Slurm, which sends the signal that Slurm sends."""
    submitit = pytest.importorskip("submitit")
    executor = submitit.LocalExecutor(tmp_path / "slurm")
    executor.update_parameters(signal_delay_s=1, timeout_min=1)
    task = make_task(tmp_path, "cell", TRAINS)
    job = executor.submit(Requeued(), task)
    pid = wait_for_number(Path(task.log))
    status = Path(f"/proc/{pid}/status").read_text()
    os.kill(int(status.split("PPid:")[1].split()[0]), signal.SIGUSR2)
    event, results = job.result()
    assert event.status == "ok" and results == "run,origin,x"
    assert (tmp_path / "cell" / "checkpoint").exists()


def test_slurm_through_submitit(tmp_path):
    pytest.importorskip("submitit")
    tasks = [make_task(tmp_path, name, code) for name, (code, _, _) in ENDINGS.items()]
    tasks.append(make_task(tmp_path, "writes", RESULT.format("run,origin,x")))
    engine = SlurmEngine(tmp_path / "slurm", jobs=2, cluster="debug")
    events = list(engine.run(tasks))
    ended = {e.key: (e.status, e.reason) for e in events if e.kind == "ended"}
    assert ended == {name: (status, reason) for name, (_, status, reason) in ENDINGS.items()} | {"writes": ("ok", "")}
    assert (tmp_path / "writes" / "results.csv").read_text() == "run,origin,x"


@pytest.mark.slow
def test_slurm_engine_with_jobs_of_their_own(tmp_path):
    pytest.importorskip("submitit")
    names = ("ok", "raises", "killed")
    tasks = [make_task(tmp_path, name, ENDINGS[name][0]) for name in names]
    events = list(SlurmEngine(tmp_path / "slurm", jobs=2, cluster="local").run(tasks))
    assert {e.key: e.status for e in events if e.kind == "ended"} == {name: ENDINGS[name][1] for name in names}


@pytest.mark.slow
def test_jobs_that_outlive_a_killed_driver_are_waited_for_not_started_again(tmp_path):
    submitit = pytest.importorskip("submitit")

    class Patient(submitit.LocalJob):  # Slurm knows of other processes' jobs; submitit's stand-in for it does not
        def done(self, force_check=False):
            return self.paths.result_pickle.exists()

    code = ("import pathlib, sys, time; d = pathlib.Path(sys.argv[1]); d.mkdir(exist_ok=True)\n"
            "(d / 'starts').open('a').write('x'); time.sleep(8)")
    task = make_task(tmp_path, "long", code)
    driver = ("import sys; sys.path.insert(0, sys.argv[1]); from test_bench_engines import *\n"
              f"list(SlurmEngine(Path({str(tmp_path)!r}) / 'slurm', jobs=1, cluster='local').run([{task!r}]))")
    process = subprocess.Popen([sys.executable, "-c", driver, str(Path(__file__).parent)])
    while not (tmp_path / "long" / "starts").exists():
        time.sleep(0.05)
        assert process.poll() is None
    process.kill()
    process.wait()
    engine = SlurmEngine(tmp_path / "slurm", jobs=1, cluster="local")
    engine.attach = Patient
    events = list(engine.run([task]))
    assert [(e.key, e.status) for e in events if e.kind == "ended"] == [("long", "ok")]
    assert (tmp_path / "long" / "starts").read_text() == "x"


def test_slurm_engine_without_slurm_says_so(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch"):
        SlurmEngine(tmp_path / "slurm", jobs=2)


def test_a_ray_that_does_not_start_is_one_line(monkeypatch):
    """On a busy machine its own processes may take longer than it waits for them, and it raises a bare Exception."""
    def init(**options):
        raise Exception("The current node timed out\nduring startup.")
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(UserError, match=r"did not start \(The current node timed out during startup\.\): try again"):
        RayEngine(2)


@pytest.mark.slow
def test_ray_runs_every_ending_and_survives_the_death_of_a_worker(tmp_path):
    ray = pytest.importorskip("ray")
    once = ("import os, pathlib, signal, sys; d = pathlib.Path(sys.argv[1]); d.mkdir(exist_ok=True)\n"
            "first = not (d / 'tried').exists(); (d / 'tried').touch()\n"
            "if first: os.kill(os.getppid(), signal.SIGKILL)\n"  # the Ray worker that started this process
            "(d / 'results.csv').write_text('second try')")
    tasks = [make_task(tmp_path, name, code) for name, (code, _, _) in ENDINGS.items()]
    tasks.append(make_task(tmp_path, "worker_dies", once))
    try:
        events = list(RayEngine(jobs=2).run(tasks))
    finally:
        ray.shutdown()
    ended = {e.key: (e.status, e.reason) for e in events if e.kind == "ended"}
    assert ended == {name: (status, reason) for name, (_, status, reason) in ENDINGS.items()} | {"worker_dies": ("ok",
                                                                                                                 "")}
    assert (tmp_path / "worker_dies" / "results.csv").read_text() == "second try"


def wait_for_number(path):
    for _ in range(200):
        if path.exists() and path.read_text().strip():
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError(f"nothing in {path}")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
