"""GITM: goals are broken down exactly, and a memory of plans that worked cuts planner queries and raises success.

Part 1 breaks down every item of the shipped world and, where the environment variable MEMSPAN_DATA names a folder with
`minecraft/` (recipes.json, items.json and blocks.json of Minecraft 1.12 from PrismarineJS/minecraft-data), every output
of the real recipes that can be reached from natural blocks without creatures' drops; smelting, which the file lacks, is
added here. Part 2 lets an agent obtain a diamond again and again in a world with mishaps. A planner by rules, which
starts from the bare action and repairs on feedback, stands for the language model; a remembered plan costs one query,
as in the paper. Part 3 tests on goals that were never run before.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from pathlib import Path
from statistics import fmean

from memspan import Episode, Memory
from memspan.core.claims import Evidence, Part, Series, at_least, at_most
from memspan.longterm.gitm import CraftingWorld, GhostAgent, Gitm, GitmConfig, Goal, Recipe, Recipes, Trace
from memspan.longterm.gitm.actions import effective, parse_log

TITLE = "A memory of plans that worked cuts planner queries and raises success"
EXPECTED = "holds"
SEEDS = (0, 1, 2)

# Thresholds, fixed before the first run of any arm with memory: every reachable item executable, all of
# Minecraft's in under 5 s; a diamond takes about 20 ordered sub-goals; at a failure rate of .1 at most 0.70 times the
# queries, at .3 at most 0.85 times and 5 points more success, late episodes no worse than early ones; distilled plans
# at least 20 % shorter than the lists they come from and as successful (2 points of slack for chance). Ours: a replay
# that looks at the state beats a verbatim one by 5 points; on new goals at most 0.85 times the queries at once.
EXECUTABLE = 1.0
SECONDS = 5.0
SUB_GOALS = 20
QUERIES = {0.1: 0.70, 0.3: 0.85}
MORE_SUCCESS = 0.05
SHORTER = 0.80
AS_SUCCESSFUL = -0.02
DISTILLED_QUERIES = 1.05  # added after the first full run, in which success was at its ceiling and told nothing apart
TRANSFER = 0.85

# Queries allowed in one episode: 87 of 100 episodes without memory at a failure rate of .3 stay within it (seeds 10000
# to 10299, which are used for nothing else), as many as in the world that the thresholds were first measured in.
EPISODE_CAP = 89
AT_CEILING = "The baseline is at the ceiling, so only a loss could have shown."
SUB_GOAL_CAP = 30
EPISODES = 15


# --- 1: decomposition ------------------------------------------------------------------------------------------------


def executes(recipes: Recipes, item: str, world: CraftingWorld) -> bool:
    """Whether a decomposition can be followed to the letter: on paper, counting every item, and then in the world."""
    plan = recipes.decompose(item)
    held: Counter[str] = Counter()
    for step in plan.steps:
        gear = ([any(held[tool] for tool in step.tools)] if step.tools else []) + [
            bool(held[station]) for station in [step.recipe.station] if station
        ]
        held.subtract(step.materials)
        if not all(gear) or min(held.values(), default=0) < 0:
            return False
        held[step.object] += step.count
    trace = GhostAgent(recipes, env=world).run(item)
    return held[item] >= 1 and trace.success and [a.goal for a in trace.attempts] == [s.text for s in plan.steps]


def decomposition(label: str, recipes: Recipes, items: list[str], worlds: type[CraftingWorld] | None) -> list[Part]:
    """The share of items whose decomposition executes, and the time for all decompositions."""
    begun = time.process_time()
    lengths = [len(recipes.decompose(item).steps) for item in items]
    seconds = time.process_time() - begun
    done = [executes(recipes, item, CraftingWorld() if worlds is None else worlds(recipes)) for item in items]
    failed = [item for item, right in zip(items, done, strict=True) if not right]
    return [
        Part(
            name=f"decomposition, {label}",
            metric=f"share of {len(items)} reachable items whose plan executes as it stands",
            value=fmean(done),
            threshold=at_least(EXECUTABLE),
            note=f"longest plan: {max(lengths)} sub-goals" + (f"; failed: {', '.join(failed[:10])}" if failed else ""),
        ),
        Part(
            name=f"decomposition, {label}, time",
            metric="CPU seconds for all of them",
            value=seconds,
            threshold=at_most(SECONDS),
        ),
    ]


# Blocks of the overworld that nobody has to make. What leaves and grass drop by chance can be had again and again.
NATURAL = (
    "stone grass dirt sand gravel gold_ore iron_ore coal_ore log log2 leaves sponge lapis_ore sandstone web tallgrass"
    " deadbush yellow_flower red_flower brown_mushroom red_mushroom mossy_cobblestone obsidian diamond_ore redstone_ore"
    " snow_layer ice clay cactus reeds pumpkin melon_block vine waterlily cocoa carrots potatoes wheat beetroots"
    " emerald_ore double_plant prismarine sea_lantern red_sandstone"
).split()
GATHERED = {"flint": "gravel", "egg": "chicken"}  # what falls by chance, and what a creature gives alive
SMELTING = {
    "iron_ingot": "iron_ore",
    "gold_ingot": "gold_ore",
    "glass": "sand",
    "stone": "cobblestone",
    "brick": "clay_ball",
    "hardened_clay": "clay",
}


def minecraft(folder: Path) -> tuple[Recipes, list[str]]:
    """Minecraft's recipes as a graph of item names (variants are one item), and what is crafted in it."""
    rows, items, blocks = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("recipes", "items", "blocks")
    )
    name = {row["id"]: row["name"] for row in [*blocks, *items]}

    def named(cell: object) -> str:
        return name[cell["id"] if isinstance(cell, dict) else cell]  # type: ignore[index]

    found: dict[str, Recipe] = {}
    for number, variants in rows.items():
        for row in variants:
            cells = [cell for line in row.get("inShape", [row.get("ingredients", [])]) for cell in line]
            materials = Counter(named(cell) for cell in cells if cell is not None)
            if name[int(number)] in materials:  # repairs and recolourings
                continue
            big = len(row.get("inShape", [])) > 2 or max(len(line) for line in row.get("inShape", [[]])) > 2
            big = big or sum(materials.values()) > 4
            recipe = Recipe(
                makes=name[int(number)],
                count=row["result"]["count"],
                materials=materials,
                station="crafting_table" if big else "",
            )
            found[recipe.text] = recipe
    crafted = {recipe.makes for recipe in found.values()}
    for block in blocks:
        if block["name"] not in NATURAL:
            continue
        for drop in block["drops"]:
            tools = tuple(name[int(tool)] for tool in block.get("harvestTools", {}) if int(tool) in name)
            recipe = Recipe(makes=named(drop["drop"]), by="mine", tools=tools, at=block["name"])
            found[recipe.text] = recipe
    for makes, place in GATHERED.items():
        recipe = Recipe(makes=makes, by="mine", at=place)
        found[recipe.text] = recipe
    for makes, ore in SMELTING.items():
        recipe = Recipe(makes=makes, by="smelt", materials={ore: 1, "heat": 1}, station="furnace")
        found[recipe.text] = recipe
    for fuel, heat, count in (("coal", 8, 1), ("planks", 3, 2), ("log", 3, 2)):
        recipe = Recipe(makes="heat", by="burn", count=heat, materials={fuel: count}, station="furnace")
        found[recipe.text] = recipe
    recipes = Recipes(found.values())
    return recipes, sorted(crafted)


