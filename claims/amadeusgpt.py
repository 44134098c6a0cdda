"""AmadeusGPT: definitions that have left a bounded window come back by name, whole, current, and runnable.

Part 1 is deterministic: sessions of 200 turns in which 20 symbols are defined, some with others inside, some defined
anew; what a prompt must hold is kept by the session's own books. Small talk is made up; where the environment variable
MEMSPAN_DATA names a folder with `locomo-dev/`, a second set of sessions has real turns. Part 2 asks the bundled
language model. Part 3 runs definitions and programs on a track that is made by code, against masks computed here with
numpy alone. Part 4 finds numpy's functions by their docstrings for requests in our own words.
"""

from __future__ import annotations

import os
import random
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from _amadeusgpt_data import REQUESTS, definition, names, real_turns, redefinition, reply, small_talk

from memspan.core.claims import Evidence, Part, at_least, at_most
from memspan.core.errors import MissingExtraError
from memspan.longterm.amadeusgpt import (
    ContextWindow,
    Pose,
    ProgramError,
    Sandbox,
    SymbolMemory,
    read_program,
    synthetic_track,
)

TITLE = "A definition that has left the window is paged back in by its name"
EXPECTED = "partly"  # all of it holds in full; six questions to a small model, as smoke asks, say little
SEEDS = (0, 1, 2)

# Thresholds, fixed before the first run: all references served, never over the budget, the sliding
# window serves at most 40 % by construction, at most 1.3 times the tokens of an oracle that inserts the bare
# definitions which are needed and cannot be read in the window; the model answers at least 3 times as often with paging
# as with a sliding window, and at least 0.8 times as often as with the definition alone; masks equal to numpy's; recall
# at 3 of 0.8 with a tenth of the tokens. Ours: the script's chases are found (0.8), and every attempt to break out of
# the sandbox is refused.
SERVED = 1.0
SLIDING = 0.40
ORACLE = 1.3
OVER_SLIDING = 3.0
OF_CEILING = 0.8
EQUAL = 1.0
SCRIPTED = 0.8
RECALL = 0.8
TOKENS = 0.10
REFUSED = 1.0

BUDGET = 1500
TURNS, SYMBOLS, REFERENCES, CHANGES = 200, 20, 100, 8
MODEL_BUDGET, MODEL_TURNS = 600, 30


def tokens(text: str) -> int:
    """Words and punctuation marks."""
    return len(re.findall(r"\w+|[^\w\s]", text))


# --- 1: recall after eviction ----------------------------------------------------------------------------------------


class Books:
    """What the session knows of its own definitions, kept apart from the system."""

    def __init__(self) -> None:
        self.versions: dict[str, list[str]] = {}
        self.inside: dict[str, list[str]] = {}

    def needed(self, name: str) -> list[str]:
        """The texts that explain a name now: its versions back to the one that starts afresh, and what is inside."""
        texts = list(self.versions[name])
        for other in self.inside[name]:
            texts += [text for text in self.needed(other) if text not in texts]
        return texts


def session(rng: random.Random, talk: Callable[[], str]) -> list[tuple[str, str, list[str]]]:
    """Turns as (kind, message, names that it refers to)."""
    own = names(rng, SYMBOLS)
    places = sorted(rng.sample(range(0, int(TURNS * 0.8)), SYMBOLS))
    places[0] = 0
    defined: list[str] = []
    plan: list[tuple[str, str, list[str]]] = [("talk", "", []) for _ in range(TURNS)]
    for place, name in zip(places, own, strict=True):
        inside = rng.sample(defined, min(len(defined), rng.choice((0, 0, 1, 2))))
        plan[place] = ("define", definition(rng, name, inside), [name, *inside])
        defined.append(name)
    free = [turn for turn in range(TURNS) if plan[turn][0] == "talk"]
    for turn in rng.sample([turn for turn in free if turn > 20], CHANGES):
        known = [name for place, name in zip(places, own, strict=True) if place < turn]
        name = rng.choice(known)
        plan[turn] = ("change", redefinition(rng, name), [name])
    free = [turn for turn in free if plan[turn][0] == "talk"]
    for turn in rng.sample(free, min(REFERENCES, len(free))):
        known = [name for place, name in zip(places, own, strict=True) if place < turn]
        asked = rng.sample(known, min(len(known), rng.choice((1, 1, 1, 2))))
        marks = " and ".join(f"<{name}>" for name in asked)
        plan[turn] = ("ask", f"{talk()} How often is there {marks} in this video?", asked)
    return [(kind, message or talk(), asked) for kind, message, asked in plan]


