"""
What is wrong with one function of workflow code, or with one step.

Every check is a function from a node to findings; ``_CHECKS`` lists those for workflow code. What a nested step or workflow
does is its own affair, and annotations are not executed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from everstep.lint import rules
from everstep.lint.names import METHODS, each, rule_of_call, rule_of_mention
from everstep.lint.rules import Finding, Rule
from everstep.lint.scopes import SET, Function, FunctionNode, Kind, Klass, Module, Origin, Outside, Valued

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Their result does not depend on the order of what they are given.
_ORDERLESS = frozenset(each("builtins.", "sorted set frozenset min max any all len sum bool isinstance"))
# They go through what they are given.
_ORDERLY = frozenset(
    (
        *each("builtins.", "list tuple iter enumerate zip map filter next reversed dict"),
        *each("asyncio.", "gather as_completed"),
        *each("itertools.", "chain batched islice accumulate product permutations combinations"),
        "collections.deque",
        "everstep.map",
        "everstep.gather",
    )
)
# In a step these await what they are given, or pass it on to what does.
_AWAITERS = frozenset(each("", "gather create_task wait wait_for shield ensure_future as_completed list tuple"))
_NEVER_AWAITED = frozenset(
    (*each("asyncio.", "sleep wait wait_for"), *each("everstep.", "sleep sleep_until condition map gather"))
)
_STEP_ERRORS = frozenset(each("", "StepFailed StepError StepOutcomeUnknown StepTimeout"))
_CATCH_ALL = frozenset(each("builtins.", "Exception BaseException"))
_MUTABLE = frozenset(
    (
        *each("builtins.", "dict() list() set() bytearray()"),
        *each("collections.", "deque() defaultdict() Counter() OrderedDict() ChainMap()"),
    )
)
_CHANGES = frozenset(
    (
        *each("", "append appendleft extend extendleft insert add update setdefault pop popleft popitem remove discard clear"),
        *each("", "sort reverse subtract difference_update intersection_update symmetric_difference_update"),
    )
)


@dataclass(frozen=True, slots=True)
class Place:
    """A function to look at.

    Attributes:
        node: The function.
        kind: What it is; plain for a helper.
        workflow: The workflow that it is, or whose code calls it.
    """

    node: FunctionNode
    kind: Kind
    workflow: str

    def __str__(self) -> str:
        if self.kind is Kind.PLAIN:
            return f"{self.node.name}, which workflow {self.workflow} calls,"
        return f"{self.kind.value} {self.node.name}"


@dataclass(frozen=True, slots=True)
class _Looking:
    """A place in a module."""

    module: Module
    place: Place

    def find(self, rule: Rule, node: ast.stmt | ast.expr | ast.ExceptHandler, what: str) -> Finding:
        """A finding, told as: what was found, where, what is wrong with it."""
        end = node.body[0].lineno if isinstance(node, ast.ExceptHandler) else node.end_lineno or node.lineno
        return Finding(rule, node.lineno, node.col_offset + 1, end, f"{what} in {self.place} {rule.what}")

    def dotted(self, node: ast.expr) -> str:
        """The name of something from outside; empty for anything else."""
        meaning = self.module.meaning(node)
        return meaning.dotted if isinstance(meaning, Outside) else ""

    def called(self, node: ast.AST) -> Function | None:
        """The function of this module that an expression calls."""
        meaning = self.module.meaning(node.func) if isinstance(node, ast.Call) else None
        return meaning if isinstance(meaning, Function) else None

    def is_operation(self, node: ast.AST) -> bool:
        """Whether an expression calls a step or a workflow of this module."""
        function = self.called(node)
        return function is not None and function.kind is not Kind.PLAIN

    def parent(self, node: ast.AST) -> ast.AST | None:
        """What a node stands in."""
        return self.module.parent_of.get(node)


_Check: TypeAlias = Callable[[_Looking, ast.AST], Iterator[Finding]]


def check_function(module: Module, place: Place) -> Iterator[Finding]:
    """Everything that is wrong with a function."""
    at = _Looking(module, place)
    if place.kind is Kind.STEP:
        for node in _nodes(module, place.node):
            yield from _steps_in_steps(at, node)
        return
    yield from _signature(at)
    for node in _nodes(module, place.node):
        for check in _CHECKS:
            yield from check(at, node)


def helpers_of(module: Module, place: Place) -> Iterator[FunctionNode]:
    """The plain functions of the module that a function calls, or hands on to be called."""
    for node in _nodes(module, place.node):
        if not isinstance(node, ast.Name | ast.Attribute) or not isinstance(node.ctx, ast.Load):
            continue
        meaning = module.meaning(node)
        if isinstance(meaning, Function) and meaning.kind is Kind.PLAIN and not _is_within(module, meaning.node, place.node):
            yield meaning.node
        elif isinstance(meaning, Klass) and _is_called(module, node):
            for name in ("__new__", "__init__", "__post_init__"):
                method = module.meaning_of_name(name, meaning.scope) if name in meaning.scope.bindings else None
                if isinstance(method, Function):
                    yield method.node


def _is_within(module: Module, inner: ast.AST | None, outer: ast.AST) -> bool:
    while inner is not None and inner is not outer:
        inner = module.parent_of.get(inner)
    return inner is outer


def _is_called(module: Module, node: ast.expr) -> bool:
    parent = module.parent_of.get(node)
    return isinstance(parent, ast.Call) and parent.func is node


def _nodes(module: Module, function: FunctionNode) -> Iterator[ast.AST]:
    """The nodes of a function that run when it runs, in order."""
    todo: list[ast.AST] = list(reversed(function.body))
    while todo:
        node = todo.pop()
        if isinstance(node, _FUNCTIONS):
            if module.kind(node) is Kind.PLAIN:
                todo += reversed([*node.args.defaults, *(one for one in node.args.kw_defaults if one), *node.body])
            continue
        yield node
        match node:
            case ast.AnnAssign(target=target, value=value):
                children: list[ast.AST] = [target, *([value] if value else [])]
            case ast.If(test=test, orelse=orelse) if _is_for_checkers(test):
                children = [*orelse]
            case _:
                children = list(ast.iter_child_nodes(node))
        todo += reversed(children)


def _is_for_checkers(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


# --- workflow code ------------------------------------------------------------------------------------------------------------


def _signature(at: _Looking) -> Iterator[Finding]:
    node = at.place.node
    if isinstance(node, ast.FunctionDef) and at.place.kind is Kind.WORKFLOW and not at.module.is_sync_surface(node):
        yield Finding(rules.NOT_ASYNC, node.lineno, node.col_offset + 1, node.lineno, f"{at.place} {rules.NOT_ASYNC.what}")
    for default in (*node.args.defaults, *node.args.kw_defaults):
        if default is not None and (_is_display(default) or at.dotted(default) in _MUTABLE):
            yield at.find(rules.MUTABLE_DEFAULT, default, f"the default {_text(default)}")


def _names(at: _Looking, node: ast.AST) -> Iterator[Finding]:
    """What the tables know."""
    if not isinstance(node, ast.Name | ast.Attribute) or not isinstance(node.ctx, ast.Load):
        return
    parent = at.parent(node)
    if isinstance(parent, ast.Attribute) or (isinstance(parent, ast.ExceptHandler) and parent.type is node):
        return  # Part of a longer name; a type that is only compared.
    is_called = isinstance(parent, ast.Call) and parent.func is node
    shown = f"{_text(node)}({'…' if isinstance(parent, ast.Call) and (parent.args or parent.keywords) else ''})"
    meaning = at.module.meaning(node)
    rule = None
    if isinstance(meaning, Outside):
        rule = rule_of_mention(meaning.dotted)
        if rule is rules.IDENTITY and is_called and isinstance(parent, ast.Call) and _is_plain_number(parent):
            rule = None
        if rule is None and is_called and isinstance(parent, ast.Call):
            rule = rule_of_call(
                meaning.dotted,
                has_arguments=bool(parent.args or parent.keywords),
                was_made_here=meaning.origin is Origin.HERE,
                is_of_module=meaning.origin is Origin.MODULE,
            )
            if rule is not None and meaning.dotted.startswith("random.Random("):
                shown = f"{shown}, of a generator that all runs share,"
    if rule is None and is_called and isinstance(node, ast.Attribute) and not isinstance(meaning, Function):
        rule = METHODS.get(node.attr)
    if rule is not None:
        whole = parent if is_called and isinstance(parent, ast.Call) else node
        yield at.find(rule, whole, shown if is_called else _text(node))


def _is_plain_number(call: ast.Call) -> bool:
    return len(call.args) == 1 and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, int)


def _set_order(at: _Looking, node: ast.AST) -> Iterator[Finding]:
    for used in _gone_through(at, node):
        if at.dotted(used) == SET:
            yield at.find(rules.SET_ORDER, used, _text(used))


def _gone_through(at: _Looking, node: ast.AST) -> Iterator[ast.expr]:
    """The expressions that a node takes one item after the other from, so that their order matters."""
    match node:
        case ast.For(iter=iterated):
            yield iterated
        case ast.ListComp(generators=loops) | ast.GeneratorExp(generators=loops) | ast.DictComp(generators=loops):
            if not _loses_order(at, node):
                yield from (loop.iter for loop in loops)
        case ast.Starred(value=value, ctx=ast.Load()):
            if not isinstance(at.parent(node), ast.Set):
                yield value
        case ast.Assign(targets=[ast.Tuple() | ast.List()], value=value):
            yield value
        case ast.Call(func=ast.Attribute(value=value, attr="pop"), args=[]):
            yield value
        case ast.Call(func=ast.Attribute(attr="join" | "extend" | "fromkeys"), args=[given, *_]):
            yield given
        case ast.Call(func=function, args=given) if at.dotted(function) in _ORDERLY:
            if not _loses_order(at, node):
                yield from (one for one in given if not isinstance(one, ast.Starred))
        case _:
            pass


def _loses_order(at: _Looking, node: ast.AST) -> bool:
    parent = at.parent(node)
    return isinstance(parent, ast.Call) and node in parent.args and at.dotted(parent.func) in _ORDERLESS


def _shared_state(at: _Looking, node: ast.AST) -> Iterator[Finding]:
    match node:
        case ast.Global(names=names):
            scope = at.module.scope_of[node]
            changed = [name for name in names if name in scope.bindings or _is_stored(at, name)]
            if changed:
                yield at.find(rules.SHARED_STATE, node, f"global {', '.join(changed)}")
        case ast.Nonlocal(names=names):
            outside = [name for name in names if not _is_bound_within(at, node, name)]
            if outside:
                yield at.find(rules.SHARED_STATE, node, f"nonlocal {', '.join(outside)}")
        case ast.Subscript(value=ast.Name() as owner, ctx=ast.Store() | ast.Del()):
            if _is_module_variable(at, owner):
                yield at.find(rules.SHARED_STATE, node, f"writing {_text(node)}")
        case ast.Attribute(value=ast.Name() as owner, ctx=ast.Store() | ast.Del()):
            if _is_module_variable(at, owner) or _is_module_class(at, owner):
                yield at.find(rules.SHARED_STATE, node, f"writing {_text(node)}")
        case ast.Call(func=ast.Attribute(value=ast.Name() as owner, attr=method)) if method in _CHANGES:
            if _is_module_container(at, owner):
                yield at.find(rules.SHARED_STATE, node, f"{_text(node.func)}(…)")
        case _:
            pass


def _is_stored(at: _Looking, name: str) -> bool:
    return any(
        isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load)
        for node in _nodes(at.module, at.place.node)
    )


def _is_bound_within(at: _Looking, node: ast.Nonlocal, name: str) -> bool:
    """Whether a nonlocal name belongs to the function that is looked at, and so ends with the run."""
    scope = at.module.scope_of[node].parent
    holder = scope.holder(name) if scope is not None else None
    return holder is not None and _is_within(at.module, holder.node, at.place.node)


def _is_module_variable(at: _Looking, owner: ast.Name) -> bool:
    holder = at.module.scope_of[owner].holder(owner.id)
    if holder is None or not holder.is_module:
        return False
    bindings = holder.bindings.get(owner.id, [])
    return any(isinstance(binding, Valued) for binding in bindings) or _is_module_container(at, owner)


def _is_module_class(at: _Looking, owner: ast.Name) -> bool:
    scope = at.module.scope_of[owner]
    holder = scope.holder(owner.id)
    return holder is not None and holder.is_module and isinstance(at.module.meaning(owner), Klass)


def _is_module_container(at: _Looking, owner: ast.Name) -> bool:
    holder = at.module.scope_of[owner].holder(owner.id)
    if holder is None or not holder.is_module:
        return False
    if at.dotted(owner) in _MUTABLE:
        return True
    return any(isinstance(binding, Valued) and _is_display(binding.value) for binding in holder.bindings.get(owner.id, []))


def _not_awaited(at: _Looking, node: ast.AST) -> Iterator[Finding]:
    match node:
        case ast.Expr(value=ast.Call() as call):
            function = at.called(call)
            is_coroutine = (
                function is not None and isinstance(function.node, ast.AsyncFunctionDef) and not _yields(at, function)
            )
            if at.is_operation(call) or is_coroutine or at.dotted(call.func) in _NEVER_AWAITED:
                yield at.find(rules.NOT_AWAITED, call, _shown(call))
        case _:
            pass


def _yields(at: _Looking, function: Function) -> bool:
    return any(isinstance(node, ast.Yield) for node in _nodes(at.module, function.node))


def _conditions(at: _Looking, node: ast.AST) -> Iterator[Finding]:
    for used in _values_of(node):
        if at.is_operation(used):
            yield at.find(rules.CONDITION, used, _shown(used))


def _values_of(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions whose value a node asks for, where a call has none yet."""
    match node:
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test) | ast.Assert(test=test):
            yield _last_operand(test)
        case ast.comprehension(iter=iterated, ifs=tests):
            yield from (iterated, *map(_last_operand, tests))
        case ast.BoolOp(values=values):
            yield from values[:-1]  # The last one is the result, which may well be awaited.
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield _last_operand(operand)
        case ast.Compare(left=left, ops=operators, comparators=others):
            if not any(isinstance(operator, ast.Is | ast.IsNot) for operator in operators):
                yield from (left, *others)
        case ast.For(iter=iterated):
            yield iterated
        case ast.match_case(guard=ast.expr() as guard):
            yield guard
        case ast.Match(subject=subject):
            yield subject
        case ast.BinOp(left=left, right=right):
            yield from (left, right)
        case ast.Subscript(value=value):
            yield value
        case ast.FormattedValue(value=value):
            yield value
        case _:
            pass


