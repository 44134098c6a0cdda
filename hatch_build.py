"""Compiles kernels into the wheel; without a compiler it is pure, and what they do runs in numpy."""

from __future__ import annotations

import runpy
import shutil
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Folders with a build_native.py, and the libraries that these make.
LIBRARIES = {"memspan/longterm/spann": "_kernels.so", "memspan/training/mallocmuzero": "_pack.so"}


class Kernels(BuildHookInterface[Any]):
    """Adds the libraries to a wheel; for an editable install they are made beside their sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before the wheel is packed; `version` is "standard" or "editable"."""
        self._made = None if version == "editable" else Path(tempfile.mkdtemp())
        for folder, name in LIBRARIES.items():
            source = Path(self.root, "src", folder)
            compile_kernels = runpy.run_path(str(source / "build_native.py"))["compile_kernels"]
            library = compile_kernels((self._made or source) / name)
            if library is None:
                continue
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
            if self._made:
                build_data["force_include"][str(library)] = f"{folder}/{name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called when the wheel is packed."""
        if self._made:
            shutil.rmtree(self._made)
