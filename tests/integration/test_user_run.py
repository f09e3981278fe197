#!/usr/bin/env python3
"""A user's own rows, tokenizer and scorer; the mistakes one makes; help; Ctrl-C."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import support

ROWS = "reasoning-gym/chain_sum.jsonl"
TOKENIZER = "deepseek-v3-tokenizer"
SMALL = ["run.max_steps=5", "grpo.prompts_per_step=4", "grpo.num_generations=4", "rollout.max_completion_length=16",
         "rollout.workers=2", "rollout.threads=1"]
NUMERIC_YAML = """\
model: {path: model}
data: {train: rows.jsonl, eval: rows.jsonl}
rewards:
  - {name: right, source: "builtin:numeric"}
  - {name: letter, source: "builtin:regex", weight: 0.01, config: {pattern: "^[a-zA-Z ]"}}
"""
SFT_YAML = """\
model: {path: model}
data: {train: rows.jsonl, completion_key: answer}
sft: {max_steps: 3, batch_size: 4, output: taught}
optim: {learning_rate: 1e-3, warmup_steps: 1}
"""


def sets(*items):
    return [word for item in items for word in ("--set", item)]


def one_line(done, code, part):
    assert done.returncode == code, f"exit {done.returncode}, wanted {code}: {done.stderr}"
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("\n"), done.stderr
    assert part in done.stderr, f"{done.stderr!r} lacks {part!r}"


# --- Real rows, a real tokenizer ---


def user_folder(name):
    """Rows and a fresh small model with DeepSeek-V3's tokenizer; None where these are not there."""
    folder = pathlib.Path(name)
    given = support.shared()
    if given is None or not (given / "data" / ROWS).is_file():
        return None
    shutil.copy(given / "data" / ROWS, folder / "rows.jsonl")
    done = support.hone("model", "init", folder / "model", "--preset", "tiny", "--tokenizer",
                        given / "data" / TOKENIZER, "--seed", 3, check=0)
    assert "vocabulary 128832" in done.stdout, done.stdout
    return folder


def readme_blocks():
    """The README's scorer and configuration, as a reader would copy them."""
    text = (support.ROOT / "README.md").read_text()
    return [re.search(rf"```{kind}\n(.*?)```", text, re.S).group(1) for kind in ("python", "yaml")]


def check_five_steps(run_dir, output, names):
    lines = [line for line in output.splitlines() if line.startswith("step=")]
    assert len(lines) == 5 and all(" mismatch=0 " in line for line in lines), output
    rows = support.query(run_dir, "SELECT f.name, r.status, count(*) FROM rewards r JOIN reward_fns f USING(fn_id) "
                                  "GROUP BY 1, 2 ORDER BY 1")
    assert rows == [(name, "ok", 80) for name in names], rows
    prompts = support.query(run_dir, "SELECT count(*), sum(text LIKE '<｜begin▁of▁sentence｜><｜User｜>%<｜Assistant｜>') "
                                     "FROM prompts")
    assert prompts == [(20, 20)], prompts
    support.hone("db", "check", run_dir, check=0)


def real_rows_train_with_a_builtin_scorer():
    with support.temporary() as name:
        folder = user_folder(name)
        if folder is None:
            return support.SKIP
        (folder / "run.yaml").write_text(NUMERIC_YAML)
        dry = support.hone("run", "run.yaml", "--dry-run", *sets(*SMALL), cwd=folder, check=0)
        assert "4 prompts x 4 = 16 samples" in dry.stdout and not (folder / "runs").exists(), dry.stdout
        done = support.hone("run", "run.yaml", *sets(*SMALL), cwd=folder, check=0)
        check_five_steps(folder / "runs/run", done.stdout, ["letter", "right"])
        digests = support.digests(folder / "runs/run")
        assert len(set(digests.values())) == 5, digests


def real_rows_train_with_the_readme_scorer():
    with support.temporary() as name:
        folder = user_folder(name)
        if folder is None:
            return support.SKIP
        scorer, yaml = readme_blocks()
        assert len(scorer.splitlines()) <= 9, scorer
        (folder / "right.py").write_text(scorer)
        (folder / "run.yaml").write_text(yaml)
        done = support.hone("run", folder / "run.yaml", *sets(*SMALL), cwd="/", check=0)  # paths are the file's
        check_five_steps(folder / "runs/run", done.stdout, ["length", "right"])


