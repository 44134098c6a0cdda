"""Two indexes of the same rows."""

from __future__ import annotations

from memspan.longterm.index import PassageIndex


def same_names(index: PassageIndex, anew: PassageIndex) -> None:
    """Sessions and speakers are the same by name, whatever their codes."""
    for codes, known in (("session", "sessions"), ("speaker", "speakers")):
        named = []
        for each in (index, anew):
            names = {code: name for name, code in getattr(each, known).items()}
            named.append([names.get(code) for code in getattr(each, codes).tolist()])
        assert named[0] == named[1]
        assert set(getattr(index, known)) == set(getattr(anew, known)), "no name of what was forgotten is held"
