"""Packages from npm, installed once and kept between test runs."""

import shutil
import subprocess
from pathlib import Path

import pytest

_INSTALL_LIMIT_S = 240


def install_packages(folder: Path, package_file: Path) -> None:
    """Install what `package_file` names into `folder`, unless it is there. Skips the test where that is impossible."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Node and npm are not on this machine")
    installed = folder / "installed.json"
    if installed.exists() and installed.read_bytes() == package_file.read_bytes():
        return
    shutil.copy(package_file, folder / "package.json")
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", "--prefer-offline"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm has not installed the packages within {_INSTALL_LIMIT_S} s")
    if done.returncode:
        pytest.skip(f"npm cannot install the packages: {done.stderr.strip().splitlines()[:1]}")
    shutil.copy(package_file, installed)
