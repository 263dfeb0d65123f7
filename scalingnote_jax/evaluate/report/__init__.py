"""`report.html` and `compare.html`: one page for a person, with everything inside it.

Text, style, script and pictures in one file that loads nothing; reads in light and dark, on a phone
and by keyboard. Computes no metric: it shows what `eval/metrics.json` and the training logs say.
"""

from scalingnote_jax.evaluate.report.comparison import write_comparison
from scalingnote_jax.evaluate.report.page import write_report

__all__ = ["write_comparison", "write_report"]
