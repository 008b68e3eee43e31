"""The papers' figures, one file each.

A file defines `build_study(*, quick) -> Study` and `draw(figure, results)`, which fills a matplotlib
figure from the study's results. It is imported when its entry is run.
"""

# What a quick run of one figure may take on one core: all of them stay under ten minutes on two.
QUICK_SECONDS = 30

ENTRIES: dict[str, str] = {
    "exponential-sums": "recollect.study.catalogue._exponential_sums",
    "curse-map": "recollect.study.catalogue._curse_map",
    "figure-1a": "recollect.study.catalogue._figure_one_sum",
    "figure-1b": "recollect.study.catalogue._figure_one_airy",
    "figure-1c": "recollect.study.catalogue._figure_one_lorenz",
    "figure-2": "recollect.study.catalogue._figure_two",
    "figure-3": "recollect.study.catalogue._figure_three",
    "figure-4": "recollect.study.catalogue._figure_four",
    "memory-probes": "recollect.study.catalogue._memory_probes",
    "periodic-memory": "recollect.study.catalogue._periodic_memory",
    "lasting-memory": "recollect.study.catalogue._lasting_memory",
    "trained-memory": "recollect.study.catalogue._trained_memory",
    "perturbation-curves": "recollect.study.catalogue._perturbation_curves",
    "perturbed-tanh": "recollect.study.catalogue._perturbed_tanh",
    "perturbed-activations": "recollect.study.catalogue._perturbed_activations",
    "reparameterised-curves": "recollect.study.catalogue._reparameterised_curves",
    "trained-curves": "recollect.study.catalogue._trained_curves",
    "random-teachers": "recollect.study.catalogue._random_teachers",
    "transformer-teacher": "recollect.study.catalogue._transformer_teacher",
    "training-speed": "recollect.study.catalogue._training_speed",
    "eigenvalue-bound": "recollect.study.catalogue._eigenvalue_bound",
    "rescaled-rates": "recollect.study.catalogue._rescaled_rates",
    "stable-parameterisations": "recollect.study.catalogue._stable_parameterisations",
    "momentum": "recollect.study.catalogue._momentum",
    "landscape-plane": "recollect.study.catalogue._landscape_plane",
    "descent-methods": "recollect.study.catalogue._descent_methods",
    "cutoff": "recollect.study.catalogue._cutoff",
    "width-and-samples": "recollect.study.catalogue._width_and_samples",
    "tangent-kernel": "recollect.study.catalogue._tangent_kernel",
    "stall": "recollect.study.catalogue._stall",
}