def other_commands_take_the_same_files():
    with support.temporary() as name:
        folder = user_folder(name)
        if folder is None:
            return support.SKIP
        (folder / "run.yaml").write_text(NUMERIC_YAML)
        (folder / "sft.yaml").write_text(SFT_YAML)
        seen = json.loads(support.hone("data", "check", "rows.jsonl", "--tokenizer", "model", "--json", cwd=folder,
                                       check=0).stdout)
        assert seen["rows"] == 300 and seen["files"][0]["answer_key"] == "answer", seen
        done = support.hone("sft", "sft.yaml", "--json", cwd=folder, check=0)
        losses = [json.loads(line)["loss"] for line in done.stdout.splitlines()]
        assert len(losses) == 3 and all(5 < loss < 20 for loss in losses), done.stdout
        support.hone("model", "check", "taught", cwd=folder, check=0)
        done = support.hone("eval", "run.yaml", "--model", "taught", "--json", *sets("eval.max_rows=6", *SMALL),
                            cwd=folder, check=0)
        seen = json.loads(done.stdout)
        assert seen["rows"] == seen["samples"] == 6 and seen["components"]["right"]["ok"] == 6, seen
        done = support.hone("generate", "taught", "--prompt", "1 + 1 =", "-n", 3, "--max-tokens", 5, "--json",
                            cwd=folder, check=0)
        again = support.hone("generate", "taught", "--prompt", "1 + 1 =", "-n", 3, "--max-tokens", 5, "--json",
                             cwd=folder, check=0)
        assert done.stdout == again.stdout and len(done.stdout.splitlines()) == 3, done.stdout
        assert all(len(json.loads(line)["ids"]) <= 5 for line in done.stdout.splitlines())


# --- Mistakes: one line before anything starts ---

BASE = """\
run: {name: rl, output_dir: runs, max_steps: 2}
model: {path: model}
data: {train: data/train.jsonl}
grpo: {prompts_per_step: 4, num_generations: 4}
rollout: {max_completion_length: 12}
rewards:
  - {name: right, source: "builtin:exact"}
"""
ROW = '{"prompt": "1234567890=", "answer": "5"}\n'
# what is replaced in BASE, by what, and what the line must hold
MISTAKES = [
    ('"builtin:exact"', '"builtin:exakt"', "exact"),
    ('"builtin:exact"', '"magic:exact"', "magic:exact"),
    ('"builtin:exact"', '"cmd:python3 absent.py"', "absent.py"),
    ('"builtin:exact"', '"cmd:./absent"', "absent"),
    ('"builtin:exact"', '"cmd:false"', "right"),
    ('"builtin:exact"', '"cmd:sleep 60", start_timeout: 0.3', "0.3"),
    ('"builtin:exact"', '"builtin:exact", config: {cast: true}', "cast"),
    ('"builtin:exact"', '"builtin:regex", config: {pattern: "(["}', "(["),
    ('"builtin:exact"', '"builtin:exact", weight: 0', "weight"),
    ("name: right", 'name: "No!"', "run.yaml:7"),
    ("path: model", "path: absent", "absent"),
    ("train.jsonl", "absent.jsonl", "absent.jsonl"),
    ("data/train.jsonl", '"data/absent*.jsonl"', "absent*.jsonl"),
    ("data/train.jsonl", "data", "data"),
    ("data/train.jsonl}", "data/train.jsonl, answer_key: gold}", "gold"),
    ("data/train.jsonl}", "data/train.jsonl, prompt_key: question}", "question"),
    ("data/train.jsonl}", "data/train.jsonl, max_prompt_length: 3}", "too long"),
    ("data/train.jsonl", "empty.jsonl", "empty.jsonl"),
    ("data/train.jsonl", "lacks.jsonl", "lacks.jsonl:2"),
    ("rollout:", "rolout:", "rollout"),
    ("num_generations", "num_generation", "num_generations"),
    ("num_generations: 4", "rollout.n: 4", "rollout.n"),
    ("num_generations: 4", "clip_ratio_high: 4", "grpo.epsilon_high"),
    ("num_generations: 4", "num_generations: 0", "1..4096"),
    ("num_generations: 4", "num_generations: 1", "grpo.num_generations"),
    ("num_generations: 4", "num_generations: many", "many"),
    ("num_generations: 4", "num_minibatches: 3", "num_minibatches"),
    ("max_completion_length: 12", "max_completion_length: 100000", "4096 positions"),
    ("max_completion_length: 12", "temperature: 0", "temperature"),
    ("max_steps: 2", "max_steps: 1e3", "max_steps"),
    ("max_steps: 2", "device: tpu", "cpu"),
    ("name: rl,", "name: ../rl,", "run.name"),
    ("max_steps: 2}", "max_steps: 2", "run.yaml:2"),
    ("run: {", "run:\n\t{", "tab"),
    ("run: {", "run: &anchor {", "anchors"),
    ("rewards:", "---\nrewards:", "document"),
    ("rewards:", "run: {}\nrewards:", "run"),
    ("model: {path: model}", "", "model.path"),
]


