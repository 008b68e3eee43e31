"""Figures, tables and the page."""

from recollect.report._curse_map import draw_curse_map
from recollect.report._diagnosis_page import (
    diagnosis_json,
    diagnosis_page,
    diagnosis_summary,
    write_diagnosis,
)
from recollect.report._model_page import model_page, write_model_page
from recollect.report._reproduction_page import (
    reproduction_page,
    verdicts_json,
    write_reproduction,
)
from recollect.report._svg import save_figure

__all__ = [
    "diagnosis_json",
    "diagnosis_page",
    "diagnosis_summary",
    "draw_curse_map",
    "model_page",
    "reproduction_page",
    "save_figure",
    "verdicts_json",
    "write_diagnosis",
    "write_model_page",
    "write_reproduction",
]
