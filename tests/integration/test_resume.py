#!/usr/bin/env python3
"""kill -9 of any process at any instant: the same command again ends with the weights of the undisturbed run.

HONE_KILLS sets how many separate runs are disturbed per role (default 3); HONE_SEED the instants."""
import os
import random
import shutil
import signal
import time

import support

STEPS = 6
KILLS = int(os.environ.get("HONE_KILLS", "3"))
SEED = int(os.environ.get("HONE_SEED", "1"))


def finish(folder):
    """Starts the same command until it is done; at most 5 times."""
    for _ in range(5):
        process = support.start(folder)
        if process.wait(timeout=120) == 0:
            return
    raise AssertionError("not finished: " + (folder / "output.txt").read_text(errors="replace")[-3000:])


def check(folder, wanted_digests, wanted_samples, label):
    run_dir = folder / "runs/rl"
    output = (folder / "output.txt").read_text(errors="replace")[-3000:]
    assert support.digests(run_dir) == wanted_digests, f"{label}: other weights\n{output}"
    rows, tokens = support.samples(run_dir)
    assert (rows, tokens) == wanted_samples, f"{label}: {len(rows)} samples, wanted {len(wanted_samples[0])}\n{output}"
    twice = support.query(run_dir, "SELECT group_id, idx FROM samples GROUP BY 1, 2 HAVING count(*) > 1")
    assert not twice, f"{label}: logged twice: {twice}"
    untrained = support.query(run_dir, "SELECT count(*) FROM samples s LEFT JOIN batch_items b USING(sample_id) "
                                       "WHERE b.step IS NULL")
    assert untrained == [(0,)], f"{label}: {untrained} samples in no manifest"
    support.hone("db", "check", run_dir, check=0)


def disturb(folder, role, delay):
    """Starts the run, kills one process of the role after delay seconds; False when it was over before."""
    shutil.rmtree(folder / "runs", ignore_errors=True)
    (folder / "output.txt").unlink(missing_ok=True)
    process = support.start(folder)
    time.sleep(delay)
    if role == "run":
        victims = [process.pid] if process.poll() is None else []
    else:
        victims = [pid for pid, name in support.children(process.pid) if name == role]
    if victims:
        os.kill(random.choice(victims), signal.SIGKILL)
    code = process.wait(timeout=120)
    if code != 0:
        finish(folder)
    return bool(victims)


def kill_role(role):
    with support.temporary() as name:
        folder = support.small_run(name, steps=STEPS)
        begin = time.monotonic()
        process = support.start(folder)
        assert process.wait(timeout=120) == 0, (folder / "output.txt").read_text(errors="replace")
        duration = time.monotonic() - begin
        wanted = support.digests(folder / "runs/rl"), support.samples(folder / "runs/rl")
        assert len(wanted[0]) == STEPS
        hit = 0
        for i in range(KILLS):
            delay = random.uniform(0.0, duration)
            hit += disturb(folder, role, delay)
            check(folder, *wanted, f"{role} killed after {delay:.3f} s (kill {i}, HONE_SEED={SEED})")
        print(f"     {role}: {KILLS} runs, {hit} kills hit, undisturbed run {duration:.1f} s", flush=True)


def a_killed_trainer_changes_nothing():
    kill_role("trainer")


def a_killed_worker_changes_nothing():
    kill_role("rollout")


def a_killed_reward_service_changes_nothing():
    kill_role("reward")


def a_killed_supervisor_changes_nothing():
    kill_role("run")


def no_process_survives_a_killed_supervisor():
    with support.temporary() as name:
        folder = support.small_run(name, steps=50)
        process = support.start(folder)
        time.sleep(1.5)
        pids = [pid for pid, _ in support.children(process.pid)]
        assert len(pids) == 4, support.children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(1.0)
        alive = [pid for pid in pids if support.is_alive(pid)]
        assert not alive, alive


def a_signal_saves_and_the_same_command_continues():
    with support.temporary() as name:
        folder = support.small_run(name, steps=STEPS)
        assert support.start(folder).wait(timeout=120) == 0
        wanted = support.digests(folder / "runs/rl"), support.samples(folder / "runs/rl")
        shutil.rmtree(folder / "runs")
        (folder / "output.txt").unlink()
        process = support.start(folder)
        while not (folder / "output.txt").read_text().count("step=2 "):
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=30)
        assert code in (0, 75), code
        finish(folder)
        check(folder, *wanted, "SIGTERM")


if __name__ == "__main__":
    random.seed(SEED)
    support.main([a_killed_trainer_changes_nothing, a_killed_worker_changes_nothing,
                  a_killed_reward_service_changes_nothing, a_killed_supervisor_changes_nothing,
                  no_process_survives_a_killed_supervisor, a_signal_saves_and_the_same_command_continues])