def holds(prompt: str, texts: Sequence[str]) -> bool:
    """Whether every text stands in the prompt, whole."""
    return all(text in prompt for text in texts)


def sliding(history: Sequence[tuple[str, str]], message: str) -> list[str]:
    """The newest exchanges that fit beside the message."""
    room = BUDGET - tokens(message)
    kept: list[str] = []
    for user, answer in reversed(history):
        room -= tokens(user) + tokens(answer)
        if room < 0:
            break
        kept[:0] = [user, answer]
    return [*kept, message]


def with_recall(
    history: Sequence[tuple[str, str]], vectors: np.ndarray, vector: np.ndarray, message: str, k: int = 3
) -> list[str]:
    """The sliding window with the k messages nearest to the question in front of it."""
    nearest = np.argsort(-(vectors[: len(history)] @ vector), kind="stable")[:k]
    found = [history[place][0] for place in sorted(nearest.tolist())]
    return sliding(history, "\n".join([*found, message]))


def after_eviction(size: str, seed: int, label: str, turns: Sequence[str] | None) -> list[Part]:
    """Shares of references served, tokens against the oracle, and the two baselines."""
    count = 4 if size == "smoke" else 67 if turns is None else 20
    embedded = 1 if size == "smoke" else 3
    served: list[bool] = []
    plain: list[bool] = []
    recalled: list[bool] = []
    fits: list[bool] = []
    inserted = exact = 0
    embedder = _embedder()
    for number in range(count):
        rng = random.Random(f"{label} {seed} {number}")
        told = iter([turns[(rng.randrange(len(turns)) + i) % len(turns)] for i in range(4 * TURNS)]) if turns else None
        talk = (lambda told=told: next(told)) if told is not None else (lambda rng=rng: small_talk(rng))
        plan = session(rng, talk)
        answers = [reply(rng) for _ in plan]
        vectors = None
        if number < embedded and embedder is not None:
            vectors = embedder.embed([message for _, message, _ in plan])
        books, history = Books(), []
        with SymbolMemory() as symbols:
            window = ContextWindow(BUDGET, tokens, symbols)
            for turn, (kind, message, asked) in enumerate(plan):
                prepared = window.prepare(message)
                prompt = "\n".join(one["content"] for one in prepared)
                fits.append(sum(tokens(one["content"]) for one in prepared) <= BUDGET)
                if kind == "ask":
                    needed = list(dict.fromkeys(text for name in asked for text in books.needed(name)))
                    served.append(holds(prompt, needed))
                    around = "\n".join(one["content"] for one in prepared[:-1])
                    exact += sum(tokens(text) for text in needed if text not in around)
                    inserted += tokens(prepared[-1]["content"]) - tokens(message)
                    plain.append(holds("\n".join(sliding(history, message)), needed))
                    if vectors is not None:
                        found = with_recall(history, vectors, vectors[turn], message)
                        recalled.append(holds("\n".join(found), needed))
                window.commit(answers[turn])
                history.append((message, answers[turn]))
                if kind == "define":
                    books.versions[asked[0]], books.inside[asked[0]] = [message], asked[1:]
                elif kind == "change":
                    books.versions[asked[0]].append(message)
    note = f"{len(served):,} references in {count} sessions; MiniLM top 3 with the sliding window serves " + (
        f"{fmean(recalled):.3f} of {len(recalled):,}" if recalled else "an unknown share: no embedder is installed"
    )
    return [
        Part(
            name=f"recall after eviction, {label}",
            metric="share of references whose current definition, with all that it rests on, is in the prompt whole",
            value=fmean(served),
            baseline_name="sliding window",
            baseline=fmean(plain),
            threshold=at_least(SERVED),
            note=note,
        ),
        Part(
            name=f"never over the budget, {label}",
            metric=f"share of {len(fits):,} prompts within {BUDGET:,} tokens",
            value=fmean(fits),
            threshold=at_least(1.0),
        ),
        Part(
            name=f"the sliding window loses them, {label}",
            metric="share of references that a sliding window serves",
            value=fmean(plain),
            threshold=at_most(SLIDING),
        ),
        Part(
            name=f"no more than is needed, {label}",
            metric="tokens put in front of the messages",
            value=inserted,
            baseline_name="oracle: the bare definitions that are needed and not in the window",
            baseline=exact,
            threshold=at_most(ORACLE, of="ratio"),
        ),
    ]


