"""A cache file is never a reason to fail: no home, no room, no folder, contents of any kind, many at once."""

import errno
import json
import multiprocessing
import os
import pwd
import warnings
from pathlib import Path

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import example, given

import tnconv
from tnconv.backends import cache_files, tuning
from tnconv.backends.torch import profile
from tnconv.backends.tuning import Trial, Winner

LAYER = tnconv.ConvSpec(2, 3, 2, 4)
FILES = {profile.FILE: profile.Profile, tuning.FILE: Winner}
WINNER = Winner([Trial(0, ("matmul",), 1.0, 2.0)])


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    """A folder of our own, and nothing known or warned of."""
    monkeypatch.setenv("TNCONV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache_files, "_unwritten", {})
    monkeypatch.setattr(cache_files, "_warned", set())
    monkeypatch.setattr(tuning, "_ROUNDS", 1)
    monkeypatch.setattr(tuning, "_LEAST_SECONDS", 1e-6)
    profile.profile_of.cache_clear()
    yield tmp_path / "cache"
    profile.profile_of.cache_clear()


def tuned() -> tnconv.CompiledFunction:
    """A layer with the rates read and the trials remembered anew."""
    profile.profile_of.cache_clear()
    return tnconv.compile(LAYER, "kfac_reduce", autotune=True)


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name not in FILES]


# -- where nothing can be written --------------------------------------------------------------------


def no_home(monkeypatch, tmp_path):
    for name in ("TNCONV_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)


def file_in_place_of_the_folder(monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("")


def path_through_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TNCONV_CACHE", str(tmp_path / "file" / "cache"))


def folder_in_place_of_the_file(monkeypatch, tmp_path):
    for name in FILES:
        (tmp_path / "cache" / name).mkdir(parents=True)


def no_right_to_make_it(monkeypatch, tmp_path):
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "cache"))

    monkeypatch.setattr(Path, "mkdir", refused)