def _last_operand(test: ast.expr) -> ast.expr:
    return _last_operand(test.values[-1]) if isinstance(test, ast.BoolOp) else test


def _swallowed(at: _Looking, node: ast.AST) -> Iterator[Finding]:
    match node:
        case ast.Try() | ast.TryStar() if _awaits_step(at, node.body):
            yield from _swallowing_handlers(at, node)
        case ast.With(items=items, body=body) if _awaits_step(at, body):
            for used in (item.context_expr for item in items):
                if _suppresses_all(at, used):
                    yield at.find(rules.SWALLOWED, used, f"{_text(used)} around a step")
        case _:
            pass


def _suppresses_all(at: _Looking, node: ast.expr) -> bool:
    if not isinstance(node, ast.Call) or at.dotted(node.func) != "contextlib.suppress":
        return False
    return any(at.dotted(given) in _CATCH_ALL for given in node.args)


def _swallowing_handlers(at: _Looking, node: ast.Try | ast.TryStar) -> Iterator[Finding]:
    for handler in node.handlers:
        caught = list(_caught(handler))
        if any(_mentions_step_error(one) for one in caught):
            return  # From here on it has been thought of.
        is_broad = handler.type is None or any(at.dotted(one) in _CATCH_ALL for one in caught)
        if is_broad and not any(_raises(one) or _mentions_step_error(one) for one in handler.body):
            shown = "except" if handler.type is None else f"except {_text(handler.type)}"
            yield at.find(rules.SWALLOWED, handler, f"{shown} around a step")


