"""The small faults that are put into a program: for a node of its syntax tree, what replaces it."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator

Changes = Iterator[tuple[str, ast.AST, ast.AST | None]]
"""The name of the operator, the node that it replaces and the new one; None to drop a statement."""

COMPARISONS = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}


def changes(node: ast.AST) -> Changes:
    """Every fault of one node, none of its children."""
    for kinds, operator in OPERATORS.items():
        if isinstance(node, kinds):
            yield from operator(node)


def changed(node: ast.AST, **fields: object) -> ast.AST:
    """A copy of the node with other fields."""
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def compare(node: ast.Compare) -> Changes:
    """Put in another comparison, or its opposite."""
    for place, operator in enumerate(node.ops):
        for other in COMPARISONS[type(operator)]:
            ops = [*node.ops[:place], other(), *node.ops[place + 1 :]]
            yield "comparison", node, changed(node, ops=ops)


def boolean(node: ast.BoolOp) -> Changes:
    """``and`` for ``or``, and each operand left out."""
    other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    yield "and/or", node, changed(node, op=other)
    for place in range(len(node.values)):
        left = node.values[:place] + node.values[place + 1 :]
        yield "operand dropped", node, changed(node, values=left) if len(left) > 1 else left[0]


def unary(node: ast.UnaryOp) -> Changes:
    """Without ``not`` or the sign."""
    if not isinstance(node.operand, ast.Constant):
        yield "unary dropped", node, node.operand


def arithmetic(node: ast.BinOp | ast.AugAssign) -> Changes:
    """Put in another operation."""
    operands = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.value,)
    is_text = any(isinstance(x, ast.JoinedStr) or _is_string(x) for x in operands)
    if type(node.op) in ARITHMETIC and not is_text:
        yield "arithmetic", node, changed(node, op=ARITHMETIC[type(node.op)]())


def constant(node: ast.Constant) -> Changes:
    """True for False, and a number that is off by one."""
    if isinstance(node.value, bool):
        yield "constant", node, ast.Constant(not node.value)
    elif isinstance(node.value, int | float):
        yield "constant", node, ast.Constant(node.value + 1)
        if node.value == 1:
            yield "constant", node, ast.Constant(0)


def returned(node: ast.Return) -> Changes:
    """None instead of the value."""
    if node.value is not None and not _is_none(node.value):
        yield "return None", node, ast.Return(ast.Constant(None))


def statement(node: ast.Expr | ast.Assign | ast.AugAssign) -> Changes:
    """Without a call for its effect, or what is stored in an object."""
    targets = getattr(node, "targets", [])
    is_stored = targets and all(isinstance(x, ast.Attribute | ast.Subscript) for x in targets)
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.YieldFrom)
    if is_stored or is_call or isinstance(node, ast.AugAssign):
        yield "statement dropped", node, None


def jump(node: ast.Break | ast.Continue) -> Changes:
    """``break`` for ``continue``."""
    yield "jump", node, ast.Continue() if isinstance(node, ast.Break) else ast.Break()


def call(node: ast.Call) -> Changes:
    """``min`` for ``max``, ``any`` for ``all``, and each keyword argument left out."""
    if isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        yield "function", node, changed(node, func=ast.Name(FUNCTIONS[node.func.id], ast.Load()))
    for place, keyword in enumerate(node.keywords):
        # zip(strict=True) says what holds anyhow.
        if keyword.arg == "strict":
            continue
        left = node.keywords[:place] + node.keywords[place + 1 :]
        yield "keyword dropped", node, changed(node, keywords=left)


def branch(node: ast.If | ast.IfExp) -> Changes:
    """A branch that is never taken, or always."""
    if not isinstance(node.test, ast.Constant):
        yield "never", node.test, ast.Constant(False)
        yield "always", node.test, ast.Constant(True)


def filtered(node: ast.comprehension) -> Changes:
    """Without the condition of a comprehension."""
    for test in node.ifs:
        yield "filter dropped", test, ast.Constant(True)


def sliced(node: ast.Slice) -> Changes:
    """Without a bound or the step."""
    for name in ("lower", "upper", "step"):
        if getattr(node, name) is not None:
            yield "slice", node, changed(node, **{name: None})


def default(node: ast.arguments) -> Changes:
    """Another default: no string is what it was, and nothing becomes 0."""
    for value in [*node.defaults, *node.kw_defaults]:
        if value is not None and _is_string(value):
            yield "default", value, ast.Constant(value.value + "~")
        elif value is not None and _is_none(value):
            yield "default", value, ast.Constant(0)


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


OPERATORS: dict[tuple[type[ast.AST], ...], Callable[..., Changes]] = {
    (ast.Compare,): compare,
    (ast.BoolOp,): boolean,
    (ast.UnaryOp,): unary,
    (ast.BinOp, ast.AugAssign): arithmetic,
    (ast.Constant,): constant,
    (ast.Return,): returned,
    (ast.Expr, ast.Assign, ast.AugAssign): statement,
    (ast.Break, ast.Continue): jump,
    (ast.Call,): call,
    (ast.If, ast.IfExp): branch,
    (ast.comprehension,): filtered,
    (ast.Slice,): sliced,
    (ast.arguments,): default,
}
