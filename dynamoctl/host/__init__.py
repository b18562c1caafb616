"""Read-only looks at the host: GPUs, memory, ports, processes, packages, models."""
