"""Fixtures of the chip commands: a workshop as the command line makes it, and a product for each test."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import fuseline.cli


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        assert self.status == 1, self.out + self.err
        return dict(self.json["error"])


Fuseline = Callable[..., Done]
State = Callable[[Path], dict[str, str]]


def _main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> Done:
    monkeypatch.setattr(sys, "argv", ["fuseline", "chip", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        fuseline.cli.main()
    streams = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return Done(ended.value.code, streams.out, streams.err)


@pytest.fixture
def chip(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fuseline:
    """Runs `fuseline chip ...` in this process."""
    return lambda *arguments: _main(monkeypatch, capsys, *arguments)


def fuseline_chip(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuseline", "chip", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@dataclass(frozen=True)
class Workshop:
    """A development factory and a product that it made, as the command line made them."""

    factory: Path
    product: Path
    provisioned: dict[str, Any]

    def key(self, name: str) -> Path:
        return self.factory / f"{name}.key"


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("workshop")
    factory, product = folder / "factory", folder / "product"
    made = fuseline_chip("factory", factory)
    assert (made.returncode, "DEVELOPMENT" in made.stderr) == (0, True)
    assert fuseline_chip("new", product, "--seed", 5).returncode == 0
    done = fuseline_chip("provision", product, "--manifest", factory / "manifest.toml", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return Workshop(factory, product, json.loads(done.stdout))


@pytest.fixture
def product(workshop: Workshop, tmp_path: Path) -> Path:
    """A product of its own for each test."""
    folder = tmp_path / "product"
    shutil.copytree(workshop.product, folder)
    return folder


@pytest.fixture
def state() -> State:
    """Tells what a chip's folder holds, but for the lock."""

    def digests(folder: Path) -> dict[str, str]:
        files = (path for path in folder.iterdir() if path.name != "lock")
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return digests


@pytest.fixture
def chip_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `fuseline chip ...` in a process of its own."""
    return fuseline_chip
