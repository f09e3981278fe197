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


def what_has_no_token_is_said():
    """The demo's vocabulary is tiny: characters that it lacks are left out, but not in silence."""
    done = hone("tok", "encode", MODEL, "1\u00e9\u00fc\u00e9=", check=1)
    kept = hone("tok", "encode", MODEL, "1=", check=0)
    assert done.stdout == kept.stdout and not kept.stderr, (done, kept)
    assert done.stderr == 'hone tok encode: text 1: no token for 3 characters, left out: "\u00e9" "\u00fc"\n', done.stderr
    done = hone("tok", "encode", MODEL, "1\u00e9=", "--lossy", "--json", check=0)
    assert json.loads(done.stdout)["dropped"] == 1 and "1 character," in done.stderr, done
    lines = rows([{"text": "1="}, {"text": "\u00df"}, {"text": "2="}])
    done = fed(lines, "encode", MODEL, "--file", "-", check=1)
    assert ["dropped" in json.loads(line) for line in done.stdout.splitlines()] == [False, True, False], done.stdout
    assert done.stderr.count("\n") == 1 and "text 2: no token for 1 character" in done.stderr, done.stderr
    done = fed(rows([{"text": "\u00df"}] * 20 + [{"text": "1"}]), "encode", MODEL, "--file", "-", check=1)
    told = done.stderr.splitlines()
    assert len(told) == 9 and told[-1].endswith("no token for 20 characters of 20 texts out of 21, left out"), told
    done = hone("tok", "render", MODEL, "1\u00e9=", check=1)
    assert "tok render: text 1: no token for 1 character" in done.stderr, done.stderr
    hone("tok", "render", MODEL, "1\u00e9=", "--lossy", check=0)


if __name__ == "__main__":
    hone("model", "init", MODEL, "--preset", "demo", "--seed", 5, check=0)
    support.main([a_file_and_standard_input_give_the_same_ids, what_is_not_there_is_a_wrong_word,
                  a_bad_row_names_its_place, what_has_no_token_is_said])
