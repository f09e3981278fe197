#!/usr/bin/env python3
"""Workers that read the trainer's weights in place: the same run with and without, and whoever dies, stops or falls behind."""
import contextlib
import functools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import support

# Two workers that both have something to do for most of a step.
LONG = ["grpo.prompts_per_step=16", "grpo.num_generations=16", "rollout.max_completion_length=100",
        "rollout.max_num_seqs=2"]
STEPS = 6


def start(folder, *sets):
    shutil.rmtree(folder / "runs", ignore_errors=True)
    (folder / "output.txt").unlink(missing_ok=True)
    return support.start(folder, *[word for s in (*LONG, *sets) for word in ("--set", s)])


def result(folder):
    """What a run that ended came to, without samples that came too late to count."""
    run = folder / "runs/rl"
    support.hone("db", "check", run, check=0)
    used = "FROM samples s JOIN batch_items b USING(sample_id) JOIN sample_blobs t USING(sample_id)"
    rows = support.query(run, "SELECT b.step, s.group_id, s.idx, s.finish, s.reward, b.advantage, hex(t.token_ids), "
                              f"hex(t.logprobs) {used} ORDER BY s.group_id, s.idx")
    assert len(rows) == STEPS * 256, len(rows)
    return support.digests(run), rows


def finish(folder, process, wanted, label):
    code = process.wait(timeout=90)
    assert code == 0, f"{label}: exit {code}\n{support.output(folder)[-2000:]}"
    assert result(folder) == wanted, f"{label}: another result"


def log_of(folder, worker):
    path = folder / f"runs/rl/log/{worker}.log"
    return path.read_text(errors="replace") if path.exists() else ""


def mapped(folder, worker):
    """Pids of the trainers whose weights the worker has mapped, in order."""
    return [int(pid) for pid in re.findall(r"weights mapped_mib=\d+ trainer_pid=(\d+)", log_of(folder, worker))]


def pids(process, role):
    return sorted(pid for pid, name in support.children(process.pid) if name == role)


def mappings(pid):
    """[(permissions, resident KiB, proportional KiB)] of shared blocks in a process."""
    found = []
    with contextlib.suppress(OSError):
        text = pathlib.Path(f"/proc/{pid}/smaps").read_text()
        for block in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", text):
            if "memfd:hone" in block.split("\n", 1)[0]:
                sizes = dict(re.findall(r"^(\w+): +(\d+) kB", block, re.MULTILINE))
                found.append((block.split()[1], int(sizes["Rss"]), int(sizes["Pss"])))
    return found


@functools.cache
def undisturbed():
    with support.temporary() as name:
        folder = support.small_run(name, steps=STEPS)
        assert start(folder).wait(timeout=90) == 0, support.output(folder)
        # A worker that comes late may find no work at all.
        counts = [len(mapped(folder, worker)) for worker in ("w0", "w1")]
        assert max(counts) == 1, support.output(folder)
        return result(folder)


def sharing_changes_no_bit_of_a_run():
    with support.temporary() as name:
        folder = support.small_run(name, steps=STEPS)
        process = start(folder, "rollout.share_weights=false")
        finish(folder, process, undisturbed(), "weights fetched")
        assert not mapped(folder, "w0") and not mapped(folder, "w1"), support.output(folder)


def workers_read_one_copy_and_cannot_write_it():
    with support.temporary() as name:
        folder = support.small_run(name, steps=4 * STEPS)
        process = start(folder)
        support.wait_until(lambda: mapped(folder, "w0") and mapped(folder, "w1"), "both workers' weights", 30)
        trainer, workers = pids(process, "trainer"), pids(process, "rollout")
        assert len(trainer) == 1 and len(workers) == 2
        assert [m[0] for m in mappings(trainer[0])] == ["rw-s"], mappings(trainer[0])
        for pid in workers:
            found = mappings(pid)
            assert [m[0] for m in found] == ["r--s"], found
            assert 0 < found[0][2] < found[0][1], found  # somebody else has the same pages
        assert process.wait(timeout=90) == 0, support.output(folder)


