#!/usr/bin/env python3
"""hone tok as a user sees it: one text, a file, standard input, and mistakes."""
import json
import pathlib
import subprocess
import tempfile

import support
from support import HONE, hone

FOLDER = tempfile.TemporaryDirectory()
MODEL = pathlib.Path(FOLDER.name) / "model"
TEXTS = ["what is 12 + 7?", "", "345="]


def fed(text, *words, check=0):
    done = subprocess.run([HONE, "tok", *map(str, words)], input=text, text=True, timeout=60, capture_output=True)
    assert done.returncode == check, (words, done.returncode, done.stderr)
    return done


def rows(lines):
    return "".join(json.dumps(line) + "\n" for line in lines)


def a_file_and_standard_input_give_the_same_ids():
    source = pathlib.Path(FOLDER.name) / "texts.jsonl"
    source.write_text(rows({"text": text} for text in TEXTS))
    from_file = hone("tok", "encode", MODEL, "--file", source, check=0).stdout
    assert from_file == fed(source.read_text(), "encode", MODEL, "--file", "-").stdout
    assert from_file.splitlines() == [hone("tok", "encode", MODEL, text, "--json", check=0).stdout.strip()
                                      for text in TEXTS]
    back = fed(from_file, "decode", MODEL, "--file", "-").stdout
    assert [json.loads(line)["text"] for line in back.splitlines()] == TEXTS, back


def what_is_not_there_is_a_wrong_word():
    for words in (["encode", MODEL, "--file", "/not/there"], ["encode", "/not/there", "a"], ["decode", MODEL]):
        done = hone("tok", *words, check=2)
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def a_bad_row_names_its_place():
    done = fed('{"text": "a"}\n\n{"text": 3}\n', "encode", MODEL, "--file", "-", check=5)
    assert "(standard input):3: " in done.stderr, done.stderr
    done = fed('{"text": "a"}\n{"text"\n', "encode", MODEL, "--file", "-", check=5)
    assert "(standard input):2:" in done.stderr, done.stderr
    done = fed('{"ids": [999999]}', "decode", MODEL, "--file", "-", check=5)
    assert "999999" in done.stderr, done.stderr


if __name__ == "__main__":
    hone("model", "init", MODEL, "--preset", "demo", "--seed", 5, check=0)
    support.main([a_file_and_standard_input_give_the_same_ids, what_is_not_there_is_a_wrong_word,
                  a_bad_row_names_its_place])
