"""What a new user tries, and what is said to it: run by test_first_tries.py, shown in docs/first-tries.md.

None of it starts a process, or needs a GPU or a network.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Try:
    """One command line in an empty folder, as a user who has never started anything.

    Attributes:
        what: what the user tries, in words.
        words: what follows `dynamoctl`.
        code: the exit code.
        says: what must stand in what it prints, in this order.
        files: file -> what is in it before.
        env: what is in the environment besides.
    """

    what: str
    words: str
    code: int
    says: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)


CPU = "--device cpu"

TRIES = (
    Try("nothing at all", "", 0, ("Usage: dynamoctl", "up", "doctor", "status", "down")),
    Try("`-h`", "-h", 0, ("Usage: dynamoctl",)),
    Try("`up` alone", "up", 0, ("Usage: dynamoctl up", "agg|disagg")),
    Try(
        "`up` without a mode, beside a `dynamoctl.toml`",
        "up --dry-run",
        0,
        ("mine: disagg on the CPU", "decode-0", "prefill-0"),
        files={"dynamoctl.toml": 'name = "mine"\nmode = "disagg"\ndevice = "cpu"\n'},
    ),
    Try("the words in the other order", "agg up", 2, ("No such command 'agg'", "dynamoctl up agg")),
    Try("flags before the mode", f"up {CPU} --dry-run agg", 0, ("default: agg on the CPU",)),
    Try("a typo in a command", "ups", 2, ("No such command 'ups'", "Did you mean 'up'?")),
    Try("a typo in the mode", "up aggg", 2, ("'aggg' is not one of 'agg', 'disagg'", "dynamoctl up --help")),
    Try("a typo in a flag", "up agg --gpu 0", 2, ("No such option: --gpu", "--gpus", "dynamoctl up --help")),
    Try("a flag of another command", "status --gpus 0", 2, ("No such option: --gpus", "status --help")),
    Try("a flag of the other mode", "up agg --prefill 2", 2, ("only `up disagg` has prefill",)),
    Try("a flag without its value", "up agg --model", 2, ("--model", "requires an argument")),
    Try("a number that is none", "up agg --workers two", 2, ("--workers", "'two'")),
    Try("a port that cannot be", "up agg --port 99999", 2, ("port:", "65535", "99999")),
    Try("no time at all", "up agg --timeout 0", 2, ("timeout", "greater than 0")),
    Try("a size that is none", "up agg --lmcache-cpu-gb lots", 2, ("'lots' is not a size", "20GiB")),
    Try(
        "more memory than there is",
        f"up agg {CPU} --lmcache-cpu-gb 99999",
        3,
        ("LMCache wants 99999 GiB", "available", "--lmcache-cpu-gb"),
    ),
    Try("a store that is none", "up agg --lmcache-remote rediss//x", 2, ("not a store that LMCache knows",)),
    Try(
        "a model folder that is not there",
        f"up agg {CPU} --model ./gone",
        3,
        ("there is no model folder", "config.json"),
    ),
    Try(
        "a folder that is no model",
        f"up agg {CPU} --model .",
        3,
        ("config.json",),
    ),
    Try(
        "a model folder without a tokenizer and weights",
        f"up agg {CPU} --model ./m",
        3,
        ("m has no tokenizer", "tokenizer.json", "m has no weights", "finish its download"),
        {"m/config.json": "{}"},
    ),
    Try(
        "a model whose download broke off",
        f"up agg {CPU} --model ./m",
        3,
        ("m lacks model-2.safetensors, which its index lists", "finish its download"),
        {
            "m/config.json": "{}",
            "m/tokenizer.json": "{}",
            "m/model-1.safetensors": "",
            "m/model.safetensors.index.json": (
                '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
            ),
        },
    ),
    Try(
        "a model of a hub that does not answer",
        f"up agg {CPU} --model some/model",
        3,
        ("some/model is not here", "http://127.0.0.1:9 cannot be reached", "--model PATH"),
        env={"HF_ENDPOINT": "http://127.0.0.1:9"},
    ),
    Try(
        "a port of the frontend behind the `--`",
        f"up agg {CPU} -- --port 8080",
        2,
        ("--port is for `vllm serve`", "before the --"),
    ),
    Try(
        "arguments for vLLM without a mode",
        "up -- --max-model-len 2048",
        2,
        ("'mode'", "name the mode before the --, as in: dynamoctl up agg -- ARGUMENTS"),
    ),
    Try(
        "tensor parallelism by vLLM's flag",
        f"up agg {CPU} -- --tensor-parallel-size 2",
        2,
        ("--tensor-parallel-size is decided by the plan", "--tp before the --"),
    ),
    Try(
        "a typo in the file",
        "up",
        2,
        ("unknown key 'modle'", "dynamoctl.toml", "did you mean 'mode'?"),
        files={"dynamoctl.toml": 'modle = "agg"\n'},
    ),
    Try(
        "a file that is no TOML",
        "up agg",
        2,
        ("dynamoctl.toml is not valid TOML", "line 1"),
        files={"dynamoctl.toml": "model = \n"},
    ),
    Try("a file that is not there", "up agg --config gone.toml", 2, ("no config file gone.toml",)),
    Try(
        "a typo in LMCache's environment",
        f"up agg {CPU} --dry-run",
        2,
        ("LMCACHE_CHUNKSIZE", "LMCACHE_CHUNK_SIZE"),
        env={"LMCACHE_CHUNKSIZE": "256"},
    ),
    Try(
        "a switch that is neither on nor off",
        f"up agg {CPU} --dry-run",
        2,
        ("ENABLE_LMCACHE",),
        env={"ENABLE_LMCACHE": "maybe"},
    ),
    Try(
        "a look at the plan", f"up agg {CPU} --dry-run", 0, ("default: agg on the CPU", "LMCache", "frontend")
    ),
    Try("`status` before anything runs", "status", 0, ("'default' is not running",)),
    Try("`down` before anything runs", "down", 0, ("'default' is not running",)),
    Try("the name of a deployment as an argument", "status two", 0, ("'two' is not running",)),
    Try("two names", "down two -n three", 2, ("two deployments are named", "leave out one of them")),
    Try("a name without its flag", "up agg two", 2, ("unexpected argument 'two'", "goes after -n")),
    Try("a range of GPUs that counts down", "up agg --gpus 3-0", 2, ("'3-0' is a range", "write 0-3")),
    Try("`status --all` before anything runs", "status --all", 0, ("nothing is running",)),
    Try("`logs` before anything runs", "logs", 2, ("'default' has no logs: it was never started here",)),
    Try("`chat` before anything runs", "chat", 2, ("'default' is not running", "bring it up first")),
    Try("`cache check` before anything runs", "cache check", 2, ("'default' is not running",)),
    Try("a name that cannot be", "up agg --name My_Model", 2, ("name:", "lower-case letters")),
    Try("a time that is none", "logs --since yesterday", 2, ("'yesterday' is not a time", "30s, 10m")),
    Try("a pattern that is none", "logs --grep (", 2, ("--grep",)),
    Try("looking without a pause", "status --watch --interval 0", 2, ("--interval: 0 s is too short",)),
    Try(
        "`init` over a file of one's own",
        "init",
        2,
        ("dynamoctl.toml is there already, and was left as it is", "--force"),
        files={"dynamoctl.toml": "# mine\n"},
    ),
    Try(
        "`export` alone",
        "export",
        2,
        ("Usage: dynamoctl export", "k8s", "shell", "systemd", "prometheus", "grafana"),
    ),
    Try(
        "a script",
        f"export shell agg {CPU} --no-lmcache",
        0,
        ("#!/usr/bin/env bash", "start frontend", "start worker-0", "Ctrl-C ends it"),
    ),
    Try(
        "a script for one of several hosts",
        f"export shell disagg {CPU} --roles prefill --discovery etcd --etcd-endpoints http://127.0.0.1:2379"
        " --advertise lo",
        2,
        ("not etcd", "run `dynamoctl up` on each host"),
    ),
    Try(
        "a manifest with an etcd of one's own",
        "export k8s disagg --discovery etcd --etcd-endpoints http://127.0.0.1:2379",
        2,
        ("the operator has its own", "leave --discovery"),
    ),
    Try("a flag of another export", "export shell agg --image x", 2, ("No such option: --image",)),
    Try(
        "services of the machine, as nobody",
        f"export systemd agg {CPU} --scope system",
        2,
        ("would run the engine as root", "--run-as llm"),
    ),
    Try(
        "a manifest, on a machine without a GPU",
        "export k8s disagg --no-lmcache",
        0,
        ("kubectl apply --dry-run=server", "kind: DynamoGraphDeployment", "type: decode", "type: prefill"),
    ),
    Try(
        "`export k8s` without a mode, beside no file",
        "export k8s",
        0,
        ("kind: LMCacheEngine", "type: worker"),
    ),
    Try(
        "the image `latest`",
        "export k8s agg --image dynamo:latest",
        2,
        ("the tag 'latest' says no version", "--runtime-version 1.6.1"),
    ),
    Try(
        "a token in a manifest",
        "export k8s agg --secret HF_TOKEN=abc",
        2,
        ("a secret's value does not belong", "name that Secret here"),
    ),
    Try(
        "a folder of this machine in a manifest",
        "export k8s agg --model /data/llama",
        2,
        ("/data/llama is a folder", "--pvc models"),
    ),
    Try(
        "the built-in model in a manifest",
        "export k8s agg --model smollm2-135m-instruct",
        2,
        ("is on this machine alone", "name a hub id"),
    ),
)
