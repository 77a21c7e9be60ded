"""Put all wheels that a requirements file names into a tar file, for the Python of another machine.

    collect_wheels.py REQUIREMENTS VERSION ARCHITECTURE TAR

Hashes are checked here, where the index is reached; the one that is published only as source is
built here, too. The tar file appears when it is complete.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

GLIBC = (17, 27, 28, 34)
"""Minor versions of glibc 2 that wheels may be made for; Debian 12 has 36."""


def main(requirements: Path, version: str, architecture: str, target: Path) -> None:
    """Download, build what is no wheel, and pack."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    platforms = [f"manylinux_2_{minor}_{architecture}" for minor in GLIBC]
    platforms += [f"manylinux2014_{architecture}", "any"]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        subprocess.run(
            [
                *(*pip, "download", "--quiet", "--no-deps", "--require-hashes"),
                *("--no-build-isolation", "--dest", temporary, "--python-version", version),
                *("--implementation", "cp", "--abi", f"cp{version.replace('.', '')}"),
                *("--abi", "abi3", "--abi", "none"),
                *(word for name in platforms for word in ("--platform", name)),
                *("-r", str(requirements)),
            ],
            check=True,
        )
        for source in Path(temporary).glob("*.tar.gz"):
            subprocess.run(
                [
                    *(*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
                    *("--wheel-dir", temporary, str(source)),
                ],
                check=True,
            )
        partial = target.with_suffix(".partial")
        with tarfile.open(partial, "w") as archive:
            for wheel in sorted(Path(temporary).glob("*.whl")):
                archive.add(wheel, wheel.name)
        partial.rename(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
