#!/usr/bin/env python3
"""Scorer of configs/smollm2-words.yaml: 1 for one sentence of 3 to 8 words that has the answer.

One JSON message a line on standard input, one a line out; hone starts it and asks for batches.
"""
import json
import re
import sys


def score(completion, word):
    text = completion.strip()
    if not re.fullmatch(r"[^.!?]+[.!?]", text):  # one sentence, with its end
        return 0.0
    words = [w.strip(",;:\"'()").lower() for w in text[:-1].split()]
    return 1.0 if 3 <= len(words) <= 8 and word.lower() in words else 0.0


for line in sys.stdin:
    message = json.loads(line)
    if message["t"] == "hello":
        answer = {"t": "hello", "proto": 1, "name": "words", "version": "1"}
    elif message["t"] == "score":
        scores = [score(s["completion"], s["answer"]) for s in message["samples"]]
        answer = {"t": "scores", "id": message["id"], "scores": scores}
    else:
        continue
    print(json.dumps(answer), flush=True)
