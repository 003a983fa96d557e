"""The page: charts, pictures and facts put into the template of pretrain/reporting/page.

The template escapes all values, and the page's content security policy allows no network and no script but its own, so
that a caption or a path in the data cannot become code.
"""

import base64
import hashlib
import time
from pathlib import Path

import jinja2

from pretrain.reporting.facts import (
    differences,
    evaluations_table,
    overview,
    passes_table,
    settings_table,
    starts_table,
)
from pretrain.reporting.figures import chart_sections, passes_chart
from pretrain.reporting.pictures import Pictures
from pretrain.reporting.plots import plot
from pretrain.reporting.run_files import RunFiles

TEMPLATE_FOLDER = Path(__file__).parent / "page"


def render(runs: list[RunFiles], pictures: list[Pictures]) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE_FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    script = (TEMPLATE_FOLDER / "hover.js").read_text()
    passes, sections = passes_chart(runs), chart_sections(runs)
    ids = [section.id for section in sections]
    return environment.get_template("report.html").render(
        title=", ".join(run.name for run in runs),
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        style=(TEMPLATE_FOLDER / "style.css").read_text(),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        runs=[run.name for run in runs],
        overviews=[overview(run) for run in runs],
        sections=[(section, [plot(chart) for chart in section.charts]) for section in sections],
        passes=None if passes.is_empty else plot(passes),
        passes_table=passes_table(runs),
        evaluations=[(run.name, evaluations_table(run)) for run in runs],
        pictures=pictures,
        pictures_after=next((ids.index(name) + 1 for name in ("evaluation", "losses") if name in ids), 0),
        differences=differences(runs),
        starts=[(run.name, starts_table(run)) for run in runs],
        settings=[(run.name, settings_table(run)) for run in runs],
    )
