#!/usr/bin/env python3
"""The same configuration gives the same samples and bitwise the same weights, however the work is cut."""
import re
import shutil

import support

VARIANTS = {
    "1 worker": ["rollout.workers=1"],
    "3 workers": ["rollout.workers=3"],
    "2 worker threads": ["rollout.threads=2", "rollout.workers=1"],
    "1 trainer thread": ["run.threads=1"],
    "2 trainer threads": ["run.threads=2"],
    "activations made again": ["optim.activation_checkpointing=layer"],
    "activations made again, micro-batches of 100 rows": ["optim.activation_checkpointing=layer", "optim.micro_batch_tokens=100"],
    "micro-batches of 2 groups": ["optim.micro_batch_tokens=100"],
    "prefill chunks of 16 rows": ["rollout.max_batch_tokens=16"],
    "3 sequences at once": ["rollout.max_num_seqs=3"],
    "no drafts": ["rollout.speculate=0"],
    "3 drafts at every batch": ["rollout.speculate=3", "rollout.spec_max_batch=1000"],
    "drafts of few sequences in few rows": ["rollout.speculate=2", "rollout.spec_max_batch=5", "rollout.max_batch_tokens=16",
                                            "rollout.max_num_seqs=7"],
    "portable instructions": ["run.device=cpu-portable"],
    "checkpoints at every step": ["checkpoint.every_steps=1"],
}

# Where a group is cut decides how its gradients round, unless its samples share nothing.
UNSHARED = ["optim.share_prompts=false"]
UNSHARED_VARIANTS = {
    "micro-batches of 1 sequence": ["optim.micro_batch_tokens=8"],
    "micro-batches of 50 rows": ["optim.micro_batch_tokens=50"],
}


def run_variant(folder, sets):
    shutil.rmtree(folder / "runs", ignore_errors=True)
    args = [word for s in sets for word in ("--set", s)]
    done = support.hone("run", "run.yaml", *args, cwd=folder, check=0)
    lines = [line for line in done.stdout.splitlines() if line.startswith("step=")]
    assert len(lines) == 4 and all(" mismatch=0 " in line for line in lines), done.stdout
    return support.digests(folder / "runs/rl"), support.samples(folder / "runs/rl")


def samples_and_weights_do_not_depend_on_how_work_is_cut():
    with support.temporary() as name:
        folder = support.small_run(name, steps=4)
        digests, samples = run_variant(folder, [])
        assert len(digests) == 4 and len(set(digests.values())) == 4, digests
        assert len(samples[0]) == 4 * 16
        for label, sets in VARIANTS.items():
            other_digests, other_samples = run_variant(folder, sets)
            assert other_samples == samples, f"{label}: other samples"
            assert other_digests == digests, f"{label}: other weights"
        unshared, _ = run_variant(folder, UNSHARED)
        assert unshared != digests, "shared prompts left every bit of the gradients alone"
        for label, sets in UNSHARED_VARIANTS.items():
            assert run_variant(folder, UNSHARED + sets)[0] == unshared, f"{label}: other weights"


def shared_prompts_change_gradients_by_rounding_alone():
    """The first step has the same samples either way, and nearly the same gradient."""
    with support.temporary() as name:
        folder = support.small_run(name, steps=4)
        first = []
        for sets in ([], UNSHARED, ["optim.micro_batch_tokens=20"]):
            _, (rows, tokens) = run_variant(folder, sets)
            groups = {row[0] for row in rows if row[6] == 1}
            norms = support.query(folder / "runs/rl", "SELECT value FROM v_metrics WHERE name = 'grad_norm' AND step = 1")
            first.append(([row for row in tokens if row[0] in groups], norms[0][0]))
        assert len(first[0][0]) == 16 and first[0][0] == first[1][0] == first[2][0], first
        assert all(abs(norm / first[0][1] - 1) < 1e-5 for _, norm in first), first


def a_run_with_shared_prompts_keeps_its_micro_batches():
    with support.temporary() as name:
        folder = support.small_run(name, steps=2)
        support.hone("run", "run.yaml", cwd=folder, check=0)
        other = ["--set", "run.max_steps=3", "--set", "optim.micro_batch_tokens=50"]
        done = support.hone("run", "run.yaml", *other, cwd=folder)
        support.assert_other_settings(done)
        shutil.rmtree(folder / "runs")
        support.hone("run", "run.yaml", "--set", UNSHARED[0], cwd=folder, check=0)
        support.hone("run", "run.yaml", "--set", UNSHARED[0], *other, cwd=folder, check=0)


LONG = ["rollout.max_completion_length=190", "data.max_prompt_length=32", "rollout.workers=1", "rollout.max_num_seqs=32",
        "grpo.prompts_per_step=8", "grpo.num_generations=8"]


