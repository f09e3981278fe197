#!/usr/bin/env python3
"""`hone model check --against`: the known numbers agree, and one number changed in any kind of tensor is found."""
import json
import pathlib
import shutil
import struct

import support

FOLDERS = ["v3-core", "v3-yarn", "v3-fused", "v2-lite", "v2", "moonlight", "kimi-yarn-step", "kimi-yarn-degenerate",
           "attention-bias", "rope-half", "tied-head", "no-norm-topk", "options", "negative-bias", "mtp1", "mtp1-prenorm",
           "mtp2", "fp8"]


def golden():
    path = support.shared()
    return path / "golden" if path is not None and (path / "golden/v3-core/io.safetensors").is_file() else None


def check(model, against, *args, code=0):
    return support.hone("model", "check", model, "--against", against, *args, check=code)


def header_of(data):
    n = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + n]), 8 + n


def tensors_agree():
    if golden() is None:
        return support.SKIP
    with support.temporary() as name:
        for folder in FOLDERS:
            model = golden() / folder
            out = f"{name}/{folder}.safetensors"
            done = check(model, model / "io.safetensors", "--out", out)
            lines = done.stdout.splitlines()
            assert len(lines) >= 5 and all(line.startswith("ok ") for line in lines), done.stdout
            seen = json.loads(check(model, model / "io.safetensors", "--json").stdout)
            assert seen["ok"] and all(kind["ok"] and 0 <= kind["share"] <= 1 for kind in seen["kinds"]), seen
            wanted = header_of((model / "io.safetensors").read_bytes())[0]
            written = header_of(open(out, "rb").read())[0]
            wanted.pop("__metadata__", None)
            written.pop("__metadata__", None)
            assert {k: v["shape"] for k, v in wanted.items()} == {k: v["shape"] for k, v in written.items()}, folder
            same = json.loads(check(model, out, "--json").stdout)
            assert all(kind["share"] == 0 for kind in same["kinds"]), f"{folder}: not what --out wrote: {same}"


def change(data, name, place):
    """The bytes with one number of the tensor changed by a little more than any tolerance."""
    header, begin = header_of(data)
    entry = header[name]
    kind = {"F32": "<f", "I32": "<i", "U8": "<B"}[entry["dtype"]]
    size = struct.calcsize(kind)
    first, last = entry["data_offsets"]
    at = begin + first + size * (place % ((last - first) // size))
    value = struct.unpack(kind, data[at:at + size])[0]
    changed = value ^ 1 if kind != "<f" else value + (1e-3 if not name.startswith("grad") else 0.05)
    return data[:at] + struct.pack(kind, changed) + data[at + size:]


def one_number_changed_is_found():
    if golden() is None:
        return support.SKIP
    cases = {
        "v3-core": ["logits", "loss", "hidden.0", "hidden.2", "router_indices.1", "router_weights.2",
                    "grad.model.embed_tokens.weight", "grad.lm_head.weight",
                    "grad.model.layers.1.mlp.gate.weight", "grad.model.layers.0.self_attn.kv_b_proj.weight"],
        "moonlight": ["grad.model.layers.1.mlp.experts.5.up_proj.weight"],  # no token took it: zeros
        "mtp1": ["mtp_logits.1", "mtp_hidden.1", "mtp_ce.1", "mtp_loss", "hidden.post_norm", "router_indices.3",
                 "grad.model.layers.3.eh_proj.weight", "grad_detached.model.norm.weight"],
        "fp8": ["codes_w8a8.model.layers.1.self_attn.kv_b_proj", "scales_w8a8_absorbed.model.layers.0.mlp.down_proj",
                "logits_w8a8_requantised"],
    }
    with support.temporary() as name:
        changed = f"{name}/io.safetensors"
        for folder, tensors in cases.items():
            data = (golden() / folder / "io.safetensors").read_bytes()
            for tensor in tensors:
                with open(changed, "wb") as file:
                    file.write(change(data, tensor, 17))
                done = check(golden() / folder, changed, code=1)
                bad = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
                assert len(bad) == 1 and tensor in bad[0], f"{folder} {tensor}: {done.stdout}{done.stderr}"
                seen = json.loads(check(golden() / folder, changed, "--json", code=1).stdout)
                assert not seen["ok"] and [tensor in k["at"] for k in seen["kinds"] if not k["ok"]] == [True], seen


def a_model_of_other_numbers_is_found():
    """One weight that is off, and another model's file."""
    if golden() is None:
        return support.SKIP
    with support.temporary() as name:
        model = pathlib.Path(name) / "model"
        shutil.copytree(golden() / "v3-core", model)
        data = (model / "model.safetensors").read_bytes()
        (model / "model.safetensors").write_bytes(change(data, "model.layers.1.self_attn.o_proj.weight", 0))
        done = check(model, model / "io.safetensors", code=1)
        bad = {line.split()[1] for line in done.stdout.splitlines() if not line.startswith("ok ")}
        assert {"logits", "hidden", "grad"} <= bad, done.stdout
        done = check(golden() / "v3-core", golden() / "moonlight/io.safetensors", code=5)
        assert done.stderr.count("\n") == 1 and "io.safetensors" in done.stderr, done


def files_that_cannot_be_compared_give_one_line():
    if golden() is None:
        return support.SKIP
    model = golden() / "v3-core"
    with support.temporary() as name:
        for data, code in ((b"", 5), ((model / "io.safetensors").read_bytes()[:-50], 5)):
            with open(f"{name}/bad", "wb") as file:
                file.write(data)
            done = check(model, f"{name}/bad", code=code)
            assert not done.stdout and done.stderr.count("\n") == 1 and "bad" in done.stderr, done
        done = check(model, f"{name}/absent", code=2)
        assert not done.stdout and done.stderr.count("\n") == 1 and "absent" in done.stderr, done
        support.hone("model", "check", model, "--out", f"{name}/out", check=2)


if __name__ == "__main__":
    support.main([tensors_agree, one_number_changed_is_found, a_model_of_other_numbers_is_found,
                  files_that_cannot_be_compared_give_one_line])
