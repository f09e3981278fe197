#!/usr/bin/env python3
"""The balance losses in real runs: bits do not depend on the cut, the numbers are in the database."""
import json
import shutil

import support

LOSSES = ("batch", "layer", "sequence", "sequence_routed")
STEPS = 3


def run(folder, *sets):
    """Digests of the weights, and [(loss, max/mean - 1)] a step as SQL tells them."""
    shutil.rmtree(folder / "runs", ignore_errors=True)
    done = support.hone("run", "run.yaml", *[word for s in sets for word in ("--set", s)], cwd=folder, check=0)
    assert done.stdout.count(" mismatch=0 ") == STEPS, done.stdout
    run_dir = folder / "runs/rl"
    rows = support.query(run_dir, "SELECT l.value, v.value FROM v_metrics v LEFT JOIN v_metrics l "
                                  "ON l.step = v.step AND l.name = 'moe/balance_loss' "
                                  "WHERE v.name = 'moe/max_violation' ORDER BY v.step")
    assert len(rows) == STEPS, rows
    return support.digests(run_dir), rows


def a_run_logs_its_balance_loss_whatever_the_micro_batches():
    with support.temporary() as name:
        folder = support.small_run(name, steps=STEPS)
        plain, rows = run(folder)
        assert all(loss is None and violation > 0 for loss, violation in rows), rows
        seen = {tuple(plain.values())}
        for loss in LOSSES:
            sets = (f"model.router_aux_loss={loss}", "model.router_aux_loss_coef=0.1")
            digests, rows = run(folder, *sets)
            assert all(value > 0.5 for value, _ in rows), rows
            for cut in ("optim.micro_batch_tokens=100", "run.threads=1"):  # no group is cut
                assert run(folder, *sets, cut) == (digests, rows), (loss, cut)
            unshared = run(folder, *sets, "optim.share_prompts=false")
            assert (unshared[0] == digests) == loss.startswith("sequence"), loss
            assert run(folder, *sets, "optim.share_prompts=false", "optim.micro_batch_tokens=8") == unshared, loss
            seen.add(tuple(digests.values()))
        assert len(seen) >= len(LOSSES), seen  # one layer of experts: batch and layer are the same there


def sft_prints_its_balance_loss():
    with support.temporary() as name:
        folder = support.small_run(name)
        (folder / "sft.yaml").write_text("model: {path: model, router_aux_loss: sequence, router_aux_loss_coef: 0.01}\n"
                                         "sft: {batch_size: 4, max_steps: 2, output: out}\n")
        sft = next(path for path in sorted(folder.glob("data/*.jsonl")) if "sft" in path.name)
        done = support.hone("sft", "sft.yaml", "--json", "--set", f"data.train={sft}", cwd=folder, check=0)
        steps = [json.loads(line) for line in done.stdout.splitlines()]
        losses = [step["balance_loss"] for step in steps if "balance_loss" in step]
        assert len(losses) >= 2 and min(losses) > 0.5, done.stdout


if __name__ == "__main__":
    support.main([a_run_logs_its_balance_loss_whatever_the_micro_batches, sft_prints_its_balance_loss])
