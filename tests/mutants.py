"""Mutants: which small changes of the code do the tests notice? python -m tests.mutants [seed=1] [count=60]

Draws changes by the seed, as many from each room: another comparison, sign or number, a condition turned round, a call
left out. Each is made in a copy of the project, where pytest runs until a test fails: first the tests of the room, then
all others. Two run at a time. A change that no test notices takes the whole suite.

`tests=FOLDER` takes the tests from elsewhere, as of an older commit. `only=3,14` tries the changes of these numbers.
"""

import ast
import random
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from benchmarks.measure import PROJECT, arguments

ROOMS = ("losses", "recording", "verdict", "training", "cli")
OPPOSITES = ("Add Sub", "Mult Div", "And Or", "Lt LtE", "Gt GtE", "Eq NotEq", "Is IsNot", "In NotIn")
OTHER = {a: b for pair in map(str.split, OPPOSITES) for a, b in (pair, pair[::-1])}
LONGEST = 3600  # seconds for all tests; a mutant that takes longer hangs


class Mutant(NamedTuple):
    """A file of the project with one node changed."""

    file: Path
    change: str
    source: bytes


def mutants_of(file: Path) -> list[Mutant]:
    """Every mutant of a file."""
    source, mutants = file.read_bytes(), []
    starts = [0, *(i + 1 for i, byte in enumerate(source) if byte == ord("\n"))]
    tree = ast.parse(source)
    in_text = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) not in in_text and isinstance(node, ast.expr | ast.Expr) and (after := changed(node)):
            start, end = starts[node.lineno - 1] + node.col_offset, starts[(node.end_lineno or 0) - 1]
            before, rest = source[start : end + (node.end_col_offset or 0)], source[end + (node.end_col_offset or 0) :]
            change = f"{file.relative_to(PROJECT)}:{node.lineno}: {before.decode()} -> {after}"
            mutants.append(Mutant(file, " ".join(change.split()), source[:start] + after.encode() + rest))
    return mutants


def changed(node: ast.AST) -> str:
    """What replaces a node; empty if it is not to be replaced."""
    match node:
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op).__name__ in OTHER:
            node.op = getattr(ast, OTHER[type(op).__name__])()
        case ast.Compare(ops=[op, *others]) if type(op).__name__ in OTHER:
            node.ops = [getattr(ast, OTHER[type(op).__name__])(), *others]
        case ast.IfExp(body=body, orelse=orelse):
            node.body, node.orelse = orelse, body
        case ast.Constant(value=bool() | int() | float() as value):
            return str(not value if isinstance(value, bool) else value + 1)
        case ast.Expr(value=ast.Call()):
            return "..."
        case _:
            return ""
    return f"({ast.unparse(node)})"


def killer(mutant: Mutant, copy: Path) -> str:
    """The first test that fails with a mutant, in a copy of the project; `survived` if none does."""
    file = copy / mutant.file.relative_to(PROJECT)
    original = file.read_bytes()
    file.write_bytes(mutant.source)
    room = f"tests/{file.parent.name}"
    command = [sys.executable, "-m", "pytest", "-x", "-rfE", "-p", "no:cacheprovider"]
    try:
        for tests in ([room], ["tests", f"--ignore={room}"]):
            run = subprocess.run([*command, *tests], cwd=copy, capture_output=True, text=True, timeout=LONGEST)
            failed = [line.split()[1] for line in run.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
            if run.returncode:
                return failed[0] if failed else f"pytest ends with {run.returncode}"
        return "survived"
    except subprocess.TimeoutExpired:
        return "hangs"
    finally:
        file.write_bytes(original)


def main() -> None:
    seed, count, tests, only = arguments(seed="1", count="60", tests="tests", only="")
    draw, drawn = random.Random(int(seed)), list[Mutant]()
    for room in ROOMS:
        files = sorted((PROJECT / "xent" / room).glob("*.py"))
        drawn += draw.sample([mutant for file in files for mutant in mutants_of(file)], int(count) // len(ROOMS))
    numbers = [int(number) for number in only.split(",")] if only else range(1, len(drawn) + 1)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for name in "ab":
            ignored = shutil.ignore_patterns(".*", "outputs", "tests")
            copies.put(Path(shutil.copytree(PROJECT, Path(folder) / name, ignore=ignored)))
            shutil.copytree(tests, Path(folder) / name / "tests")

        def tried(number: int) -> None:
            copy = copies.get()
            print(f"{number}: {drawn[number - 1].change}: {killer(drawn[number - 1], copy)}", flush=True)
            copies.put(copy)

        list(pool.map(tried, numbers))


if __name__ == "__main__":
    main()
