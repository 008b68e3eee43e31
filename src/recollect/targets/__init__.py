"""What to remember: memory kernels, nonlinear systems, teachers."""