def with_leaves_given(recipes: Recipes) -> Recipes:
    """The same graph, where what has no recipe (creatures' drops, the Nether's blocks) can be gathered."""
    leaves = [item for item in recipes.items if item not in recipes.ways]
    return Recipes([*recipes.recipes, *(Recipe(makes=item, by="gather", at=f"{item}_source") for item in leaves)])


# --- 2: memory -------------------------------------------------------------------------------------------------------


def episodes(arm: str, rate: float, seed: int, count: int) -> list[Trace]:
    """Diamond episodes in the order in which one agent lives them."""
    options = {"max_queries": SUB_GOAL_CAP, "max_total_queries": EPISODE_CAP, "ask_with_reference": True}
    # A log that is distilled is no log any more, so the control keeps its runs apart.
    organizer = Gitm(config=GitmConfig(distil_after=10**6)) if arm == "verbatim" else Gitm()
    with Memory.open(":memory:", organizer=organizer, embedder=None) as memory:
        traces = []
        for episode in range(count):
            agent = GhostAgent(
                memory=None if arm == "none" else memory,
                env=CraftingWorld(failure_rate=rate, seed=1000 * seed + episode),
                replay="verbatim" if arm == "verbatim" else "aware",
                **options,  # type: ignore[arg-type]
            )
            traces.append(agent.run("diamond"))
    return traces


def success(traces: list[Trace]) -> float:
    """Share of episodes with a diamond."""
    return fmean(trace.success for trace in traces)


def queries(traces: list[Trace]) -> float:
    """Mean queries of an episode, those that ended at the cap included."""
    return fmean(trace.queries for trace in traces)


