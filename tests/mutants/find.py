"""The mutants of a file: each a copy of its text with one fault."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mutants.operators import changes


class Mutant(NamedTuple):
    """One fault.

    Attributes:
        file: relative to the repository.
        line: of the fault, from 1.
        operator: what kind of fault it is.
        before: the text that is replaced.
        after: what replaces it.
        text: the whole file with the fault.
        scope: first and last line of the function around it, or ``None``.
        key: the same as long as the function around it and the fault are the same.
    """

    file: str
    line: int
    operator: str
    before: str
    after: str
    text: str
    scope: tuple[int, int] | None
    key: str


def mutants_of(path: Path, root: Path) -> list[Mutant]:
    """Every mutant of a file, in the order of its text."""
    source, file = path.read_text("utf-8"), path.relative_to(root).as_posix()
    found, seen, lines = [], set(), source.splitlines(keepends=True)
    for scope, node in nodes_of(ast.parse(source)):
        for operator, old, new in changes(node):
            start, end = _span(lines, old)
            before, after = source[start:end], _written(old, new)
            text = source[:start] + after + source[end:]
            if text in seen or not _compiles(text):
                continue
            seen.add(text)
            around = ast.unparse(scope) if scope is not None else before
            place = f"{old.lineno - _line(scope)}:{old.col_offset}"
            told = "\n".join((file, operator, before, after, around, place))
            key = hashlib.sha256(told.encode()).hexdigest()[:16]
            found.append(
                Mutant(file, old.lineno, operator, before, after, text, _lines(scope), key)
            )
    return found


def nodes_of(
    tree: ast.AST, scope: ast.AST | None = None
) -> Iterator[tuple[ast.AST | None, ast.AST]]:
    """The nodes that are run, each with the function around it.

    Left out are annotations, docstrings and other texts, decorators, what an error says and what
    ``repr`` shows.
    """
    for node in _children(tree):
        inner = node if isinstance(node, ast.FunctionDef) else scope
        yield scope, node
        yield from nodes_of(node, inner)


def _children(tree: ast.AST) -> Iterator[ast.AST]:
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "bases", "type_comment"):
            continue
        nodes = value if isinstance(value, list) else [value]
        yield from (node for node in nodes if isinstance(node, ast.AST) and not _is_left_out(node))


def _is_left_out(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef):
        return node.name == "__repr__"
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0]) in ("__all__", "__slots__")
    if isinstance(node, ast.keyword):
        # zip(strict=True) says what holds anyhow.
        return node.arg == "strict"
    if isinstance(node, ast.AnnAssign):
        return ast.unparse(node.annotation) == "TypeAlias"
    return isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom)


def _span(lines: list[str], node: ast.AST) -> tuple[int, int]:
    """Where a node lies in the text; Python counts its columns in bytes."""

    def offset(line: int, column: int) -> int:
        return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())

    return offset(node.lineno, node.col_offset), offset(node.end_lineno, node.end_col_offset)


def _written(old: ast.AST, new: ast.AST | None) -> str:
    if new is None:
        return "pass"
    is_bare = isinstance(old, ast.stmt | ast.Slice)
    is_small = isinstance(new, ast.Constant | ast.Name | ast.Call | ast.Attribute)
    return ast.unparse(new) if is_bare or is_small else f"({ast.unparse(new)})"


def _line(scope: ast.AST | None) -> int:
    return 0 if scope is None else scope.lineno


def _lines(scope: ast.FunctionDef | None) -> tuple[int, int] | None:
    """From the first decorator on, where Python says that a function begins."""
    if scope is None:
        return None
    return min([scope.lineno, *(x.lineno for x in scope.decorator_list)]), scope.end_lineno


def _compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True
