"""S2: whatever the bytes say, decoding imports nothing and builds nothing outside the declared types."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everstep.codec import ArgumentsCodec, ErrorRecord, Undecodable, codec_for, rebuild_error
from tests.codec import shapes as s

ANNOTATIONS: list[Any] = [
    Any,
    int,
    s.Everything,
    s.Model,
    s.Attr,
    s.Cat | s.Dog,
    s.Card | s.Cash | dict[str, str],
    s.Tree,
    s.Colour,
]
TRICKS = ["$type", "value", "py/object", "__class__", "__reduce__", "os.system", "builtins.eval", "lc", "type", "Card", "Cat"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(TRICKS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TRICKS), inner, max_size=4),
    max_leaves=10,
)
BYTES = st.binary() | JSON.map(msgspec.json.encode)
armed: list[str] = []
watching = [False]


def watch(event: str, args: tuple[Any, ...]) -> None:
    if watching[0] and event in {"import", "exec", "compile", "os.system", "subprocess.Popen", "open", "pickle.find_class"}:
        armed.append(f"{event} {args[:1]}")


@pytest.fixture(scope="module", autouse=True)
def _audit() -> None:  # pyright: ignore[reportUnusedFunction]
    sys.addaudithook(watch)  # cannot be removed; it is inert unless armed


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=BYTES)
def test_decoding_never_imports(annotation: Any, data: bytes) -> None:
    codec = codec_for(annotation)
    codec.check()
    armed.clear()
    watching[0] = True
    try:
        codec.decode(data)
    except Undecodable:
        pass
    finally:
        watching[0] = False

    assert [] == armed


@given(data=BYTES, name=st.sampled_from(["os.system", "builtins.eval", "ValueError", "subprocess.Popen", "a.b.C"]))
def test_arguments_and_errors_never_import(data: bytes, name: str) -> None:
    codec = ArgumentsCodec(s.Order)
    codec.check()
    armed.clear()
    watching[0] = True
    try:
        codec.show(data)
        rebuild_error(ErrorRecord(name, "x"), {})
        codec.decode(data)
    except Undecodable:
        pass
    finally:
        watching[0] = False

    assert [] == armed
