"""A short fuzz run in every test run; the long one is ``make fuzz``."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.decode import Decoder
from tests.fuzz.target import FindingError, Target, Watch, joined, seeds, split

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 20


def test_an_input_is_cut_into_its_datagrams_and_back():
    assert list(split(joined([b"one", b"", b"three"]))) == [b"one", b"", b"three"]
    assert list(split(b"\0\5abc")) == [b"abc"]


@pytest.mark.parametrize("number", range(len(seeds())))
def test_every_seed_reaches_the_decoder_of_its_protocol(number):
    target = Target()
    target(seeds()[number])
    options_only = number in (5, 9)
    assert (target.records > 0) is not options_only


def test_the_target_notices_a_wrong_count_of_records(monkeypatch):
    original = Decoder.decode

    def wrong(self, batch, now_ns):
        decoded = original(self, batch, now_ns)
        decoded.records += 1
        return decoded

    monkeypatch.setattr(Decoder, "decode", wrong)
    with pytest.raises(AssertionError, match="records"):
        Target()(seeds()[0])


def test_the_target_notices_a_slow_input(monkeypatch):
    monkeypatch.setattr("tests.fuzz.target.MAX_SECONDS", 0.0)
    with pytest.raises(FindingError, match="took"):
        Target()(seeds()[0])


def test_memory_that_grows_with_the_inputs_is_noticed(monkeypatch, tmp_path):
    for number, seed in enumerate(seeds()):
        (tmp_path / str(number)).write_bytes(seed)
    kept = []
    watch = Watch()
    watch.run(tmp_path)
    assert watch.run(tmp_path) < 8 << 20
    original = Target.__call__
    monkeypatch.setattr(
        Target, "__call__", lambda self, data: (kept.append(b"x" * 5_000_000), original(self, data))
    )
    with pytest.raises(FindingError, match="MiB more"):
        watch.run(tmp_path)


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed: no fuzzing"
)
def test_a_short_fuzz_run_finds_nothing(tmp_path):
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", str(SECONDS)]
    command += ["--corpus", str(tmp_path / "fuzz" / "corpus")]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    records = re.findall(r"inputs, \d+ datagrams, (\d+) flow records", done.stdout)
    assert int(records[-1]) > 100, done.stdout + done.stderr[-4000:]
