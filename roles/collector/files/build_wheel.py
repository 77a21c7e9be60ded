"""Build the wheel of a checkout so that equal sources give an equal file; says which, as JSON.

build_wheel.py CHECKOUT FOLDER
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def main(checkout: Path, folder: Path) -> None:
    """Build in a copy, because setuptools leaves folders behind."""
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, "source")
        source.mkdir()
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(checkout / name, source)
        for package in ("appliance", "api"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(checkout / package, source / package, ignore=ignore)
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"),
                *("--no-build-isolation", "--wheel-dir", temporary, str(source)),
            ],
            check=True,
            # times in the archive that are always the same: the first that a zip file can have
            env={**os.environ, "SOURCE_DATE_EPOCH": "315532800"},
            stdout=subprocess.DEVNULL,
        )
        (wheel,) = Path(temporary).glob("*.whl")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        target = folder / digest[:12]
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(wheel, target)
    sys.stdout.write(json.dumps({"wheel": str(target / wheel.name), "sha256": digest}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