def _embedder():  # type: ignore[no-untyped-def]
    from memspan import load_embedder

    try:
        return load_embedder("bundled")
    except MissingExtraError:
        return None


# --- 2: a small model ------------------------------------------------------------------------------------------------


def small_model(size: str, seed: int) -> list[Part]:
    """A language model states the threshold of a behaviour that was defined 30 turns before."""
    from memspan import load_language_model

    try:
        model = load_language_model("bundled")
    except MissingExtraError as error:
        return [
            Part(name=name, metric="share of exact numbers", untestable=str(error))
            for name in ("a small model with paging", "a small model against its ceiling")
        ]
    count = 6 if size == "smoke" else 20
    right: dict[str, list[bool]] = {"paging": [], "sliding": [], "alone": []}
    for number in range(count):
        rng = random.Random(f"model {seed} {number}")
        name = names(rng, 1)[0]
        pixels = rng.randint(11, 399)
        told = f"Define <|{name}|> as a closest distance below {pixels} px."
        question = f"How many px is the closest distance of <{name}> below? Answer with the number."
        history = [(told, "I will remember that.")]
        with SymbolMemory() as symbols:
            window = ContextWindow(MODEL_BUDGET, model.count_tokens, symbols, overhead=8, reserve=24)
            window.prepare(told)
            window.commit("I will remember that.")
            for _ in range(MODEL_TURNS):
                talk, answer = small_talk(rng), reply(rng)
                window.prepare(talk)
                window.commit(answer)
                history.append((talk, answer))
            paged = window.prepare(question)
        kept = [one for one in paged[:-1] if told not in one["content"]]
        prompts = {
            "paging": list(paged),
            "sliding": [*kept, {"role": "user", "content": question}],
            "alone": [paged[-1]],
        }
        for arm, prompt in prompts.items():
            answer = model.generate(prompt, max_new_tokens=20).text
            right[arm].append(str(pixels) in re.findall(r"\d+", answer))
    return [
        Part(
            name="a small model with paging",
            metric=f"share of {count} questions answered exactly, {MODEL_TURNS} turns after the definition",
            value=fmean(right["paging"]),
            baseline_name="sliding window",
            baseline=fmean(right["sliding"]),
            threshold=at_least(OVER_SLIDING, of="ratio"),
        ),
        Part(
            name="a small model against its ceiling",
            metric=f"share of {count} questions answered exactly",
            value=fmean(right["paging"]),
            baseline_name="the definition is the only context",
            baseline=fmean(right["alone"]),
            threshold=at_least(OF_CEILING, of="ratio"),
        ),
    ]


# --- 3: programs behind symbols --------------------------------------------------------------------------------------

CHASES = "<|chases|> is closest distance < 40 px, head angle < 30 deg and speed > 2"
FASTER = "<|chases|> is <chases> but faster than 3"
WATCH = "<|watch|> is a closest distance of 50-260 px with head angle < 15 deg, smoothing window 15"
WATCH_PROGRAM = '''
def stare(pose):
    """Far, but not too far, with the head on the other one; by hand."""
    gap = pose.closest_distance()
    seen = (gap >= 50) & (gap <= 260) & (pose.head_angle() < 15)
    return pose.smooth(seen, 15)
'''