def mistakes_give_one_line_before_anything_starts():
    with support.temporary() as name:
        folder = support.small_run(name)
        (folder / "empty.jsonl").write_text("")
        (folder / "lacks.jsonl").write_text(ROW + '{"prompt": "1="}\n')
        for old, new, part in MISTAKES:
            text = BASE.replace(old, new, 1)
            assert text != BASE, old
            (folder / "run.yaml").write_text(text)
            done = support.hone("run", "run.yaml", cwd=folder, timeout=30)
            try:
                one_line(done, 2, part)
            except AssertionError as error:
                raise AssertionError(f"{old} -> {new}: {error}")
            assert not done.stdout and not (folder / "runs").exists(), (new, done.stdout)
        (folder / "run.yaml").write_text(BASE.replace("rollout:", "rolout:").replace("rewards:", "reward:"))
        done = support.hone("run", "run.yaml", cwd=folder, check=2)
        assert done.stderr.count("\n") >= 2, f"not all at once: {done.stderr}"


def rows_that_are_no_json_are_damaged_files():
    with support.temporary() as name:
        folder = support.small_run(name)
        for bad, part in ((ROW + '{"prompt": \n', "bad.jsonl:2"), ('{"prompt": "a", "prompt": "b"}\n', "bad.jsonl:1"),
                          (b"PAR1\0\1", "bad.jsonl"), (b'{"prompt": "\xff"}\n', "bad.jsonl:1")):
            (folder / "bad.jsonl").write_bytes(bad.encode() if isinstance(bad, str) else bad)
            for command in (["run", "run.yaml", *sets("data.train=bad.jsonl")], ["data", "check", "bad.jsonl"]):
                one_line(support.hone(*command, cwd=folder), 5, part)
            assert not (folder / "runs").exists()


def other_commands_name_the_mistake():
    with support.temporary() as name:
        folder = support.small_run(name)
        for args, part in ((["sft", "run.yaml"], "sft.output"),
                           (["sft", "run.yaml", *sets("sft.output=x", "data.train=absent.jsonl")], "absent.jsonl"),
                           (["sft", "run.yaml", *sets("sft.output=x", "data.train=data/train.jsonl")], "completion"),
                           (["eval", "run.yaml"], "data.eval"),
                           (["eval", "run.yaml", *sets("data.eval=absent.jsonl")], "absent.jsonl"),
                           (["data", "check", "absent.jsonl"], "absent.jsonl"),
                           (["data", "make", "notask", "--out", "x"], "modsum"),
                           (["model", "init", "x", "--preset", "huge"], "tiny"),
                           (["model", "init", "x", "--preset", "tiny", "--tokenizer", "absent"], "absent"),
                           (["generate", "model", "--prompt", "§§§"], "vocabulary"),
                           (["run", "absent.yaml"], "absent.yaml"), (["config", "absent.yaml"], "absent.yaml"),
                           (["run", "run.yaml", *sets("nonsense")], "KEY=VALUE")):
            try:
                one_line(support.hone(*args, cwd=folder), 2, part)
            except AssertionError as error:
                raise AssertionError(f"{args}: {error}")
        assert not (folder / "runs").exists() and not (folder / "x").is_file()


# --- The command line ---


GROUPS = {"model": ["init", "inspect", "check", "convert"], "data": ["make", "check"], "tok": ["encode", "decode", "render"]}


