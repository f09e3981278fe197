#!/usr/bin/env python3
"""A small run as its user sees it: processes, progress lines, the database, the run folder's lock."""
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import time

import support

STEPS = 6
STEP_KEYS = {"step", "max_steps", "reward", "length", "kl", "entropy", "mismatch", "loss", "grad_norm", "lr",
             "tokens_per_s", "share_of_peak", "generate_s", "train_s", "eta_s"}
# The documented columns of the views (a subset that tells each from the others).
VIEWS = {
    "v_samples": "run step kind version_first group_id idx attempt status prompt_id data_source prompt answer "
                 "completion n_prompt n_tok finish reward trained_step batch_pos advantage entropy mismatch_kl ratio_max",
    "v_groups": "group_id run step kind prompt n status n_scored reward_mean reward_std reward_min reward_max len_mean "
                "truncated masked no_signal duplicates",
    "v_steps": "run step status groups samples reward reward_std frac_reward_zero_std len_mean len_max clipped_ratio "
               "masked loss grad_norm lr kl entropy clip_frac mismatch_kl mismatch_kl_max version_in version_out n_tok "
               "t_generate_us t_reward_us t_train_us t_sync_us t_wait_us",
    "v_batch": "run step pos sample_id group_id idx version_first staleness reward advantage n_tok",
    "v_prompt_history": "run kind prompt_id prompt times_seen first_step last_step reward_mean gain",
    "v_expert_load": "run step layer experts tokens max_over_mean dead",
    "v_scores": "run step group_id sample_id idx component weight status value latency_ms tries cached isolation detail",
    "v_rewards": "run step kind component weight n mean std min max not_applicable errors timeouts latency_ms_max",
    "v_errors": "run step component status reason n example_sample",
    "v_length_hist": "run step len_bucket n reward",
    "v_suspects": "run step sample_id group_id why reward advantage n_tok completion",
    "v_metrics": "run step name value",
    "v_sampling": "run step workers tokens drafts acceptance tokens_per_turn preempted resumed_tokens prompt_tokens "
                  "prefix_tokens",
}
EMPTY_IS_FINE = {"v_errors", "v_suspects"}


def ask(run_dir, sql):
    """Rows of `hone db query --json`."""
    done = support.hone("db", "query", run_dir, sql, "--json", "--limit", 0, check=0)
    return [json.loads(line) for line in done.stdout.splitlines()]


def number(text):
    return float(text) if text != "-" else math.nan


def key_values(line):
    pairs = [word.split("=", 1) for word in line.split()]
    assert all(len(pair) == 2 for pair in pairs), line
    return {key: number(value) for key, value in pairs}


def finished_run(folder, steps=STEPS):
    """A run that nothing disturbed; its output."""
    return support.hone("run", "run.yaml", "--set", f"run.max_steps={steps}", cwd=folder, check=0).stdout


def check_tokens(run_dir, samples):
    rows = ask(run_dir, "SELECT s.sample_id, t.pos, t.id, t.logp, t.is_prompt, t.advantage, t.version "
                        "FROM samples s JOIN tokens(s.sample_id) t ORDER BY 1, 2")
    tokens = {}
    for row in rows:
        tokens.setdefault(row["sample_id"], []).append(row)
    assert set(tokens) == {sample["sample_id"] for sample in samples}
    for sample in samples:
        mine = tokens[sample["sample_id"]]
        n_prompt, n_tok = sample["n_prompt"], sample["n_tok"]
        assert [t["pos"] for t in mine] == list(range(n_prompt + n_tok)), sample
        assert [t["is_prompt"] for t in mine] == [1] * n_prompt + [0] * n_tok
        assert all(t["logp"] is None for t in mine[:n_prompt])
        assert all(-50 < t["logp"] <= 0 for t in mine[n_prompt:]), mine
        assert all(t["advantage"] == sample["advantage"] for t in mine[n_prompt:])
        assert all(t["version"] == sample["version_first"] for t in mine[n_prompt:])
        assert all(0 <= t["id"] < 64 for t in mine)


