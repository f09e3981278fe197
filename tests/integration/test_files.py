#!/usr/bin/env python3
"""Damaged files, a full disk: one clear line, the documented exit code, and nothing lost."""
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import time

import support

DAMAGED = 5  # of data-and-ui.md section 6; 2 is a wrong name, 6 a full disk
NAMESPACE = ["unshare", "-Urm"]
FULL_SETS = ["run.output_dir=small", "run.max_steps=8", "grpo.prompts_per_step=16", "grpo.num_generations=16",
             "rollout.max_completion_length=100"]  # about 1.2 MB a step


# --- Changing files ---


def read_tensors(path):
    data = path.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + n]), data[8 + n:]


def write_tensors(path, header, data):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def change_header(change):
    """Applies change(header) and writes the file again, without the digest that would tell first."""
    def apply(model):
        header, data = read_tensors(model / "model.safetensors")
        header.pop("__metadata__", None)
        change(header)
        write_tensors(model / "model.safetensors", header, data)
    return apply


def change_bytes(change):
    def apply(model):
        path = model / "model.safetensors"
        data = bytearray(path.read_bytes())
        path.write_bytes(bytes(change(data)))
    return apply


def flip(data, place, bit=0):
    data[place] ^= 1 << bit
    return data


def last_float(value):
    def apply(model):
        header, data = read_tensors(model / "model.safetensors")
        header.pop("__metadata__", None)
        write_tensors(model / "model.safetensors", header, data[:-4] + struct.pack("<f", value))
    return apply


def change_config(**changes):
    """config.json with keys changed; None removes one."""
    def apply(model):
        config = json.loads((model / "config.json").read_text())
        for key, value in changes.items():
            config[key] = value
            if value is None:
                del config[key]
        (model / "config.json").write_text(json.dumps(config))
    return apply


def rename_key(old, new):
    def apply(model):
        path = model / "config.json"
        path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"'))
    return apply


def write_text(name, text):
    return lambda model: (model / name).write_text(text)


def remove(name):
    return lambda model: (model / name).unlink()


def tensor(header, index):
    return sorted(key for key in header if key != "__metadata__")[index]


def overlap(header):
    header[tensor(header, 1)]["data_offsets"] = header[tensor(header, 0)]["data_offsets"]


def transpose(header):
    entry = next(entry for entry in header.values() if len(entry["shape"]) == 2 and len(set(entry["shape"])) == 2)
    entry["shape"].reverse()


def huge_shape(header):
    header[tensor(header, 0)]["shape"] = [2 ** 32, 2 ** 32, 2 ** 32]


def negative_offset(header):
    header[tensor(header, 0)]["data_offsets"] = [-8, 8]


def unknown_dtype(header):
    header[tensor(header, 0)]["dtype"] = "F31"


def drop_tensor(header):
    del header["model.norm.weight"]  # leaves a hole


def hostile_name(header):
    header["\x1b[31mred\x07\r\n\x9b"] = {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}