def _caught(handler: ast.ExceptHandler) -> Iterator[ast.expr]:
    match handler.type:
        case ast.Tuple(elts=types):
            yield from types
        case None:
            pass
        case one:
            yield one


def _raises(node: ast.AST) -> bool:
    return any(isinstance(one, ast.Raise) for one in ast.walk(node))


def _mentions_step_error(node: ast.AST) -> bool:
    return any(
        (isinstance(one, ast.Name) and one.id in _STEP_ERRORS) or (isinstance(one, ast.Attribute) and one.attr in _STEP_ERRORS)
        for one in ast.walk(node)
    )


def _awaits_step(at: _Looking, body: list[ast.stmt]) -> bool:
    return any(
        isinstance(node, ast.Await) and any(at.is_operation(inner) for inner in ast.walk(node.value))
        for statement in body
        for node in ast.walk(statement)
    )


def _gathered(at: _Looking, node: ast.AST) -> Iterator[Finding]:
    match node:
        case ast.Call(func=function, args=given, keywords=keywords) if at.dotted(function) == "asyncio.gather":
            if any(keyword.arg in {"return_exceptions", None} for keyword in keywords):
                return
            several = [one for one in given if at.is_operation(one)]
            unpacked = [one for one in given if isinstance(one, ast.Starred) and _makes_operations(at, one.value)]
            if len(several) > 1 or unpacked:
                yield at.find(rules.GATHER, node, "asyncio.gather(…) of steps")
        case _:
            pass