def by_numpy(pose: Pose) -> dict[str, np.ndarray]:
    """The masks of all versions, frame by frame, written without the library."""
    xy = pose.xy
    frames, count, points, _ = xy.shape
    nose, neck = (xy[:, :, pose.keypoints.index(name)] for name in ("nose", "neck"))
    center = np.nanmean(xy, axis=2)
    masks = {name: np.zeros((frames, count, count), bool) for name in ("chases 1", "chases 2", "raw watch")}
    speed = np.zeros((frames, count))
    for animal in range(count):
        for frame in range(frames):
            low, high = max(frame - 1, 0), min(frame + 1, frames - 1)
            step = (center[high, animal] - center[low, animal]) / (high - low)
            speed[frame, animal] = float(np.sqrt(step @ step))
    for one in range(count):
        for other in range(count):
            if one == other:
                continue
            for frame in range(frames):
                gap = min(
                    (
                        float(np.hypot(*(xy[frame, one, a] - xy[frame, other, b])))
                        for a in range(points)
                        for b in range(points)
                        if np.isfinite(xy[frame, one, a]).all() and np.isfinite(xy[frame, other, b]).all()
                    ),
                    default=np.nan,
                )
                ahead, to_other = nose[frame, one] - neck[frame, one], center[frame, other] - nose[frame, one]
                size = float(np.hypot(*ahead) * np.hypot(*to_other))
                angle = float(np.degrees(np.arccos(np.clip(ahead @ to_other / size, -1, 1)))) if size > 0 else np.nan
                for name, least in (("chases 1", 2), ("chases 2", 3)):
                    masks[name][frame, one, other] = gap < 40 and angle < 30 and speed[frame, one] > least
                masks["raw watch"][frame, one, other] = 50 <= gap <= 260 and angle < 15
    raw = masks.pop("raw watch")
    masks["watch"] = np.stack([raw[max(0, f - 7) : f + 8].mean(0) > 0.5 for f in range(frames)] if frames else [raw])
    for frame in range(frames):  # an even split at the ends of the track keeps what the frame was
        part = raw[max(0, frame - 7) : frame + 8]
        even = part.mean(0) == 0.5
        masks["watch"][frame][even] = raw[frame][even]
    return masks


def programs(size: str, seed: int) -> list[Part]:
    """Define, lose from the window, call by name, refine; in words and as programs in the sandbox."""
    frames = 450 if size == "smoke" else 1800
    made = synthetic_track(seed, frames=frames)
    xy = made.pose.xy.copy()
    xy[made.likelihood < 0.6] = np.nan
    pose = Pose(xy, made.pose.animals, made.pose.keypoints, made.pose.fps)
    direct = by_numpy(pose)
    rng = random.Random(seed)
    equal: dict[str, bool] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "lab.db"
        with SymbolMemory(store) as symbols:
            window = ContextWindow(400, tokens, symbols)
            for message, program in ((CHASES, None), (WATCH, None), ("<|stare|> is looking from afar", WATCH_PROGRAM)):
                window.prepare(message, program)
                window.commit("Saved.")
            for _ in range(40):
                window.prepare(small_talk(rng))
                window.commit(reply(rng))
            gone = not any("<|" in exchange.user for exchange in window.exchanges)
            window.prepare(FASTER)
            window.commit("Saved.")
        with SymbolMemory(store) as symbols:  # another process would see the same
            for name, version, wanted in (("chases", 1, "chases 1"), ("chases", 2, "chases 2"), ("watch", 1, "watch")):
                mask = symbols.call(name, pose, version=version)
                equal[f"{name} {version}, in words"] = bool((mask == direct[wanted]).all())
                run = Sandbox().run(symbols.program(name, version), pose, allow_code=True)
                equal[f"{name} {version}, as a program"] = bool((run.value == direct[wanted]).all())
            mask = symbols.call("stare", pose, allow_code=True)
            equal["stare, written by hand"] = bool((mask == direct["watch"]).all())
    found = []
    for entry in made.script:
        if entry.what == "chase":
            actor, other = pose.animals.index(entry.actor), pose.animals.index(entry.other)
            found.append(bool(direct["chases 1"][entry.start : entry.stop, actor, other].any()))
    wrong = [name for name, right in equal.items() if not right]
    return [
        Part(
            name="programs behind symbols",
            metric=f"share of {len(equal)} masks that equal numpy's on {frames:,} frames",
            value=fmean(equal.values()),
            threshold=at_least(EQUAL),
            note="the definitions had left the window" if gone else f"definitions were still visible; wrong: {wrong}",
        ),
        Part(
            name="the behaviour is there",
            metric=f"share of {len(found)} scripted chases in which <chases> holds",
            value=fmean(found),
            threshold=at_least(SCRIPTED),
            note="the track is made by code; nothing was filmed",
        ),
    ]


