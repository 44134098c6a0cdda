"""M2-BERT: exact long convolutions, their cost, a loss for batches of one, and a mixture of lengths in training.

Everything is trained here from random weights, in minutes: the encoder is far from the paper's. Where the environment
variable MEMSPAN_DATA names a folder with `books/`, the documents are 2,048 tokens of those books, and training and test
have different books; else they are made up here from a seed. The paper's own table (LoCoV1 with 32k-token documents)
cannot be had here, and nothing below speaks for or against it.
"""

from __future__ import annotations

import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _loco import loco
from torch.nn import functional as F

from memspan.core.block_diagonal import BlockDiagonalLinear
from memspan.core.claims import Evidence, Part, Series, at_least, at_most
from memspan.core.convolution import direct_convolution, fft_convolution
from memspan.core.long_conv import LongConv
from memspan.longterm.m2_bert_loco import M2Config, M2Encoder, M2Retriever, PretrainConfig, pretrain
from memspan.longterm.m2_bert_loco.embedder import cut, embed_rows
from memspan.longterm.m2_bert_loco.model import SeqMix
from memspan.longterm.m2_bert_loco.tokens import WordPieces
from memspan.longterm.passages import chunks, term_hashes
from memspan.longterm.retriever import (
    Example,
    HomogeneousBatches,
    InfoNCE,
    OrthogonalProjection,
    TaskSet,
    fit_retriever,
)
from memspan.models.hardware import torch_threads

TITLE = "Long documents are embedded whole at a cost near linear, and trained one pair at a time"
EXPECTED = "partly"  # exact and near linear; 48 steps do not train the loss that needs one pair at a time
SEEDS = (0,)

# Thresholds, fixed before the first run. FFT equals the definition to 1e-9 in float64, Monarch equals FFT to 1e-5, a
# block-diagonal map its dense one to 1e-6, padding changes a vector by at most 1e-5; the reverse filter sees every
# later position. A mixer of 768 channels on one thread: slope of log time over log length at most 1.25 where attention
# (F.scaled_dot_product_attention alone, without its projections) has at least 1.8; at 8,192 tokens 3 times as fast;
# at 32,768 less than 1.5 GB in all. OPL with one query a step (a positive and a negative) is 3 points of nDCG@10 above
# InfoNCE on the same batches, and at 90 % of InfoNCE with 16 queries at equal peak memory (their documents are cut to
# fit) and at 90 % of it with whole documents. Negatives' cosine ends within 0.1 of 0. Mixed lengths are 2 points above
# long ones alone, for short queries.
EXACT, MONARCH, DENSE, PADDED = 1e-9, 1e-5, 1e-6, 1e-5
SLOPE, ATTENTION_SLOPE, FASTER, MEMORY = 1.25, 1.8, 3.0, 1.5e9
OPL_GAIN, OPL_SHARE, ORTHOGONAL = 0.03, 0.9, 0.1
MIXED_GAIN = 0.02

# The same for every loss, and not tuned.
SHAPE = M2Config(hidden=128, layers=2, max_len=2048, filter_order=64, dropout=0.0)
LOSSES = {"opl": OrthogonalProjection(), "infonce": InfoNCE(tau=0.05)}
LR, STEPS, MLM_STEPS = 1e-3, 48, 24
TEST_DOCS, TRAIN_DOCS = 60, 400
CUT = SHAPE.max_len // 8  # 16 documents of this length are as many tokens as two whole ones


# --- 1: exactness ----------------------------------------------------------------------------------------------------


