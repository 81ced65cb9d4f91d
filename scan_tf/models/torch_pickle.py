"""The few instructions of a pickle that containers of numbers need, interpreted one by one.

Nothing is imported or called but the stand-ins that the caller gives for the names in a pickle.
Every value is made once and in time linear in its instructions, so that a small file cannot claim
much memory or time.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections.abc import Callable, Mapping
from typing import Any


class Refused(Exception):
    """What a file holds and a state dict never does; the message says it to the user."""


@dataclasses.dataclass(frozen=True)
class Function:
    """Stands for a function or a class that a pickle may call, on values made by the same pickle.

    It is given any values, and should copy none of them: one value can be given to it many times.
    """

    call: Callable[..., Any]


class State:
    """A stand-in's object that takes the state which a pickle gives it, by `set_state`."""

    def set_state(self, state: Any) -> None:
        """Take the state, of any kind."""
        raise NotImplementedError


def interpret(
    file: Any, names: Mapping[str, Any], persistent: Callable[[Any], Any] | None = None
) -> Any:
    """The value of the pickle at the position of `file`, which is left behind the pickle.

    Args:
        file: has `read` and `readline`, and yields no more than is there.
        names: what stands for "module name"; a `Function` can be called.
        persistent: from an identity that the pickle gives to what it means; None: there are none.

    Raises:
        Refused: the pickle has a name that is not known here.
        Exception: of any kind, where it is damaged.
    """
    machine = _Machine(names, persistent)
    for opcode, argument, _ in pickletools.genops(file):
        machine.step(opcode.name, argument)
    (value,) = machine.stack
    return value


# Instructions that put their own argument, or a constant, on the stack.
_ARGUMENTS = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
    | {"BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"}
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING = frozenset({"PROTO", "FRAME", "STOP"})


class _Machine:
    """The stack, the marks in it and the memo of a pickle (see the module `pickletools`)."""

    def __init__(self, names: Mapping[str, Any], persistent: Callable[[Any], Any] | None):
        self.names, self.persistent = names, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        push = self.stack.append
        if name in _ARGUMENTS:
            push(argument)
        elif name in _CONSTANTS:
            push(_CONSTANTS[name])
        elif name in _TUPLES:
            push(tuple(self._last(len(self.stack) - _TUPLES[name])))
        elif name not in _NOTHING:
            method = getattr(self, f"_{name.lower()}", None)
            if method is None:
                raise ValueError(f"the instruction {name}, which weights never need")
            method(argument)

    def _last(self, start: int) -> list[Any]:
        """Take what is on the stack from `start` on."""
        if start < 0:
            raise IndexError("an empty stack")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._last(self.marks.pop())))

    def _empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def _empty_list(self, _: Any) -> None:
        self.stack.append([])

    def _append(self, _: Any) -> None:
        value = self.stack.pop()
        _only(list, self.stack[-1]).append(value)

    def _appends(self, _: Any) -> None:
        values = self._last(self.marks.pop())
        _only(list, self.stack[-1]).extend(values)

    def _setitem(self, _: Any) -> None:
        self._set(self._last(len(self.stack) - 2))

    def _setitems(self, _: Any) -> None:
        self._set(self._last(self.marks.pop()))

    def _set(self, pairs: list[Any]) -> None:
        target = _only(dict, self.stack[-1])
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, (str, int, float)):  # no tuple: it may be deep, hashing recurses
                raise Refused(f"has a {type(key).__name__} as a key of a dict.")
            target[key] = value

    def _binput(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    _long_binput = _binput

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _binget(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _long_binget = _binget

    def _global(self, name: str) -> None:
        if name not in self.names:
            shown = name.replace(" ", ".")
            raise Refused(f"holds a '{shown}' and was not opened, because that could run any code.")
        self.stack.append(self.names[name])

    def _stack_global(self, _: Any) -> None:
        module, name = self._last(len(self.stack) - 2)
        self._global(f"{_only(str, module)} {_only(str, name)}")

    def _reduce(self, _: Any) -> None:
        function, arguments = self._last(len(self.stack) - 2)
        self.stack.append(_only(Function, function).call(*_only(tuple, arguments)))

    def _build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, dict):  # the attributes of an OrderedDict are left out
            _only(State, target).set_state(state)

    def _binpersid(self, _: Any) -> None:
        if self.persistent is None:
            raise ValueError("an identity where there are none")
        self.stack.append(self.persistent(self.stack.pop()))


def _only(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"expected a {kind.__name__}")
    return value
