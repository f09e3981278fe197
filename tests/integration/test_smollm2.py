#!/usr/bin/env python3
"""A real model through the ordinary commands: a GGUF file becomes a folder, and the folder says what transformers says.

The file is HONE_SMOLLM2_GGUF, else models/SmolLM2-135M-Instruct.Q4_1.gguf; the test is skipped where it is absent.
"""
import json
import os
import pathlib
import sys

from support import ROOT, SKIP, hone, shared, temporary

TOLERANCE = 2e-3  # of a log-probability
MARGIN = 5e-3     # between the two best logits: below, either token may come


def gguf_path():
    return pathlib.Path(os.environ.get("HONE_SMOLLM2_GGUF", str(ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")))


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def the_file_becomes_a_folder_that_checks(folder, cases):
    done = hone("model", "convert", gguf_path(), folder / "model", "--json", check=0)
    stats = json.loads(done.stdout)
    assert stats["tensors"] == 272 and stats["dtype"] == "f32", stats
    hone("model", "check", folder / "model", check=0)
    config = json.loads((folder / "model/config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["tie_word_embeddings"], config
    assert config["rms_norm_eps"] == 1e-5 and config["rope_theta"] == 1e5, config


def rendered_texts_become_the_known_ids(folder, cases):
    rows = write_rows(folder / "texts.jsonl", [{"text": case["text"]} for case in cases])
    for row, case in zip(lines(hone("tok", "encode", folder / "model", "--file", rows, check=0)), cases, strict=True):
        assert row["ids"] == case["ids"], case["text"]


def greedy_answers_are_the_known_ones(folder, cases):
    rows = write_rows(folder / "rows.jsonl", [{"messages": case["messages"]} for case in cases])
    done = hone("generate", folder / "model", "--file", rows, "--temperature", 0, "--max-tokens", 32, "--logprobs", check=0,
                timeout=600)
    for row, case in zip(lines(done), cases, strict=True):
        assert row["prompt_ids"] == case["ids"], row["prompt_ids"]  # the template, too
        certain = next((i for i, margin in enumerate(case["greedy_margin"]) if margin < MARGIN), len(case["greedy_ids"]))
        assert row["ids"][:certain] == case["greedy_ids"][:certain], (row["ids"], case["greedy_ids"])
        for got, want in zip(row["logprobs"][:certain], case["greedy_logprobs"][:certain], strict=True):
            assert abs(got - want) <= TOLERANCE, (got, want)
        if certain == len(case["greedy_ids"]):
            assert row["text"] == case["greedy_text"], row["text"]


def other_types_convert_and_check(folder, cases):
    hone("model", "convert", gguf_path(), folder / "bf16", "--dtype", "bf16", "--shard-size", "100MB", check=0)
    hone("model", "check", folder / "bf16", check=0)
    assert len(list((folder / "bf16").glob("*.safetensors"))) > 1


def a_damaged_file_leaves_nothing(folder, cases):
    before = sorted(folder.iterdir())
    whole = gguf_path().read_bytes()
    damaged = folder / "damaged.gguf"
    for content in (whole[:1000], whole[:len(whole) // 2], b"GGML" + whole[4:], whole.replace(b"smollm", b"unknwn", 3)):
        damaged.write_bytes(content)
        refused = hone("model", "convert", damaged, folder / "x", check=5)
        assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
    damaged.unlink()
    assert sorted(folder.iterdir()) == before


def main():
    if shared() is None or not gguf_path().is_file():
        print(f"no {gguf_path()} (HONE_SMOLLM2_GGUF) or no shared fixtures")
        return SKIP
    cases = json.loads((shared() / "golden/smollm2/cases.json").read_text())["cases"]
    with temporary() as name:
        folder = pathlib.Path(name)
        for test in (the_file_becomes_a_folder_that_checks, rendered_texts_become_the_known_ids,
                     greedy_answers_are_the_known_ones, other_types_convert_and_check, a_damaged_file_leaves_nothing):
            test(folder, cases)
            print("ok", test.__name__)
    return 0


if __name__ == "__main__":
    sys.exit(main())