def _makes_operations(at: _Looking, node: ast.expr) -> bool:
    match node:
        case ast.ListComp(elt=element) | ast.GeneratorExp(elt=element):
            return at.is_operation(element)
        case ast.Call(func=ast.Name(id="map"), args=[function, *_]):
            meaning = at.module.meaning(function)
            return isinstance(meaning, Function) and meaning.kind is not Kind.PLAIN
        case _:
            return False


_CHECKS: tuple[_Check, ...] = (_names, _set_order, _shared_state, _not_awaited, _conditions, _swallowed, _gathered)


# --- steps --------------------------------------------------------------------------------------------------------------------


def _steps_in_steps(at: _Looking, node: ast.AST) -> Iterator[Finding]:
    """A call that is given to an engine or a client starts a run, which a step may do; one that is awaited is refused."""
    if not isinstance(node, ast.Call) or not at.is_operation(node):
        return
    holder = at.parent(node)
    while isinstance(holder, ast.Starred | ast.List | ast.Tuple | ast.GeneratorExp | ast.ListComp):
        holder = at.parent(holder)
    if isinstance(holder, ast.keyword):
        return
    if isinstance(holder, ast.Call) and _last_name(holder.func) not in _AWAITERS:
        return
    if isinstance(holder, ast.Assign | ast.AnnAssign | ast.NamedExpr):
        return  # Perhaps to be started.
    yield at.find(rules.STEP_IN_STEP, node, _shown(node))


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


# --- words --------------------------------------------------------------------------------------------------------------------


def _is_display(node: ast.expr) -> bool:
    return isinstance(node, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)


def _shown(call: ast.expr) -> str:
    if not isinstance(call, ast.Call):
        return _text(call)
    return f"{_text(call.func)}({'…' if call.args or call.keywords else ''})"


_TEXT_MAX = 40
_SHORT_NAMES: Mapping[type[ast.AST], str] = {ast.Set: "a set", ast.SetComp: "a set", ast.Call: "a call"}


def _text(node: ast.expr) -> str:
    """The expression as it is written, if it is short."""
    text = ast.unparse(node)
    if len(text) <= _TEXT_MAX and "\n" not in text:
        return text
    return _SHORT_NAMES.get(type(node), f"{text[:_TEXT_MAX]}…".replace("\n", " "))
