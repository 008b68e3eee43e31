"""Speed and accuracy against what users would pick instead: `python -m benchmarks`."""
