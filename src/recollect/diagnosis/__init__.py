"""The main job: data in, verdict and model out."""
