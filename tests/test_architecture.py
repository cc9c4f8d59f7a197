"""The house rules on who may import whom, read off the source files."""

import ast
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TENSORFLOW = {"tensorflow", "tensorflow_datasets"}
ANYONE = {"errors", "registry", "keys", "files", "batch", "__version__"}

# What each room may import of jen1_jax, besides itself and what every room may.
NETWORKS = {"autoencoder", "text", "unet"}
ARRAYS = {"diffusion", "tasks"}
CORE = {"layers", "config", "sharding", "conditioning"} | NETWORKS | ARRAYS
ROOMS = {
    "errors": set(),
    "registry": set(),
    "keys": set(),
    "files": set(),
    "batch": set(),
    "conditioning": {"layers"},
    "config": set(),
    "sharding": set(),
    "layers": set(),
    "diffusion": set(),
    "tasks": {"diffusion"},
    **{room: {"layers"} for room in NETWORKS},
    "models": CORE,
    **{room: CORE | {"models"} for room in ("training", "planning", "generation", "export")},
    "evaluation": CORE | {"models", "generation"},
    "cli": CORE | {"models", "training", "planning", "generation", "export", "evaluation"},
    "__init__": {"generation"},
}


def imports(tree: ast.AST, package: tuple[str, ...]) -> set[str]:
    """Absolute dotted names of all modules that a tree imports, `from a import b` as a.b; TYPE_CHECKING blocks are left out."""
    found, waiting = set(), [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)
    return found


def at_import(tree: ast.AST) -> ast.Module:
    """The part of a module that runs when it is imported: everything outside function bodies."""

    class DropBodies(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_FunctionDef

    return DropBodies().visit(tree)


def sources(*folders: str) -> list[Path]:
    return sorted(
        path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py")
    )


def imported_by(path: Path, only_at_import: bool = False) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return imports(at_import(tree) if only_at_import else tree, path.parent.parts)


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", sources("jen1_jax"), ids=str)
def test_a_room_imports_only_from_below(path):
    room = Path(path.parts[1]).stem
    assert room in ROOMS, f"{path} belongs to no room that the design knows"
    used = {name.split(".")[1] for name in imported_by(path) if name.startswith("jen1_jax.")}
    assert used <= ROOMS[room] | {room} | ANYONE, f"{path} reaches up"


@pytest.mark.parametrize("path", sources("jen1_jax/training"), ids=str)
def test_training_knows_no_guidance(path):
    """A model trained on guided predictions learns to undo them."""
    assert not {name for name in imported_by(path) if "guid" in name.lower()}


@pytest.mark.parametrize("path", sources("jen1_jax"), ids=str)
def test_jen1_jax_needs_neither_tensorflow_nor_torch(path):
    assert not roots(imported_by(path)) & (TENSORFLOW | {"torch"})


@pytest.mark.parametrize("path", sources("jen1_jax"), ids=str)
def test_only_the_command_line_knows_the_data_pipeline_and_lazily(path):
    lazily = path == Path("jen1_jax/cli.py")
    assert "data_pipeline" not in roots(imported_by(path, only_at_import=lazily))


@pytest.mark.parametrize("path", sources("configs", "launch", "benchmarks"), ids=str)
def test_only_the_data_pipeline_imports_tensorflow(path):
    assert not roots(imported_by(path)) & TENSORFLOW


@pytest.mark.parametrize("path", sources("data_pipeline"), ids=str)
def test_the_data_pipeline_stands_alone(path):
    allowed = {"jen1_jax.errors.Refusal"} | {
        f"jen1_jax.files.{name}" for name in ("local", "whole_folder", "write_text")
    }
    assert {name for name in imported_by(path) if name.startswith("jen1_jax")} <= allowed


@pytest.mark.parametrize("path", sources("configs"), ids=str)
def test_a_configuration_only_sets_values(path):
    assert roots(imported_by(path)) <= {"ml_collections", "configs"}


def test_importing_jen1_jax_is_quick_and_light():
    code = (
        "import sys, jen1_jax; loaded = {name.split('.')[0] for name in sys.modules}; "
        "print(*sorted(loaded & {'tensorflow', 'tensorflow_datasets', 'torch', 'transformers'}))"
    )
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        heavy = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        seconds.append(time.perf_counter() - start)
        assert heavy == []
    assert min(seconds) < 3


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="this PyTorch comes without Triton"
)
def test_triton_survives_tensorflow():
    """tensorflow/tensorflow#124205: a process that has both would crash."""
    assert (
        subprocess.run(
            [sys.executable, "-c", "import data_pipeline._tf, triton"], cwd=ROOT
        ).returncode
        == 0
    )


def test_the_reader_of_imports_sees_every_form():
    tree = ast.parse(
        "import a.b\nfrom c import d\nfrom . import e\nfrom ..f import g\n"
        "def late():\n    import h\n"
        "if TYPE_CHECKING:\n    import i\nelse:\n    import j\n"
    )
    assert imports(tree, ("p", "q")) == {"a.b", "c.d", "p.q.e", "p.f.g", "h", "j"}
    assert "h" not in imports(at_import(tree), ("p", "q"))


@pytest.mark.parametrize("path", sources("benchmarks"), ids=str)
def test_a_benchmark_is_started_as_its_own_text_says(path):
    """Only from the checkout's root as a module: not every one of them finds the others as a script."""
    assert f"python -m benchmarks.{path.stem}" in ast.get_docstring(
        ast.parse((ROOT / path).read_text())
    )
