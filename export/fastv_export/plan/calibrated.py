"""What a calibration makes of an export, in words."""

from __future__ import annotations

from collections.abc import Mapping

from fastv_export.calibration import Calibration


def calibration_warnings(
    calibration: Calibration,
    *,
    places: Mapping[str, object],
    ranker: str | None,
    precision: tuple[str, str] | None,
    max_text: tuple[int, int] | None,
) -> list[str]:
    """What an export makes otherwise for its calibration's sake, and what would make it as usual; what it does not use.

    places: options that say where tokens are dropped. ranker: the option. Of the others both: what the calibration
    chose, and what an export without one has. None: the user chose.
    """
    warnings = []
    given = [f"`{name}`" for name, value in places.items() if value is not None]
    if given and calibration.chosen is not None:
        unused = calibration.chosen.point.model_copy(update={"precision": "fp32"})
        warnings.append(
            f"warning: `calibration`: {unused}, which it chose, is not used, since {' and '.join(given)} "
            f"{'says' if len(given) == 1 else 'say'} where tokens are dropped and how many stay"
        )
    elif ranker is not None and calibration.chosen is not None:
        cuts = calibration.chosen.cuts
        if any(cut.ranker != ranker for cut in cuts):
            chose = " and ".join(dict.fromkeys(cut.ranker for cut in cuts))
            warnings.append(
                f"warning: `calibration`: `ranker` {ranker} in place of {chose}, with which it chose where to cut "
                "and how many stay"
            )
    if precision is not None and precision[0] != precision[1]:
        chose, usual = precision
        warnings.append(
            f"warning: `calibration`: weights in {chose}, which it measured, instead of {usual}: "
            f"for those give `precision` {usual}"
        )
    if max_text is not None and max_text[0] < max_text[1]:
        room, usual_room = max_text
        warnings.append(
            f"warning: `calibration`: room for {room} text tokens instead of {usual_room}, since the longest of its "
            f"{calibration.samples} prompts has {calibration.lengths.text_max}: for longer ones give `max_text`"
        )
    return warnings
