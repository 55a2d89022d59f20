"""How fast an engine decodes while a stage runs, its opening left out."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.report import OnProgress, Progress


@dataclass(slots=True, eq=False)
class Pace:
    """Listens to the progress of stages, and passes it on.

    on_progress: who is told too.
    """

    on_progress: OnProgress
    _first: dict[str, float] = field(default_factory=dict)
    _last: dict[str, Progress] = field(default_factory=dict)

    def __call__(self, progress: Progress) -> None:
        before = self._last.get(progress.stage)
        if progress.what == "requests" and progress.tokens > (before.tokens if before else 0):
            self._first.setdefault(progress.stage, progress.seconds)
            self._last[progress.stage] = progress
        self.on_progress(progress)

    def rate(self, stage: str, *, shortest: float | None) -> float | None:
        """Tokens a second. The clock begins when the first answer that came was asked for.

        Args:
            shortest: seconds that the stage's fastest request took: the first answer was about as fast. None: not
                told, so the clock begins with that answer.

        Returns:
            None: nothing was decoded, or all of it at once.
        """
        if stage not in self._last:
            return None
        seconds = self._last[stage].seconds - max(0.0, self._first[stage] - (shortest or 0.0))
        return self._last[stage].tokens / seconds if seconds > 0 else None
