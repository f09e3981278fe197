#!/usr/bin/env python3
"""Workers that die or hang, scorers that sleep, crash or lie: the run notices in time, goes on or says why not."""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import time

import support

# Slow enough that a worker holds groups for most of a step: 16 groups of 16, 100 tokens, two samples at a time.
LONG = ["grpo.prompts_per_step=16", "grpo.num_generations=16", "rollout.max_completion_length=100",
        "rollout.max_num_seqs=2"]
LONG_STEPS = 6
# One sample (group 6, index 2) in 64 is the bad one.
SCORER = """\
import json, os, sys, time
mode = sys.argv[1]
def say(message):
    print(json.dumps(message), flush=True)
for line in sys.stdin:
    m = json.loads(line)
    if m["t"] == "hello":
        say({"t": "hello", "proto": 1, "name": "mine", "version": "1"})
    if m["t"] == "score":
        samples = m["samples"]
        scores = [float(len(s["completion"])) for s in samples]
        bad = [i for i, s in enumerate(samples) if (s["group"], s["idx"]) == (6, 2)]
        if bad and mode == "sleep":
            time.sleep(3600)
        if bad and mode == "deaf":
            import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.fork(); time.sleep(3600)
        if bad and mode == "crash":
            print("about to fall over", file=sys.stderr, flush=True); os._exit(1)
        if bad and mode == "abort":
            os.abort()
        if bad and mode == "garbage":
            print("no JSON here", flush=True); continue
        if bad and mode == "short":
            scores = scores[1:]
        if bad and mode == "nan":
            print('{"t":"scores","id":%d,"scores":[%s]}' % (m["id"], ",".join("NaN" for s in samples)), flush=True)
            continue
        if bad and mode == "exception":
            scores[bad[0]] = {"error": "no tests"}
        if bad and mode == "none":
            scores[bad[0]] = None
        if mode == "all" and not os.path.exists("repaired"):
            scores = [{"error": "judge is out"}] * len(samples)
        say({"t": "scores", "id": m["id"], "scores": scores})
    if m["t"] == "bye":
        break
"""
SCORED_YAML = """\
run: {{name: rl, output_dir: runs, seed: 7, max_steps: 4}}
model: {{path: model}}
data: {{train: data/train.jsonl}}
grpo: {{prompts_per_step: 4, num_generations: 4}}
rollout: {{max_completion_length: 12, workers: 2, threads: 1}}
optim: {{learning_rate: 1e-3, warmup_steps: 2}}
scoring: {{max_error_rate: {rate}, on_error: {on_error}}}
rewards:
  - {{name: mine, source: "cmd:python3 scorer.py {mode}", timeout: 1}}
  - {{name: length, source: "builtin:length", weight: 0}}
"""


# --- Workers ---


def long_run(folder):
    shutil.rmtree(folder / "runs", ignore_errors=True)
    (folder / "output.txt").unlink(missing_ok=True)
    return support.start(folder, *[word for s in LONG for word in ("--set", s)])


def undisturbed(folder):
    assert long_run(folder).wait(timeout=60) == 0, support.output(folder)
    wanted = support.digests(folder / "runs/rl"), support.samples(folder / "runs/rl")
    assert len(wanted[0]) == LONG_STEPS and len(wanted[1][0]) == LONG_STEPS * 256
    return wanted


def check(folder, process, wanted, label):
    code = process.wait(timeout=60)
    assert code == 0, f"{label}: exit {code}\n{support.output(folder)[-2000:]}"
    assert support.digests(folder / "runs/rl") == wanted[0], f"{label}: other weights"
    rows, tokens = used_samples(folder / "runs/rl")
    assert (rows, tokens) == wanted[1], f"{label}: other samples"
    support.hone("db", "check", folder / "runs/rl", check=0)


def used_samples(run_dir):
    """support.samples without what a worker that was given up delivered late."""
    rows, tokens = support.samples(run_dir)
    late = set(support.query(run_dir, "SELECT group_id, idx FROM samples WHERE status = 'late'"))
    kept = [row for row in rows if row[6] is not None]
    trained = dict(support.query(run_dir, "SELECT s.group_id * 1000 + s.idx, hex(b.token_ids) FROM batch_items i "
                                          "JOIN samples s USING(sample_id) JOIN sample_blobs b USING(sample_id)"))
    kept_tokens = [t for t in tokens if (t[0], t[1]) not in late or trained[t[0] * 1000 + t[1]] == t[2]]
    return kept, sorted(set(kept_tokens))


