"""Builds the library that the wheel holds: hatchling calls it.

With ``GLIBC=2.17`` in the environment the library is linked against that version by cargo-zigbuild, and the
wheel says so; without, it is for this machine.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAME = "libsecateur_ort.so"


class LibraryHook(BuildHookInterface[Any]):
    """Puts the library into the package ``secateur_ort``."""

    def dependencies(self) -> list[str]:
        """What a build needs beside hatchling and cargo."""
        return ["cargo-zigbuild", "ziglang"] if "GLIBC" in os.environ else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and say where the library goes and where it runs."""
        what = ["--package", "secateur-ort", "--lib", "--release"]
        if glibc := os.environ.get("GLIBC"):
            machine = platform.machine()
            where = ["--target", f"{machine}-unknown-linux-gnu.{glibc}"]
            command = ["zigbuild", *what, *where, "--config", 'profile.release.strip="symbols"']
            folder, tag = f"{machine}-unknown-linux-gnu/release", f"manylinux_{glibc}_{machine}"
        else:
            # An argument of the last step alone: all else is what a build of the workspace has made already.
            command = ["rustc", *what, "--crate-type", "cdylib", "--", "-C", "strip=symbols"]
            folder, tag = "release", sysconfig.get_platform()
        subprocess.run(["cargo", *command], cwd=self.root, check=True)
        described = subprocess.check_output(
            ["cargo", "metadata", "--format-version=1", "--no-deps"], cwd=self.root
        )
        built = Path(json.loads(described)["target_directory"]) / folder / NAME
        build_data["force_include"][str(built)] = f"secateur_ort/{NAME}"
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + tag.replace("-", "_").replace(".", "_")
