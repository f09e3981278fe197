#!/usr/bin/env python3
"""In bf16 and FP8 as in fp32: what the sampler drew is what the trainer computes, bit for bit, however the work is cut
(but not into micro-batches: gradients there are sums over pairs of rows)."""
import json
import shutil

import support

CUTS = {
    "3 workers": ["rollout.workers=3"],
    "2 worker threads, 1 trainer thread": ["rollout.threads=2", "rollout.workers=1", "run.threads=1"],
    "activations made again": ["optim.activation_checkpointing=layer"],
    "prefill chunks of 16 rows, 3 sequences at once": ["rollout.max_batch_tokens=16", "rollout.max_num_seqs=3"],
    "no drafts": ["rollout.speculate=0"],
    "without the bf16 instruction": ["run.device=cpu-avx2"],
    "portable instructions": ["run.device=cpu-portable"],
}


def run_variant(folder, dtype, sets):
    shutil.rmtree(folder / "runs", ignore_errors=True)
    args = [word for s in [f"model.dtype={dtype}", *sets] for word in ("--set", s)]
    done = support.hone("run", "run.yaml", *args, cwd=folder, check=0)
    lines = [line for line in done.stdout.splitlines() if line.startswith("step=")]
    assert len(lines) == 3 and all(" mismatch=0 " in line for line in lines), done.stdout
    return support.digests(folder / "runs/rl"), support.samples(folder / "runs/rl")


def samples_and_weights_do_not_depend_on_how_work_is_cut():
    with support.temporary() as name:
        folder = support.small_run(name, steps=3)
        seen = [run_variant(folder, "fp32", [])]
        for dtype in ("bf16", "fp8"):
            first = run_variant(folder, dtype, [])
            assert first not in seen, f"{dtype}: the bits of another precision"
            seen.append(first)
            for label, sets in CUTS.items():
                assert run_variant(folder, dtype, sets) == first, f"{dtype}, {label}"


def a_cache_of_another_precision_is_exact_too():
    cuts = ["3 workers", "prefill chunks of 16 rows, 3 sequences at once", "portable instructions"]
    with support.temporary() as name:
        folder = support.small_run(name, steps=3)
        seen = [run_variant(folder, dtype, []) for dtype in ("fp32", "bf16", "fp8")]
        for dtype, cache in (("fp32", "bf16"), ("bf16", "fp32"), ("fp32", "fp8"), ("fp8", "fp8")):
            first = run_variant(folder, dtype, [f"model.kv_cache_dtype={cache}"])
            assert first not in seen, f"{dtype}: the bits of another cache"
            seen.append(first)
            for label in cuts:
                sets = [f"model.kv_cache_dtype={cache}", *CUTS[label]]
                assert run_variant(folder, dtype, sets) == first, f"{dtype}, cache {cache}, {label}"


def one_precision_does_not_go_on_with_another():
    with support.temporary() as name:
        folder = support.small_run(name, steps=2)
        support.hone("run", "run.yaml", "--set", "model.dtype=bf16", cwd=folder, check=0)
        done = support.hone("run", "run.yaml", "--set", "model.dtype=fp8", cwd=folder)
        support.assert_other_settings(done)
        done = support.hone("run", "run.yaml", "--set", "model.dtype=bf16", "--set", "model.kv_cache_dtype=fp32", cwd=folder)
        support.assert_other_settings(done)
        support.hone("run", "run.yaml", "--set", "model.dtype=bfloat16", cwd=folder, check=2)
        support.hone("run", "run.yaml", "--set", "model.kv_cache_dtype=int8", cwd=folder, check=2)


def generate_takes_a_precision():
    with support.temporary() as name:
        folder = support.small_run(name, steps=1)
        seen = []
        for dtype in ("fp32", "bf16", "fp8"):
            args = ["generate", "model", "--prompt", "1+2=", "--raw", "--dtype", dtype, "--logprobs", "--max-tokens", "4"]
            done = support.hone(*args, cwd=folder, check=0)
            assert json.loads(done.stdout) == json.loads(support.hone(*args, "--threads", 1, cwd=folder, check=0).stdout)
            seen.append(json.loads(done.stdout)["logprobs"])
        assert seen[0] != seen[1] != seen[2] != seen[0], seen
        args = ["generate", "model", "--prompt", "1+2=", "--raw", "--dtype", "bf16", "--logprobs", "--max-tokens", "4"]
        caches = [json.loads(support.hone(*args, "--kv-cache-dtype", cache, cwd=folder, check=0).stdout)["logprobs"]
                  for cache in ("auto", "bf16", "fp32", "fp8")]
        assert caches[0] == caches[1] == seen[1] != caches[2] != caches[3] != caches[1], caches
        support.hone("generate", "model", "--prompt", "1", "--dtype", "f16", cwd=folder, check=2)
        support.hone("generate", "model", "--prompt", "1", "--kv-cache-dtype", "f16", cwd=folder, check=2)


if __name__ == "__main__":
    support.main([samples_and_weights_do_not_depend_on_how_work_is_cut, a_cache_of_another_precision_is_exact_too,
                  one_precision_does_not_go_on_with_another, generate_takes_a_precision])