def workers(process):
    return [pid for pid, role in support.children(process.pid) if role == "rollout"]


def is_issued_again(folder):
    return support.query(folder / "runs/rl", "SELECT count(*) FROM samples WHERE attempt > 0") != [(0,)]


def a_killed_worker_is_replaced_and_its_groups_issued_again():
    with support.temporary() as name:
        folder = support.small_run(name, steps=LONG_STEPS)
        wanted = undisturbed(folder)
        for i in range(3):
            process = long_run(folder)
            support.wait_for_step(folder, 1 + i)
            before = workers(process)
            os.kill(before[i % 2], signal.SIGKILL)
            begin = time.monotonic()
            support.wait_until(lambda: set(workers(process)) - set(before), "a new worker", 3)
            support.wait_until(lambda: is_issued_again(folder) or process.poll() is not None, "groups issued again", 3)
            took = time.monotonic() - begin
            assert took < 3, took
            check(folder, process, wanted, f"worker killed in step {2 + i}")
            assert "signal 9" in support.output(folder)


def stop_worker(folder, process):
    """Stops a worker until its groups are issued again; seconds that took, None if it held none and the run ended."""
    worker = workers(process)[0]
    os.kill(worker, signal.SIGSTOP)
    begin = time.monotonic()
    try:
        support.wait_until(lambda: is_issued_again(folder) or process.poll() is not None, "groups issued again", 30)
        return time.monotonic() - begin if is_issued_again(folder) else None
    finally:
        with contextlib.suppress(ProcessLookupError):  # the run may have ended, and the worker with it
            os.kill(worker, signal.SIGCONT)


def a_stopped_worker_is_given_up_and_may_come_back():
    with support.temporary() as name:
        folder = support.small_run(name, steps=LONG_STEPS)
        wanted = undisturbed(folder)
        took = None
        for attempt in range(6):  # now and then it has just delivered its last group of the step
            process = long_run(folder)
            support.wait_for_step(folder, 1 + attempt % 3)
            took = stop_worker(folder, process)
            check(folder, process, wanted, "worker stopped")
            if took is not None:
                break
        assert took is not None and 2 < took < 4.5, f"{took} s"
        assert "no sign of life" in support.output(folder), support.output(folder)


# --- Scorers ---


def scored(name, mode, rate=0.5, on_error="mask"):
    """A folder whose reward is SCORER in this mode."""
    folder = support.small_run(name)
    (folder / "scorer.py").write_text(SCORER)
    (folder / "run.yaml").write_text(SCORED_YAML.format(mode=mode, rate=rate, on_error=on_error))
    return folder


def scorers_left(folder):
    """Pids of scorers that were started in this folder and still run."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if b"scorer.py" in argv and os.readlink(entry / "cwd") == str(folder.resolve()):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def bad_score(folder):
    """[status of the sample, of its score, value, reward, detail, microseconds] of the bad sample, and how many are not ok."""
    run_dir = folder / "runs/rl"
    row = support.query(run_dir, "SELECT s.status, r.status, r.value, s.reward, r.detail, r.us FROM samples s "
                                 "JOIN rewards r USING(sample_id) JOIN reward_fns f USING(fn_id) "
                                 "WHERE s.group_id = 6 AND s.idx = 2 AND f.name = 'mine'")
    n = support.query(run_dir, "SELECT count(*) FROM samples WHERE status <> 'ok'")[0][0]
    return row[0], n


def run_scored(mode, **settings):
    """The bad sample's row, the number of samples left out, and the finished process."""
    with support.temporary() as name:
        folder = scored(name, mode, **settings)
        done = support.hone("run", "run.yaml", cwd=folder, check=0)
        assert done.stdout.count("mismatch=0 ") == 4, done.stdout
        assert not scorers_left(folder), f"{mode}: {scorers_left(folder)}"
        support.hone("db", "check", folder / "runs/rl", check=0)
        steps = support.query(folder / "runs/rl", "SELECT status FROM steps WHERE step <> 2")  # group 6 is in step 2
        assert steps == [("trained",)] * 3, steps
        return (*bad_score(folder), done)


