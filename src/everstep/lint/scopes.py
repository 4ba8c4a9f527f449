"""
What a name means, as far as the module itself says it: an import, a function or class of its own, or what a known call made.

Bindings are collected per scope, without regard to order. A name that is bound twice to different things means nothing here,
and a name that means nothing breaks no rule.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_BUILTINS = frozenset(dir(builtins))
_DEPTH_MAX = 25
SET = "builtins.set()"
_SET_TYPES = frozenset(
    f"{module}.{name}"
    for module, names in {
        "builtins": "set frozenset",
        "typing": "Set FrozenSet AbstractSet MutableSet",
        "collections.abc": "Set MutableSet",
    }.items()
    for name in names.split()
)
# They hash by their ordinal in the loop, so a set of them has the same order on every replay.
_ORDERED_IN_SETS = frozenset({"asyncio.Task", "asyncio.Future", "everstep.Call"})
_TASK_MAKERS = frozenset({"create_task", "ensure_future", "create_future", "shield"})
_STARRED = frozenset({"workflow", "step", "transaction", "sleep", "sleep_until", "run", "now", "random", "uuid4"})


class Kind(Enum):
    """What a function is to everstep."""

    WORKFLOW = "workflow"
    STEP = "step"
    PLAIN = "plain"


class Origin(Enum):
    """Where the object behind a name was made."""

    HERE = "here"
    MODULE = "module"
    ARGUMENT = "argument"


@dataclass(frozen=True, slots=True)
class Outside:
    """Something that another module defines, or what a call of it made."""

    dotted: str
    origin: Origin = Origin.HERE


@dataclass(frozen=True, slots=True)
class Function:
    """A function of this module."""

    node: FunctionNode
    kind: Kind


@dataclass(frozen=True, slots=True)
class Klass:
    """A class of this module, or an object of it."""

    scope: Scope


Meaning: TypeAlias = Outside | Function | Klass


# --- how a name was bound -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Imported:
    dotted: str


@dataclass(frozen=True, slots=True)
class Defined:
    node: FunctionNode


@dataclass(frozen=True, slots=True)
class ClassDefined:
    scope: Scope


@dataclass(frozen=True, slots=True)
class Valued:
    value: ast.expr


@dataclass(frozen=True, slots=True)
class Annotated:
    annotation: ast.expr
    is_argument: bool


@dataclass(frozen=True, slots=True)
class Itself:
    scope: Scope


@dataclass(frozen=True, slots=True)
class Opaque:
    pass


Binding: TypeAlias = Imported | Defined | ClassDefined | Valued | Annotated | Itself | Opaque


@dataclass(eq=False, slots=True)
class Scope:
    """The names of a module, class, function or comprehension."""

    node: ast.AST
    parent: Scope | None
    bindings: dict[str, list[Binding]] = field(default_factory=dict[str, list[Binding]])
    outer: set[str] = field(default_factory=set[str])  # declared global
    enclosing: set[str] = field(default_factory=set[str])  # declared nonlocal

    @property
    def is_class(self) -> bool:
        """Its names are not seen by the functions in it."""
        return isinstance(self.node, ast.ClassDef)

    @property
    def is_module(self) -> bool:
        """It is the outermost."""
        return self.parent is None

    @property
    def is_comprehension(self) -> bool:
        """Walrus targets in it belong further out."""
        return isinstance(self.node, _COMPREHENSIONS)

    def bind(self, name: str, binding: Binding) -> None:
        """Note one more way in which a name is bound."""
        self.bindings.setdefault(name, []).append(binding)

    def holder(self, name: str) -> Scope | None:
        """The scope that a name is looked up in, from here; None if no scope of the module binds it."""
        scope: Scope | None = self
        if name in self.outer:
            return self.module
        while scope is not None:
            if name in scope.bindings and (scope is self or not scope.is_class) and name not in scope.enclosing:
                return scope.module if name in scope.outer else scope
            scope = scope.parent
        return None

    @property
    def module(self) -> Scope:
        """The outermost scope."""
        scope = self
        while scope.parent is not None:
            scope = scope.parent
        return scope


@dataclass(eq=False)
class Module:
    """A parsed module: its tree, and which scope each node stands in."""

    tree: ast.Module
    scope: Scope
    scope_of: dict[ast.AST, Scope]
    parent_of: dict[ast.AST, ast.AST]
    starred: list[str] = field(default_factory=list[str])
    # Without these, `query = query.where(…)` written ten times would be followed in ten directions, ten times.
    _known: dict[ast.expr, Meaning | None] = field(default_factory=dict[ast.expr, "Meaning | None"])
    _kinds: dict[FunctionNode, Kind] = field(default_factory=dict[FunctionNode, Kind])

    # --- meanings -------------------------------------------------------------------------------------------------------------

    def meaning(self, node: ast.expr, depth: int = 0) -> Meaning | None:
        """What an expression is, if the module says so."""
        if node not in self._known:
            self._known[node] = None  # What is defined by itself means nothing.
            self._known[node] = self._find_meaning(node, depth) if depth <= _DEPTH_MAX else None
        return self._known[node]

    def _find_meaning(self, node: ast.expr, depth: int) -> Meaning | None:
        match node:
            case ast.Name(id=name):
                return self.meaning_of_name(name, self.scope_of[node], depth)
            case ast.Attribute(value=value, attr=attr):
                return self._member(self.meaning(value, depth + 1), attr, depth)
            case ast.Call(func=func):
                return self._made(node, self.meaning(func, depth + 1), depth)
            case ast.Set() | ast.SetComp():
                return None if self._is_of_tasks(node, depth) else Outside(SET)
            case ast.BinOp(left=left, op=ast.Div()):
                made = self.meaning(left, depth + 1)
                return made if isinstance(made, Outside) and made.dotted.startswith("pathlib.Path()") else None
            case ast.BinOp(left=left, op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor()):
                made = self.meaning(left, depth + 1)
                return made if made == Outside(SET) else None
            case ast.NamedExpr(value=value):
                return self.meaning(value, depth + 1)
            case ast.IfExp(body=body, orelse=orelse):
                first = self.meaning(body, depth + 1)
                return first if first == self.meaning(orelse, depth + 1) else None
            case _:
                return None

    def meaning_of_name(self, name: str, scope: Scope, depth: int = 0) -> Meaning | None:
        """What a name is in a scope."""
        holder = scope.holder(name)
        if holder is None:
            return Outside(f"builtins.{name}") if name in _BUILTINS else self._starred(name)
        bindings = holder.bindings.get(name, [])
        if not bindings:
            return None  # Declared global, and never bound there.
        if all(isinstance(binding, Defined) for binding in bindings):
            bindings = bindings[-1:]  # Overloads come before what they describe.
        annotated = [binding for binding in bindings if isinstance(binding, Annotated)]
        meanings = [self._bound(binding, holder, depth + 1) for binding in annotated[:1] or bindings]
        return meanings[0] if all(meaning == meanings[0] for meaning in meanings) else None

    def kind(self, node: FunctionNode, depth: int = 0) -> Kind:
        """What the decorators of a function make of it."""
        if node not in self._kinds:
            kinds = (self._decorates(decorator, depth + 1) for decorator in node.decorator_list)
            self._kinds[node] = next((kind for kind in kinds if kind is not Kind.PLAIN), Kind.PLAIN)
        return self._kinds[node]

    def is_sync_surface(self, node: FunctionNode) -> bool:
        """Whether a workflow is one of ``everstep.sync``, where they are written with ``def``."""
        return any(self._dotted(decorator).startswith("everstep.sync.") for decorator in node.decorator_list)

    def functions(self) -> Iterator[Function]:
        """All functions of the module, in order; also those that become steps or workflows by a call."""
        for node in ast.walk(self.tree):
            if isinstance(node, _FUNCTIONS):
                yield Function(node, self.kind(node))
            elif isinstance(node, ast.Call):
                made = self.meaning(node)
                if isinstance(made, Function) and made.kind is not Kind.PLAIN:
                    yield made

    def _decorates(self, decorator: ast.expr, depth: int) -> Kind:
        dotted = self._dotted(decorator, depth)
        package, _, last = dotted.rpartition(".")
        if package.partition(".")[0] != "everstep":
            return Kind.PLAIN
        return {"workflow": Kind.WORKFLOW, "step": Kind.STEP, "transaction": Kind.STEP}.get(last, Kind.PLAIN)

    def _dotted(self, decorator: ast.expr, depth: int = 0) -> str:
        function = decorator.func if isinstance(decorator, ast.Call) else decorator
        meaning = self.meaning(function, depth + 1)
        return meaning.dotted if isinstance(meaning, Outside) else ""

    def _member(self, owner: Meaning | None, name: str, depth: int) -> Meaning | None:
        match owner:
            case Outside(dotted=dotted, origin=origin):
                return Outside(f"{dotted}.{name}", origin)
            case Function(node=node, kind=Kind.STEP | Kind.WORKFLOW) if name == "function":
                return Function(node, Kind.PLAIN)
            case Klass(scope=scope) if name in scope.bindings:
                return self.meaning_of_name(name, scope, depth + 1)
            case _:
                return None

    def _made(self, call: ast.Call, function: Meaning | None, depth: int) -> Meaning | None:
        match function:
            case Klass():
                return function
            case Outside(dotted=dotted, origin=origin):
                pass
            case _:
                return None
        made = f"{dotted.removesuffix('()')}()" if dotted in {SET, "builtins.frozenset()"} else f"{dotted}()"
        if call.args and self._decorates(call.func, depth) is not Kind.PLAIN:
            wrapped = self.meaning(call.args[0], depth + 1)
            if isinstance(wrapped, Function):
                return Function(wrapped.node, self._decorates(call.func, depth))
        if dotted == "builtins.frozenset" or (dotted.startswith(f"{SET}.") and dotted.rpartition(".")[2] in _SET_MAKERS):
            made = SET
        if made == SET and call.args and self._is_of_tasks(call.args[0], depth):
            return None
        return Outside(made, origin)

    def _bound(self, binding: Binding, holder: Scope, depth: int) -> Meaning | None:
        match binding:
            case Imported(dotted=dotted):
                return Outside(dotted)
            case Defined(node=node):
                return Function(node, self.kind(node, depth))
            case ClassDefined(scope=scope) | Itself(scope=scope):
                return Klass(scope)
            case Valued(value=value):
                meaning = self.meaning(value, depth)
                if isinstance(meaning, Outside) and holder.is_module and "()" in meaning.dotted and meaning.dotted != SET:
                    return Outside(meaning.dotted, Origin.MODULE)
                return meaning
            case Annotated(annotation=annotation, is_argument=is_argument):
                return self._annotated(annotation, is_argument=is_argument, holder=holder, depth=depth)
            case _:
                return None

    def _annotated(self, annotation: ast.expr, *, is_argument: bool, holder: Scope, depth: int) -> Meaning | None:
        inner: Sequence[ast.expr] = ()
        if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
            sides = [side for side in (annotation.left, annotation.right) if not _is_none(side)]
            if len(sides) != 1:
                return None
            annotation = sides[0]
        if isinstance(annotation, ast.Subscript):
            inner = [annotation.slice]
            annotation = annotation.value
        meaning = self.meaning(annotation, depth + 1)
        if not isinstance(meaning, Outside):
            return meaning if isinstance(meaning, Klass) else None
        if meaning.dotted in _SET_TYPES:
            return None if any(self._is_task_type(one, depth) for one in inner) else Outside(SET)
        origin = Origin.ARGUMENT if is_argument else Origin.MODULE if holder.is_module else Origin.HERE
        return Outside(f"{meaning.dotted}()", origin)

    def _is_task_type(self, node: ast.expr, depth: int) -> bool:
        base = node.value if isinstance(node, ast.Subscript) else node
        meaning = self.meaning(base, depth + 1)
        return isinstance(meaning, Outside) and meaning.dotted in _ORDERED_IN_SETS

    def _is_of_tasks(self, node: ast.expr, depth: int) -> bool:
        match node:
            case ast.Set(elts=elements) | ast.List(elts=elements) | ast.Tuple(elts=elements):
                made = elements
            case ast.SetComp(elt=element) | ast.ListComp(elt=element) | ast.GeneratorExp(elt=element):
                made = [element]
            case _:
                return False
        return bool(made) and all(self._is_task(one, depth) for one in made)

    def _is_task(self, node: ast.expr, depth: int) -> bool:
        if not isinstance(node, ast.Call):
            return False
        function = self.meaning(node.func, depth + 1)
        if isinstance(function, Function):
            return function.kind is not Kind.PLAIN
        return (node.func.attr if isinstance(node.func, ast.Attribute) else "") in _TASK_MAKERS

    def _starred(self, name: str) -> Meaning | None:
        for module in self.starred:
            if module != "everstep" or name in _STARRED:
                return Outside(f"{module}.{name}")
        return None


_SET_MAKERS = frozenset(["union", "intersection", "difference", "symmetric_difference", "copy"])


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


# --- collecting ---------------------------------------------------------------------------------------------------------------


def collect(tree: ast.Module) -> Module:
    """Find every scope and binding of a module."""
    scope = Scope(tree, None)
    module = Module(tree, scope, {tree: scope}, {})
    todo: list[tuple[ast.AST, Scope]] = [(tree, scope)]
    while todo:
        node, outside = todo.pop()
        module.scope_of[node] = outside
        _bind(node, outside, module)
        for child, where in _children(node, outside):
            module.parent_of[child] = node
            todo.append((child, where))
    _put_in_order(module)
    return module


def _children(node: ast.AST, outside: Scope) -> Iterator[tuple[ast.AST, Scope]]:
    """The children of a node, each with the scope that it stands in."""
    if isinstance(node, (*_FUNCTIONS, ast.Lambda)):
        inside = Scope(node, outside)
        _bind_arguments(node, inside)
        for name, child in _fields(node):
            if name == "args":
                yield child, outside  # Defaults and annotations are evaluated outside.
            else:
                yield child, inside if name == "body" else outside
    elif isinstance(node, ast.ClassDef):
        inside = Scope(node, outside)
        outside.bind(node.name, ClassDefined(inside))
        for name, child in _fields(node):
            yield child, inside if name == "body" else outside
    elif isinstance(node, _COMPREHENSIONS):
        inside = Scope(node, outside)
        for _, child in _fields(node):
            yield child, inside
    else:
        for _, child in _fields(node):
            yield child, outside


def _fields(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:  # pyright: ignore[reportUnknownVariableType]
            if isinstance(child, ast.AST):
                yield name, child


def _bind_arguments(node: FunctionNode | ast.Lambda, inside: Scope) -> None:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    owner = inside.parent
    is_static = not isinstance(node, ast.Lambda) and any(
        isinstance(decorator, ast.Name) and decorator.id == "staticmethod" for decorator in node.decorator_list
    )
    for number, argument in enumerate([*positional, *arguments.kwonlyargs]):
        if number == 0 and positional and owner is not None and owner.is_class and not is_static:
            inside.bind(argument.arg, Itself(owner))
        elif argument.annotation is not None:
            inside.bind(argument.arg, Annotated(argument.annotation, is_argument=True))
        else:
            inside.bind(argument.arg, Opaque())
    for rest in (arguments.vararg, arguments.kwarg):
        if rest is not None:
            inside.bind(rest.arg, Opaque())


def _bind(node: ast.AST, scope: Scope, module: Module) -> None:
    match node:
        case ast.Import(names=names):
            for alias in names:
                name = alias.asname or alias.name.partition(".")[0]
                scope.bind(name, Imported(alias.name if alias.asname else name))
        case ast.ImportFrom(module=source, names=names, level=level):
            base = "." * level + (source or "")
            for alias in names:
                if alias.name == "*":
                    module.starred.append(base)
                else:
                    scope.bind(alias.asname or alias.name, Imported(f"{base}.{alias.name}"))
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            scope.bind(name, Defined(node))
        case ast.Global(names=names):
            scope.outer.update(names)
        case ast.Nonlocal(names=names):
            scope.enclosing.update(names)
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                _bind_target(target, Valued(value), scope)
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
            scope.bind(name, Annotated(annotation, is_argument=False))
        case ast.NamedExpr(target=ast.Name(id=name), value=value):
            while scope.is_comprehension and scope.parent is not None:
                scope = scope.parent
            scope.bind(name, Valued(value))
        case ast.withitem(optional_vars=ast.expr() as target, context_expr=value):
            _bind_target(target, Valued(value), scope)
        case ast.For(target=target) | ast.AsyncFor(target=target) | ast.comprehension(target=target):
            _bind_target(target, Opaque(), scope)
        case ast.ExceptHandler(name=str(name)):
            scope.bind(name, Opaque())
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
            scope.bind(name, Opaque())
        case _:
            pass


def _bind_target(target: ast.expr, binding: Binding, scope: Scope) -> None:
    match target:
        case ast.Name(id=name):
            scope.bind(name, binding)
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            for part in parts:
                _bind_target(part, Opaque(), scope)
        case ast.Starred(value=part):
            _bind_target(part, Opaque(), scope)
        case _:
            pass


def _put_in_order(module: Module) -> None:
    """The walk was from the end to the beginning; functions of one name are told apart by their order."""
    seen = {id(scope): scope for scope in module.scope_of.values()}
    for scope in seen.values():
        for bindings in scope.bindings.values():
            bindings.sort(key=lambda binding: binding.node.lineno if isinstance(binding, Defined) else 0)