def words(sets):
    return [word for s in sets for word in ("--set", s)]


def cache_bytes(folder, sets, n_extra):
    """Of one sequence and n_extra pages."""
    told = support.hone("run", "run.yaml", *words([*LONG, *sets, "rollout.kv_cache_bytes=1"]), cwd=folder, check=2).stderr
    page_bytes, n_pages = map(int, re.search(r"pages of (\d+) bytes, one sequence needs (\d+)", told).groups())
    return page_bytes * (n_pages + n_extra)


def run_long(folder, sets):
    """Digests, samples, and what sampling came to, of a run whose completions fill several pages."""
    shutil.rmtree(folder / "runs", ignore_errors=True)
    done = support.hone("run", "run.yaml", *words([*LONG, *sets]), cwd=folder, check=0)
    assert done.stdout.count(" mismatch=0 ") == 2, done.stdout
    run_dir = folder / "runs/rl"
    counts = support.query(run_dir, "SELECT sum(tokens), sum(drafts), sum(preempted), sum(resumed_tokens), "
                                    "sum(prompt_tokens) FROM v_sampling")[0]
    assert counts[0] == support.query(run_dir, "SELECT sum(n_tok) FROM samples")[0][0], counts
    assert counts[4] > 0, counts
    return (support.digests(run_dir), support.samples(run_dir)), counts[1:4]


def samples_that_are_put_off_stay_exact():
    """A cache that holds one sequence and little more: computed anew, they are the same, and the trainer agrees."""
    with support.temporary() as name:
        folder = support.small_run(name, steps=2)
        roomy, counts = run_long(folder, ["rollout.speculate=0"])
        assert counts == (0, 0, 0), counts
        for n_extra, sets in ((0, ["rollout.speculate=0"]), (1, ["rollout.speculate=2", "rollout.spec_max_batch=1000"]),
                              (2, ["rollout.max_batch_tokens=16", "rollout.threads=2"])):
            size = cache_bytes(folder, sets, n_extra)
            tight, counts = run_long(folder, [*sets, f"rollout.kv_cache_bytes={size}"])
            assert counts[1] > 0 and counts[2] > counts[1], counts
            assert counts[0] > 0 or "rollout.speculate=2" not in sets, counts
            assert tight == roomy, sets
        for sets in (["model.dtype=bf16"], ["model.dtype=fp8"], ["model.kv_cache_dtype=fp8"]):
            roomy, _ = run_long(folder, sets)
            tight, counts = run_long(folder, [*sets, f"rollout.kv_cache_bytes={cache_bytes(folder, sets, 1)}"])
            assert counts[1] > 0 and tight == roomy, (sets, counts)


def several_updates_and_a_reference_stay_exact():
    """Two passes over two parts, KL to the reference, filters off: the log-probabilities before the first update still agree."""
    with support.temporary() as name:
        folder = support.small_run(name, steps=3)
        done = support.hone("run", "run.yaml", "--set", "run.max_steps=3", "--set", "grpo.num_iterations=2",
                            "--set", "grpo.num_minibatches=2", "--set", "grpo.beta=0.05",
                            "--set", "grpo.loss_type=grpo", cwd=folder, check=0)
        assert done.stdout.count(" mismatch=0 ") == 3, done.stdout
        kl = support.query(folder / "runs/rl", "SELECT kl FROM steps ORDER BY step")
        assert kl[0][0] >= 0 and kl[-1][0] > 0, kl


def filters_and_temperature_stay_exact():
    """The trainer evaluates the truncated, tempered distribution that the sampler drew from."""
    with support.temporary() as name:
        folder = support.small_run(name, steps=3)
        for sets in (["rollout.temperature=0.7"], ["rollout.top_k=5"], ["rollout.top_p=0.8"], ["rollout.min_p=0.05"],
                     ["rollout.temperature=1.3", "rollout.top_k=20", "rollout.top_p=0.9", "rollout.min_p=0.01"]):
            shutil.rmtree(folder / "runs", ignore_errors=True)
            args = [word for s in sets for word in ("--set", s)]
            done = support.hone("run", "run.yaml", *args, cwd=folder, check=0)
            assert done.stdout.count(" mismatch=0 ") == 3, (sets, done.stdout)


if __name__ == "__main__":
    support.main([samples_and_weights_do_not_depend_on_how_work_is_cut, shared_prompts_change_gradients_by_rounding_alone,
                  a_run_with_shared_prompts_keeps_its_micro_batches, samples_that_are_put_off_stay_exact,
                  several_updates_and_a_reference_stay_exact, filters_and_temperature_stay_exact])
