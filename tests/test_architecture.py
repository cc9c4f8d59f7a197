"""The rules on which room of the project may import which, checked in the source files."""

import ast
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TENSORFLOW = {"tensorflow", "tensorflow_datasets"}
ALWAYS_ALLOWED = {"keys", "files", "batch", "distributed", "__version__"}

# A room is a package or module of jen1_jax (docs/glossary.md). These are the other rooms that each
# room may import, besides those of `ALWAYS_ALLOWED`.
NETWORKS = {"autoencoder", "text", "unet"}
ARRAYS = {"diffusion", "tasks"}
CORE = {"chips", "conditioning", "config", "flops", "layers", "sharding"} | NETWORKS | ARRAYS
ROOMS = {
    "keys": set(),
    "files": set(),
    "batch": set(),
    "chips": set(),
    "conditioning": {"layers"},
    "config": set(),
    "distributed": set(),
    "flops": set(),
    "sharding": set(),
    "layers": {"sharding"},
    "diffusion": set(),
    "tasks": {"diffusion"},
    **{room: {"layers", "sharding"} for room in NETWORKS},
    "models": CORE,
    **{room: CORE | {"models"} for room in ("training", "generation", "export")},
    "planning": CORE | {"models", "training"},  # it compiles the step that training runs
    "evaluation": CORE | {"models", "generation"},
    "cli": CORE | {"models", "training", "planning", "generation", "export", "evaluation"},
    "__init__": {"generation"},
}


def imports(tree: ast.AST, package: tuple[str, ...]) -> set[str]:
    """The absolute dotted names of all imports in a tree; `from a import b` gives a.b.

    Blocks under `if TYPE_CHECKING` are left out.
    """
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
def test_a_room_imports_only_the_rooms_that_it_may(path):
    room = Path(path.parts[1]).stem
    assert room in ROOMS, f"{path} is part of a room that is not in ROOMS"
    used = {name.split(".")[1] for name in imported_by(path) if name.startswith("jen1_jax.")}
    assert used <= ROOMS[room] | {room} | ALWAYS_ALLOWED


@pytest.mark.parametrize("path", sources("jen1_jax/training"), ids=str)
def test_training_does_not_import_guidance(path):
    """A model trained on guided predictions would learn to undo the guidance."""
    assert not {name for name in imported_by(path) if "guid" in name.lower()}


@pytest.mark.parametrize("path", sources("jen1_jax"), ids=str)
def test_jen1_jax_needs_neither_tensorflow_nor_torch(path):
    assert not roots(imported_by(path)) & (TENSORFLOW | {"torch"})


@pytest.mark.parametrize("path", sources("jen1_jax"), ids=str)
def test_only_the_command_line_imports_the_data_pipeline_and_only_in_functions(path):
    in_functions = path == Path("jen1_jax/cli.py")
    assert "data_pipeline" not in roots(imported_by(path, only_at_import=in_functions))


@pytest.mark.parametrize("path", sources("configs", "launch", "benchmarks"), ids=str)
def test_only_the_data_pipeline_imports_tensorflow(path):
    assert not roots(imported_by(path)) & TENSORFLOW


@pytest.mark.parametrize("path", sources("data_pipeline"), ids=str)
def test_the_data_pipeline_imports_only_errors_and_files_of_the_other_packages(path):
    used = {name for name in imported_by(path) if name.startswith("jen1_")}
    assert {name for name in used if not name.startswith("jen1_jax.files.")} <= {
        "jen1_numpy.errors.Refusal"
    } | {f"jen1_numpy.files.{name}" for name in ("local", "whole_file", "write_text")}


# What an exported folder needs besides Python (jen1_torch/requirements.txt).
NUMPY = {"numpy", "jaxtyping", "soundfile", "soxr", "sentencepiece", "tokenizers"}
NUMPY |= {"safetensors"}
TORCH = NUMPY | {"torch", "huggingface_hub", "transformers"}


@pytest.mark.parametrize("path", sources("jen1_numpy"), ids=str)
def test_jen1_numpy_needs_no_framework(path):
    assert roots(imported_by(path)) <= NUMPY | {"jen1_numpy"} | sys.stdlib_module_names


@pytest.mark.parametrize("path", sources("jen1_torch"), ids=str)
def test_jen1_torch_needs_what_its_requirements_name_and_only_jen1_numpy_of_this_project(path):
    own = {"jen1_torch", "jen1_numpy", "modeling_jen1"}
    assert roots(imported_by(path)) <= TORCH | own | sys.stdlib_module_names
    at_start = roots(imported_by(path, only_at_import=True))
    assert "transformers" not in at_start  # for a frozen text encoder alone
    listed = (ROOT / "jen1_torch" / "requirements.txt").read_text().split()
    assert {word.split(">")[0] for word in listed} >= TORCH


@pytest.mark.parametrize("path", sources("configs"), ids=str)
def test_a_configuration_imports_no_code(path):
    assert roots(imported_by(path)) <= {"ml_collections", "configs"}


def test_importing_jen1_jax_is_fast_and_does_not_import_large_libraries():
    code = (
        "import sys, jen1_jax; loaded = {name.split('.')[0] for name in sys.modules}; "
        "print(*sorted(loaded & {'tensorflow', 'tensorflow_datasets', 'torch', 'transformers'}))"
    )
    command, seconds = [sys.executable, "-c", code], []
    for _ in range(2):
        start = time.perf_counter()
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
        assert result.stdout.split() == []
    assert min(seconds) < 3


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="this PyTorch comes without Triton"
)
def test_triton_and_tensorflow_can_be_imported_in_one_process():
    """It would crash without the workaround for tensorflow/tensorflow#124205."""
    command = [sys.executable, "-c", "import data_pipeline._tf, triton"]
    assert subprocess.run(command, cwd=ROOT).returncode == 0


def test_every_form_of_import_is_found():
    tree = ast.parse(
        "import a.b\nfrom c import d\nfrom . import e\nfrom ..f import g\n"
        "def late():\n    import h\n"
        "if TYPE_CHECKING:\n    import i\nelse:\n    import j\n"
    )
    assert imports(tree, ("p", "q")) == {"a.b", "c.d", "p.q.e", "p.f.g", "h", "j"}
    assert "h" not in imports(at_import(tree), ("p", "q"))


SHARED = {
    Path("benchmarks/features.py"),
    Path("benchmarks/data_sets.py"),
}  # parts of benchmarks, which are no commands


@pytest.mark.parametrize("path", sorted({*sources("benchmarks")} - SHARED), ids=str)
def test_the_docstring_of_a_benchmark_names_its_command(path):
    """It is started as a module, since as a script it could not import other benchmarks."""
    docstring = ast.get_docstring(ast.parse((ROOT / path).read_text()))
    assert f"python -m benchmarks.{path.stem}" in docstring
