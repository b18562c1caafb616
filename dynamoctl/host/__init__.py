"""Read-only facts about the host: GPUs, memory, ports, processes, packages, models."""
