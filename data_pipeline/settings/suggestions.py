"""Suggestions for names that do not exist."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return '; did you mean --num-steps?', or '' if no name is close. The part before a dot may be missing."""
    known = list(dict.fromkeys(names))
    last = name.lstrip("-").rpartition(".")[2]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    close += [other for other in known if other.lstrip("-").rpartition(".")[2] == last][:1]
    lasts = {other.lstrip("-").rpartition(".")[2]: other for other in reversed(known)}
    close += [lasts[found] for found in difflib.get_close_matches(last, lasts, n=1, cutoff=0.75)]
    return f"; did you mean {close[0]}?" if close else ""