def with_memory(size: str, seed: int) -> list[Part]:
    """Queries and success by failure rate and arm."""
    lives = range(2) if size == "smoke" else range(14)
    parts = []
    for rate in (0.1, 0.3):
        lived = {
            arm: [episodes(arm, rate, 100 * seed + life, EPISODES) for life in lives]
            for arm in ("none", "aware", "verbatim")
        }
        every = {arm: [trace for life in told for trace in life] for arm, told in lived.items()}
        early = {arm: [trace for life in told for trace in life[:5]] for arm, told in lived.items()}
        late = {arm: [trace for life in told for trace in life[-5:]] for arm, told in lived.items()}
        rows = [
            {
                "arm": {"none": "no memory", "aware": "memory", "verbatim": "memory, verbatim replay"}[arm],
                "success, episodes 1-5": round(success(early[arm]), 3),
                "success, episodes 11-15": round(success(late[arm]), 3),
                "queries, episodes 1-5": round(queries(early[arm]), 1),
                "queries, episodes 11-15": round(queries(late[arm]), 1),
            }
            for arm in lived
        ]
        numbers = list(range(1, EPISODES + 1))
        curve = {
            arm: (numbers, [fmean(life[n].queries for life in told) for n in range(EPISODES)])
            for arm, told in lived.items()
        }
        parts.append(
            Part(
                name=f"queries at a failure rate of {rate:g}",
                metric="planner queries an episode, episodes 11-15",
                value=queries(late["aware"]),
                baseline_name="no memory",
                baseline=queries(every["none"]),
                threshold=at_most(QUERIES[rate], of="ratio"),
                rows=rows,
                series=Series(lines=curve, x_label="episode", y_label="planner queries"),
            )
        )
        if rate == 0.3:
            parts += [
                Part(
                    name="success at a failure rate of 0.3",
                    metric=f"share of episodes with a diamond within {EPISODE_CAP} queries, episodes 11-15",
                    value=success(late["aware"]),
                    baseline_name="no memory",
                    baseline=success(every["none"]),
                    threshold=at_least(MORE_SUCCESS, of="difference"),
                    ceiling=1.0,
                ),
                Part(
                    name="it does not get worse with time",
                    metric="share of episodes with a diamond at a failure rate of 0.3, episodes 11-15",
                    value=success(late["aware"]),
                    baseline_name="episodes 1-5",
                    baseline=success(early["aware"]),
                    threshold=at_least(0.0, of="difference"),
                    note=AT_CEILING if success(early["aware"]) == 1 else "",
                ),
                Part(
                    name="negative control: verbatim replay",
                    metric="share of episodes with a diamond at a failure rate of 0.3, episodes 11-15",
                    value=success(late["aware"]),
                    baseline_name="verbatim replay",
                    baseline=success(late["verbatim"]),
                    threshold=at_least(MORE_SUCCESS, of="difference"),
                ),
            ]
    return parts


def distilled(size: str, seed: int) -> list[Part]:
    """Distilled plans against the lists they were made from: length, then success when each is what memory holds."""
    rate = 0.3
    raw: list[int] = []
    working: list[int] = []
    lives = range(1) if size == "smoke" else range(5)
    outcome: dict[str, list[Trace]] = {"distilled": [], "in common": [], "raw": []}
    lengths: list[int] = []
    for life in lives:
        told: dict[str, list[Episode]] = {}
        attempt_seed = 500_000 + 1000 * (100 * seed + life)
        while not told or min(map(len, told.values())) < 5:
            trace = GhostAgent(env=CraftingWorld(failure_rate=rate, seed=attempt_seed)).run("diamond")
            attempt_seed += 1
            for attempt in trace.attempts:
                runs = told.setdefault(Goal.parse(attempt.goal).key, [])
                if attempt.success and len(runs) < 5:
                    actions = [taken.to_json() for taken in attempt.log]
                    metadata = {"goal": attempt.goal, "actions": actions, "success": True}
                    runs.append(Episode(attempt.goal, metadata=metadata))
        with (
            Memory.open(":memory:", organizer="gitm", embedder=None) as memory,
            Memory.open(":memory:", organizer=Gitm(config=GitmConfig(least_support=5)), embedder=None) as common,
            Memory.open(":memory:", organizer="gitm", embedder=None) as first,
        ):
            for runs in told.values():
                memory.add(runs)
                common.add(runs)
                first.add(runs[0])
                logs = [parse_log(run.metadata["actions"]) for run in runs]
                raw += map(len, logs)
                working += [len(effective(log)) for log in logs]
                [hit] = memory.recall(runs[0].text, kinds=["plan"], k=1)
                lengths.append(len(hit.metadata["actions"]))
            for test in range(10):
                for label, kept in (("distilled", memory), ("in common", common), ("raw", first)):
                    agent = GhostAgent(
                        memory=kept,
                        env=CraftingWorld(failure_rate=rate, seed=700_000 + 1000 * (100 * seed + life) + test),
                        max_total_queries=EPISODE_CAP,
                        ask_with_reference=True,
                        remember=False,
                    )
                    outcome[label].append(agent.run("diamond"))
    return [
        Part(
            name="distilled plans are shorter",
            metric="actions of a distilled plan",
            value=fmean(lengths),
            baseline_name="mean of the lists it was made from",
            baseline=fmean(raw),
            threshold=at_most(SHORTER, of="ratio"),
            note=f"without their failed actions the lists have {fmean(working):.1f} actions",
        ),
        Part(
            name="distilled plans are as successful",
            metric=f"share of episodes with a diamond at a failure rate of {rate:g}",
            value=success(outcome["distilled"]),
            baseline_name="one run as it was, without its failed actions",
            baseline=success(outcome["raw"]),
            threshold=at_least(AS_SUCCESSFUL, of="difference"),
            note=AT_CEILING if success(outcome["raw"]) == 1 else "",
        ),
        Part(
            name="distilled plans cost no more queries",
            metric=f"planner queries an episode at a failure rate of {rate:g}",
            value=queries(outcome["distilled"]),
            baseline_name="one run as it was, without its failed actions",
            baseline=queries(outcome["raw"]),
            threshold=at_most(DISTILLED_QUERIES, of="ratio"),
            rows=[
                {
                    "plan": shown,
                    "queries": round(queries(outcome[name]), 1),
                    "success": round(success(outcome[name]), 3),
                }
                for name, shown in (
                    ("distilled", "what 2 of 5 runs share"),
                    ("in common", "what all 5 runs share"),
                    ("raw", "one run, without its failed actions"),
                )
            ],
        ),
    ]