def full_when_written(monkeypatch, tmp_path):
    real = Path.write_bytes

    def half(path: Path, content: bytes) -> int:
        real(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", half)


def full_when_exchanged(monkeypatch, tmp_path):
    def refused(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refused)


FAULTS = [
    no_home,
    file_in_place_of_the_folder,
    path_through_a_file,
    folder_in_place_of_the_file,
    no_right_to_make_it,
    full_when_written,
    full_when_exchanged,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_all_goes_on_where_nothing_can_be_written(fault, monkeypatch, tmp_path):
    fault(monkeypatch, tmp_path)
    with pytest.warns(
        tnconv.CacheWarning, match="cannot be written: .*; it is kept in this process only"
    ) as told:
        first = tuned()
    assert len([w for w in told if "cannot be written" in str(w.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was said once
        again = tuned()
    assert first.trials and first.trials == again.trials  # remembered in the process, not timed again
    assert not left_over(tmp_path / "cache") or not (tmp_path / "cache").is_dir()


def test_what_could_not_be_written_is_written_later(monkeypatch, place):
    with monkeypatch.context() as broken, pytest.warns(tnconv.CacheWarning):
        full_when_exchanged(broken, place.parent)
        cache_files.remember(tuning.FILE, {"a": WINNER}, Winner)
    cache_files.remember(tuning.FILE, {"b": WINNER}, Winner)
    assert set(json.loads((place / tuning.FILE).read_bytes())) == {"a", "b"}


def test_without_home_a_layer_compiles_without_a_word(monkeypatch, tmp_path):
    no_home(monkeypatch, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert profile.profile_of("cpu").matmul > 0


def test_the_variables_say_where(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_files.folder() == tmp_path / "cache"
    monkeypatch.delenv("TNCONV_CACHE")
    assert cache_files.folder() == tmp_path / "home" / ".cache" / "tnconv"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_files.folder() == tmp_path / "xdg" / "tnconv"


# -- what a file may hold -----------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["cpu", "trials", "plan", "matmul", "measured", "prefer", "a"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)
CONTENTS = st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode())


@pytest.mark.parametrize("name", FILES)
@given(content=CONTENTS)
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"cpu": {"matmul": 0}}')
@example(b'{"cpu": {"matmul": 1e999}}')
@example(b'{"cpu": {"matmul": NaN}}')
@example(b'{"cpu": {"matmul": "fast"}}')
@example(b'{"\xff": {}}')
@example(b'{"a": {"trials": []}}')
@example(b'{"a": {"trials": [{"plan": -1, "prefer": [], "predicted": 1, "measured": 1}]}}')
@example(b'{"a": {"trials": [{"plan": 0, "prefer": ["\\ud800"], "predicted": 1, "measured": 1}]}}')
def test_any_content_is_read_or_left_out_and_then_written_over(name, content):
    path, kind = cache_files.folder() / name, FILES[name]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tnconv.CacheWarning)
        found = cache_files.read(name, kind)
        assert all(isinstance(entry, kind) for entry in found.values())
        new = WINNER if kind is Winner else profile.DEFAULT
        cache_files.remember(name, {"new": new}, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache_files.read(name, kind) == found | {"new": new}
    assert not left_over(path.parent)


@pytest.mark.parametrize(
    "rates",
    [
        b'{"cpu": {"matmul": 0}}',
        b'{"cpu": {"copy": -1}}',
        b'{"cpu": []}',
        b"\xff",
        b'{"cpu": {"cache": 1e300}}',
    ],
)
def test_rates_that_cannot_be_are_those_shipped(place, rates):
    want = profile.profile_of("cpu")
    profile.profile_of.cache_clear()
    place.mkdir()
    (place / profile.FILE).write_bytes(rates)
    with pytest.warns(
        tnconv.CacheWarning, match=r"profiles.json' cannot be read: .*; go on without it; delete the file"
    ):
        assert profile.profile_of("cpu") == want


def test_one_bad_entry_leaves_the_others(place):
    place.mkdir()
    good = msgspec.json.encode(WINNER).decode()
    (place / tuning.FILE).write_text(f'{{"good": {good}, "bad": {{"trials": 3}}}}')
    with pytest.warns(
        tnconv.CacheWarning, match=r"autotune.json' cannot be read: Expected `array`, got `int`"
    ):
        assert cache_files.read(tuning.FILE, Winner) == {"good": WINNER}


def test_a_remembered_winner_that_is_no_plan_is_found_anew(place):
    trials = tuned().trials
    known = cache_files.read(tuning.FILE, Winner)
    (key,) = known
    cache_files.write(tuning.FILE, {key: Winner([Trial(99, (), 1.0, 1.0)])}, Winner)
    assert tuned().trials != (Trial(99, (), 1.0, 1.0),)
    assert {t.plan for t in tuned().trials} == {t.plan for t in trials}


# -- many at once --------------------------------------------------------------------------------------


def write_many(folder: str, writer: int) -> None:
    os.environ["TNCONV_CACHE"] = folder
    for number in range(8):
        cache_files.remember(tuning.FILE, {f"{writer}.{number}": WINNER}, Winner)


def test_processes_that_write_at_once_lose_nothing(place):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(str(place), w)) for w in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert set(cache_files.read(tuning.FILE, Winner)) == {f"{w}.{n}" for w in range(4) for n in range(8)}
    assert not left_over(place)


@pytest.mark.parametrize("fault", [None, BlockingIOError(), OSError(errno.ENOLCK, "No locks available")])
def test_without_a_lock_the_file_is_written_all_the_same(monkeypatch, place, fault):
    def held(*_: object) -> None:
        raise fault

    monkeypatch.setattr(cache_files, "_PATIENCE", 0.01)
    if fault is None:
        monkeypatch.setattr(cache_files, "fcntl", None)
    else:
        monkeypatch.setattr(cache_files.fcntl, "flock", held)
    cache_files.remember(tuning.FILE, {"a": WINNER}, Winner)
    assert cache_files.read(tuning.FILE, Winner) == {"a": WINNER}
