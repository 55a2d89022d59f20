"""The engine behind any number of vLLM servers: token ids there and back, over HTTP.

The caller's thread takes requests from their source and yields completions; a loop in another thread asks the servers.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import Future
from queue import SimpleQueue

from pipeline.generation.batching import Intake
from pipeline.generation.engine import Completion, Request
from pipeline.generation.policies import Policy
from pipeline.generation.served.background import background
from pipeline.generation.served.fleet import Fleet
from pipeline.generation.served.identity import agreed_fingerprint
from pipeline.generation.served.limits import Limits
from pipeline.generation.served.listing import DEFAULT, Listing
from pipeline.generation.served.pinning import Pins


class ServedEngine:
    """vLLM servers on one policy.

    Whatever happens to a server, a request is answered once: by an answer, or by a failure with its reason.

    Args:
        servers:    URLs with commas between them, or a file of one a line.
        max_length: positions that prompt and answer have together, where the model does not have fewer.

    Raises:
        BadConfig: the list cannot be read, no server answers, or two would give different tokens.
        BadModel: a server serves something else than the policy.
    """

    name = "served"

    def __init__(self, policy: Policy, *, servers: str = DEFAULT, max_length: int, limits: Limits = Limits()):
        self._policy, self._limits = policy, limits
        self._length = min(max_length, policy.max_length)
        self._listing = Listing(servers)
        self._fingerprint = agreed_fingerprint(self._listing.urls(), policy, length=self._length)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def generate(self, requests: Iterable[Request | None]) -> Generator[Completion, None, None]:
        fleet = Fleet(self._listing, self._policy, self._fingerprint, self._length, self._limits)
        ended: SimpleQueue[Future[Completion]] = SimpleQueue()
        intake, pins, pending = Intake(requests, length=self._length), Pins(), 0
        with background(fleet) as submit:
            while pending or not intake.ended:
                while pending < fleet.room and (request := intake.take(in_hand=pending)) is not None:
                    if isinstance(request, Completion):
                        yield request
                    else:
                        submit(fleet.answer(request, pins.pin(request.prompt))).add_done_callback(ended.put)
                        pending += 1
                if pending:
                    completion = ended.get().result()
                    pending -= 1
                    yield completion