# --- 3: transfer -----------------------------------------------------------------------------------------------------


def transfer(size: str, seed: int) -> Part:
    """Memory is filled on some goals and tested on others, once each."""
    recipes = CraftingWorld().recipes
    deep = [item for item in sorted(recipes.reachable()) if len(recipes.decompose(item).steps) >= 5 and item != "heat"]
    count = 10 if size == "smoke" else 30
    chosen = random.Random(seed).sample(deep, 2 * count)
    rate = 0.1
    with Memory.open(":memory:", organizer="gitm", embedder=None) as memory:
        for number, item in enumerate(chosen[:count]):
            GhostAgent(memory=memory, env=CraftingWorld(failure_rate=rate, seed=10_000 * seed + number)).run(item)
        asked: dict[str, list[Trace]] = {"none": [], "memory": []}
        for number, item in enumerate(chosen[count:]):
            for arm, kept in (("none", None), ("memory", memory)):
                agent = GhostAgent(
                    memory=kept,
                    env=CraftingWorld(failure_rate=rate, seed=10_000 * seed + 5000 + number),
                    ask_with_reference=True,
                    remember=False,
                )
                asked[arm].append(agent.run(item))
    started = Counter(a.from_memory or "nothing" for trace in asked["memory"] for a in trace.attempts)
    return Part(
        name="transfer to new goals",
        metric=f"planner queries a goal, {count} goals that were never run",
        value=queries(asked["memory"]),
        baseline_name="no memory",
        baseline=queries(asked["none"]),
        threshold=at_most(TRANSFER, of="ratio"),
        note=f"success {success(asked['memory']):.2f} against {success(asked['none']):.2f}; sub-goals started from "
        + ", ".join(f"{name}: {n}" for name, n in sorted(started.items())),
    )


def claim(size: str, seed: int) -> Evidence:
    """All parts."""
    parts = [*with_memory(size, seed), *distilled(size, seed), transfer(size, seed)]
    recipes = CraftingWorld().recipes
    parts += decomposition("the shipped world", recipes, sorted(recipes.reachable()), None)
    parts.append(
        Part(
            name="depth of the technology tree",
            metric="ordered sub-goals of a diamond",
            value=len(recipes.decompose("diamond").steps),
            threshold=at_least(SUB_GOALS),
            note=f"{len(recipes.items)} items",
        )
    )
    data = os.environ.get("MEMSPAN_DATA")
    if data and (Path(data) / "minecraft").exists():
        real, crafted = minecraft(Path(data) / "minecraft")
        for label, graph in (
            ("Minecraft 1.12 from natural blocks", real),
            ("Minecraft 1.12, what nobody makes is given", with_leaves_given(real)),
        ):
            reached = [item for item in crafted if item in graph.reachable()]
            parts += decomposition(label, graph, reached, CraftingWorld)
    return Evidence(slug="gitm", size=size, parts=parts)  # type: ignore[arg-type]
