"""Whatever a user hands to a command, there is a plan or an error in words: never a traceback.

In the unit lane this takes some 20 s. HYPOTHESIS_PROFILE=fuzz pytest -n0 --timeout=0 tests/unit/test_fuzz.py
takes an hour.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import pytest
from dynamoctl.cli import output, run
from dynamoctl.errors import DynamoctlError, InternalError
from dynamoctl.facts import Gpu, MigInstance
from dynamoctl.host import facts, gpus, ports
from dynamoctl.processes import process_control
from dynamoctl.state import write_whole
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit import fuzzing
from tests.unit.hosts import GPU_VERSIONS, VERSIONS, host

FUZZ = settings(
    max_examples=2 * settings().max_examples,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
MACHINES: dict[str, tuple[Gpu, ...]] = {
    "no GPU": (),
    "4 GPUs": host(4).gpus,
    "MIG": (
        Gpu(0, "GPU-0", "H200", 1, (MigInstance(0, "MIG-1", "1/0", 1), MigInstance(1, "MIG-2", "2/0", 1))),
    ),
}
_LOOPBACK = ("127.0.0.1", "localhost", "::1", "0.0.0.0", "::")
_real_getaddrinfo = socket.getaddrinfo
_real_fail = output.fail


def _resolve(name: object, *rest: object, **more: object) -> object:
    """Only the loopback has names, so that nothing is asked of a network."""
    if isinstance(name, str):
        name.encode("idna")  # as the real one does
    if name not in _LOOPBACK:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return _real_getaddrinfo(name, *rest, **more)  # type: ignore[arg-type]


@contextlib.contextmanager
def _machine(kind: str) -> Iterator[Path]:
    """A machine of MACHINES, where nothing is started; the working folder."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(gpus, "list_gpus", lambda: MACHINES[kind])
        patch.setattr(gpus, "driver", lambda: ("580.1", 13000))
        patch.setattr(gpus, "memory_used", dict)
        patch.setattr(gpus, "memory_by_process", dict)
        patch.setattr(facts, "versions", lambda: dict(GPU_VERSIONS if MACHINES[kind] else VERSIONS))
        patch.setattr(ports, "_listening", dict)
        patch.setattr(process_control, "run_script", lambda *_: (0, []))
        patch.setattr(socket, "getaddrinfo", _resolve)
        yield Path(folder)


def _run(words: list[str], environ: dict[str, str], machine: str, files: dict[str, str]) -> tuple[int, str]:
    """Run a command and see that it ends in words; its exit code, and what it says."""
    errors: list[DynamoctlError] = []

    def fail(command: str, error: DynamoctlError, as_json: bool) -> int:
        errors.append(error)
        return _real_fail(command, error, as_json)

    with _machine(machine) as folder:
        (folder / "m").mkdir()
        (folder / "m" / "config.json").write_text("{}", encoding="utf-8")
        for name, text in files.items():
            (folder / name).write_bytes(text.encode(errors="surrogatepass"))
        own = {"HOME": str(folder), "PATH": os.environ["PATH"], "DYNAMOCTL_HOME": str(folder / "home")}
        with mock.patch.dict(os.environ, own | environ, clear=True):
            # As a process has them: `capsys` would not mind what a terminal cannot show.
            out, err = (
                io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace")
            )
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                with mock.patch.object(output, "fail", fail):
                    code = run(words)
                out.flush()
                err.flush()
    shown, said = (stream.buffer.getvalue().decode(errors="replace") for stream in (out, err))
    assert code in (0, 1, 2, 3), said
    assert not any(isinstance(error, InternalError) for error in errors), said
    assert "Traceback" not in shown + said
    if code and not shown:
        assert said.startswith("error: ")
    if "--json" in words[: words.index("--")] if "--" in words else "--json" in words:
        assert isinstance(json.loads(shown), dict)
    return code, shown + said


@FUZZ
@given(st.sampled_from(fuzzing.COMMANDS), fuzzing.calls, st.sampled_from(sorted(MACHINES)))
def test_arguments_and_environment(
    command: tuple[str, ...], call: tuple[list[str], dict[str, str]], machine: str
) -> None:
    arguments, environ = call
    _run([*command, *arguments], environ, machine, {})


@FUZZ
@given(
    st.sampled_from(fuzzing.COMMANDS),
    fuzzing.toml_files,
    fuzzing.odd_environments,
    st.sampled_from(sorted(MACHINES)),
)
def test_configuration(command: tuple[str, ...], text: str, environ: dict[str, str], machine: str) -> None:
    _run(list(command), environ, machine, {"dynamoctl.toml": text})


@FUZZ
@given(st.sampled_from(fuzzing.COMMANDS), fuzzing.yaml_files, st.sampled_from(sorted(MACHINES)))
def test_a_file_of_lmcache(command: tuple[str, ...], text: str, machine: str) -> None:
    _run([*command], {"LMCACHE_CONFIG_FILE": "lmcache.yaml"}, machine, {"lmcache.yaml": text})


@FUZZ
@given(st.sampled_from(fuzzing.LOOKING), fuzzing.odd_words, fuzzing.odd_environments, st.booleans())
def test_names_of_deployments(
    command: tuple[str, ...], name: str, environ: dict[str, str], by_option: bool
) -> None:
    _run([*command, *(["-n", name] if by_option else [name])], environ, "no GPU", {})