ATTEMPTS = {
    "read a file": "return list(open('/etc/hostname'))",
    "write a file": "open('x', 'w').write('x')",
    "list a folder": "return reach('os').listdir('/')",
    "open a socket": "return reach('socket').socket()",
    "start a process": "return reach('os').fork()",
    "send a signal": "return reach('os').kill(1, 0)",
    "load native code": "return reach('ctypes').CDLL(None).getppid()",
    "end later": "while True: pass",
    "take all memory": "x = []\n    while True: x.append(np.ones(10**6))",
    "write without end": "while True: reach('os').write(1, b'x' * 10**6)",
}


def sandbox() -> Part:
    """Attempts to reach what a program may not reach."""
    limited = Sandbox(cpu_seconds=1, wall_seconds=5)
    passed = []
    for name, body in ATTEMPTS.items():
        source = f"import json\ndef f(data):\n    reach = json.codecs.sys.modules.__getitem__\n    {body}\n"
        try:
            limited.run(read_program(source), None, allow_code=True)
            passed.append(name)
        except ProgramError:
            continue
    return Part(
        name="the sandbox holds",
        metric=f"share of {len(ATTEMPTS)} attempts that are refused or ended",
        value=1 - len(passed) / len(ATTEMPTS),
        threshold=at_least(REFUSED),
        note=f"passed: {', '.join(passed)}" if passed else "",
    )


# --- 4: module retrieval ---------------------------------------------------------------------------------------------


def modules() -> list[Part]:
    """numpy's functions by their docstrings, for requests in other words."""
    embedder = _embedder()
    docs = {name: (getattr(np, name).__doc__ or "").strip() for name in REQUESTS}
    hits, cost = [], []
    with SymbolMemory(embedder=embedder) as symbols:
        for name, text in docs.items():
            symbols.add_module(f"numpy.{name}", text)
        whole = sum(tokens(text) for text in docs.values())
        lost = []
        for name, request in REQUESTS.items():
            found = symbols.modules(request)
            hits.append(f"numpy.{name}" in [hit.id for hit in found])
            cost.append(sum(tokens(hit.metadata["definition"]) for hit in found) / whole)
            if not hits[-1]:
                lost.append(name)
    return [
        Part(
            name="modules by their docstrings",
            metric=f"recall at 3, {len(REQUESTS)} requests in our own words",
            value=fmean(hits),
            threshold=at_least(RECALL),
            note=f"not found: {', '.join(lost)}" + ("" if embedder else "; no embedder is installed"),
        ),
        Part(
            name="modules cost little",
            metric="tokens of the three docstrings, as a share of all",
            value=fmean(cost),
            threshold=at_most(TOKENS),
        ),
    ]


def claim(size: str, seed: int) -> Evidence:
    """All parts."""
    parts = after_eviction(size, seed, "made-up talk", None)
    data = os.environ.get("MEMSPAN_DATA")
    if data and (Path(data) / "locomo-dev").exists():
        parts += after_eviction(size, seed, "LoCoMo's turns", real_turns(Path(data) / "locomo-dev"))
    parts += [*small_model(size, seed), *programs(size, seed), sandbox(), *modules()]
    return Evidence(slug="amadeusgpt", size=size, parts=parts)  # type: ignore[arg-type]
