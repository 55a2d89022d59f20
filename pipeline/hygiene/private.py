"""Secrets and personal data in a text: where they are, and the text without them.

Secrets are found by the detectors of `detect-secrets` that know a token by its form; guesses from entropy or from words
such as `password` are left out, since in reasoning they are mostly wrong. Telephone numbers are found by
`phonenumbers`. Names of people are not found.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import polars as pl

SECRET, PERSONAL = "secret", "personal"
_SECRETS = (
    "artifactory.ArtifactoryDetector",
    "aws.AWSKeyDetector",
    "azure_storage_key.AzureStorageKeyDetector",
    "basic_auth.BasicAuthDetector",
    "cloudant.CloudantDetector",
    "discord.DiscordBotTokenDetector",
    "github_token.GitHubTokenDetector",
    "gitlab_token.GitLabTokenDetector",
    "ibm_cloud_iam.IbmCloudIamDetector",
    "ibm_cos_hmac.IbmCosHmacDetector",
    "jwt.JwtTokenDetector",
    "mailchimp.MailchimpDetector",
    "npm.NpmDetector",
    "openai.OpenAIDetector",
    "pypi_token.PypiTokenDetector",
    "sendgrid.SendGridDetector",
    "slack.SlackDetector",
    "softlayer.SoftlayerDetector",
    "square_oauth.SquareOAuthDetector",
    "stripe.StripeDetector",
    "telegram_token.TelegramBotTokenDetector",
    "twilio.TwilioKeyDetector",
)
_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z ]*-----|\Z)", re.DOTALL)
_LINE, _REST = re.compile(r"[^\r\n]+"), re.compile(r"[A-Za-z0-9_\-+/=.]*")
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])")
_CARD = re.compile(
    r"(?<![\d.,+\-*/=])(?:[3-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{1,7}|3[47]\d{2}([ -]?)\d{6}\2\d{5})"
    r"(?!\d|[.,]\d|\s*[+*/=^])"
)
_ADDRESS = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4})(?![\w:]|\.\d)"
)

SUSPECT = (
    r"[A-Za-z0-9+/_=.\-]{16,}|://|@|-----BEGIN|\+\(?\d|(?:\d[ ().-]{0,2}){7,}"
    r"|\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9A-Fa-f]{0,4}:){2,}"
)
"""What a text has that holds any of these; few texts of reasoning do, and the rest need no closer look."""


class Found(NamedTuple):
    """A stretch of a text, from start to before end. kind: SECRET or PERSONAL; what: in a word."""

    start: int
    end: int
    kind: str
    what: str


def suspects(texts: pl.Series) -> pl.Series:
    """`[N]` bool: which texts may hold something."""
    return texts.str.contains(SUSPECT).fill_null(False)


def find_private(text: str, *, region: str = "") -> list[Found]:
    """The secrets and personal data of a text, in order, none within another.

    Args:
        region: code of the country whose telephone numbers are known without their `+`; empty: of none.
    """
    found = sorted((*_secrets(text), *_personal(text, region)), key=lambda one: (one.start, -one.end))
    kept: list[Found] = []
    for one in found:
        if not kept or one.start >= kept[-1].end:
            kept.append(one)
            continue
        last = kept[-1]
        worst = one if (one.kind, last.kind) == (SECRET, PERSONAL) else last
        kept[-1] = worst._replace(start=last.start, end=max(last.end, one.end))
    return kept


def redacted(text: str, found: Sequence[Found]) -> str:
    """The text with a word in brackets in place of everything found."""
    parts, at = [], 0
    for one in found:
        parts += [text[at : one.start], f"[{one.what}]"]
        at = one.end
    return "".join((*parts, text[at:]))


def redacted_json(text: str, *, region: str = "") -> str:
    """JSON with what is found in each of its strings and numbers redacted; the very text where nothing is."""
    said = _read_json(text)
    if said is None:
        return redacted(text, find_private(text, region=region))
    mended = _mapped(said, lambda one: redacted(one, find_private(one, region=region)))
    return text if mended == said else json.dumps(mended, ensure_ascii=False)


def strings_in(text: str) -> list[str]:
    """What JSON says, string by string, keys and whole numbers too: escapes hide where words begin. Else itself."""
    found: list[str] = []
    said = _read_json(text)
    if said is None:
        return [text]
    _mapped(said, lambda one: found.append(one) or one)
    return found


def _read_json(text: str) -> Any:
    """None: it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _mapped(said: Any, mend: Callable[[str], str]) -> Any:
    if isinstance(said, dict):
        return {mend(name): _mapped(inner, mend) for name, inner in said.items()}
    if isinstance(said, list):
        return [_mapped(inner, mend) for inner in said]
    if isinstance(said, bool) or not isinstance(said, str | int):
        return said
    mended = mend(str(said))
    return said if mended == str(said) else mended


def _secrets(text: str) -> Iterator[Found]:
    for match in _KEY.finditer(text):
        yield Found(match.start(), match.end(), SECRET, "private key")
    for what, detector in _detectors():
        for line in _LINE.finditer(text):
            if any(detector.analyze_string(line[0])):
                for pattern in detector.denylist:
                    for match in pattern.finditer(line[0]):
                        # What a pattern leaves of a token is as secret as what it names.
                        rest = len(_REST.match(line[0], match.end())[0].rstrip("."))
                        yield Found(line.start() + match.start(), line.start() + match.end() + rest, SECRET, what)


@cache
def _detectors() -> tuple[tuple[str, Any], ...]:
    from importlib import import_module

    found = []
    for name in _SECRETS:
        module, kind = name.split(".")
        detector = getattr(import_module(f"detect_secrets.plugins.{module}"), kind)()
        found.append((detector.secret_type.lower(), detector))
    return tuple(found)


def _personal(text: str, region: str) -> Iterator[Found]:
    for match in _EMAIL.finditer(text):
        yield Found(match.start(), match.end(), PERSONAL, "email")
    for match in _CARD.finditer(text):
        if _luhn(match[0]):
            yield Found(match.start(), match.end(), PERSONAL, "card number")
    for match in _ADDRESS.finditer(text):
        if _is_global(match[0]):
            yield Found(match.start(), match.end(), PERSONAL, "ip address")
    yield from _phones(text, region)


def _phones(text: str, region: str) -> Iterator[Found]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    for match in PhoneNumberMatcher(text, region or None, leniency=Leniency.VALID):
        # `12 + 4155552671` is a sum.
        if region or re.match(r"\+\(?\d", match.raw_string):
            yield Found(match.start, match.end, PERSONAL, "telephone")


def _luhn(number: str) -> bool:
    """Whether the last digit of a card's number fits the others."""
    digits = [int(digit) for digit in number if digit.isdigit()][::-1]
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(digits[::2]) + doubled) % 10 == 0


def _is_global(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
