#!/usr/bin/env python3
"""Sampling without a run: hone generate from a prompt, a file, standard input and a terminal; hone eval; hone bench."""
import json
import math
import os
import pty
import select
import signal
import subprocess
import time

import support

PROMPTS = ["12=", "345=", "6=", "7890=", "1=", "22="]


def demo(name):
    """A folder with an untrained demo model and rows."""
    support.hone("model", "init", f"{name}/model", "--preset", "demo", "--seed", 5, check=0)
    write_rows(f"{name}/rows.jsonl", [{"prompt": prompt, "answer": str(len(prompt) % 10), "data_source": source}
                                      for prompt, source in zip(PROMPTS, ["odd", "even"] * 3)])
    return name


def write_rows(path, rows):
    with open(path, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def generate(folder, *args, **options):
    return support.hone("generate", "model", *args, cwd=folder, **options)


def objects(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def fails(done, code, part):
    assert done.returncode == code, f"exit {done.returncode}, wanted {code}: {done.stderr}"
    assert done.stderr.count("\n") == 1 and part in done.stderr, f"{done.stderr!r} lacks {part!r}"
    assert not done.stdout, done.stdout


def fed(folder, text, *args):
    """hone generate with text on standard input."""
    return subprocess.run([support.HONE, "generate", "model", *map(str, args)], cwd=folder, input=text, text=True,
                          capture_output=True, timeout=60)


# --- What comes out ---


def rows_come_from_a_file_from_stdin_and_from_prompts_alike():
    with support.temporary() as name:
        folder = demo(name)
        done = generate(folder, "--file", "rows.jsonl", "--max-tokens", 6, "--logprobs", check=0)
        rows = objects(done)
        assert [row["row"] for row in rows] == list(range(6)) and not done.stderr, done
        assert all(set(row) == {"row", "sample", "text", "prompt_ids", "ids", "logprobs", "finish"} for row in rows)
        assert all(row["finish"] in ("stop", "length") and len(row["ids"]) == len(row["logprobs"]) <= 6 for row in rows)
        assert all((row["finish"] == "stop") == (row["ids"][-1] == 1) for row in rows), rows
        assert rows[0]["prompt_ids"] == [0, 4, 5, 13], rows[0]
        text = "\ufeff" + "\r\n\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS)  # as editors leave it
        piped = fed(folder, text, "--file", "-", "--max-tokens", 6, "--logprobs")
        assert piped.stdout == done.stdout, piped
        messages = [{"messages": [{"role": "user", "content": prompt}]} for prompt in PROMPTS]
        write_rows(f"{folder}/messages.jsonl", messages)
        other = generate(folder, "--file", "messages.jsonl", "--max-tokens", 6, "--logprobs", check=0)
        assert other.stdout == done.stdout, other.stdout
        one = generate(folder, "--prompt", PROMPTS[0], "--max-tokens", 6, "--logprobs", "--json", check=0)
        assert objects(one) == rows[:1]
        plain = objects(generate(folder, "--file", "rows.jsonl", "--max-tokens", 6, check=0))
        assert all("logprobs" not in row for row in plain) and [r["ids"] for r in plain] == [r["ids"] for r in rows]
        text = fed(folder, PROMPTS[0] + "\n", "--max-tokens", 6)
        assert text.stdout == rows[0]["text"].replace("\\", "\\\\") + "\n", text


def results_do_not_depend_on_how_they_are_batched():
    with support.temporary() as name:
        folder = demo(name)
        args = ["--file", "rows.jsonl", "--n", 5, "--max-tokens", 20, "--logprobs", "--seed", 9]
        want = generate(folder, *args, check=0).stdout
        seen = [(row["row"], row["sample"]) for row in map(json.loads, want.splitlines())]
        assert seen == [(row, sample) for row in range(6) for sample in range(5)], seen
        assert len({row["text"] for row in map(json.loads, want.splitlines())}) > 20
        for other in (["--batch", 1], ["--batch", 7], ["--threads", 1], ["--device", "cpu-portable"]):
            assert generate(folder, *args, *other, check=0).stdout == want, other
        assert generate(folder, *args[:-1], 10, check=0).stdout != want
        few = generate(folder, "--file", "rows.jsonl", "--n", 2, *args[4:], check=0).stdout
        assert few.splitlines() == [line for line in want.splitlines() if json.loads(line)["sample"] < 2]


def samples_are_those_of_a_run():
    """Rows in file order with the run's seed: the first step's samples, log-probabilities as the trainer verified them, bit for bit."""
    with support.temporary() as name:
        folder = support.small_run(name, steps=1)
        done = support.hone("run", "run.yaml", "--set", "data.shuffle=false", cwd=folder, check=0)
        assert " mismatch=0 " in done.stdout, done.stdout
        stored = support.hone("db", "query", "runs/rl", "SELECT s.group_id, s.idx, t.id, t.logp FROM samples s, "
                              "tokens(s.sample_id) t WHERE NOT t.is_prompt ORDER BY 1, 2, t.pos", "--json", cwd=folder,
                              check=0)
        want = [(t["group_id"], t["idx"], t["id"], t["logp"]) for t in objects(stored)]
        lines = (folder / "data/train.jsonl").read_text().splitlines()[:4]
        (folder / "first.jsonl").write_text("\n".join(lines))
        done = generate(folder, "--file", "first.jsonl", "--n", 4, "--seed", 7, "--max-tokens", 12, "--logprobs", check=0)
        seen = [(row["row"] + 1, row["sample"], token, logp) for row in objects(done)
                for token, logp in zip(row["ids"], row["logprobs"])]
        assert len(seen) > 100 and seen == want, (seen, want)


def greedy_logprobs_are_the_models_own():
    """At temperature 0 the log-probabilities are those that a draw at temperature 1 of the same tokens has, bit for bit."""
    with support.temporary() as name:
        folder = demo(name)
        greedy = objects(generate(folder, "--file", "rows.jsonl", "--temperature", 0, "--max-tokens", 12, "--logprobs",
                                  check=0))
        drawn = objects(generate(folder, "--file", "rows.jsonl", "--n", 200, "--max-tokens", 3, "--logprobs", check=0))
        n_compared = 0
        for sample in drawn:
            row = greedy[sample["row"]]
            for i, token in enumerate(sample["ids"]):
                if token != row["ids"][i]:
                    break
                assert sample["logprobs"][i] == row["logprobs"][i], (sample, row)
                n_compared += 1
        assert n_compared > 50, n_compared
        assert all(logprob < 0 for row in greedy for logprob in row["logprobs"])
        again = objects(generate(folder, "--file", "rows.jsonl", "--temperature", 0, "--max-tokens", 12, "--n", 2,
                                 "--batch", 3, "--logprobs", check=0))
        assert [row["logprobs"] for row in again[::2]] == [row["logprobs"] for row in greedy]
        write(f"{folder}/eval.yaml",
            'model: {path: model}\ndata: {eval: rows.jsonl}\nrollout: {max_completion_length: 12}\n'
            'rewards: [{name: right, source: "builtin:exact"}]\n')
        support.hone("eval", "eval.yaml", "--out", "samples.jsonl", cwd=folder, check=0)
        seen = [json.loads(line) for line in open(f"{folder}/samples.jsonl")]
        assert [s["ids"] for s in seen] == [row["ids"] for row in greedy], seen
        assert [s["text"] for s in seen] == [row["text"] for row in greedy], seen


def text_streams_as_whole_characters():
    given = support.shared()
    if given is None or not (given / "data/qwen3-tokenizer").is_dir():
        return support.SKIP
    with support.temporary() as name:
        support.hone("model", "init", f"{name}/model", "--preset", "tiny", "--tokenizer", given / "data/qwen3-tokenizer",
                     "--seed", 3, check=0)
        args = ["--prompt", "Grüße 你好", "--max-tokens", 120, "--seed", 4]
        row = objects(generate(name, *args, "--json", check=0))[0]
        child = subprocess.Popen([support.HONE, "generate", "model", *map(str, args)], cwd=name, stdout=subprocess.PIPE)
        chunks = []
        while chunk := os.read(child.stdout.fileno(), 65536):
            chunks.append(chunk.decode())  # a torn character would not decode
        assert child.wait(30) == 0 and len(chunks) > 20, len(chunks)
        text = "".join(chunks)
        assert max(map(ord, text)) > 0x2000 and text.endswith("\n")
        assert all(c in "\n\t" or c.isprintable() or ord(c) > 0x7f for c in text), text
        plain = [part for part in row["text"].split() if part.isalpha() and part.isascii()]
        assert plain and all(part in text for part in plain), (row["text"], text)
        assert row["finish"] == "length" and len(row["ids"]) == 120


# --- Mistakes ---

BAD_ROWS = [('{"prompt": ', "bad.jsonl:2:"), ("[1]", "bad.jsonl:2: want"), ("{}", "bad.jsonl:2: want"),
            ('{"prompt": 5}', "bad.jsonl:2: want"), ('{"messages": "x"}', "bad.jsonl:2: want"),
            ('{"prompt": "1", "messages": []}', "one of them"), ('{"prompt": ""}', "empty"),
            ('{"prompt": "1", "prompt": "2"}', "bad.jsonl:2:"), ('{"messages": []}', "empty"),
            ('{"messages": [{"role": "robot", "content": "1"}]}', "robot"), ('{"prompt": "§"}', "vocabulary"),
            ('{"messages": [{"role": "user"}]}', "bad.jsonl:2"), ('{"prompt": "' + "1" * 5000 + '"}', "positions")]


def bad_rows_cost_nothing_and_name_their_line():
    with support.temporary() as name:
        folder = demo(name)
        for bad, part in BAD_ROWS:
            with open(f"{folder}/bad.jsonl", "w") as file:
                file.write('{"prompt": "1="}\n' + bad + "\n")
            fails(generate(folder, "--file", "bad.jsonl"), 5, part)
            fails(fed(folder, '{"prompt": "1="}\n' + bad, "--file", "-"), 5, part.replace("bad.jsonl", "(standard input)"))
        with open(f"{folder}/bad.jsonl", "wb") as file:
            file.write(b'{"prompt": "\xff"}\n')
        fails(generate(folder, "--file", "bad.jsonl"), 5, "bad.jsonl:1:")


def wrong_words_are_usage():
    with support.temporary() as name:
        folder = demo(name)
        open(f"{folder}/empty.jsonl", "w").close()
        for args, part in ((["--prompt", "1", "--file", "rows.jsonl"], "not both"), (["--prompt", ""], "empty"),
                           (["--prompt", "§"], "vocabulary"), (["--file", "absent.jsonl"], "absent.jsonl"),
                           (["--file", "empty.jsonl"], "no rows"), (["--prompt", "1", "--n", 0], '"0"'),
                           (["--prompt", "1", "--max-tokens", "many"], "many"),
                           (["--prompt", "1", "--max-tokens", 5000], "positions"),
                           (["--prompt", "1", "--temperature", -1], "-1"), (["--prompt", "1", "--top-p", 2], "2"),
                           (["--prompt", "1", "--chat", "klingon"], "klingon"), (["--prompt", "1", "--batch", 0], '"0"'),
                           (["--frompt", "1"], "--frompt"), ([], "empty")):
            fails(generate(folder, *args), 2, part)
        fails(support.hone("generate", "absent", "--prompt", "1", cwd=folder), 2, "absent")
        os.remove(f"{folder}/model/tokenizer.json")
        fails(generate(folder, "--prompt", "1"), 5, "tokenizer.json")


# --- Signals and terminals ---


def an_interrupted_file_keeps_what_is_complete():
    with support.temporary() as name:
        folder = demo(name)
        write_rows(f"{folder}/many.jsonl", [{"prompt": f"{i}="} for i in range(4000)])
        args = ["--max-tokens", 200, "--batch", 8]
        child = subprocess.Popen([support.HONE, "generate", "model", "--file", "many.jsonl", *map(str, args)], cwd=folder,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        first = child.stdout.readline()
        child.send_signal(signal.SIGINT)
        rest, error = child.communicate(timeout=30)
        lines = (first + rest).splitlines()
        assert child.returncode == 130 and not error, (child.returncode, error)
        rows = [json.loads(line)["row"] for line in lines]
        assert 0 < len(rows) < 4000 and rows == sorted(rows), rows
        write_rows(f"{folder}/few.jsonl", [{"prompt": f"{i}="} for i in range(max(rows) + 1)])
        want = generate(folder, "--file", "few.jsonl", *args, check=0).stdout.splitlines()
        assert lines == [want[row] for row in rows]


def a_reader_that_stands_still_gets_whole_lines():
    """The signal comes while the pipe is full: nothing is cut, and it is an interruption, not a failure of the output."""
    with support.temporary() as name:
        folder = demo(name)
        write_rows(f"{folder}/many.jsonl", [{"prompt": f"{i}="} for i in range(4000)])
        child = subprocess.Popen([support.HONE, "generate", "model", "--file", "many.jsonl", "--max-tokens", "200"], cwd=folder,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(1.5)
        child.send_signal(signal.SIGINT)
        time.sleep(0.3)
        text, error = child.communicate(timeout=60)
        assert child.returncode == 130 and not error, (child.returncode, error)
        assert text.endswith("\n") and all(json.loads(line)["ids"] for line in text.splitlines()), text[-200:]


class Terminal:
    """hone generate on a terminal of its own."""

    def __init__(self, folder, *args):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execv(support.HONE, [support.HONE, "generate", "model", *map(str, args)])
        self.text = ""

    def expect(self, is_there, what):
        """Reads until is_there(text)."""
        deadline = time.monotonic() + 30
        while not is_there(self.text):
            assert time.monotonic() < deadline, f"no {what}: {self.text!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                self.text += os.read(self.fd, 65536).decode(errors="replace")

    def type(self, text):
        """Waits for the prompt, types, and waits for the next prompt."""
        self.expect(lambda seen: seen.endswith("> "), "prompt")
        n = self.text.count("> ")
        os.write(self.fd, text.encode())
        return n

    def exit_code(self):
        try:
            while os.read(self.fd, 65536):
                pass
        except OSError:
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def a_terminal_holds_a_conversation():
    with support.temporary() as name:
        folder = demo(name)
        terminal = Terminal(folder, "--max-tokens", 4, "--temperature", 0)
        terminal.type("12=\n")
        terminal.expect(lambda text: text.count("\n> ") == 2, "answer")
        terminal.type("§\n")
        terminal.expect(lambda text: "vocabulary" in text and text.endswith("> "), "refusal")
        terminal.type("/new\n")
        terminal.expect(lambda text: text.endswith("/new\r\n> "), "fresh start")
        terminal.type("12=\n")
        terminal.expect(lambda text: text.count("12=\r\n") == 2 and text.endswith("\n> "), "second answer")
        want = generate(folder, "--prompt", "12=", "--max-tokens", 4, "--temperature", 0, check=0).stdout.strip()
        assert terminal.text.count(want) == 2, (want, terminal.text)
        terminal.type("\x04")
        assert terminal.exit_code() == 0
        terminal = Terminal(folder, "--max-tokens", 4000)
        terminal.type("\x03")
        assert terminal.exit_code() == 130
        terminal = Terminal(folder, "--json")
        assert terminal.exit_code() == 2


# --- hone eval ---


def pass_at_k_is_that_of_the_samples():
    with support.temporary() as name:
        folder = demo(name)
        args = ["eval", "eval.yaml", "-n", 6, "--temperature", 1, "--out", "samples.jsonl"]
        write(f"{folder}/eval.yaml",
            'model: {path: model}\ndata: {eval: rows.jsonl}\nrollout: {max_completion_length: 8}\n'
            'rewards: [{name: digit, source: "builtin:regex", config: {pattern: "[0-9]"}}]\n')
        seen = json.loads(support.hone(*args, "-k", "1,2,6", "--json", cwd=folder, check=0).stdout)
        samples = [json.loads(line) for line in open(f"{folder}/samples.jsonl")]
        assert [(s["row"], s["sample"]) for s in samples] == [(row, i) for row in range(6) for i in range(6)]
        assert seen["rows"] == 6 and seen["samples"] == 36 and 0 < seen["pass"] < 1, seen
        for label, rows in (("all", range(6)), ("odd", range(0, 6, 2)), ("even", range(1, 6, 2))):
            given = seen if label == "all" else seen["sources"][label]
            chosen = [s for s in samples if s["row"] in rows]
            for k in (1, 2, 6):
                passed = [sum(s["passed"] for s in chosen if s["row"] == row) for row in rows]
                want = sum(1 - math.comb(6 - c, k) / math.comb(6, k) for c in passed) / len(rows)
                assert abs(given[f"pass@{k}"] - want) < 1e-12, (label, k, given, want)
            assert abs(given["length"] - sum(len(s["ids"]) for s in chosen) / len(chosen)) < 1e-12
            assert abs(given["reward"] - sum(s["reward"] for s in chosen) / len(chosen)) < 1e-12
        for sample in samples:
            assert sample["passed"] == any(c.isdigit() for c in sample["text"]) == (sample["scores"]["digit"] == 1.0)
            assert sample["prompt"] == "<bos>" + PROMPTS[sample["row"]] and sample["line"] == sample["row"] + 1
            assert sample["source"] == ("even" if sample["row"] % 2 else "odd")
        table = support.hone(*args, cwd=folder, check=0).stdout
        assert all(f"pass@{k}" in table for k in (1, 2, 4, 6)) and "\nodd " in table, table
        whole = json.loads(support.hone(*args, "--json", "--set", "rollout.max_num_seqs=2", cwd=folder, check=0).stdout)
        assert whole["pass@2"] == seen["pass@2"]


def a_model_folder_is_evaluated_without_a_configuration():
    with support.temporary() as name:
        folder = demo(name)
        seen = json.loads(support.hone("eval", "model", "--file", "rows.jsonl", "--reward", "builtin:exact",
                                       "--max-tokens", 5, "--json", cwd=folder, check=0).stdout)
        assert seen["rows"] == 6 and seen["components"]["score"]["ok"] == 6 and "pass@1" in seen, seen
        for args, part in ((["model", "--file", "rows.jsonl"], "rewards"),
                           (["model", "--reward", "builtin:exact"], "data.eval"),
                           (["model", "--model", "model"], "--model"),
                           (["model", "--file", "absent", "--reward", "builtin:exact"], "absent"),
                           (["model", "--file", "rows.jsonl", "--reward", "builtin:exakt"], "exakt"),
                           (["model", "--file", "rows.jsonl", "--reward", "builtin:exact", "-n", "x"], "num_generations"),
                           (["model", "--file", "rows.jsonl", "--reward", "builtin:exact", "-k", "2", "--max-tokens", 9],
                            "--k 2"),
                           (["model", "--file", "rows.jsonl", "--reward", "builtin:exact", "--max-tokens", 9, "--out",
                             "absent/x"], "absent/x")):
            done = support.hone("eval", *args, "--set", "log.level=warn", cwd=folder)
            fails(done, 2, part)


# --- hone bench ---


def bench_measures_loading_and_tokenizing():
    with support.temporary() as name:
        folder = demo(name)
        done = support.hone("bench", "tokenize", "load", "--model", "model", "--json", cwd=folder, check=0)
        rows = objects(done)
        assert [row["bench"] for row in rows] == ["load", "tokenize", "tokenize"], rows
        assert rows[0]["gb_per_s"] > 0 and 0 < rows[0]["share"] and rows[1]["mb_per_s"] > 0, rows
        assert rows[1]["name"].startswith("tokenize demo") and rows[2]["name"].startswith("tokenize model"), rows
        fails(support.hone("bench", "nothing"), 2, "nothing")
        fails(support.hone("bench", "--model", "absent"), 2, "absent")


def bench_measures_models_of_a_preset_and_of_a_folder():
    with support.temporary() as name:
        folder = demo(name)
        for which, label in ((["--preset", "tiny"], "tiny"), (["--model", "model"], "model")):
            done = support.hone("bench", "engine", "train", *which, "--batch", 1, "--batch", 3, "--seconds", "0.01", "--json",
                                cwd=folder, check=0)
            rows = objects(done)
            assert [(row["bench"], row["batch"]) for row in rows] == [("prefill", 1), ("prefill", 8), ("decode", 1), ("decode", 3),
                                                                      ("train", 16), ("logprob", 16)], rows
            for row in rows:
                assert row["preset"] == label and row["dtype"] == "fp32" and row["context"] == 128, row
                assert row["tokens_per_s"] > 0 and 0 < row["share_of_peak"] < 1.2, row
                assert row["gflop_per_s"] > 0 and row["gb_per_s"] > 0 and row["peak_gflop_per_s"] > row["gflop_per_s"] / 1.2, row
        rows = objects(support.hone("bench", "engine", "--preset", "tiny", "--batch", 2, "--context", 40, "--kv-cache-dtype", "fp8",
                                    "--seconds", "0.01", "--json", check=0))
        assert [(row["bench"], row["context"]) for row in rows] == [("prefill", 40), ("prefill", 40), ("decode", 40)], rows
        for wrong, part in ((["--preset", "huge"], "demo, small, medium"), (["--batch", "0"], "--batch"), (["--dtype", "int3"], "--dtype"),
                            (["--seconds", "0"], "--seconds"), (["--context", "31"], "--context"),
                            (["--preset", "tiny", "--context", "1000000"], "positions")):
            fails(support.hone("bench", "engine", *wrong), 2, part)


def bench_tells_what_drafts_are_worth():
    """The same answers with and without them, or it fails; on the model's own prompts."""
    with support.temporary() as name:
        folder = demo(name)
        args = ["bench", "engine", "--model", "model", "--prompts", "rows.jsonl", "--seconds", "0.01", "--max-tokens", 9]
        rows = objects(support.hone(*args, "--json", cwd=folder, check=0))
        assert [(row["bench"], row["batch"], row["drafts_max"]) for row in rows] == [("speculate", 1, 4), ("speculate", 8, 4)], rows
        for row in rows:
            assert row["preset"] == "model" and row["dtype"] == "fp32" and row["prompts"] % row["batch"] == 0, row
            assert row["tokens_per_s"] > 0 and row["plain_tokens_per_s"] > 0 and 0 < row["share_of_peak"] < 1.2, row
            assert abs(row["speedup"] - row["tokens_per_s"] / row["plain_tokens_per_s"]) < 1e-6, row
            assert 0 <= row["acceptance"] <= 1 <= row["tokens_per_turn"] and row["drafts"] >= row["drafts_right"], row
            assert row["prompts"] <= row["tokens"] <= 9 * row["prompts"], row
        text = support.hone(*args, "--batch", 3, "--speculate", 2, "--dtype", "bf16", cwd=folder, check=0).stdout
        assert "batch 3" in text and "up to 2" in text and "drafts right" in text, text
        support.hone("model", "init", f"{name}/plain", "--preset", "demo", "--set", "num_nextn_predict_layers=0", check=0)
        for wrong, code, part in ((["--model", "plain"], 2, "no MTP module"), (["--prompts", "absent"], 2, "absent"),
                                  (["--speculate", 0], 2, "--speculate"), (["--max-tokens", 0], 2, "--max-tokens")):
            fails(support.hone(*args, *wrong, "--json", cwd=folder), code, part)
        fails(support.hone("bench", "train", "--prompts", "rows.jsonl", "--model", "model", cwd=folder), 2, "--prompts")
        fails(support.hone("bench", "engine", "--prompts", "rows.jsonl", cwd=folder), 2, "--model")


def bench_measures_kernels():
    rows = objects(support.hone("bench", "kernels", "--json", check=0))
    products = [row for row in rows if row["bench"] == "gemm"]
    assert len(products) > 4, rows
    for row in products:
        assert row["preset"] is None and row["dtype"] and row["batch"] > 0 and row["tokens_per_s"] > 0, row
        assert 0 < row["share_of_peak"] < (1.2 if row["unit"] == "GFLOP/s" else 9) and row.get("gflop_per_s", row.get("gb_per_s")) > 0, row


if __name__ == "__main__":
    support.main([rows_come_from_a_file_from_stdin_and_from_prompts_alike, results_do_not_depend_on_how_they_are_batched,
                  samples_are_those_of_a_run, greedy_logprobs_are_the_models_own, text_streams_as_whole_characters,
                  bad_rows_cost_nothing_and_name_their_line, wrong_words_are_usage,
                  an_interrupted_file_keeps_what_is_complete, a_reader_that_stands_still_gets_whole_lines, a_terminal_holds_a_conversation,
                  pass_at_k_is_that_of_the_samples, a_model_folder_is_evaluated_without_a_configuration,
                  bench_measures_loading_and_tokenizing, bench_measures_models_of_a_preset_and_of_a_folder,
                  bench_tells_what_drafts_are_worth, bench_measures_kernels])
