"""Episodes as JSON: text, speaker, at, session, id, metadata."""

from __future__ import annotations

from memspan.longterm.readers.source import Found, InputFile, at_path

_EPISODE_KEYS = ("text", "speaker", "at", "session", "id", "metadata")


def read(file: InputFile) -> Found:
    """Episodes, one an entry; keys that are no part of an episode go into its metadata."""
    for number, (where, entry) in enumerate(file.entries(lines=file.path.suffix.lower() != ".json"), start=1):
        file.need(where, entry, dict, "an episode")
        if "text" not in entry:
            file.fail(where, f"no text; an episode has the keys {', '.join(_EPISODE_KEYS)}")
        metadata = dict(file.need(at_path(where, ".metadata"), entry.get("metadata") or {}, dict, "metadata"))
        for key in entry:
            if key in _EPISODE_KEYS:
                continue
            if key in metadata:
                file.fail(where, f"{key} stands beside metadata and in it; keep one of them")
            metadata[key] = entry[key]
        yield file.episode(
            where,
            file.need(at_path(where, ".text"), entry["text"], str, "text"),
            speaker=file.name(where, entry, "speaker"),
            at=file.moment(at_path(where, ".at"), entry.get("at")),
            session=file.name(where, entry, "session"),
            id=file.name(where, entry, "id", f"{file.stem}:{number}"),
            metadata=metadata,
        )