def commands():
    text = support.hone("--help", check=0).stdout
    return re.findall(r"^  ([a-z]+)  ", text, re.M)


def words_of(command):
    """The subcommands, which its help and its complaint name."""
    words = GROUPS.get(command, [])
    if words:
        text = support.hone(command, check=2).stderr + support.hone(command, "--help", check=0).stdout
        assert all(word in text for word in words), text
    return words


def help_tells_every_option():
    names = commands()
    assert {"run", "demo", "trainer", "rollout", "reward", "sft", "eval", "generate", "model", "data", "db", "show",
            "config", "doctor", "version"} <= set(names), names
    for command in [[n] for n in names] + [[n, w] for n in names for w in words_of(n)]:
        done = support.hone(*command, "--help", check=0)
        assert done.stdout.startswith("usage: hone") and not done.stderr, (command, done)
        assert support.hone(*command, "-h", check=0).stdout == done.stdout, command
        for option, argument in re.findall(r"^  (?:-\w, |    )(--[\w-]+)(?: ([A-Z]\S*))?", done.stdout, re.M):
            if option != "--help" and argument:
                one_line(support.hone(*command, option), 2, f"{option} wants an argument")
        if command[0] not in GROUPS or len(command) > 1:
            one_line(support.hone(*command, "--nonsense"), 2, "--nonsense: no such option")


def usage_errors_point_to_help():
    cases = [([], "usage"), (["frobnicate"], "frobnicate: no such command (see"), (["trian"], "nearest is trainer"),
             (["evla"], "nearest is eval"), (["run"], "CONFIG"), (["demo", "--steps", "0"], "--steps: \"0\": want 1..1000"),
             (["demo", "--dtype", "fp4"], "--dtype: \"fp4\": want fp32"),
             (["run", "a", "b"], "one word too many"), (["run", "a", "--set"], "--set"), (["generate"], "MODEL"),
             (["generate", "m", "--prompt", "x", "--temperature", "hot"], "hot"),
             (["generate", "m", "--prompt", "x", "-n", "0"], "0"), (["model", "frob"], "frob"), (["db", "x", "y"], "query"),
             (["show", "thing", "runs", "1"], "thing"), (["model", "init", "d"], "--preset")]
    for args, part in cases:
        done = support.hone(*args)
        assert done.returncode == 2 and part in done.stderr and not done.stdout, (args, done)
        assert "--help" in done.stderr, (args, done.stderr)
        if args:
            assert done.stderr.count("\n") == 1, done.stderr
    assert support.hone("--version", check=0).stdout == support.hone("version", check=0).stdout


def output_that_cannot_be_written_is_told():
    """A result that is lost is a failure; progress that is lost is not."""
    with support.temporary() as name:
        folder = support.small_run(name, steps=1)
        support.hone("run", "run.yaml", cwd=folder, check=0)
        with open("/dev/full", "w") as full:
            for args in (["--help"], ["run", "--help"], ["config", "run.yaml"], ["db", "query", "runs/rl", "SELECT 1"],
                         ["show", "step", "runs/rl", "1"], ["model", "inspect", "model"], ["doctor"]):
                done = subprocess.run([support.HONE, *args], cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True)
                assert done.returncode == 6 and done.stderr.count("\n") == 1, (args, done)
                assert "the output cannot be written: No space left on device" in done.stderr, (args, done)
            again = [support.HONE, "run", "run.yaml", "--set", "run.name=again"]
            assert subprocess.run(again, cwd=folder, stdout=full).returncode == 0
        reader = subprocess.run(f"{support.HONE} config run.yaml | head -n 1", shell=True, cwd=folder, text=True,
                                capture_output=True)
        assert reader.stdout.count("\n") == 1 and not reader.stderr, reader