def exactness(seed: int) -> list[Part]:
    """Largest differences between two ways to compute the same."""
    torch.manual_seed(seed)
    wide = torch.float64
    direct, monarch = 0.0, 0.0
    for length in (1, 2, 63, 500, 1000):
        x, ahead, back = (torch.randn(2, 4, length, dtype=wide) for _ in range(3))
        wanted = direct_convolution(x, back[0], ahead[0])
        direct = max(direct, float((fft_convolution(x, back[0], ahead[0]) - wanted).abs().max()))
        x, back, ahead = x.float(), back.float() / length, ahead.float() / length
        both = [fft_convolution(x, back[0], ahead[0], method=method) for method in ("fft", "monarch")]
        monarch = max(monarch, float((both[0] - both[1]).abs().max()))
    block = BlockDiagonalLinear(48, 32, 4)
    x = torch.randn(10, 48)
    assert block.bias is not None
    dense = float((block(x) - (x @ block.dense().T + block.bias)).abs().max().detach())
    ahead_share = []
    for both_ways in (True, False):
        x = torch.randn(1, 4, 64, requires_grad=True)
        LongConv(4, 64, order=16, bidirectional=both_ways)(x)[0, :, 10].sum().backward()
        assert x.grad is not None
        later = x.grad[0, :, 11:].abs().sum(0) > 1e-5  # above what rounding leaves in a transform
        ahead_share.append(float(later.float().mean()))
    model = M2Encoder(SHAPE).eval()
    rows = [torch.randint(1000, 30000, (length,)).tolist() for length in (9, 130, 700, 2048)]
    pieces = WordPieces()
    with torch.inference_mode():
        together = model.embed(*pieces.batch(rows))
        alone = torch.cat([model.embed(torch.tensor([row])) for row in rows])
    return [
        Part(
            name="FFT against the definition",
            metric="largest difference of float64 outputs, lengths 1 to 1,000, both directions",
            value=direct,
            threshold=at_most(EXACT),
        ),
        Part(
            name="two-stage Monarch product against FFT",
            metric="largest difference of float32 outputs",
            value=monarch,
            threshold=at_most(MONARCH),
        ),
        Part(
            name="block-diagonal against dense with zeros",
            metric="largest difference of float32 outputs",
            value=dense,
            threshold=at_most(DENSE),
        ),
        Part(
            name="the reverse filter looks ahead",
            metric="share of later positions with a gradient",
            value=ahead_share[0],
            baseline_name="forward filter alone",
            baseline=ahead_share[1],
            threshold=at_least(1.0),
        ),
        Part(
            name="padding does not count",
            metric="largest difference of a text's masked mean, alone and padded to 2,048",
            value=float((together - alone).abs().max()),
            threshold=at_most(PADDED),
        ),
    ]


# --- 2: cost ---------------------------------------------------------------------------------------------------------


def seconds(job: Any, runs: int) -> float:
    """CPU time of the fastest of some runs, the first one not counted when there are several."""
    taken = []
    for _ in range(runs):
        begun = time.process_time()
        job()
        taken.append(time.process_time() - begun)
    return min(taken[1:] or taken)


def slope(lengths: list[int], times: list[float]) -> float:
    """Of the least-squares line through log time over log length."""
    return float(np.polyfit(np.log(lengths), np.log(times), 1)[0])


def cost(size: str) -> list[Part]:
    """A mixer against attention at growing lengths, one thread."""
    lengths = [512, 2048] if size == "smoke" else [512, 2048, 8192, 32768]
    mixer_times, attention_times, whole = [], [], []
    with torch_threads(1), torch.no_grad():
        for length in lengths:
            runs = 6 if length <= 2048 else 3
            mixer = SeqMix(M2Config(max_len=length)).eval()
            u, heads, square = torch.randn(1, length, 768), torch.randn(1, 12, length, 64), torch.randn(768, 3072)
            mixer_times.append(seconds(lambda mixer=mixer, u=u: mixer(u, None), runs))
            attend = seconds(lambda h=heads: F.scaled_dot_product_attention(h, h, h), runs if length <= 8192 else 1)
            attention_times.append(attend)
            whole.append(attend + seconds(lambda u=u, square=square: u @ square, runs))
    ratios = [a / m for a, m in zip(attention_times, mixer_times, strict=True)]
    crossing = next((n for n, a, m in zip(lengths, whole, mixer_times, strict=True) if a > m), None)
    parts = [
        Part(
            name="cost of the mixer",
            metric=f"slope of log CPU time over log length, {lengths[0]} to {lengths[-1]:,} tokens",
            value=slope(lengths, mixer_times),
            threshold=at_most(SLOPE),
            rows=[
                {
                    "tokens": n,
                    "mixer, ms": round(1000 * m, 1),
                    "attention, ms": round(1000 * a, 1),
                    "attention with its four projections, ms": round(1000 * w, 1),
                }
                for n, m, a, w in zip(lengths, mixer_times, attention_times, whole, strict=True)
            ],
            note=f"faster than attention with projections from {crossing or 'no length tried'} tokens on",
            series=Series(
                lines={"mixer": (lengths, mixer_times), "attention": (lengths, attention_times)},
                x_label="tokens",
                y_label="seconds",
                log_x=True,
            ),
        ),
        Part(
            name="cost of attention",
            metric="the same slope of F.scaled_dot_product_attention, 12 heads of 64",
            value=slope(lengths, attention_times),
            threshold=at_least(ATTENTION_SLOPE),
        ),
    ]
    if size == "smoke":
        return parts
    return [
        *parts,
        Part(
            name="speed at 8,192 tokens",
            metric="CPU time of attention without projections, in multiples of the mixer's",
            value=ratios[lengths.index(8192)],
            threshold=at_least(FASTER),
        ),
        Part(
            name="memory at 32,768 tokens",
            metric="peak resident bytes of a process with one mixer, Python and libraries included",
            value=measured("layer", 32768),
            threshold=at_most(MEMORY),
        ),
    ]