def another_trainer_is_mapped_after_the_first():
    with support.temporary() as name:
        folder = support.small_run(name, steps=STEPS)
        process = start(folder)
        support.wait_for_step(folder, 2)
        killed = pids(process, "trainer")[0]
        os.kill(killed, signal.SIGKILL)
        finish(folder, process, undisturbed(), "trainer killed")
        found = [mapped(folder, worker) for worker in ("w0", "w1")]
        trainers = {pid for pids_of_one in found for pid in pids_of_one}
        assert len(trainers) == 2 and killed in trainers, found
        for pids_of_one in found:  # each once at most, the killed one first
            assert pids_of_one == sorted(set(pids_of_one), key=lambda pid: pid != killed), found


def by_hand(folder, role, *args):
    """One process of the run, without a supervisor."""
    sets = [word for s in (*LONG, "rollout.workers=1") for word in ("--set", s)]
    with open(folder / f"{role}.txt", "ab") as output:
        process = subprocess.Popen([support.HONE, role, "run.yaml", *sets, *args], cwd=folder,
                                   stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    support.started.append(process)
    return process


def a_dead_trainers_memory_goes_before_the_next_one_comes():
    with support.temporary() as name:
        folder = support.small_run(name, steps=STEPS)
        reward, trainer, worker = (by_hand(folder, role) for role in ("reward", "trainer", "rollout"))
        support.wait_until(lambda: "step=2 " in (folder / "trainer.txt").read_text(), "step 2", 60)
        assert len(mappings(worker.pid)) == 1
        trainer.kill()
        trainer.wait()
        support.wait_until(lambda: not mappings(worker.pid), "nothing mapped", 5)
        assert by_hand(folder, "trainer").wait(timeout=90) == 0, (folder / "trainer.txt").read_text()
        assert worker.wait(timeout=20) == 0, (folder / "rollout.txt").read_text()
        found = re.findall(r"trainer_pid=(\d+)", (folder / "rollout.txt").read_text())
        assert len(set(found)) == 2, found
        reward.send_signal(signal.SIGTERM)
        reward.wait(timeout=20)
        assert result(folder) == undisturbed()


def another_worker_maps_what_the_killed_one_had():
    with support.temporary() as name:
        folder = support.small_run(name, steps=STEPS)
        counts = []
        for _ in range(8):  # now and then the other one has done all the work before it is back
            process = start(folder)
            support.wait_for_step(folder, 1)
            os.kill(next(pid for pid in pids(process, "rollout") if mappings(pid)), signal.SIGKILL)
            finish(folder, process, undisturbed(), "worker killed")
            found = [mapped(folder, worker) for worker in ("w0", "w1")]
            counts = [len(pids_of_one) for pids_of_one in found]
            assert len({pid for pids_of_one in found for pid in pids_of_one}) == 1, found
            if max(counts) == 2:
                break
        assert max(counts) == 2, support.output(folder)


def stop_until_overtaken(folder, process, step, delay):
    """Holds a worker, from some moment of a step on, until the trainer has trained two without it."""
    support.wait_for_step(folder, step)
    time.sleep(delay)
    worker = pids(process, "rollout")[0]
    os.kill(worker, signal.SIGSTOP)
    try:
        support.wait_until(lambda: f"step={step + 2} " in support.output(folder), "two steps more", 60)
    finally:
        os.kill(worker, signal.SIGCONT)
    return worker


def a_worker_that_the_trainer_has_left_behind_drops_its_samples():
    slow = ("rollout.max_num_seqs=1", "rollout.speculate=0")
    with support.temporary() as name:
        folder = support.small_run(name, steps=STEPS)
        dropped = False
        for attempt in range(8):  # now and then it has just delivered its last sample of the step
            process = start(folder, *slow)
            worker = stop_until_overtaken(folder, process, 1 + attempt % 3, 0.05 + 0.05 * (attempt % 4))
            support.wait_until(lambda: "gone on" in support.output(folder) or process.poll() is not None, "", 60)
            assert process.poll() is not None or worker in pids(process, "rollout"), support.output(folder)
            finish(folder, process, undisturbed(), "worker left behind")
            dropped = "the trainer has gone on from weights version" in support.output(folder)
            if dropped:
                break
        assert dropped, support.output(folder)


if __name__ == "__main__":
    support.main([sharing_changes_no_bit_of_a_run, workers_read_one_copy_and_cannot_write_it,
                  another_trainer_is_mapped_after_the_first, a_dead_trainers_memory_goes_before_the_next_one_comes,
                  another_worker_maps_what_the_killed_one_had,
                  a_worker_that_the_trainer_has_left_behind_drops_its_samples])
