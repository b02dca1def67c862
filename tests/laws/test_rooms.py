"""The rooms of the package and their order: nothing points back up, lazy imports counted (docs/architecture.md)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "exemplar_partitioning"

# Each may import those before it. `ray` stands aside: only the front doors know it.
ORDER = (
    *("errors", "quiet", "files", "core", "text", "demo", "models", "folder", "stream", "reading"),
    "activations",
    *("building", "annotating", "ray", "act", "compare", "novelty", "exchange", "evaluating", "show", "api", "cli"),
)
ASIDE = {"ray": {"api"}}
UPWARDS = ["folder/dictionary.py imports show.plots"]  # by its name, so that a dictionary can draw itself: `d.plot`
CORE_MAY_IMPORT = {"torch", "numpy", "jaxtyping"}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "templates" not in path.parts)


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(room or "", name) of every import in a module, wherever it stands: of this package, then of others."""
    package = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            full = (*package[: len(package) - node.level + 1], *(node.module or "").split("."))
            full = tuple(part for part in full if part)
            for room in [full[0]] if full else [alias.name for alias in node.names]:
                yield room, ".".join(full)
        elif isinstance(node, ast.ImportFrom):
            yield "", (node.module or "").split(".")[0]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield "", alias.name.split(".")[0]
        elif isinstance(node, ast.Constant) and str(node.value).startswith(f"{PACKAGE.name}."):  # by its name
            room = (full := str(node.value).removeprefix(f"{PACKAGE.name}.")).split(".")[0]
            if room in ORDER:
                yield room, full


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_room_has_its_place():
    rooms = {room_of(path) for path in modules()} - {"__init__", "__main__"}
    assert rooms == set(ORDER)


def test_nothing_points_back_up():
    upward = []
    for path in modules():
        room = room_of(path)
        if room in ("__init__", "__main__"):
            continue
        for other, name in imports(path):
            if other in ("", "__version__", room):
                continue
            late = ORDER.index(other) > ORDER.index(room)
            if late or room not in ASIDE.get(other, {room}):
                upward.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert upward == UPWARDS, "\n".join(upward)


@pytest.mark.parametrize("path", [p for p in modules() if room_of(p) == "core"], ids=lambda p: p.stem)
def test_the_core_imports_torch_and_numpy_alone(path):
    import sys

    allowed = CORE_MAY_IMPORT | {"estimator": {"sklearn"}, "compiled": {"numba"}}.get(path.stem, set())
    others = {name for room, name in imports(path) if not room} - set(sys.stdlib_module_names)
    assert others <= allowed


def test_no_module_is_longer_than_400_lines():
    long = {str(p.relative_to(PACKAGE)): n for p in modules() if (n := len(p.read_text().splitlines())) > 400}
    assert not long


def test_no_function_is_longer_than_60_lines():
    """Of code: the docstring is not counted, nor the parameters."""
    long = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[1] if len(node.body) > 1 and ast.get_docstring(node) is not None else node.body[0]
                if (lines := (node.end_lineno or 0) - first.lineno + 1) > 60:
                    long.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}: {lines} lines")
    assert not long, "\n".join(long)


def test_no_class_overrides_a_method_of_another_rooms_class():
    """Composition, not inheritance, joins rooms; methods of the language and of other libraries are not meant."""
    defined: dict[str, tuple[str, set[str], list[str]]] = {}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                methods = {n.name for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("__")}
                bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                defined[node.name] = room_of(path), methods, bases
    overriding = [
        f"{name} ({room}) overrides {base} ({defined[base][0]}): {sorted(both)}"
        for name, (room, methods, bases) in defined.items()
        for base in bases
        if base in defined and defined[base][0] != room and (both := methods & defined[base][1])
    ]
    assert not overriding, "\n".join(overriding)


def test_no_function_takes_more_than_five_arguments_by_position():
    """What else it takes is given by name, options of the command line included."""
    many = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
                if len(set(names) - {"self", "cls"}) > 5:
                    many.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}: {len(names)}")
    assert not many, "\n".join(many)


def test_names_are_imported_from_where_they_are_defined():
    """A module hands on no name of another, so that whoever follows an import arrives at what it means."""
    trees = {path.relative_to(PACKAGE).with_suffix("").parts: ast.parse(path.read_text("utf-8")) for path in modules()}
    imported_at, asked = {}, []
    for module, tree in trees.items():
        package = module[:-1]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                source = (*package[: len(package) - node.level + 1], *filter(None, (node.module or "").split(".")))
                imported_at.setdefault(module, set()).update(alias.asname or alias.name for alias in node.names)
                asked += [(module, source, alias.name) for alias in node.names]
    passed_on = [
        f"{'/'.join(module)} imports {name} from {'/'.join(source)}"
        for module, source, name in asked
        if name in imported_at.get(source, ())
    ]
    assert not passed_on, "\n".join(passed_on)
