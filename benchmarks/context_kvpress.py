"""kvpress on planted facts, in an environment of its own. Reads one JSON object on standard input, prints one.

Input: {"model": directory, "slots": tokens kept of a prompt, "presses": [class names], "tasks": {name: [{"prompt",
"question", "answer"}, …]}}, all token ids. Output: by press, by task, mean nats of the answer's tokens, the share
answered whole by greedy decoding, and tokens read in a CPU second.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from typing import Any

import kvpress
import torch
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils.logging import disable_progress_bar


def answer(model: Any, cache: Any, begin: int, question: list[int], wanted: list[int]) -> tuple[float, bool]:
    """Mean nats of the wanted tokens, teacher-forced, and whether greedy decoding says them."""
    ids = torch.tensor([question + wanted])
    held = copy.deepcopy(cache)
    positions = torch.arange(begin, begin + ids.shape[1])[None]
    logits = model(ids, past_key_values=held, position_ids=positions, use_cache=True).logits[0].float()
    rows = logits[len(question) - 1 : -1].log_softmax(-1)
    target = torch.tensor(wanted)
    return float(-rows[torch.arange(len(wanted)), target].mean()), bool((rows.argmax(-1) == target).all())


def main() -> None:
    """One process, one thread."""
    torch.set_num_threads(1)
    disable_progress_bar()
    asked = json.load(sys.stdin)
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32).eval()
    report: dict[str, Any] = {}
    for name in asked["presses"]:
        try:
            report[name] = {}
            for task, items in asked["tasks"].items():
                nats, whole, spent, read = [], 0, 0.0, 0
                for item in items:
                    ids = torch.tensor([item["prompt"]])
                    press = getattr(kvpress, name)(compression_ratio=1 - asked["slots"] / ids.shape[1])
                    cache = DynamicCache()
                    begun = time.process_time()
                    with torch.no_grad(), press(model):
                        model.model(ids, past_key_values=cache, use_cache=True)
                    spent, read = spent + time.process_time() - begun, read + ids.shape[1]
                    with torch.no_grad():
                        said, right = answer(model, cache, ids.shape[1], item["question"], item["answer"])
                    nats.append(said)
                    whole += right
                report[name][task] = {
                    "nats": sum(nats) / len(nats), "whole": whole / len(items), "read": read / spent,
                    "slots": int(cache.layers[0].keys.shape[2]),
                }  # fmt: skip
        except Exception as error:
            report[name] = {"error": f"{type(error).__name__}: {error}"}
        print(name, file=sys.stderr, flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