# name, change, exit code, what the line must hold
MODELS = [
    ("truncated", change_bytes(lambda d: d[:-100]), DAMAGED, "model.safetensors"),
    ("five bytes", change_bytes(lambda d: d[:5]), DAMAGED, "5 bytes"),
    ("empty", change_bytes(lambda d: d[:0]), DAMAGED, "model.safetensors"),
    ("too long", change_bytes(lambda d: d + bytes(8)), DAMAGED, "model.safetensors"),
    ("a bit in the header", change_bytes(lambda d: flip(d, 12)), DAMAGED, "model.safetensors"),
    ("a high bit in a weight", change_bytes(lambda d: flip(d, -1, 6)), DAMAGED, "model.safetensors"),
    ("a low bit in a weight", change_bytes(lambda d: flip(d, -1000, 0)), DAMAGED, "damaged"),
    ("a low bit in a weight before", change_bytes(lambda d: flip(d, len(d) // 2, 3)), DAMAGED, "damaged"),
    ("header of 2^60 bytes", change_bytes(lambda d: bytearray(struct.pack("<Q", 1 << 60)) + d[8:]), DAMAGED, "header"),
    ("header of 0 bytes", change_bytes(lambda d: bytearray(8) + d[8:]), DAMAGED, "header"),
    ("deep JSON", lambda m: write_tensors(m / "model.safetensors", b'{"a":' + b"[" * 100000, b""), DAMAGED, "header"),
    ("no JSON", lambda m: write_tensors(m / "model.safetensors", b"{" + b"\xff" * 64, b""), DAMAGED, "header"),
    ("overlap", change_header(overlap), DAMAGED, "model.safetensors"),
    ("shape", change_header(transpose), DAMAGED, "wants"),
    ("shape that overflows", change_header(huge_shape), DAMAGED, "dimension"),
    ("negative offset", change_header(negative_offset), DAMAGED, "data_offsets"),
    ("unknown type", change_header(unknown_dtype), DAMAGED, "F31"),
    ("missing tensor", change_header(drop_tensor), DAMAGED, "model.safetensors"),
    ("name with escapes", change_header(hostile_name), DAMAGED, "model.safetensors"),
    ("NaN", last_float(float("nan")), DAMAGED, "finite"),
    ("infinity", last_float(float("inf")), DAMAGED, "finite"),
    ("no weights", remove("model.safetensors"), DAMAGED, "model.safetensors"),
    ("no config", remove("config.json"), DAMAGED, "config.json"),
    ("no tokenizer", remove("tokenizer.json"), DAMAGED, "tokenizer.json"),
    ("tokenizer cut", write_text("tokenizer.json", '{"model": {'), DAMAGED, "tokenizer.json"),
    ("tokenizer of another kind", write_text("tokenizer.json", '{"model": {"type": "Unigram"}}'), DAMAGED,
     "tokenizer.json"),
    ("config cut", write_text("config.json", '{"hidden_size": 3'), DAMAGED, "config.json"),
    ("unknown key", change_config(hiden_size=32), DAMAGED, "hidden_size"),
    ("key misspelt", rename_key("num_attention_heads", "num_attention_head"), DAMAGED, "num_attention_heads"),
    ("key missing", change_config(vocab_size=None), DAMAGED, "vocab_size"),
    ("wrong type", change_config(hidden_size="wide"), DAMAGED, "hidden_size"),
    ("out of range", change_config(num_hidden_layers=0), DAMAGED, "num_hidden_layers"),
    ("another architecture", change_config(architectures=["GPT2LMHeadModel"]), DAMAGED, "GPT2LMHeadModel"),
    ("other width", change_config(hidden_size=48), DAMAGED, "48"),
    ("vocabulary below the tokenizer's", change_config(vocab_size=32), DAMAGED, "32"),
]
COMMANDS = [("model", "check", "broken"), ("generate", "broken", "--prompt", "1234567890=", "--max-tokens", 2),
            ("run", "run.yaml", "--set", "model.path=broken")]


def one_line(done, code, part, label):
    """Exactly one clear line, no escape byte in it, and the exit code."""
    assert done.returncode == code, f"{label}: exit {done.returncode}, wanted {code}: {done.stderr}"
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("\n"), f"{label}: {done.stderr!r}"
    assert part in done.stderr and done.stderr.startswith("hone"), f"{label}: {done.stderr!r} lacks {part!r}"
    assert all(c.isprintable() for c in done.stderr[:-1]), f"{label}: {done.stderr!r}"


def a_model_survives_saving_and_loading():
    with support.temporary() as name:
        folder = support.small_run(name)
        done = support.hone("model", "check", folder / "model", check=0)
        assert "same bits" in done.stdout and not done.stderr, done
        support.hone("model", "init", folder / "again", "--preset", "tiny", "--seed", 5, "--tokenizer",
                     folder / "demo", check=0)
        for file in ("config.json", "model.safetensors", "tokenizer.json"):
            assert (folder / "again" / file).read_bytes() == (folder / "model" / file).read_bytes(), file
        support.hone("model", "init", folder / "other", "--preset", "tiny", "--seed", 6, "--tokenizer",
                     folder / "demo", check=0)
        weights = [(folder / m / "model.safetensors").read_bytes() for m in ("model", "other")]
        assert weights[0] != weights[1], "the seed changes nothing"
        done = support.hone("model", "init", folder / "model", "--preset", "tiny")
        one_line(done, 2, "--force", "there is a model already")
        assert (folder / "model/model.safetensors").read_bytes() == weights[0]


def a_damaged_model_gives_one_line():
    with support.temporary() as name:
        folder = support.small_run(name, steps=1)
        for label, change, code, part in MODELS:
            shutil.rmtree(folder / "broken", ignore_errors=True)
            shutil.rmtree(folder / "runs", ignore_errors=True)
            shutil.copytree(folder / "model", folder / "broken")
            change(folder / "broken")
            for command in COMMANDS:
                done = support.hone(*command, cwd=folder, timeout=30)
                one_line(done, code, part, f"{label}: {command[0]}")
                assert "step=" not in done.stdout, (label, done.stdout)


def a_model_that_is_not_there_is_a_wrong_name():
    with support.temporary() as name:
        folder = support.small_run(name)
        for command in (*COMMANDS, ("model", "inspect", "broken"), 
                        ("eval", "run.yaml", "--model", "broken", "--set", "data.eval=data/heldout.jsonl")):
            one_line(support.hone(*command, cwd=folder), 2, "", command[0])
        assert not (folder / "runs").exists()


def a_damaged_database_gives_one_line():
    with support.temporary() as name:
        folder = support.small_run(name, steps=2)
        support.hone("run", "run.yaml", cwd=folder, check=0)
        database = folder / "runs/rl/run.db"
        good = database.read_bytes()
        for label, bad in (("text", b"no database" * 100), ("truncated", good[:len(good) // 2]),
                           ("header", b"SQLite format 4\0" + good[16:])):
            database.write_bytes(bad)
            done = support.hone("db", "query", folder / "runs/rl", "SELECT sum(reward) FROM v_samples")
            one_line(done, DAMAGED, "run.db", label)
        database.unlink()
        one_line(support.hone("db", "check", folder / "runs/rl"), 2, "run.db", "absent")
        one_line(support.hone("show", "step", folder / "nowhere", 1), 2, "nowhere", "no run")


# --- Checkpoints ---


def newest(run_dir):
    return max((run_dir / "checkpoints").iterdir(), key=lambda p: int(p.name.split("_")[1].split(".")[0]))


def a_corrupt_checkpoint_is_put_aside_and_the_one_before_used():
    with support.temporary() as name:
        folder = support.small_run(name, steps=8)
        support.hone("run", "run.yaml", cwd=folder, check=0)
        run_dir = folder / "runs/rl"
        wanted = support.digests(run_dir)
        damages = {
            "a bit of the weights": lambda c: change_bytes(lambda d: flip(d, -77))(c),
            "a bit of the moments": lambda c: (c / "state/optimizer.bin").write_bytes(
                bytes(flip(bytearray((c / "state/optimizer.bin").read_bytes()), 5000))),
            "no manifest": lambda c: (c / "MANIFEST").unlink(),
            "config removed": lambda c: (c / "config.json").unlink(),
        }
        for label, damage in damages.items():
            shutil.rmtree(folder / "runs")
            support.hone("run", "run.yaml", "--set", "run.max_steps=6", cwd=folder, check=0)
            bad = newest(run_dir)
            assert bad.name == "step_6", bad
            damage(bad)
            done = support.hone("run", "run.yaml", cwd=folder, check=0)
            assert support.digests(run_dir) == wanted, f"{label}: other weights"
            assert "step=5 " in done.stdout and "step_6" in done.stderr, f"{label}: {done.stdout}{done.stderr}"
            assert list((run_dir / "checkpoints").glob("step_6.corrupt*")), f"{label}: not kept"
            support.hone("db", "check", run_dir, check=0)


# --- A full disk ---


def in_small_disk(folder, megabytes, way, *sets):
    """Starts this file again with a disk of that size mounted at folder/small, in a namespace of its own; None where
    that cannot be done."""
    command = [sys.executable, __file__, "inside", str(folder), str(megabytes), way, *sets]
    for namespace in (NAMESPACE, NAMESPACE[:1] + ["-m"]):
        try:
            if subprocess.run([*namespace, "true"], capture_output=True).returncode == 0:
                return subprocess.Popen([*namespace, *command], text=True, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)
        except FileNotFoundError:
            break
    return None


def grow(disk):
    subprocess.run(["mount", "-o", "remount,size=256m", disk], check=True)


def run_until_full(folder, disk, command):
    """The disk grows when the run says that it waits for that."""
    process = support.start(folder, *command)
    support.wait_until(lambda: "waiting: " in support.output(folder), "a full disk", 60)
    grow(disk)
    return process.wait(timeout=60), support.output(folder)


def inside(folder, megabytes, way, *sets):
    """Runs until the disk is full, makes it larger, and runs the same command again; prints what came out. way: at once:
    larger when the run waits for it; later: when it has ended."""
    disk = pathlib.Path(folder) / "small"
    disk.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", disk]).returncode != 0:
        return support.SKIP
    command = [word for s in sets for word in ("--set", s)]
    if way == "at once":
        first = run_until_full(folder, disk, command)
    else:
        done = support.hone("run", "run.yaml", *command, cwd=folder)
        first = done.returncode, done.stderr
        grow(disk)
    second = support.hone("run", "run.yaml", *command, cwd=folder)
    checked = support.hone("db", "check", disk / "rl")
    json.dump({"first": first, "second": [second.returncode, second.stderr],
               "check": checked.stdout, "digests": support.digests(disk / "rl")}, sys.stdout)
    return 0


def seen_inside(folder, process, sets):
    """What inside() saw, and that nothing was lost: a run with room has the same digests. None where no disk can be
    mounted."""
    out, err = process.communicate(timeout=120) if process is not None else ("", "")
    if process is None or process.returncode == support.SKIP:
        return None
    assert process.returncode == 0, err
    seen = json.loads(out)
    wanted = [word for s in [*sets, "run.output_dir=large"] for word in ("--set", s)]
    support.hone("run", "run.yaml", *wanted, cwd=folder, check=0)
    assert seen["second"][0] == 0, seen
    digests = {int(step): digest for step, digest in seen["digests"].items()}
    assert digests == support.digests(folder / "large/rl"), seen
    assert "all" in seen["check"], seen
    return seen


def a_run_waits_for_room_on_the_disk():
    with support.temporary() as name:
        folder = support.small_run(name)
        seen = seen_inside(folder, in_small_disk(folder, 5, "at once", *FULL_SETS), FULL_SETS)
        if seen is None:
            return support.SKIP
        code, text = seen["first"]
        assert code == 0 and "bytes" in text and "finished" not in text, seen


def a_disk_too_small_for_a_checkpoint_loses_nothing():
    sets = ["run.output_dir=small", "run.max_steps=3", "model.path=demo"]
    with support.temporary() as name:
        folder = support.small_run(name)
        seen = seen_inside(folder, in_small_disk(folder, 8, "later", *sets), sets)
        if seen is None:
            return support.SKIP
        code, text = seen["first"]
        assert code == 6 and text.count("\n") == 1 and "step_2" in text and "bytes" in text, seen


class FullDisk:
    """A run on a disk that stays full gives up after 20 s: it has them while the other tests run."""

    def __init__(self):
        self.temporary = support.temporary()
        self.folder = support.small_run(self.temporary.name)
        self.process = in_small_disk(self.folder, 5, "later", *FULL_SETS)

    def a_disk_full_of_samples_loses_nothing(self):
        with self.temporary:
            seen = seen_inside(self.folder, self.process, FULL_SETS)
            if seen is None:
                return support.SKIP
            code, text = seen["first"]
            last = (text.splitlines() or [""])[-1]
            assert code == 6 and "run.db" in last and "bytes" in last, seen


if __name__ == "__main__":
    if sys.argv[1:2] == ["inside"]:
        sys.exit(inside(*sys.argv[2:]))
    full_disk = FullDisk()
    support.main([a_model_survives_saving_and_loading, a_damaged_model_gives_one_line,
                  a_model_that_is_not_there_is_a_wrong_name, a_damaged_database_gives_one_line,
                  a_corrupt_checkpoint_is_put_aside_and_the_one_before_used, a_run_waits_for_room_on_the_disk,
                  a_disk_too_small_for_a_checkpoint_loses_nothing, full_disk.a_disk_full_of_samples_loses_nothing])
