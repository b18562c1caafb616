"""What a bench sends, and what came of it: workloads, results, plots. Pure, but for the files of plots."""
