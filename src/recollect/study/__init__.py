"""Sweeps that survive anything: grid, ledger, executors, catalogue."""