def a_scorer_that_sleeps_is_killed_at_its_deadline():
    for mode in ("sleep", "deaf"):
        row, n, done = run_scored(mode)
        assert row[:4] == ("masked", "timeout", None, None), (mode, row)
        assert n == 1, f"{mode}: {n} samples were left out, only one is guilty"
        assert 0.9e6 < row[5] < 2.5e6, f"{mode}: {row[5]} us"
        assert "no answer within 1 s" in done.stderr, done.stderr


def a_scorer_that_crashes_costs_one_sample():
    for mode, word in (("crash", "code 1"), ("abort", "signal 6")):
        row, n, done = run_scored(mode)
        assert row[:4] == ("masked", "error", None, None), (mode, row)
        assert json.loads(row[4])["kind"] == "crash" and n == 1, (mode, row, n)
        assert word in done.stderr, (mode, done.stderr)


def wrong_answers_are_errors_of_their_batch():
    for mode, kind in (("garbage", "protocol"), ("short", "count"), ("nan", ("nonfinite", "protocol"))):
        row, n, _ = run_scored(mode, rate=1)
        assert row[:4] == ("masked", "error", None, None), (mode, row)
        assert json.loads(row[4])["kind"] in kind and 1 <= n <= 16, (mode, row, n)


def a_sample_can_be_refused_or_left_without_a_score():
    row, n, _ = run_scored("exception")
    assert row[:4] == ("masked", "error", None, None) and n == 1, (row, n)
    assert json.loads(row[4])["msg"] == "no tests", row
    row, n, _ = run_scored("none")
    assert row[:4] == ("ok", "n/a", None, None) and n == 0, (row, n)


def an_error_counts_as_zero_only_when_asked_to():
    row, n, _ = run_scored("exception", on_error="zero")
    assert row[:4] == ("ok", "error", None, 0.0) and n == 0, (row, n)


def an_error_ends_the_run_when_asked_to():
    with support.temporary() as name:
        folder = scored(name, "exception", on_error="fail")
        done = support.hone("run", "run.yaml", cwd=folder, check=3)
        last = done.stderr.splitlines()[-1]
        assert "mine" in last and "no tests" in last, done.stderr
        steps = support.query(folder / "runs/rl", "SELECT step FROM steps WHERE status = 'trained'")
        assert steps == [(1,)] and not scorers_left(folder), steps


def failing_scores_end_the_run_and_the_step_is_not_trained():
    with support.temporary() as name:
        folder = scored(name, "all", rate=0.05)
        done = support.hone("run", "run.yaml", cwd=folder, check=3)
        last = done.stderr.splitlines()[-1]
        assert "mine" in last and "judge is out" in last and "16 of 16" in last, done.stderr
        assert not support.query(folder / "runs/rl", "SELECT step FROM steps WHERE status = 'trained'")
        assert not scorers_left(folder)
        (folder / "repaired").touch()  # what the scorer needs is back: the same command goes on
        done = support.hone("run", "run.yaml", cwd=folder, check=0)
        support.hone("db", "check", folder / "runs/rl", check=0)
        (folder / "scorer.py").write_text(SCORER + "# another one\n")
        done = support.hone("run", "run.yaml", "--set", "run.max_steps=5", cwd=folder, check=2)
        assert "mine" in done.stderr.splitlines()[-1], done.stderr


if __name__ == "__main__":
    support.main([a_killed_worker_is_replaced_and_its_groups_issued_again,
                  a_stopped_worker_is_given_up_and_may_come_back,
                  a_scorer_that_sleeps_is_killed_at_its_deadline, a_scorer_that_crashes_costs_one_sample,
                  wrong_answers_are_errors_of_their_batch, a_sample_can_be_refused_or_left_without_a_score,
                  an_error_counts_as_zero_only_when_asked_to, an_error_ends_the_run_when_asked_to,
                  failing_scores_end_the_run_and_the_step_is_not_trained])
