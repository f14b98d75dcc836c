"""Builds a release and checks it: ``python -m scripts.release``. It never uploads anything.

The wheel is built from the sdist, both twice, of this folder and of the last commit: they have to
be the same bytes. The metadata passes ``twine check --strict``, the sdist has every file of the
repository, the wheel every file of the package and no other. Then tests run from the unpacked
sdist, out of which the package has been removed: all that they import is the installed wheel. dist/
holds the result, with an SBOM (CycloneDX) of the wheel and of what an installation with all extras
brings.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from email import message_from_string
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).resolve().parent.parent
DIST: Final = ROOT / "dist"
PACKAGE: Final = "django_resilient_pg"
#: Files of the wheel's ``.dist-info``.
ABOUT: Final = ("METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE", "RECORD")
#: What people find in the package without importing it, and a wheel may leave out unnoticed.
DATA: Final = ("py.typed", "health/templates/status.css", "health/templates/status.html")
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))[
    "project"
]
#: Tests without the source: each module, the guarantees, the pages, and the quick start. tox runs
#: all tests on wheels.
TESTS: Final = (
    (
        "tests/unit/test_engine_modules.py",
        "tests/server/test_promise.py",
        "tests/server/health/test_views.py",
        "-m",
        "not slow",
    ),
    ("tests/server/test_quickstart.py",),
)


def main(arguments: list[str]) -> None:
    """Build, check, and print what there is."""
    if arguments:
        raise SystemExit(__doc__)
    os.environ.setdefault("SOURCE_DATE_EPOCH", git("log", "-1", "--format=%ct").strip())
    shutil.rmtree(DIST, ignore_errors=True)
    with TemporaryDirectory(prefix="resilient-release-") as folder:
        sdist, wheel = build(ROOT, DIST)
        again = build(committed(Path(folder, "tree")), Path(folder, "again"))
        differ = [
            a.name for a, b in zip((sdist, wheel), again, strict=True) if digest(a) != digest(b)
        ]
        hold("what the last commit builds is something else; is everything committed?", differ)
        check(sdist, wheel)
        bill(wheel, Path(folder, "bill"))
        try_installed(sdist, wheel, Path(folder, "tests"))
    contents(sdist, wheel)


def committed(folder: Path) -> Path:
    """Lay out the last commit's files, as a clone has them."""
    folder.mkdir()
    packed = folder.with_suffix(".tar")
    git("archive", f"--output={packed}", "HEAD")
    with tarfile.open(packed) as files:
        files.extractall(folder, filter="data")
    return folder


def build(tree: Path, folder: Path) -> tuple[Path, Path]:
    """Build the sdist from the tree and the wheel from the sdist, by the PEP 517 backend."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(tree))
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def check(sdist: Path, wheel: Path) -> None:
    """Hold both to what they have to be."""
    run(tool("twine"), "check", "--strict", str(sdist), str(wheel))
    run(tool("check-manifest"), "--no-build-isolation", str(ROOT))
    run(tool("check-wheel-contents"), str(wheel))
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        (metadata,) = (one for one in names if one.endswith(".dist-info/METADATA"))
        text = packed.read(metadata).decode()
    tracked = git("ls-files", PACKAGE).split()
    hold("the wheel's files", wrong_files(names, tracked))
    hold("the wheel's metadata", wrong_metadata(text, PROJECT, version_of(wheel)))


def wrong_files(names: Iterable[str], tracked: Iterable[str]) -> list[str]:
    """What a wheel has too much or lacks, against the files of the package in the repository."""
    given = {name for name in names if ".dist-info/" not in name}
    about = {name.partition(".dist-info/")[2] for name in names if ".dist-info/" in name}
    expected = {*tracked, *(f"{PACKAGE}/{name}" for name in DATA)}
    wrong = [f"missing: {name}" for name in sorted(expected - given)]
    wrong += [f"too much: {name}" for name in sorted(given - expected)]
    wrong += [f".dist-info: {name}" for name in sorted(about.symmetric_difference(ABOUT))]
    return wrong


def wrong_metadata(text: str, project: Mapping[str, Any], version: str) -> list[str]:
    """What a wheel's metadata says otherwise than the project, above all where it leads."""
    told = message_from_string(text)
    urls = dict(one.split(", ", 1) for one in told.get_all("Project-URL", []))
    found = {
        "Version": told["Version"] == version,
        "Project-URL": urls == dict(project["urls"]) and "Documentation" in urls,
        "Classifier": told.get_all("Classifier") == sorted(project["classifiers"]),
        "Provides-Extra": set(told.get_all("Provides-Extra", []))
        == set(project["optional-dependencies"]),
        "Requires-Python": told["Requires-Python"] == project["requires-python"],
        "License-Expression": told["License-Expression"] == project["license"],
        "Description": bool(str(told.get_payload()).strip()),
    }
    return [name for name, right in found.items() if not right]