def check_samples(run_dir, steps):
    samples = ask(run_dir, "SELECT * FROM v_samples ORDER BY sample_id")
    assert len(samples) == 16 * steps, len(samples)
    for step in range(1, steps + 1):
        mine = [s for s in samples if s["trained_step"] == step]
        assert sorted(s["batch_pos"] for s in mine) == list(range(16)), mine
    for sample in samples:
        assert sample["status"] == "ok" and sample["step"] == sample["trained_step"], sample
        assert sample["version_first"] == sample["version_last"] == sample["step"] - 1, sample
        assert sample["finish"] in ("stop", "length") and sample["mismatch_kl"] == 0.0, sample
        assert sample["ratio_max"] == 1.0 and math.isfinite(sample["advantage"]), sample
    scores = ask(run_dir, "SELECT sample_id, component, weight, status, value FROM v_scores")
    assert len(scores) == 2 * len(samples) and all(s["status"] == "ok" for s in scores)
    total = {sample["sample_id"]: 0.0 for sample in samples}
    for score in scores:
        total[score["sample_id"]] += score["weight"] * score["value"]
    assert all(abs(total[s["sample_id"]] - s["reward"]) < 1e-12 for s in samples)
    return samples


def check_advantages(samples):
    """(r - mean) / (std + 1e-4) of the group, n - 1 below the root."""
    groups = {}
    for sample in samples:
        groups.setdefault(sample["group_id"], []).append(sample)
    for members in groups.values():
        assert len(members) == 4
        rewards = [m["reward"] for m in members]
        mean = sum(rewards) / 4
        std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / 3)
        for member in members:
            wanted = (member["reward"] - mean) / (std + 1e-4)
            assert abs(member["advantage"] - wanted) < 1e-5 * max(1, abs(wanted)), (member, wanted)


def every_sample_is_in_the_database():
    with support.temporary() as name:
        folder = support.small_run(name)
        run_dir = folder / "runs/rl"
        lines = [key_values(line) for line in finished_run(folder).splitlines() if line.startswith("step=")]
        assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
        assert all(STEP_KEYS <= set(line) and line["mismatch"] == 0 for line in lines), lines[0]
        assert all(0 < line["share_of_peak"] <= 1 for line in lines), lines
        samples = check_samples(run_dir, STEPS)
        check_tokens(run_dir, samples)
        check_advantages(samples)
        rewards = {row["step"]: row["reward"] for row in ask(run_dir, "SELECT step, reward FROM v_steps")}
        assert all(abs(rewards[line["step"]] - line["reward"]) < 1e-4 for line in lines)
        assert "all" in support.hone("db", "check", run_dir, check=0).stdout
        views_answer(run_dir)
        commands_show(run_dir)


SLOW = """import json, sys, time
for line in sys.stdin:
    m = json.loads(line)
    if m["t"] == "hello":
        print(json.dumps({"t": "hello", "proto": 1, "name": "slow", "version": "1"}), flush=True)
    if m["t"] == "score":
        time.sleep(0.3)
        print(json.dumps({"t": "scores", "id": m["id"], "scores": [1.0] * len(m["samples"])}), flush=True)
"""


def time_spent_on_rewards_is_in_the_database():
    """From a step's last completion to its last score: near nothing for a scorer inside, a slow one's time outside."""
    with support.temporary() as name:
        folder = support.small_run(name)
        finished_run(folder, 2)
        (folder / "slow.py").write_text(SLOW)
        with open(folder / "run.yaml", "a") as file:
            file.write('  - {name: slow, source: "cmd:python3 slow.py", weight: 0}\n')
        support.hone("run", "run.yaml", "--set", "run.max_steps=2", "--set", "run.name=slow", cwd=folder, check=0)
        times = {run: ask(folder / "runs" / run, "SELECT step, t_reward_us AS us, t_generate_us AS all_us FROM v_steps")
                 for run in ("rl", "slow")}
        assert all(len(rows) == 2 and 0 <= row["us"] <= row["all_us"] for rows in times.values() for row in rows), times
        assert all(row["us"] > 250000 for row in times["slow"]), times
        assert all(row["us"] < 250000 for row in times["rl"]), times