def measured(*job: Any) -> float:
    """What `_m2_memory.py` prints."""
    script = Path(__file__).with_name("_m2_memory.py")
    path = os.pathsep.join([str(script.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, str(script), *map(str, job)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


# --- documents and questions -----------------------------------------------------------------------------------------

PEOPLE = "Alda Bruno Celia Dario Edith Fabio Greta Hugo Irene Jonas Karin Lucas Marta Nelio Olga Pavel".split()
DEEDS = "carried painted mended sold buried counted praised hid weighed borrowed described measured".split()
KINDS = "old green narrow silent broken copper wooden bright heavy foreign hollow painted".split()
THINGS = (
    "lantern anchor ladder violin basket compass kettle mirror saddle barrel hammer bottle carpet cradle bridge window"
    " engine statue garden mill ferry tower letter map clock boat drum well oven loom plough bell gate chest"
).split()
PLACES = (
    "harbour orchard chapel market quarry station meadow castle library bakery stable lighthouse valley forest island"
    " courtyard cellar attic square theatre"
).split()


def made_up(count: int, seed: int) -> list[list[str]]:
    """Books of sentences: each has its own people, things and places, so that it has a subject of its own."""
    chance = random.Random(seed)
    books = []
    for _ in range(count):
        people, things, places = chance.sample(PEOPLE, 4), chance.sample(THINGS, 8), chance.sample(PLACES, 4)
        books.append(
            [
                f"{chance.choice(people)} {chance.choice(DEEDS)} the {chance.choice(KINDS)} {chance.choice(things)} of"
                f" {chance.choice(people)} near the {chance.choice(places)} on day {chance.randrange(1000)}."
                for _ in range(400)
            ]
        )
    return books


def books(seed: int) -> tuple[list[list[str]], str]:
    """Sentences of each book, and what they are."""
    folder = Path(os.environ.get("MEMSPAN_DATA", "")) / "books"
    if not (os.environ.get("MEMSPAN_DATA") and folder.is_dir()):
        return made_up(100, seed), "made-up books"
    found = []
    for path in sorted(folder.glob("*.txt")):
        text = " ".join(path.read_text(encoding="utf-8", errors="replace").split())
        found.append([s for s in re.split(r"(?<=[.!?])\s+", text) if 30 <= len(s) <= 400])
    return found, "public-domain books"


def windows(sentences: list[str], lengths: list[int], step: int | None) -> list[list[str]]:
    """Runs of sentences of at most 2,046 tokens; every `step` sentences one begins, or where the last one ended."""
    made, start = [], 0
    while start < len(sentences):
        stop, total = start, 0
        while stop < len(sentences) and total + lengths[stop] <= SHAPE.max_len - 2:
            total += lengths[stop]
            stop += 1
        if stop == len(sentences) and total < SHAPE.max_len // 2:
            break
        made.append(sentences[start:stop])
        start = start + step if step else stop
    return made


class Library:
    """Test documents with questions of two tasks, and training examples from other books."""

    def __init__(self, seed: int) -> None:
        self.pieces = WordPieces()
        every, self.kind = books(seed)
        chance = random.Random(seed)
        chance.shuffle(every)
        test, train = [], []
        for number, sentences in enumerate(every):
            lengths = [len(ids) - 2 for ids in self.pieces.ids(sentences)]
            if number % 2:
                test += windows(sentences, lengths, None)
            else:
                train += windows(sentences, lengths, 25)
        test = chance.sample(test, min(TEST_DOCS, len(test)))
        train = chance.sample(train, min(TRAIN_DOCS, len(train)))
        # Task B's question is the line that a document begins with, and the document goes on without it.
        self.documents = [" ".join(run[1:]) for run in test]
        self.questions = {
            "late key": [chance.choice(run[len(run) * 3 // 4 :]) for run in test],
            "global": [run[0] for run in test],
        }
        self.train = [" ".join(run) for run in train]
        self.examples = [
            Example(
                query=chance.choice(run),
                positives=(self.train[i],),
                negatives=tuple(chance.sample(self.train[:i] + self.train[i + 1 :], 32)),
            )
            for i, run in enumerate(train)
        ]
        self.document_rows = cut(self.pieces.ids(self.documents), SHAPE.max_len)
        self.question_rows = {task: self.pieces.ids(texts) for task, texts in self.questions.items()}

    def scores(self, model: M2Encoder) -> dict[str, Any]:
        """nDCG@10 of each task by this encoder, and the mean cosine of a question and a wrong document."""
        model.eval()
        table = embed_rows(model, self.pieces, self.document_rows)
        found: dict[str, Any] = {}
        for task, rows in self.question_rows.items():
            cosines = embed_rows(model, self.pieces, rows) @ table.T
            found[task] = ndcg(cosines)
            wrong = ~np.eye(len(cosines), dtype=bool)
            found[f"{task}, wrong"] = float(cosines[wrong].mean())
        return found

    def bm25(self) -> dict[str, float]:
        """By words, k1 = 1.2 and b = 0.75."""
        terms = [Counter(term_hashes(text).tolist()) for text in self.documents]
        sizes = np.array([sum(count.values()) for count in terms])
        holders = Counter(term for count in terms for term in count)
        damping = 1.2 * (0.25 + 0.75 * sizes / sizes.mean())
        found = {}
        for task, texts in self.questions.items():
            scores = np.zeros((len(texts), len(terms)))
            for row, text in enumerate(texts):
                for term in set(term_hashes(text).tolist()) & holders.keys():
                    weight = math.log(1 + (len(terms) - holders[term] + 0.5) / (holders[term] + 0.5))
                    counts = np.array([count[term] for count in terms])
                    scores[row] += weight * counts * 2.2 / (counts + damping)
            found[task] = ndcg(scores)
        return found

    def minilm(self) -> tuple[dict[str, float], dict[str, float]]:
        """By the bundled embedder: the best chunk of a document, and its first 256 tokens."""
        from memspan.models import load_embedder

        embedder = load_embedder("bundled")
        pieces = [(i, text[a:b]) for i, text in enumerate(self.documents) for a, b in chunks(text)]
        owner = np.array([i for i, _ in pieces])
        table = embedder.embed([text for _, text in pieces])
        heads = embedder.embed(self.documents)
        best, first = {}, {}
        for task, texts in self.questions.items():
            asked = embedder.embed(texts)
            by_chunk = asked @ table.T
            scores = np.full((len(texts), len(self.documents)), -2.0)
            for place, document in enumerate(owner):
                scores[:, document] = np.maximum(scores[:, document], by_chunk[:, place])
            best[task], first[task] = ndcg(scores), ndcg(asked @ heads.T)
        return best, first


def ndcg(scores: Any) -> float:
    """nDCG@10 where question i has the one document i; a tie counts against it."""
    right = np.diag(scores)[:, None]
    rank = (scores >= right).sum(1)  # 1 is first
    return float(np.where(rank <= 10, 1 / np.log2(rank + 1), 0.0).mean())


# --- 3 and 4: training -----------------------------------------------------------------------------------------------


def fine_tuned(library: Library, loss: str, batch: int, keys: int, tokens: int, steps: int, seed: int) -> M2Encoder:
    """From the same random weights, on the same examples."""
    torch.manual_seed(seed)
    model = M2Encoder(SHAPE)
    task = TaskSet("books", library.examples)
    batches = HomogeneousBatches([task], batch=batch, keys=keys, seed=seed)
    retriever = M2Retriever(model, library.pieces, tokens)
    fit_retriever(retriever, batches, LOSSES[loss], lr=LR, steps=steps, seed=seed)
    return model


ARMS = {
    "OPL, 1 query": ("opl", 1, 2, SHAPE.max_len, STEPS),
    "InfoNCE, 1 query": ("infonce", 1, 2, SHAPE.max_len, STEPS),
    "InfoNCE, 16 queries, documents cut": ("infonce", 16, 1, CUT, STEPS),
    "InfoNCE, 16 queries, whole documents": ("infonce", 16, 1, SHAPE.max_len, STEPS // 8),
}


def trained(library: Library, seed: int) -> list[Part]:
    """Losses at equal numbers of tokens, and the table with every baseline."""
    torch.manual_seed(seed)
    rows = {"M2, random weights": (library.scores(M2Encoder(SHAPE)), None)}
    for name, (loss, batch, keys, tokens, steps) in ARMS.items():
        model = fine_tuned(library, loss, batch, keys, tokens, steps, seed)
        rows[name] = (library.scores(model), measured("train", loss, batch, keys, tokens))
    best, first = library.minilm()
    rows |= {"BM25": (library.bm25(), None), "MiniLM, best chunk": (best, None), "MiniLM, first 256": (first, None)}
    mean = {name: (found["late key"] + found["global"]) / 2 for name, (found, _) in rows.items()}
    opl, one, small, large = (mean[name] for name in ARMS)
    table = [
        {
            "ranked by": name,
            "late key": round(found["late key"], 3),
            "global": round(found["global"], 3),
            "cosine of wrong pairs": round(found["late key, wrong"], 3) if "late key, wrong" in found else None,
            "peak memory of the training process, MB": None if peak is None else round(peak / 1e6),
        }
        for name, (found, peak) in rows.items()
    ]
    metric = f"nDCG@10, mean of two tasks, {len(library.documents)} documents of 2,048 tokens of {library.kind}"
    opl_peak, small_peak = rows["OPL, 1 query"][1], rows["InfoNCE, 16 queries, documents cut"][1]
    assert opl_peak is not None and small_peak is not None
    return [
        Part(
            name="OPL against InfoNCE, one query a step",
            metric=metric,
            value=opl,
            baseline_name="InfoNCE, 1 query",
            baseline=one,
            threshold=at_least(OPL_GAIN, of="difference"),
            rows=table,
            note="All are trained from random weights on the same number of tokens. BM25 and MiniLM are not trained"
            " here. 'Late key' asks with a sentence that stands in the document's last quarter.",
        ),
        Part(
            name="OPL against InfoNCE with 16 queries at equal memory",
            metric=metric,
            value=opl,
            baseline_name="InfoNCE, 16 queries, documents cut",
            baseline=small,
            threshold=at_least(OPL_SHARE, of="ratio"),
            note=f"peak memory {opl_peak / 1e6:.0f} MB against {small_peak / 1e6:.0f} MB",
        ),
        Part(
            name="OPL against InfoNCE with 16 queries, whole documents",
            metric=metric,
            value=opl,
            baseline_name="InfoNCE, 16 queries, whole documents",
            baseline=large,
            threshold=at_least(OPL_SHARE, of="ratio"),
        ),
        Part(
            name="negatives become orthogonal",
            metric="distance from 0 of the mean cosine of a question and a wrong document, late key",
            value=abs(rows["OPL, 1 query"][0]["late key, wrong"]),
            baseline_name="random weights",
            baseline=abs(rows["M2, random weights"][0]["late key, wrong"]),
            threshold=at_most(ORTHOGONAL),
        ),
    ]


def mixture(library: Library, seed: int) -> Part:
    """Masked language modelling on long examples alone, and on a mixture."""
    found = {}
    for name, share in (("mixed", 0.7), ("long alone", 1.0)):
        config = PretrainConfig(steps=MLM_STEPS, batch_tokens=SHAPE.max_len, long_fraction=share, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            found[name] = library.scores(pretrain(library.train, folder, SHAPE, config, every=MLM_STEPS).model)
    mean = {name: (scores["late key"] + scores["global"]) / 2 for name, scores in found.items()}
    return Part(
        name="a mixture of lengths",
        metric=f"nDCG@10 with questions of one sentence after {MLM_STEPS} steps of pre-training alone, two tasks",
        value=mean["mixed"],
        baseline_name="long examples alone",
        baseline=mean["long alone"],
        threshold=at_least(MIXED_GAIN, of="difference"),
        rows=[
            {"pre-trained on": name, "late key": round(s["late key"], 3), "global": round(s["global"], 3)}
            for name, s in found.items()
        ],
    )


def claim(size: str, seed: int) -> Evidence:
    """Parts 1 and 2, and the exam; the full size trains too."""
    parts = [*exactness(seed), *cost(size), *loco(size, seed)]
    if size == "full":
        library = Library(seed)
        parts += [*trained(library, seed), mixture(library, seed)]
    return Evidence(slug="m2-bert-loco", size=size, parts=parts)
