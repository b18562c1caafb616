"""Workloads, results and plots of benchmarks. Pure, except that plots are written to files."""