def asks_nothing_fatal(pid):
    """SIGUSR2 would not end the process: it is past its first instructions."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    masks = [int(mask, 16) for mask in re.findall(r"^Sig(?:Ign|Cgt):\s+(\w+)$", text, re.M)]
    return any(mask >> (signal.SIGUSR2 - 1) & 1 for mask in masks)


def a_signal_shows_what_everybody_waits_for():
    """SIGUSR2 to hone run: its own waits and each child's, at the lowest log level too, and the run goes on."""
    with support.temporary() as name:
        folder = support.small_run(name)
        (folder / "slow.py").write_text(SLOW.replace("0.3", "3"))
        with open(folder / "run.yaml", "a") as file:
            file.write('  - {name: slow, source: "cmd:python3 slow.py", weight: 0}\n')
        run = subprocess.Popen([support.HONE, "run", "run.yaml", "--set", "run.max_steps=1", "--set", "log.level=error"],
                               cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            support.wait_until(lambda: asks_nothing_fatal(run.pid), "a handler of SIGUSR2")
            for _ in range(40):  # also while its children start: nobody dies of being asked
                time.sleep(0.1)
                run.send_signal(signal.SIGUSR2)
            told = run.communicate(timeout=60)[1]
        finally:
            run.kill()
        assert run.returncode == 0, (run.returncode, told)
        for part in (" waits: for trainer: the end of the run", "reward waits: for slow: scores of ", "trainer waits: for w",
                     "w0 waits: for the trainer: work", "samples of ", " s left"):
            assert part in told, (part, told)


def views_answer(run_dir):
    for view, columns in VIEWS.items():
        rows = ask(run_dir, f"SELECT {', '.join(columns.split())} FROM {view}")
        assert rows or view in EMPTY_IS_FINE, f"{view} is empty"
        if rows:
            assert list(sorted(columns.split())) == sorted(rows[0]), view
    names = {row["name"] for row in ask(run_dir, "SELECT DISTINCT name FROM v_metrics")}
    assert len(names) >= 8, names
    held = ask(run_dir, "SELECT step, name, value FROM v_metrics WHERE name LIKE 'memory/%'")
    assert [row["step"] for row in held if row["name"] == "memory/trainer_bytes"] == list(range(1, STEPS + 1)), held
    assert {row["step"] for row in held if row["name"] in ("memory/w0_bytes", "memory/w1_bytes")} == set(
        range(1, STEPS + 1)), held
    assert all(1 << 20 < row["value"] < 1 << 30 for row in held), held


def commands_show(run_dir):
    for what, number_of in (("step", 3), ("group", 5), ("sample", 17)):
        text = support.hone("show", what, run_dir, number_of, check=0).stdout
        assert len(text.splitlines()) > 10, text
        shown = json.loads(support.hone("show", what, run_dir, number_of, "--json", check=0).stdout)
        assert what in shown, shown
    tokens = json.loads(support.hone("show", "sample", run_dir, 17, "--json", "--ids", check=0).stdout)["tokens"]
    assert [t["pos"] for t in tokens] == list(range(len(tokens))) and tokens[-1]["logp"] < 0
    for bad in (("step", 99), ("group", 0), ("sample", 100000), ("sample", "x")):
        done = support.hone("show", bad[0], run_dir, bad[1], check=2)
        assert not done.stdout and done.stderr.count("\n") == 1, done
    table = support.hone("db", "query", run_dir, "SELECT step, reward FROM v_steps", check=0).stdout.splitlines()
    assert table[0].split() == ["step", "reward"] and len(table) == STEPS + 1, table
    csv = support.hone("db", "query", run_dir, "SELECT step, status FROM v_steps", "--csv", check=0).stdout
    assert csv.splitlines()[:2] == ["step,status", "1,trained"], csv
    for sql in ("DELETE FROM samples", "PRAGMA user_version", "SELECT nothing FROM v_steps", ""):
        done = support.hone("db", "query", run_dir, sql, check=2)
        assert done.stderr.count("\n") == 1, done


def json_lines_are_objects():
    with support.temporary() as name:
        folder = support.small_run(name)
        done = support.hone("run", "run.yaml", "--json", "--set", "run.max_steps=3", cwd=folder, check=0)
        *lines, memory = [json.loads(line) for line in done.stdout.splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3], done.stdout
        assert all(STEP_KEYS <= set(line) for line in lines), lines[0]
        assert all(isinstance(value, (int, float)) for line in [*lines, memory] for value in line.values())
        shares = [memory[f"{part}_bytes"] for part in ("trainer", "workers", "reward", "scorers", "run")]
        assert memory["memory_peak_bytes"] == sum(shares) and memory["memory_peak_s"] > 0, memory
        assert all(share > 0 for share in shares[:3]), memory


def a_run_tells_what_memory_it_took():
    """On stdout and in RUN/log/run.log: trainer, workers, the reward service and a scorer that holds 64 MiB,
    also of a run that was interrupted."""
    with support.temporary() as name:
        folder = support.small_run(name, steps=100000)
        (folder / "large.py").write_text("held = bytearray(b'x') * (64 << 20)\n" + SLOW.replace("0.3", "0.01"))
        with open(folder / "run.yaml", "a") as file:
            file.write('  - {name: large, source: "cmd:python3 large.py", weight: 0}\n')
        process = support.start(folder)
        support.wait_for_step(folder, 2)
        time.sleep(1.1)  # it looks at least once a second
        process.terminate()
        assert process.wait(timeout=60) == 75, support.output(folder)
        told = re.search(r"^memory: (at most (\d+) MiB at once: trainer (\d+), 2 workers (\d+), reward (\d+), "
                         r"scorers (\d+), run (\d+) \(after [0-9.ms]+\))$", support.output(folder), re.M)
        assert told, support.output(folder)
        total, *shares = map(int, told.groups()[1:])
        assert abs(total - sum(shares)) <= 3 and 64 <= shares[3] < 200, told.group(0)
        logged = (folder / "runs" / "rl" / "log" / "run.log").read_text()
        for part in (" supervisor: trainer started pid=", " supervisor: asked to stop by signal 15\n",
                     f" supervisor: memory {told.group(1)}\n", " supervisor: the run ended with code 75\n"):
            assert part in logged, (part, logged)


def sockets_and_files(pid):
    """What a process has open, as texts."""
    found = []
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(entry))
        except OSError:
            continue
    return found


