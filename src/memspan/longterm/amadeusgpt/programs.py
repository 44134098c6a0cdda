"""Programs: one function with one parameter, kept as source and never run here."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from memspan.core.errors import InputError

Creator = Literal["human", "llm", "rules"]
IMPORTS = ("numpy", "math", "statistics", "itertools", "functools", "collections", "re", "json", "datetime", "typing")
"""Modules that a program may import; the sandbox has loaded them before it closes."""
MAX_SOURCE = 20_000
_FENCED = re.compile(r"```(?:python|py)[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A function as it is stored.

    Attributes:
        name: of the function.
        source: its module text: imports, then the function.
        parameter: its only parameter.
        returns: its return annotation, "" without one.
        docstring: its documentation, "" without one.
        creator: who wrote it: "human", "llm" or "rules".
        parents: hashes of the programs that it was made from.
        generation: 0, or one more than its youngest parent's.
    """

    name: str
    source: str
    parameter: str
    returns: str = ""
    docstring: str = ""
    creator: Creator = "human"
    parents: tuple[str, ...] = ()
    generation: int = 0
    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", hashlib.sha256(self.source.encode()).hexdigest()[:16])

    @property
    def signature(self) -> str:
        """`name(parameter) -> returns`."""
        return f"{self.name}({self.parameter})" + (f" -> {self.returns}" if self.returns else "")

    def to_json(self) -> dict[str, Any]:
        """Source and origin; the rest is read from the source again."""
        return {
            "source": self.source,
            "creator": self.creator,
            "parents": list(self.parents),
            "generation": self.generation,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Program:
        """The inverse of `to_json`.

        Raises:
            InputError: it is no program.
        """
        parents = plain.get("parents", ())
        if (
            not isinstance(parents, Sequence)
            or isinstance(parents, str)
            or not all(isinstance(p, str) for p in parents)
        ):
            raise InputError("a program's parents must be a list of ids")
        generation = plain.get("generation", 0)
        if not isinstance(generation, int) or isinstance(generation, bool) or generation < 0:
            raise InputError(f"a program's generation must be a whole number of at least 0, not {generation!r}")
        creator: Any = plain.get("creator", "human")
        return read_program(str(plain.get("source", "")), creator, tuple(parents), generation)


def read_program(
    source: str, creator: Creator = "human", parents: tuple[str, ...] = (), generation: int = 0
) -> Program:
    """A program from its source, which is parsed and not run.

    Raises:
        InputError: it is not imports and one function with exactly one parameter, or it imports what is not allowed.
    """
    if not isinstance(source, str) or not source.strip():
        raise InputError("the program is empty")
    if len(source) > MAX_SOURCE:
        raise InputError(f"the program has {len(source):,} characters, and the most is {MAX_SOURCE:,}")
    if creator not in get_args(Creator):
        raise InputError(f"creator is {creator!r}; it must be one of {', '.join(get_args(Creator))}")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        where = f"line {line}: " if line else ""
        raise InputError(f"the program is not Python: {where}{getattr(error, 'msg', error)}") from None
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    rest = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.Import | ast.ImportFrom) and not _is_text(node)
    ]
    if len(functions) != 1 or rest:
        raise InputError("a program must be one function, with nothing beside it but imports")
    function = functions[0]
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    if len(positional) != 1 or arguments.kwonlyargs or arguments.vararg or arguments.kwarg:
        raise InputError(f"the function {function.name} must have exactly one parameter, the data")
    if function.decorator_list:
        raise InputError(f"the function {function.name} has a decorator; leave it out")
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "" if not node.level else "."]
        for name in names:
            if name.partition(".")[0] not in IMPORTS:
                raise InputError(f"the program imports {name!r}; those allowed are {', '.join(IMPORTS)}")
    return Program(
        name=function.name,
        source=source.strip() + "\n",
        parameter=positional[0].arg,
        returns=ast.unparse(function.returns) if function.returns is not None else "",
        docstring=ast.get_docstring(function) or "",
        creator=creator,
        parents=parents,
        generation=generation,
    )


def program_in(text: str) -> str | None:
    """The first fenced block of Python in a message."""
    found = _FENCED.search(text)
    return found[1] if found else None


def function_name(key: str) -> str:
    """The name of the function behind a symbol: "fast chase" -> "fast_chase"."""
    name = re.sub(r"\W", "_", key)
    return f"_{name}" if name[0].isdigit() else name


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