def the_doctor_looks_at_the_machine():
    """A finding a line, the same as objects; where processes cannot see each other it says what that costs."""
    lines = support.hone("doctor", check=0).stdout.splitlines()
    found = [json.loads(line) for line in support.hone("doctor", "--json", check=0).stdout.splitlines()]
    topics = [finding["check"] for finding in found]
    assert topics == [line.split()[1] for line in lines], (topics, lines)
    assert {"processor", "backend", "memory", "sharing", "disk", "sockets", "scorers"} <= set(topics), topics
    assert {finding["status"] for finding in found} <= {"ok", "note"}, found
    done = support.hone("doctor", "absent/folder")
    assert done.returncode == 1 and "absent/folder" in done.stdout, done
    alone = ["unshare", "-Urpf"]  # a process table of its own, but the host's /proc
    if shutil.which("unshare") and subprocess.run([*alone, "true"], capture_output=True).returncode == 0:
        text = subprocess.run([*alone, support.HONE, "doctor"], capture_output=True, text=True, check=True).stdout
        assert re.search(r"^note +sharing .*copy of the weights$", text, re.M), text


# --- Ctrl-C ---


def descendants(pid):
    found = [child for child, _ in support.children(pid)]
    return found + [d for child in found for d in descendants(child)]


def interrupt(folder, args, is_ready):
    """Ctrl-C, as a terminal sends it, once is_ready(); exit code, error text, seconds."""
    process = subprocess.Popen([support.HONE, *args], cwd=folder, stdin=subprocess.DEVNULL, text=True,
                               stdout=open(folder / "output.txt", "w"), stderr=open(folder / "errors.txt", "w"),
                               start_new_session=True)
    support.started.append(process)
    support.wait_until(is_ready, f"{args[0]} at work", 60)
    below = descendants(process.pid)
    begin = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    code = process.wait(timeout=20)
    took = time.monotonic() - begin
    time.sleep(0.1)
    assert not [pid for pid in below if support.is_alive(pid)], f"{args[0]}: processes are left"
    return code, (folder / "errors.txt").read_text(), took


def control_c_ends_every_command():
    with support.temporary() as name:
        folder = support.small_run(name, steps=100000)
        (folder / "sft.yaml").write_text("model: {path: demo}\ndata: {train: data/sft-worked.jsonl}\n"
                                         "sft: {max_steps: 100000, output: taught}\n")
        (folder / "slow.py").write_text("import time\ntime.sleep(100)\n")

        def has_steps():
            return support.output(folder).count("step=") >= 3

        code, errors, took = interrupt(folder, ["run", "run.yaml"], has_steps)
        assert (code, took < 5) == (75, True) and "interrupted after step" in errors, (code, took, errors)
        code, errors, took = interrupt(folder, ["sft", "sft.yaml"], has_steps)
        assert (code, took < 3) == (130, True) and "interrupted at step" in errors, (code, took, errors)
        assert not (folder / "taught").exists()
        code, errors, took = interrupt(folder, ["demo", "--dir", "demo-run"], has_steps)
        assert (code, took < 3) == (130, True) and "hone demo: interrupted" in errors, (code, took, errors)
        begin = time.monotonic()
        code, _, took = interrupt(folder, ["eval", "run.yaml", *sets("data.eval=data/train.jsonl", "eval.max_rows=0",
                                                                     "eval.num_generations=4000",
                                                                     "rollout.max_completion_length=3000")],
                                  lambda: time.monotonic() - begin > 0.5)
        assert (code, took < 3) == (130, True), (code, took)
        begin = time.monotonic()
        code, _, took = interrupt(folder, ["generate", "demo", "--prompt", "1=", "-n", "4096", "--max-tokens", "4000"],
                                  lambda: time.monotonic() - begin > 0.3)
        assert (code, took < 3) == (130, True), (code, took)


def control_c_while_a_scorer_is_starting():
    with support.temporary() as name:
        folder = support.small_run(name)
        (folder / "run.yaml").write_text(BASE.replace('"builtin:exact"', '"cmd:sleep 50"'))
        begin = time.monotonic()
        code, _, took = interrupt(folder, ["run", "run.yaml"], lambda: time.monotonic() - begin > 0.5)
        assert code in (-signal.SIGINT, 130, 75) and took < 3, (code, took)


if __name__ == "__main__":
    support.main([real_rows_train_with_a_builtin_scorer, real_rows_train_with_the_readme_scorer,
                  other_commands_take_the_same_files, mistakes_give_one_line_before_anything_starts,
                  rows_that_are_no_json_are_damaged_files, other_commands_name_the_mistake, help_tells_every_option,
                  usage_errors_point_to_help, output_that_cannot_be_written_is_told, the_doctor_looks_at_the_machine,
                  control_c_ends_every_command, control_c_while_a_scorer_is_starting])
