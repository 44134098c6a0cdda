"""Compiles the vector index's kernels into the wheel; without a compiler it is pure, and the index runs in numpy."""

from __future__ import annotations

import runpy
import shutil
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SPANN = "memspan/longterm/spann"
LIBRARY = "_kernels.so"


class Kernels(BuildHookInterface[Any]):
    """Adds the library to a wheel; for an editable install it is made beside its source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before the wheel is packed; `version` is "standard" or "editable"."""
        source = Path(self.root, "src", SPANN)
        self._made = None if version == "editable" else Path(tempfile.mkdtemp())
        compile_kernels = runpy.run_path(str(source / "build_native.py"))["compile_kernels"]
        library = compile_kernels((self._made or source) / LIBRARY)
        if library is None:
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        if self._made:
            build_data["force_include"][str(library)] = f"{SPANN}/{LIBRARY}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called when the wheel is packed."""
        if self._made:
            shutil.rmtree(self._made)
