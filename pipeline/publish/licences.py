"""Licences that a card on the Hub can name. Knows no card.

Source: huggingface.co/docs/hub/repositories-licenses; no library that is installed here ships that list.
"""

from __future__ import annotations

from pipeline.cli_options import closest
from pipeline.errors import BadConfig

LICENCES = tuple(
    """
    apache-2.0 mit openrail openrail++ bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-3-clause bsd-3-clause-clear bsd-2-clause c-uda
    cc cc0-1.0 cc-by-4.0 cc-by-3.0 cc-by-2.5 cc-by-2.0 cc-by-sa-4.0 cc-by-sa-3.0 cc-by-nc-4.0 cc-by-nc-3.0 cc-by-nc-2.0
    cc-by-nd-4.0 cc-by-nc-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-sa-4.0 cc-by-nc-sa-3.0 cc-by-nc-sa-2.0
    cdla-permissive-2.0 cdla-permissive-1.0 cdla-sharing-1.0 wtfpl ecl-2.0 epl-2.0 epl-1.0 etalab-2.0 eupl-1.2 eupl-1.1
    agpl-3.0 gfdl gpl gpl-3.0 gpl-2.0 lgpl lgpl-3.0 lgpl-2.1 lgpl-lr isc lppl-1.3c mpl-2.0 ms-pl ncsa odc-by odbl pddl
    ofl-1.1 openmdw-1.1 openmdw-1.0 osl-3.0 postgresql unlicense zlib apple-ascl apple-amlr deepfloyd-if-license
    fair-noncommercial-research-license gemma grok2-community h-research intel-research
    llama4 llama3.3 llama3.2 llama3.1 llama3 llama2 unknown other
    """.split()  # noqa: SIM905 - ninety lines as a literal
)
"""Of a family the newest comes first: it is what a name without its version is held to mean."""


def check_licence(licence: str) -> None:
    """Refuse what the Hub does not know.

    Raises:
        BadConfig: names the closest.
    """
    if licence not in LICENCES:
        raise BadConfig(
            f"licence {licence!r} is not known to the Hub",
            remedy=f"{closest(licence.lower(), LICENCES)}choose from huggingface.co/docs/hub/repositories-licenses; "
            "what is not there is 'other'",
        )