def bill(wheel: Path, folder: Path) -> None:
    """Write the SBOM: the wheel, and what an installation with all extras brings."""
    install(folder, f"{wheel}[{','.join(PROJECT['optional-dependencies'])}]")
    version = version_of(wheel)
    path = DIST / f"{PACKAGE}-{version}.cdx.json"
    options = ("--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "library")
    written = ("--output-reproducible", "--output-file", str(path))
    run(tool("cyclonedx-py"), "environment", *options, *written, str(folder / "bin/python"))
    bom = json.loads(path.read_text("utf-8"))
    # The tool reads pyproject.toml, which has no version.
    bom["metadata"]["component"] |= {
        "version": version,
        "purl": f"pkg:pypi/{PROJECT['name']}@{version}",
        "hashes": [{"alg": "SHA-256", "content": digest(wheel)}],
    }
    path.write_text(f"{json.dumps(bom, indent=2)}\n", encoding="utf-8")
    hold("the SBOM", wrong_bill(bom, PROJECT))


def wrong_bill(bom: Mapping[str, Any], project: Mapping[str, Any]) -> list[str]:
    """Which requirement of the package, or which version, an SBOM lacks."""
    components = {canonicalize_name(one["name"]): one for one in bom["components"]}
    extras = project["optional-dependencies"].values()
    needed = [*project["dependencies"], *(one for extra in extras for one in extra)]
    names = {canonicalize_name(Requirement(one).name) for one in needed}
    bare = [name for name, one in components.items() if not one.get("version")]
    return [f"missing: {one}" for one in sorted(names - components.keys())] + [
        f"without a version: {one}" for one in bare
    ]


def try_installed(sdist: Path, wheel: Path, folder: Path) -> None:
    """Run tests on the installed wheel, where there is no source of the package."""
    with tarfile.open(sdist) as packed:
        packed.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    shutil.rmtree(tree / PACKAGE)
    python = install(
        folder / "venv", f"{wheel}[psycopg,pool]", "--group", f"{tree}/pyproject.toml:test"
    )
    told = {
        "PYTHONSAFEPATH": "1",
        "TEST_INSTALLED": "1",
        "TEST_WHEEL": str(wheel),
        "TEST_DRIVER": "psycopg",
    }
    for tests in TESTS:
        run(
            str(python),
            "-m",
            "pytest",
            "-q",
            "--durations=5",
            *tests,
            cwd=tree,
            env=os.environ | told,
        )


def install(folder: Path, *wanted: str) -> Path:
    """Make an environment of these alone; returns its Python."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *wanted)
    return python


def contents(sdist: Path, wheel: Path) -> None:
    """Print what was built."""
    print("\n".join(_listed(wheel)))
    for one in sorted(DIST.iterdir()):
        print(f"{digest(one)}  {one.stat().st_size:>9,} bytes  {one.relative_to(ROOT)}")
    print(f"Version {version_of(wheel)} is built and checked. Nothing was uploaded.")


def _listed(wheel: Path) -> Iterator[str]:
    with zipfile.ZipFile(wheel) as packed:
        yield from (f"{one.file_size:>9,}  {one.filename}" for one in packed.infolist())


def version_of(wheel: Path) -> str:
    """The version in a wheel's name."""
    return wheel.name.split("-")[1]


def hold(what: str, wrong: list[str]) -> None:
    """Stop where something is wrong."""
    if wrong:
        raise SystemExit("\n  ".join([f"Not a release: {what}:", *wrong]))


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tool(name: str) -> str:
    """A program of this environment."""
    return str(Path(sys.executable).with_name(name))


def git(*command: str) -> str:
    """What git says of the repository."""
    done = subprocess.run(["git", *command], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout


def run(*command: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> None:
    """Run a program; its failure ends everything."""
    print(
        f"$ {' '.join(Path(one).name if one.startswith('/') else one for one in command)}",
        flush=True,
    )
    done = subprocess.run(command, cwd=cwd, env=env, check=False)
    hold(Path(command[0]).name, [f"exit status {done.returncode}"] if done.returncode else [])


if __name__ == "__main__":
    main(sys.argv[1:])
