#!/usr/bin/env python3
"""What every command does with a damaged model: one line that names the file and the place, exit code 5, nothing
written. The damage itself, 200 cases a kind, is tests/unit/model/test_corrupt_*.c; here it meets the whole program."""
import json
import pathlib
import shutil
import struct

import support

DAMAGED, WRONG = 5, 2  # exit codes: a damaged model, a wrong configuration


def read_tensors(path):
    data = path.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    header.pop("__metadata__", None)
    return header, data[8 + n:]


def write_tensors(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def on_header(change):
    def apply(model):
        header, data = read_tensors(model / "model.safetensors")
        change(header)
        write_tensors(model / "model.safetensors", header, data)
    return apply


def on_text(name, old, new):
    def apply(model):
        text = (model / name).read_text()
        assert old in text, (name, old)
        (model / name).write_text(text.replace(old, new, 1))
    return apply


def nan_value(model):
    header, data = read_tensors(model / "model.safetensors")
    place = header["model.norm.weight"]["data_offsets"][0]
    write_tensors(model / "model.safetensors", header,
                  data[:place] + struct.pack("<f", float("nan")) + data[place + 4:])


def cut(name, n):
    def apply(model):
        (model / name).write_bytes((model / name).read_bytes()[:n])
    return apply


def reverse_shape(header):
    header["model.layers.0.mlp.up_proj.weight"]["shape"].reverse()


def drop_layer(header):
    header["renamed"] = header.pop("model.layers.1.input_layernorm.weight")


# (damage, what the line must hold)
CASES = [
    (cut("model.safetensors", 1000), ["model.safetensors"]),
    (cut("model.safetensors", 5), ["model.safetensors", "5 bytes"]),
    (on_header(reverse_shape), ["model.safetensors", "model.layers.0.mlp.up_proj.weight"]),
    (on_header(drop_layer), ["model.safetensors", "model.layers.1.input_layernorm.weight"]),
    (nan_value, ["model.safetensors", "model.norm.weight"]),
    (cut("config.json", 100), ["config.json", ":"]),
    (on_text("config.json", '"hidden_size": ', '"hidden_size": -'), ["config.json", "hidden_size"]),
    (on_text("config.json", '"hidden_size": ', '"hidden_sise": '), ["config.json", "hidden_sise", "hidden_size"]),
    (cut("tokenizer.json", 300), ["tokenizer.json", ":"]),
    (on_text("tokenizer.json", '"ByteLevel"', '"BiteLevel"'), ["tokenizer.json", "BiteLevel"]),
    (on_text("tokenizer_config.json", "{", "{,"), ["tokenizer_config.json", "1:"]),
    (lambda model: (model / "chat_template.jinja").write_text("{% for m in messages %}\n{{ m."),
     ["chat_template.jinja", "2:"]),
]


def assert_refused(done, parts, code=DAMAGED):
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, (done.returncode, done.stderr)
    assert len(lines) == 1, lines
    assert all(part in lines[0] for part in parts), (parts, lines[0])


def snapshot(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def every_damaged_model_is_refused_before_anything_is_written():
    with support.temporary() as name:
        folder = support.small_run(pathlib.Path(name))
        shutil.copytree(folder / "model", folder / "whole")
        for damage, parts in CASES:
            shutil.rmtree(folder / "model")
            shutil.copytree(folder / "whole", folder / "model")
            damage(folder / "model")
            before = snapshot(folder)
            assert_refused(support.hone("run", "run.yaml", cwd=folder), parts)
            if not {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} & set(parts):
                assert_refused(support.hone("model", "convert", "model", "out", "--dtype", "f32", cwd=folder), parts)
            assert_refused(support.hone("generate", "model", "--prompt", "1", "--max-tokens", "2", cwd=folder), parts)
            assert snapshot(folder) == before, parts


def a_cache_too_small_for_a_sequence_is_told_before_the_run():
    with support.temporary() as name:
        folder = support.small_run(pathlib.Path(name))
        before = snapshot(folder)
        assert_refused(support.hone("run", "run.yaml", "--set", "rollout.kv_cache_bytes=4096", cwd=folder),
                       ["rollout.kv_cache_bytes"], WRONG)
        assert snapshot(folder) == before


def gguf_text(text):
    return struct.pack("<Q", len(text)) + text.encode()


def damaged_gguf_files_are_refused():
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_text("general.architecture") + struct.pack("<I", 8)
    cases = [
        (b"GGUF" + struct.pack("<I", 3), "byte"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2 ** 60, 1), "byte"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2 ** 40), "byte"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version"),
        (head + struct.pack("<Q", 2 ** 63), "byte"),
        (head + gguf_text("gpt2"), "gpt2"),
        (head + gguf_text("llama"), "llama."),
    ]
    with support.temporary() as name:
        folder = pathlib.Path(name)
        for i, (data, part) in enumerate(cases):
            (folder / f"m{i}.gguf").write_bytes(data)
            before = snapshot(folder)
            assert_refused(support.hone("model", "convert", f"m{i}.gguf", "out", cwd=folder), [f"m{i}.gguf", part])
            assert snapshot(folder) == before, i


if __name__ == "__main__":
    support.main([
        every_damaged_model_is_refused_before_anything_is_written,
        a_cache_too_small_for_a_sequence_is_told_before_the_run,
        damaged_gguf_files_are_refused,
    ])
