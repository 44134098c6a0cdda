"""AmadeusGPT's dual memory: a bounded chat window, and symbols that page definitions back in.

(Ye et al., NeurIPS 2023, arXiv 2307.04858.) "<|name|>" in a message saves its words under the name; "<name>" in any
later message, session or question brings them back, with everything that they rest on, however long ago that was.
`SymbolMemory` holds the definitions, `ContextWindow` the chat, `AmadeusGpt` the same for episodes of a `Memory`. What a
definition says of moving animals is executable: `ask_behaviour` finds it in a table of keypoints.

    with SymbolMemory("lab.db") as symbols:
        window = ContextWindow(1500, count_tokens, symbols)
        messages = window.prepare("<|chases|> is closest distance < 40 px, head angle < 30 deg, speed > 2")
        window.commit("Saved.")
        messages = window.prepare("How long is <chases> in video 2?")  # paged in if it has left the window
        pose = read_pose("video2.csv", fps=30)                         # DeepLabCut's layout
        found = ask_behaviour(symbols, pose, "How often does mouse1 <chases> mouse2?")
        print(found.text, symbols.program("chases").source)

On the command line: `memspan behave video2.csv "How often <chases>?" --define "<|chases|> is …" --plot chases.png`.

**Code.** A definition in words is read by rules and evaluated without running any code. A Python function that a user
or a model wrote is stored as text, and runs only with `allow_code=True` (`--allow-code`), in a process of its own:
limits on processor time, wall time, memory, output and processes, an empty environment, no file, no socket, data
through pipes. What that does not stop: a bug of the kernel in one of the few calls that stay allowed; what processors
give away by their timing; using up what was allowed; a result that is wrong or made to mislead; reading what was passed
to it. On a system without seccomp or Landlock (anything but Linux on x86-64 and arm64) programs are refused unless
`weak=True`, which leaves the audit hook of Python alone, and that can be got around. See `sandbox.py`.

Notable choices:
- The 2023 code is the only one with the dual memory, and its read path could not work; later versions keep the last two
  messages. What is taken over: the marks, definitions in the user's own words, saving only after a turn that went well,
  forgetting whole exchanges, programs of one parameter, the three nearest modules, two tries of self-debugging.
- A symbol counts as visible when this version of its definition can be read in the window, not when its name can.
- Definitions are paged recursively, each once, what others need first; a circle is an error. Inside its own definition
  a name means the version before, so that "<|x|> is <x> but …" refines. References are bound when they are read.
- Versions are the store's log of changes: a redefinition is seen, undone and forgotten like any other change.
- A definition that would close a circle is an error in `SymbolMemory`; in a `Memory` its episode stays and defines
  nothing, and `stats` counts it.
- The rules read comparisons of distance, head angle, speed, acceleration and turning with numbers, ranges, "and", "or",
  "not", "but", smoothing windows and shortest durations. Numbers are never guessed; what else a definition says is
  listed as not understood. A language model can write programs (`write_program`); where it gives none, the rules'
  stands in.
- Speed is of the animal's center in pixels a frame, by central differences; distance is between the nearest keypoints;
  a point below the likelihood is not seen, and where it is needed the behaviour counts as absent.
- The paper's programs call GPT-4 and a pose library for training and segmentation; neither is here. The track that is
  shipped is made by code (`synthetic_track`): nothing was filmed.
"""

from memspan.longterm.amadeusgpt.asking import Event, Found, ask_behaviour
from memspan.longterm.amadeusgpt.behaviour import Behaviour, Condition, evaluate, read_behaviour
from memspan.longterm.amadeusgpt.config import AmadeusGptConfig
from memspan.longterm.amadeusgpt.errors import CodeNotAllowedError, CycleError, ProgramError, SandboxError
from memspan.longterm.amadeusgpt.kinematics import Pose
from memspan.longterm.amadeusgpt.organizer import AmadeusGpt
from memspan.longterm.amadeusgpt.plot import plot_found
from memspan.longterm.amadeusgpt.pose import make_pose, read_pose, write_pose
from memspan.longterm.amadeusgpt.programs import Program, read_program
from memspan.longterm.amadeusgpt.sandbox import Run, Sandbox
from memspan.longterm.amadeusgpt.symbols import Pending, SymbolMemory
from memspan.longterm.amadeusgpt.synthetic import SyntheticTrack, demo_pose, synthetic_track
from memspan.longterm.amadeusgpt.table import Definition, Symbol
from memspan.longterm.amadeusgpt.window import ContextWindow, Prepared
from memspan.longterm.amadeusgpt.writing import Written, write_program

__all__ = [
    "AmadeusGpt",
    "AmadeusGptConfig",
    "Behaviour",
    "CodeNotAllowedError",
    "Condition",
    "ContextWindow",
    "CycleError",
    "Definition",
    "Event",
    "Found",
    "Pending",
    "Pose",
    "Prepared",
    "Program",
    "ProgramError",
    "Run",
    "Sandbox",
    "SandboxError",
    "Symbol",
    "SymbolMemory",
    "SyntheticTrack",
    "Written",
    "ask_behaviour",
    "demo_pose",
    "evaluate",
    "make_pose",
    "plot_found",
    "read_behaviour",
    "read_pose",
    "read_program",
    "synthetic_track",
    "write_pose",
    "write_program",
]
