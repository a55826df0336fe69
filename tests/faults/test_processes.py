"""One training on two processes (gloo, CPU): one of them dies, hangs, or meets an error; torchrun is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_support import TOY, call, endings, report, scaled, start_ranks, steps_of, wait_for

RUN = ["run", TOY, "--dataset", "digits", "--steps", "1000000", "--metric", "", "--results", "", "--log-every", "1",
       "--checkpoint-every", "0.1", "--device", "cpu", "--quiet"]


@pytest.fixture(autouse=True)
def prepared(elsewhere):
    """The digits are prepared before processes are killed."""
    assert call("data", "prepare", "digits")[0] == 0


def lines(said):
    return [line for line in said.splitlines() if line.startswith("ganbench: ")]


def alive(command):
    """Processes whose command line contains a text."""
    found = subprocess.run(["pgrep", "-f", "--", command], capture_output=True, text=True).stdout.split()
    return [int(pid) for pid in found if int(pid) != os.getpid()]


def test_a_process_that_dies_is_named_by_the_others_in_one_line():
    good, tries = 0, scaled(4)
    for n in range(tries):
        victim, out = (n + 1) % 2, f"killed{n}"
        ranks = start_ranks(2, *RUN, "--out", out)
        wait_for(lambda out=out: steps_of(out) > 20, *ranks)
        ranks[victim].kill()
        ended = endings(ranks, timeout=100)
        code, said = ended[1 - victim]
        text = (rf"ganbench: lost contact at step \d+: of 2 processes, rank {victim} has died or does not answer; "
                rf".*resume {out}.*")
        fine = code == 1 and re.fullmatch(text, said.strip())
        good += bool(fine)
        if not fine:
            print(n, code, said)
    report("a dead process named in one line by the other", good, tries)


def test_a_process_that_hangs_is_named_after_the_time_limit_of_a_step():
    good, tries = 0, scaled(2)
    for n in range(tries):
        victim, out = (n + 1) % 2, f"stopped{n}"
        ranks = start_ranks(2, *RUN, "--out", out, environment={"GANBENCH_STEP_LIMIT": "0.1"})
        wait_for(lambda out=out: steps_of(out) > 20, *ranks)
        ranks[victim].send_signal(signal.SIGSTOP)
        begun, other = time.monotonic(), ranks[1 - victim]
        said = other.communicate(timeout=60)[1]
        took = time.monotonic() - begun
        endings([ranks[victim]], timeout=1)
        named = re.search(rf"at step \d+: .*rank {victim} has died or does not answer", said)
        fine = other.returncode == 1 and len(lines(said)) == 1 and named and "Traceback" not in said
        good += bool(fine)
        print(f"ended after {took:.0f} s: {said.strip()}")
    report("a stopped process named within its time limit", good, tries)


def test_a_users_error_on_one_process_is_one_line_in_all():
    """An error that only the first process meets: a table that cannot be written."""
    Path("table.csv").write_text("not,ours\n")
    ranks = start_ranks(2, *RUN, "--results", "table.csv", "--out", "error")  # the last of two equal options counts
    ended = endings(ranks, timeout=120)
    said = "".join(said for _, said in ended)
    good = [code for code, _ in ended] == [2, 2] and len(lines(said)) == 1 and "another schema" in said and \
        "Traceback" not in said
    print(said)
    report("a user's error on one process, one line in all", int(good), 1)


def test_an_error_on_all_processes_is_one_line_in_all():
    ended = endings(start_ranks(2, *RUN, "--out", "bad", "--set", "nothing=1"), timeout=120)
    said = "".join(said for _, said in ended)
    print(said)
    report("the same error on all processes, one line in all",
           int([code for code, _ in ended] == [2, 2] and len(lines(said)) == 1), 1)


def test_torchrun_with_its_agent_killed_leaves_no_workers():
    good, tries = 0, scaled(2)
    for n in range(tries):
        out = f"agent{n}-{os.getpid()}"
        agent = subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
                                  "--master-port", str(29600 + n), "-m", "ganbench", *RUN, "--out", out],
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for(lambda out=out: steps_of(out) > 20, agent)
        workers = [pid for pid in alive(out) if pid != agent.pid]
        agent.kill()
        begun = time.monotonic()
        while alive(out) and time.monotonic() - begun < 60:
            time.sleep(0.2)
        left = alive(out)
        print(f"{len(workers)} workers, {len(left)} left after {time.monotonic() - begun:.1f} s")
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        good += len(workers) == 2 and not left
    report("torchrun killed, no worker left", good, tries)


def test_a_signal_to_all_processes_ends_with_one_checkpoint_that_goes_on():
    good, tries = 0, scaled(2)
    for n in range(tries):
        out = f"asked{n}"
        ranks = start_ranks(2, *RUN, "--checkpoint-every", "1e6", "--out", out)
        wait_for(lambda out=out: steps_of(out) > 20, *ranks)
        for rank in ranks[:n + 1]:  # one of them is enough
            rank.send_signal(signal.SIGTERM)
        ended = endings(ranks, timeout=60)
        print(ended)
        fine = {code for code, _ in ended} == {143} and len(list(Path(out).glob("checkpoints/images-*"))) == 1
        at = steps_of(out)
        code = call("resume", out, "--steps", str(at + 5), "--device", "cpu")[0]
        good += bool(fine and code == 0 and steps_of(out) == at + 5)
    report("a signal to several processes, one checkpoint", good, tries)