UP = "up agg --dry-run"
DOCTOR = "doctor agg --device cpu --model ./m"
INPROC = "doctor agg --gpus 0 --lmcache-mode inproc"
TOML = "dynamoctl.toml"
HUGE = "0x" + "f" * 5000
# What was found: command, environment, files, exit code, and what is said.
FOUND: list[tuple[str, dict[str, str], dict[str, str], int, str]] = [
    # A home that the machine does not know is a name, as in a shell.
    (f"{UP} --model ~nobody-here/m", {}, {}, 0, "~nobody-here/m"),
    (f"{UP} --device cpu --lmcache-disk ~nobody-here/d --lmcache-disk-gb 1", {}, {}, 0, "~nobody-here/d"),
    (UP, {"DYNAMOCTL_CACHE": "~nobody-here"}, {}, 0, "~nobody-here"),
    (f"{UP} --json", {"DYNAMOCTL_HOME": "~nobody-here"}, {}, 0, "~nobody-here"),
    (f"{UP} --model a/b", {"HF_HOME": "~nobody-here"}, {}, 0, "a/b"),
    (UP, {"LMCACHE_CONFIG_FILE": "~nobody-here/x"}, {}, 2, "cannot be read: No such file"),
    # Bytes that are not UTF-8 are printed as they are, and refused where text is needed.
    (UP, {"DYNAMOCTL_CACHE": "c\udcff"}, {}, 0, "/c\ufffd/models"),
    (f"{UP} --model m\udcff", {}, {}, 2, "--model: must be UTF-8 text"),
    ("up disagg --dry-run --roles m\udcff", {}, {}, 2, "--roles: the value is not UTF-8 text"),
    ("init agg --output new.toml -- --seed \udcff", {}, {}, 2, "not UTF-8 text, and a TOML file is"),
    ("status m\udcff", {}, {}, 2, "is not the name of a deployment"),
    ("down -n m\udcff", {}, {}, 2, "is not the name of a deployment"),
    (f"status {'x' * 300}", {}, {}, 2, "is not the name of a deployment"),
    ("status -n ", {}, {}, 2, "'' is not the name of a deployment"),
    ("status ../../etc", {}, {}, 2, "is not the name of a deployment"),
    # Terminals without a size.
    ("status", {"COLUMNS": "0"}, {}, 0, "is not running"),
    ("up ag", {"COLUMNS": "0"}, {}, 2, "'ag' is not one of"),
    ("status", {"COLUMNS": "²", "LINES": "9" * 5000}, {}, 0, "is not running"),
    # Names of hosts that cannot be.
    (f"{DOCTOR} --host \x14ü\x8b\x1fg\x94", {}, {}, 3, "not the name of a host"),
    (f"{DOCTOR} --lmcache-remote redis://{'a' * 70}:1", {}, {}, 3, "cannot be used"),
    (
        f"doctor agg --gpus 0 --lmcache-mode inproc --lmcache-remote fs://h:1/{'x' * 300}",
        {},
        {},
        3,
        "cannot be used",
    ),
    ("doctor agg --model a/b", {"ALL_PROXY": "a." * 200}, {}, 3, "cannot be reached"),
    (f"up agg --dry-run --gpus 0 --lmcache-mode mp -- --block-size {'9' * 5000}", {}, {}, 0, "worker-0"),
    (f"up agg --dry-run --device cpu -- --max-num-seqs {'9' * 5000}", {}, {}, 0, "worker-0"),
    # Values of YAML and TOML that are none, or that are too large.
    (UP, {}, {"lmcache.yaml": "app_id: 2026-13-45"}, 2, "is not YAML"),
    (UP, {}, {"lmcache.yaml": "app_id: !!float x"}, 2, "is not YAML"),
    (UP, {}, {"lmcache.yaml": f"app_id: {'9' * 5000}"}, 2, "is not YAML"),
    (UP, {}, {"lmcache.yaml": f"app_id: {HUGE}"}, 2, "it is too large a number"),
    (UP, {}, {"lmcache.yaml": "app_id: &a [*a]"}, 2, "unconstructable recursive node"),
    (UP, {}, {"lmcache.yaml": 'app_id: "\\uD800"'}, 2, "the lone surrogate"),
    (UP, {}, {TOML: f"port = {'9' * 5000}"}, 2, "is not valid TOML"),
    (UP, {}, {TOML: f"port = {HUGE}"}, 2, "not a number of too many digits"),
    (UP, {}, {TOML: f"start = {HUGE}"}, 2, "a number of too many digits is not one of"),
    (UP, {}, {TOML: f"[lmcache]\ncpu_gb = {HUGE}"}, 2, "a number of too many digits GiB is not a valid size"),
    (UP, {}, {TOML: f"[lmcache]\napp_id = {HUGE}"}, 2, "it is too large a number"),
    (UP, {}, {TOML: "[[lmcache.l2]]\ntype = 'fs'\nx = 2026-01-01"}, 2, "which cannot hold a date"),
]


@pytest.mark.parametrize(
    ("command", "environ", "files", "code", "words"),
    FOUND,
    ids=[f"{n}-{one[-1]}" for n, one in enumerate(FOUND)],
)
def test_what_was_found(
    command: str, environ: dict[str, str], files: dict[str, str], code: int, words: str
) -> None:
    if "lmcache.yaml" in files:
        environ = environ | {"LMCACHE_CONFIG_FILE": "lmcache.yaml"}
    machine = "4 GPUs" if "--gpus" in command else "no GPU"
    given, text = _run(command.split(" "), environ, machine, files)
    assert (given, words in text) == (code, True), text[-1000:]


def test_a_file_is_written_with_the_bytes_that_were_given(tmp_path: Path) -> None:
    """An argument for vLLM need not be UTF-8."""
    write_whole(tmp_path / "script", "exec vllm --x a\udcff")
    assert (tmp_path / "script").read_bytes() == b"exec vllm --x a\xff"
