#!/usr/bin/env python3
"""Every family of architectures goes the whole way: a tiny model is made, learns from examples and is aligned by real
processes. The sampler's and the trainer's log-probabilities are equal bit for bit for all of them."""
import json
import math
import re

import support

# preset -> (architecture, attention, ffn)
FAMILIES = {
    "llama": ("llama", "gqa", "dense"),
    "qwen2": ("qwen2", "gqa", "dense"),
    "qwen3": ("qwen3", "gqa", "dense"),
    "qwen3-moe": ("qwen3_moe", "gqa", "moe"),
    "mixtral": ("mixtral", "gqa", "moe"),
    "v2": ("deepseek_v2", "mla", "moe"),
    "v32": ("deepseek_v32", "mla+dsa", "moe"),
    "tied": ("deepseek_v3", "mla", "moe"),
}
STEPS = 3
SFT_YAML = """\
run: {seed: 3}
model: {path: model}
data: {train: data/sft-worked.jsonl}
optim: {learning_rate: 3e-3, warmup_steps: 5}
sft: {batch_size: 8, max_steps: 30, output: sft}
log: {every_steps: 1}
"""
RUN_YAML = f"""\
run: {{name: rl, output_dir: runs, seed: 7, max_steps: {STEPS}}}
model: {{path: sft}}
data: {{train: data/train.jsonl}}
grpo: {{prompts_per_step: 4, num_generations: 4}}
rollout: {{max_completion_length: 24, workers: 2, threads: 1}}
optim: {{learning_rate: 1e-3}}
checkpoint: {{every_steps: 2, keep_last: 1}}
rewards:
  - {{name: length, source: "builtin:length", weight: 0.1}}
  - {{name: digit, source: "builtin:regex", config: {{pattern: "[0-9]"}}}}
"""


def made(name, preset):
    """A folder with data, the preset as model, sft.yaml and run.yaml."""
    folder = support.pathlib.Path(name)
    support.hone("data", "make", "modsum", "--out", folder / "data", "--train", 64, "--heldout", 16,
                 "--sft-worked", 64, "--sft-mix", 16, "--seed", 3, check=0)
    support.hone("model", "init", folder / "model", "--preset", preset, "--seed", 5, "--set", "initializer_range=0.1",
                 check=0)
    (folder / "sft.yaml").write_text(SFT_YAML)
    (folder / "run.yaml").write_text(RUN_YAML)
    return folder


def inspected(folder):
    return json.loads(support.hone("model", "inspect", folder, "--json", check=0).stdout)


def check_inspection(folder, preset):
    architecture, attention, ffn = FAMILIES[preset]
    seen = inspected(folder)
    assert (seen["architecture"], seen["attention"], seen["ffn"]) == (architecture, attention, ffn), seen
    assert seen["parameters"] == sum(math.prod(tensor["shape"]) for tensor in seen["tensors"]), preset
    assert seen["file_tensors"] == len(seen["tensors"]) and seen["file_dtypes"] == "F32", preset
    for rank in ("trainer_memory", "sampler_memory"):
        others = ("rows", "recomputes", "total", "waiting", "shared")
        kinds = {key: value for key, value in seen[rank].items() if key not in others}
        assert sum(kinds.values()) == seen[rank]["total"] >= seen[rank]["waiting"] > 0, seen[rank]
        # A worker keeps the packed copies; of the weights as they were only what is read unpacked.
        floats = kinds["weights"] + (kinds["packed"] if rank == "sampler_memory" else 0)
        assert floats >= 4 * seen["parameters"], seen[rank]
    # What the workers of one host hold together.
    sampler = seen["sampler_memory"]
    assert sampler["shared"] == sampler["weights"] + sampler["packed"] + sampler["received"], sampler
    assert {"gradients", "moments"} <= set(seen["trainer_memory"]) and "cache" in seen["sampler_memory"]


def check_sft(folder):
    done = support.hone("sft", "sft.yaml", cwd=folder, check=0)
    losses = [float(found) for found in re.findall(r"^step=\d+ .*?\bloss=([0-9.]+)", done.stdout, re.M)]
    assert len(losses) >= 10 and losses[-1] < 0.8 * losses[0], losses
    support.hone("model", "check", folder / "sft", check=0)


def check_run(folder):
    lines = [dict(word.split("=", 1) for word in line.split())
             for line in support.hone("run", "run.yaml", cwd=folder, check=0).stdout.splitlines()
             if line.startswith("step=")]
    assert [int(line["step"]) for line in lines] == list(range(1, STEPS + 1)), lines
    assert all(float(line["mismatch"]) == 0 for line in lines), lines
    run_dir = folder / "runs/rl"
    rows = support.query(run_dir, "SELECT mismatch_kl, ratio_max, n_tok FROM v_samples")
    assert len(rows) == 16 * STEPS and all(row[:2] == (0.0, 1.0) and row[2] > 0 for row in rows), rows[:3]
    assert len(set(support.digests(run_dir).values())) == STEPS, "the weights moved in every step"


def a_family_learns_and_is_aligned(preset):
    def test():
        with support.temporary() as name:
            folder = made(name, preset)
            check_inspection(folder / "model", preset)
            check_sft(folder)
            check_run(folder)
            check_inspection(folder / "sft", preset)
    test.__name__ = f"{preset}_learns_and_is_aligned"
    return test


def a_bias_that_the_router_does_not_have_is_refused():
    for preset, part in (("mixtral", "softmax router"), ("v2", "softmax router"), ("llama", "no experts")):
        with support.temporary() as name:
            folder = made(name, preset)
            for command, file in (("sft", "sft.yaml"), ("run", "run.yaml")):
                done = support.hone(command, file, "--set", "model.path=model", "--set",
                                    "model.router_bias_update=1e-3", cwd=folder, check=2)
                assert "model.router_bias_update is 0.001" in done.stderr and part in done.stderr, done.stderr
                assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def a_tensor_of_another_architecture_is_named():
    with support.temporary() as name:
        folder = made(name, "qwen3")
        path = folder / "model/config.json"
        config = json.loads(path.read_text())
        for change, part in (({"num_key_value_heads": 4}, "k_proj.weight is 32x32, the configuration wants 64x32"),
                             ({"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight is missing"),
                             ({"num_hidden_layers": 1}, "is not of this architecture"),
                             ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "_norm.weight is not of")):
            path.write_text(json.dumps({**config, **change}))
            done = support.hone("model", "inspect", folder / "model", check=5)
            assert part in done.stderr and len(done.stderr.strip().splitlines()) == 1, (part, done.stderr)


if __name__ == "__main__":
    support.main([*map(a_family_learns_and_is_aligned, FAMILIES), a_bias_that_the_router_does_not_have_is_refused,
                  a_tensor_of_another_architecture_is_named])
