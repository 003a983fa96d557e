"""What a check found, as a line for people and as JSON for scripts."""

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]
"""ok: nothing to do, also if a check does not apply here. warning: a run can start, but may be slow or fail later.
error: a run would fail."""
EXIT_ERRORS = 1
"""Exit code if a check found an error; 0 if there are only warnings."""
WIDTH = 120
"""Columns of the report."""
_SUBJECT_WIDTH = 18


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Level
    subject: str
    """The thing that was checked, such as "shared memory"."""
    text: str
    """What was found, with the value and, if it is not ok, the rule."""
    remedy: str = ""
    """What to do about it; empty if there is nothing to do."""

    def __str__(self) -> str:
        """Return the level, the subject and the text, with the remedy on lines of its own."""
        head = f"{self.level:9}{self.subject:{_SUBJECT_WIDTH}}"
        lines = _wrapped(self.text, head)
        if self.remedy:
            lines += _wrapped(self.remedy, f"{'':{len(head) - 2}}> ")
        return "\n".join(lines)


def from_error(subject: str, error: BaseException, level: Level = "error") -> Finding:
    """Return the finding of an error; the messages of this project end with the remedy, after a semicolon."""
    message = " ".join(str(error).split()) or type(error).__name__
    text, _, remedy = message.rpartition("; ")
    return Finding(level, subject, text, remedy) if text else Finding(level, subject, remedy)


def summary(findings: Sequence[Finding], seconds: float) -> str:
    """Return the last line of the report."""
    counts = Counter(finding.level for finding in findings)
    named = [
        f"{counts[level]} {level}{'s' * (counts[level] > 1 and level != 'ok')}"
        for level in ("ok", "warning", "error")
        if counts[level]
    ]
    return f"{len(findings)} findings in {seconds:.0f} s: {', '.join(named)}"


def exit_code(findings: Iterable[Finding]) -> int:
    """Return the exit code of the doctor for these findings."""
    return EXIT_ERRORS if any(finding.level == "error" for finding in findings) else 0


def as_json(findings: Sequence[Finding], seconds: float) -> str:
    """Return the report as one JSON object: findings in the order of the report, counts by level, seconds."""
    counts = Counter(finding.level for finding in findings)
    return json.dumps(
        {
            "findings": [asdict(finding) for finding in findings],
            "counts": {level: counts[level] for level in ("ok", "warning", "error")},
            "seconds": round(seconds, 1),
        },
        indent=1,
    )


def _wrapped(text: str, head: str) -> list[str]:
    """Return the text in lines after a head, the others below it. A path or an option is never broken."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
