"""What the integration tests share: a small run of the real processes, and questions to its database."""
import json
import os
import pathlib
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HONE = os.environ.get("HONE_BIN", str(ROOT / "build/release/bin/hone"))
SKIP = 77  # exit code of a test that cannot run here


def shared():
    """The folder of shared fixtures, or None."""
    path = pathlib.Path(os.environ.get("HONE_SHARED", str(ROOT.parent / "shared")))
    return path if path.is_dir() else None


def hone(*args, cwd=None, timeout=120, check=None, env=None):
    """Runs hone and returns the finished process; check: the exit code it must have."""
    done = subprocess.run([HONE, *map(str, args)], cwd=cwd, timeout=timeout, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, env=env, errors="replace")
    if check is not None and done.returncode != check:
        raise AssertionError(f"hone {' '.join(map(str, args))}: exit {done.returncode}, wanted {check}\n"
                             f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    return done


RUN_YAML = """\
run: {{name: rl, output_dir: runs, seed: 7, max_steps: {steps}}}
model: {{path: model, mtp_train: true}}
data: {{train: data/train.jsonl}}
grpo: {{prompts_per_step: 4, num_generations: 4}}
rollout: {{max_completion_length: 12, workers: 2, threads: 1}}
optim: {{learning_rate: 1e-3, warmup_steps: 2}}
checkpoint: {{every_steps: 2, keep_last: 2}}
rewards:
  - {{name: length, source: "builtin:length", weight: 0.1}}
  - {{name: digit, source: "builtin:regex", config: {{pattern: "[0-9]"}}}}
"""


def small_run(folder, steps=6):
    """Data, a tiny model and run.yaml in folder."""
    folder = pathlib.Path(folder)
    hone("data", "make", "modsum", "--out", folder / "data", "--train", 64, "--heldout", 16,
         "--sft-worked", 16, "--sft-mix", 16, "--seed", 3, check=0)
    hone("model", "init", folder / "demo", "--preset", "demo", "--seed", 5, check=0)
    hone("model", "init", folder / "model", "--preset", "tiny", "--seed", 5, "--tokenizer", folder / "demo", check=0)
    (folder / "run.yaml").write_text(RUN_YAML.format(steps=steps))
    return folder


def assert_other_settings(done):
    """The run was refused because it began with others: by the database or by the checkpoint, whoever looks first."""
    told = any(part in done.stderr for part in ("another configuration", "other settings"))
    assert done.returncode == 2 and told, (done.returncode, done.stderr)


def query(run_dir, sql, *parameters):
    """Rows of a read-only query."""
    with sqlite3.connect(f"file:{pathlib.Path(run_dir) / 'run.db'}?mode=ro", uri=True, timeout=10) as db:
        return db.execute(sql, parameters).fetchall()


def digests(run_dir):
    """step -> digest of the weights after it."""
    return dict(query(run_dir, "SELECT step, hex(weight_digest_out) FROM steps"))


def samples(run_dir):
    """What was sampled: one row a sample, without ids that depend on arrival."""
    rows = query(run_dir, "SELECT s.group_id, s.idx, s.finish, s.n_tok, s.reward, s.completion, b.step, b.advantage "
                          "FROM samples s LEFT JOIN batch_items b USING(sample_id) ORDER BY 1, 2")
    tokens = query(run_dir, "SELECT s.group_id, s.idx, hex(b.token_ids), hex(b.logprobs) FROM samples s "
                            "JOIN sample_blobs b USING(sample_id) ORDER BY 1, 2")
    return rows, tokens


def children(pid):
    """[(pid, role)] of the processes that `hone run` with this pid has started."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            argv = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        parent = int(stat.rsplit(")", 1)[1].split()[1])
        if parent == pid and len(argv) > 1:
            found.append((int(entry.name), argv[1].decode(errors="replace")))
    return found


def is_alive(pid):
    """A process that runs, not one that only waits to be reaped."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


started = []  # what a failed test may have left running


def start(folder, *args):
    """`hone run run.yaml` in the background, output to folder/output.txt."""
    with open(pathlib.Path(folder) / "output.txt", "ab") as output:
        process = subprocess.Popen([HONE, "run", "run.yaml", *args], cwd=folder, stdin=subprocess.DEVNULL,
                                   stdout=output, stderr=output)
    started.append(process)
    return process


def wait_until(is_so, what, seconds=30):
    """Asks every 20 ms until is_so() is true."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds} s still not: {what}")
        time.sleep(0.02)


def output(folder):
    """What `hone run` in the background has printed."""
    return (pathlib.Path(folder) / "output.txt").read_text(errors="replace")


def wait_for_step(folder, step, seconds=30):
    """Until the run in the background has printed the step."""
    wait_until(lambda: f"step={step} " in output(folder), f"step {step}", seconds)


def temporary():
    """A folder that goes away; short, because socket paths are."""
    return tempfile.TemporaryDirectory(prefix="hone-it-")


def end_started():
    """Ends what start() began and the test did not see end."""
    while started:
        process = started.pop()
        if process.poll() is None:
            process.kill()
            process.wait()


def main(tests):
    """Runs the functions and prints one line each; exit 0, 1, or 77 when all were skipped."""
    failed = skipped = 0
    for test in tests:
        begin = time.monotonic()
        try:
            result = test()
        except Exception as error:  # a failed test must not hide the others
            failed += 1
            print(f"FAIL {test.__name__}: {type(error).__name__}: {error}", flush=True)
            continue
        finally:
            end_started()
        if result == SKIP:
            skipped += 1
        word = "skip" if result == SKIP else "ok  "
        print(f"{word} {test.__name__} {time.monotonic() - begin:.1f} s", flush=True)
    sys.exit(1 if failed else SKIP if skipped == len(tests) else 0)
