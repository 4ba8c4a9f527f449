"""
The arguments of one call as one JSON object by parameter name: ``{"order_id":"42","cents":1999}``.

Calls that mean the same are written the same: by name, in the order of the signature, whether they were passed by position
or by keyword. What was not passed is left out, so a new parameter with a default changes no recorded call. ``*args`` and
``**kwargs`` stand under their own names, as an array and an object with sorted keys.

This is the hot path of every step, so it does not use ``inspect.Signature.bind``: the arguments are zipped with the parameters,
and only a call that uses keywords or does not fit goes the long way, which gives Python's own words for what is wrong.
"""

from __future__ import annotations

import inspect
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter
from typing import Any, Final

import msgspec

from everstep.codec.compiler import compile_type
from everstep.codec.containers import dict_node, tuple_node
from everstep.codec.hints import function_hints
from everstep.codec.node import VALUE_BYTES_MAX, Node, Refusal, Spent
from everstep.codec.scalars import STR
from everstep.codec.value import NO_STACK, Data, parse, too_large, undecodable, unencodable, unsupported
from everstep.secret import masked

_ENCODE: Final = msgspec.json.Encoder().encode
_SHOWN_MAX: Final = 200
_POSITIONAL: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


class _Slot:
    """One parameter. Compiled when an argument for it is first passed: a default never needs encoding."""

    __slots__ = ("_hints", "kind", "name", "node", "pack", "required", "unpack")

    def __init__(self, parameter: Parameter, hints: Callable[[], Mapping[str, Any]]) -> None:
        self.name = parameter.name
        self.kind = parameter.kind
        self.required = parameter.default is Parameter.empty and parameter.kind not in (
            Parameter.VAR_POSITIONAL,
            Parameter.VAR_KEYWORD,
        )
        self._hints = hints
        self.node: Node | None = None
        self.pack: Callable[[Any, int, list[int]], Any] = self._compile_and_pack
        self.unpack: Callable[[Any], Any] = self._compile_and_unpack

    def compiled(self) -> Node:
        if self.node is None:
            try:
                node = self._wrapped(compile_type(self._hints().get(self.name, Any)))
            except Refusal as refusal:
                raise unsupported(refusal, self.name) from None
            self.pack, self.unpack, self.node = node.pack, node.unpack, node
        return self.node

    def _wrapped(self, node: Node) -> Node:
        if self.kind is Parameter.VAR_POSITIONAL:
            return tuple_node(node)
        return dict_node(STR, node) if self.kind is Parameter.VAR_KEYWORD else node

    def _compile_and_pack(self, value: Any, depth: int, left: list[int]) -> Any:
        return self.compiled().pack(value, depth, left)

    def _compile_and_unpack(self, wire: Any) -> Any:
        return self.compiled().unpack(wire)