def roles_are_processes():
    """Two workers, the reward service and the trainer are four processes; one of them has the database open for writing."""
    with support.temporary() as name:
        folder = support.small_run(name, steps=100000)
        process = support.start(folder)
        try:
            support.wait_for_step(folder, 2)
            children = support.children(process.pid)
            assert sorted(role for _, role in children) == ["reward", "rollout", "rollout", "trainer"], children
            users = [role for pid, role in children if any(f.endswith("/run.db") for f in sockets_and_files(pid))]
            assert users == ["reward"], users
            pids = {pid for pid, _ in children}
            logged = support.query(folder / "runs/rl", "SELECT DISTINCT name, pid FROM workers")
            assert {name for name, _ in logged} == {"w0", "w1"} and {pid for _, pid in logged} <= pids, logged
            support.wait_until(lambda: support.query(folder / "runs/rl", "SELECT count(DISTINCT worker_id) FROM samples")
                       == [(2,)], "samples of both workers")
            locked_out(folder, process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(timeout=30)
        assert code == 75, code
        assert not [pid for pid, _ in children if support.is_alive(pid)]


def locked_out(folder, holder):
    """The same run again: refused at once, and by whom it is held."""
    begin = time.monotonic()
    done = support.hone("run", "run.yaml", cwd=folder, check=8)
    took = time.monotonic() - begin
    assert took < 1.0, f"{took:.2f} s"
    assert done.stderr.count("\n") == 1 and re.search(rf"\bpid {holder}\b", done.stderr), done.stderr
    assert os.uname().nodename in done.stderr, done.stderr
    for role in ("reward", "trainer"):
        done = support.hone(role, "run.yaml", cwd=folder, timeout=30)
        assert done.returncode in (7, 8), (role, done)
        assert done.stderr.strip(), role


def a_finished_run_says_so_and_can_go_on():
    with support.temporary() as name:
        folder = support.small_run(name)
        run_dir = folder / "runs/rl"
        finished_run(folder)
        before = support.digests(run_dir)
        done = support.hone("run", "run.yaml", cwd=folder, check=0)
        assert "finished" in done.stdout and "step=" not in done.stdout, done.stdout
        assert support.digests(run_dir) == before
        output = finished_run(folder, steps=8)
        assert re.findall(r"^step=(\d+)", output, re.M) == ["7", "8"], output
        continued = support.digests(run_dir)
        check_tokens(run_dir, check_samples(run_dir, 8))
        support.hone("run", "run.yaml", "--set", "run.name=whole", "--set", "run.max_steps=8", cwd=folder, check=0)
        assert support.digests(folder / "runs/whole") == continued, "6 + 2 steps differ from 8"


def resume_settings_are_obeyed():
    with support.temporary() as name:
        folder = support.small_run(name, steps=2)
        done = support.hone("run", "run.yaml", "--set", "run.resume=must", cwd=folder, check=2)
        assert done.stderr.count("\n") == 1 and not (folder / "runs").exists(), done.stderr
        support.hone("run", "run.yaml", "--set", "run.resume=never", cwd=folder, check=0)
        done = support.hone("run", "run.yaml", "--set", "run.resume=never", cwd=folder, check=2)
        assert done.stderr.count("\n") == 1 and "runs/rl" in done.stderr, done.stderr
        support.hone("run", "run.yaml", "--set", "run.resume=must", cwd=folder, check=0)


if __name__ == "__main__":
    support.main([every_sample_is_in_the_database, time_spent_on_rewards_is_in_the_database,
                  a_signal_shows_what_everybody_waits_for, json_lines_are_objects,
                  a_run_tells_what_memory_it_took,
                  roles_are_processes,
                  a_finished_run_says_so_and_can_go_on, resume_settings_are_obeyed])
