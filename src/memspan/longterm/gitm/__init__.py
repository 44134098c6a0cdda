"""Ghost in the Minecraft: goals broken down by text knowledge, plans remembered per sub-goal.

(Zhu et al. 2023, arXiv 2305.17144.) `Gitm` is the memory: runs of a goal become one reference plan. `Recipes` is the
knowledge and breaks a goal down into ordered sub-goals. `GhostAgent` acts with both in any `Env`; `CraftingWorld` is
one that is shipped.

    with Memory.open("agent.db", organizer="gitm") as memory:
        trace = GhostAgent(memory=memory, env=CraftingWorld(failure_rate=0.1, seed=1)).run("diamond")
        memory.recall("mine 2 diamonds", kinds=["plan"])[0].text
        memory.recall("smelt gold ingot", kinds=["plan"])[0].why    # an analogy, when only iron was smelted

Notable choices:
- The paper has no public code; its method is taken from its text. The list of a goal, its first entry as reference and
  the distillation of N = 5 entries are the paper's.
- A goal is (verb, object); the count is a slot of the plan, so that "mine 3 logs" helps "mine a log".
- A log is stored as it was; a plan leaves out what failed. Distilled by rules it is the part of one run that at least
  two runs share: what only one did was its detour. (What all runs share, `least_support=5`, also loses what a run did
  not need because it was so already, and then costs more queries than a single run's plan.) A
  model's summary must be a part of one run in its order, ending with its last act, else the rules' is taken.
- Plans are advice: an action whose end holds already is left out, and a failed one is repaired. Verbatim replay stays
  as the negative control (`replay="verbatim"`).
- A remembered plan is started without asking the planner; `ask_with_reference=True` asks, as the paper does.
- Decomposition sets materials aside while their siblings are made, counts whole batches and reuses what is over.
- What a run took over from an analogy and did no harm stays in its plan until the plan is retired.
- Tools do not wear out, and the world is text: nothing here plays Minecraft.
"""

from memspan.longterm.gitm.actions import Action, Taken
from memspan.longterm.gitm.agent import Attempt, GhostAgent, Trace
from memspan.longterm.gitm.decompose import Decomposition, Node, SubGoal
from memspan.longterm.gitm.goals import Goal
from memspan.longterm.gitm.organizer import Gitm, GitmConfig
from memspan.longterm.gitm.planner import ModelPlanner, Planner, RulePlanner, Situation
from memspan.longterm.gitm.recipes import Recipe, Recipes, Unreachable
from memspan.longterm.gitm.world import CraftingWorld, Env, Result

__all__ = [
    "Action",
    "Attempt",
    "CraftingWorld",
    "Decomposition",
    "Env",
    "GhostAgent",
    "Gitm",
    "GitmConfig",
    "Goal",
    "ModelPlanner",
    "Node",
    "Planner",
    "Recipe",
    "Recipes",
    "Result",
    "RulePlanner",
    "Situation",
    "SubGoal",
    "Taken",
    "Trace",
    "Unreachable",
]