class ArgumentsCodec:
    """Encode and decode the arguments of a function. Safe to share between threads.

    Args:
        function: Its signature and annotations are the schema. Annotations are resolved at the first use.
        skip_first: Leave the first parameter out (a transaction that the engine passes).
        max_bytes: Largest encoded size of all arguments together.
    """

    def __init__(self, function: Callable[..., Any], *, skip_first: bool = False, max_bytes: int = VALUE_BYTES_MAX) -> None:
        self._function = function
        self._name = getattr(function, "__qualname__", type(function).__qualname__)
        self._max_bytes = max_bytes
        self._resolved: Mapping[str, Any] | None = None
        parameters = list(inspect.signature(function).parameters.values())[1 if skip_first else 0 :]
        self._slots = tuple(_Slot(parameter, self._hints) for parameter in parameters)
        self._by_name = {slot.name: slot for slot in self._slots}
        self._positional = tuple(slot for slot in self._slots if slot.kind in _POSITIONAL)
        keyword_required = any(slot.required and slot.kind is Parameter.KEYWORD_ONLY for slot in self._slots)
        self._zip_min = sys.maxsize if keyword_required else sum(slot.required for slot in self._positional)
        self._zip_max = len(self._positional)
        self._is_plain = self._positional == self._slots

    def check(self) -> None:
        """Compile every parameter that has no default, now.

        Raises:
            Unencodable: The type of a parameter cannot be stored; its name is the path.
        """
        for slot in self._slots:
            if slot.required or slot.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
                slot.compiled()

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """One JSON object with the arguments actually passed.

        Raises:
            TypeError: The function cannot be called like this; in Python's words.
            Unencodable: An argument does not fit its declared type; the path begins with the parameter.
            PayloadTooLarge: All arguments together exceed the limit.
        """
        limit = self._max_bytes
        left = [limit]
        wire: dict[str, Any] = {}
        name = ""
        pairs: Iterable[tuple[_Slot, Any]]
        if kwargs or not self._zip_min <= len(args) <= self._zip_max:
            pairs = self._bind(args, kwargs)
        else:
            pairs = zip(self._positional, args, strict=False)
        try:
            for slot, value in pairs:
                name = slot.name
                wire[name] = slot.pack(value, 0, left)
        except Refusal as refusal:
            raise unencodable(refusal, name) from None
        except Spent as spent:
            raise too_large(f"argument {name} of {self._name}", limit + spent.over, limit) from None
        except RecursionError:
            raise unencodable(NO_STACK, name) from None
        data = _ENCODE(wire)
        if len(data) > limit:
            raise too_large(f"the arguments of {self._name}", len(data), limit)
        return data

    def decode(self, data: Data) -> tuple[list[Any], dict[str, Any]]:
        """Arguments ready for ``function(*positional, **keyword)``.

        Raises:
            Undecodable: The data does not fit the signature: a parameter was removed, or added without a default.
        """
        name = f"the arguments of {self._name}"
        try:
            wire = parse(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise undecodable(Refusal(f"no valid JSON ({error})"), "arguments", name) from error
        except Refusal as refusal:
            raise undecodable(refusal, "arguments", name) from None
        if type(wire) is not dict:
            raise undecodable(Refusal("no JSON object"), "arguments", name)
        if self._is_plain and len(wire) == len(self._slots):  # pyright: ignore[reportUnknownArgumentType]
            try:
                return [slot.unpack(wire[slot.name]) for slot in self._slots], {}
            except (KeyError, Refusal, RecursionError):
                pass  # The long way finds out what is wrong. (Not suppress(): it would cost as much as the rest.)
        values = {slot.name: self._read(slot, wire[slot.name]) for slot in self._slots if slot.name in wire}
        self._refuse_misfits(wire, name)  # pyright: ignore[reportUnknownArgumentType]
        return self._arranged(values, name)

    def show(self, data: Data) -> str:
        """The arguments as one would write them in a call, for messages: ``"42", 1999``.

        Never raises. At most 200 characters of text; control and format characters are escaped on top of that.
        """
        try:
            wire = msgspec.json.decode(masked(bytes(data)), type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return "<unreadable arguments>"
        text = ", ".join(self._shown(wire))
        text = text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"
        return "".join(_harmless(character) for character in text)

    # --- calls that use keywords, or that Python would refuse -------------------------------------------------------------

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[_Slot, Any]]:
        passed = {slot.name: value for slot, value in zip(self._positional, args, strict=False)}
        surplus = args[len(self._positional) :]
        extra: dict[str, Any] = {}
        for name, value in kwargs.items():
            slot = self._by_name.get(name)
            if slot is None or slot.kind not in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
                extra[name] = value
            elif name in passed:
                raise TypeError(f"{self._name}() got multiple values for argument {name!r}")
            else:
                passed[name] = value
        self._put_rest(passed, Parameter.VAR_KEYWORD, dict(sorted(extra.items())), self._unexpected)
        self._put_rest(passed, Parameter.VAR_POSITIONAL, surplus, lambda: self._too_many(len(args)))
        self._refuse_missing(passed)
        return [(slot, passed[slot.name]) for slot in self._slots if slot.name in passed]

    def _put_rest(self, passed: dict[str, Any], kind: Any, rest: Any, refuse: Callable[..., TypeError]) -> None:
        if not rest:
            return
        slot = next((slot for slot in self._slots if slot.kind is kind), None)
        if slot is None:
            raise refuse(rest) if kind is Parameter.VAR_KEYWORD else refuse()
        passed[slot.name] = rest

    def _unexpected(self, extra: Mapping[str, Any]) -> TypeError:
        name = next(iter(extra))
        if name in self._by_name and self._by_name[name].kind is Parameter.POSITIONAL_ONLY:
            return TypeError(f"{self._name}() got some positional-only arguments passed as keyword arguments: {name!r}")
        return TypeError(f"{self._name}() got an unexpected keyword argument {name!r}")

    def _too_many(self, given: int) -> TypeError:
        least = sum(slot.required for slot in self._positional)
        most = len(self._positional)
        takes = str(most) if least == most else f"from {least} to {most}"
        plural = "" if most == 1 else "s"
        were = "was" if given == 1 else "were"
        return TypeError(f"{self._name}() takes {takes} positional argument{plural} but {given} {were} given")

    def _refuse_missing(self, passed: Mapping[str, Any]) -> None:
        for kinds, word in ((_POSITIONAL, "positional"), ((Parameter.KEYWORD_ONLY,), "keyword-only")):
            missing = [
                repr(slot.name) for slot in self._slots if slot.required and slot.kind in kinds and slot.name not in passed
            ]
            if missing:
                listed = missing[0] if len(missing) == 1 else f"{', '.join(missing[:-1])} and {missing[-1]}"
                plural = "" if len(missing) == 1 else "s"
                raise TypeError(f"{self._name}() missing {len(missing)} required {word} argument{plural}: {listed}")

    # --- reading ----------------------------------------------------------------------------------------------------------

    def _read(self, slot: _Slot, wire: Any) -> Any:
        node = slot.compiled()
        try:
            return node.unpack(wire)
        except Refusal as refusal:
            raise undecodable(refusal, slot.name, node.name) from None
        except RecursionError:
            raise undecodable(Refusal("nested too deep"), slot.name, node.name) from None

    def _refuse_misfits(self, wire: Mapping[str, Any], name: str) -> None:
        unknown = sorted(wire.keys() - self._by_name.keys())
        if unknown:
            raise undecodable(Refusal("the function has no such parameter any more"), ascii(unknown[0][:60])[1:-1], name)
        for slot in self._slots:
            if slot.required and slot.name not in wire:
                raise undecodable(Refusal("the data has no such argument, and the parameter has no default"), slot.name, name)

    def _arranged(self, values: dict[str, Any], name: str) -> tuple[list[Any], dict[str, Any]]:
        positional: list[Any] = []
        keyword: dict[str, Any] = {}
        gap = False
        for slot in self._slots:
            if slot.name not in values:
                gap = gap or slot.kind in _POSITIONAL
                continue
            value = values[slot.name]
            if slot.kind is Parameter.VAR_KEYWORD:
                self._refuse_shadows(value, slot, name)
                keyword.update(value)
            elif gap and slot.kind in (Parameter.POSITIONAL_ONLY, Parameter.VAR_POSITIONAL):
                raise undecodable(Refusal("an earlier positional argument is missing"), slot.name, name)
            elif slot.kind is Parameter.VAR_POSITIONAL:
                positional.extend(value)
            elif gap or slot.kind is Parameter.KEYWORD_ONLY:
                keyword[slot.name] = value
            else:
                positional.append(value)
        return positional, keyword

    def _refuse_shadows(self, extra: Mapping[str, Any], slot: _Slot, name: str) -> None:
        for key in extra:
            own = self._by_name.get(key)
            if own is not None and own.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
                raise undecodable(Refusal(f"{key!r} is a parameter of its own"), slot.name, name)

    # --- showing ----------------------------------------------------------------------------------------------------------

    def _shown(self, wire: Mapping[str, msgspec.Raw]) -> Iterable[str]:
        gap = False
        for name, raw in list(wire.items())[: _SHOWN_MAX // 2]:
            slot = self._by_name.get(name)
            by_position = slot is not None and slot.kind in _POSITIONAL
            gap = gap or not by_position or slot is not self._positional[min(len(self._positional) - 1, _index(wire, name))]
            text = bytes(raw)[: 4 * _SHOWN_MAX].decode("utf-8", "replace")
            yield f"{name}={text}" if gap else text

    # --- annotations ------------------------------------------------------------------------------------------------------

    def _hints(self) -> Mapping[str, Any]:
        if self._resolved is None:
            self._resolved = function_hints(self._function)
        return self._resolved


def _index(wire: Mapping[str, Any], name: str) -> int:
    return list(wire).index(name)


def _harmless(character: str) -> str:
    """Control, format and bidi characters can rewrite the line they are shown in."""
    if unicodedata.category(character)[0] != "C" and character not in "\u2028\u2029":
        return character
    return f"\\u{ord(character):04x}" if ord(character) <= 0xFFFF else f"\\U{ord(character):08x}"
