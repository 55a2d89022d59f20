"""Heavy: transformers. The tokenizer of the embedded policy: bytes, and one token a fixed phrase.

Any text round-trips (bytes are the base alphabet); the phrases of the prompt pack and of the
JSON the pack asks for are single tokens, so that a step costs about eight tokens. The verdict on a
step is one token with all that surrounds it: it then comes straight after the step worked out anew,
where the difference shows. (With the verdict a token later, this policy found one first error in
six; see the model card.)
"""

from __future__ import annotations

import re

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.prompts import PromptPack

SPEAKERS = ("<|system|>", "<|user|>", "<|assistant|>")
END = "<|end|>"
PAD = "<|pad|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
QUESTION = "State the final answer to the following arithmetic problem: "
ANSWERS = (
    " + ", " - ", " = ", " =", "#### ", "; ", "null", "success", "failure",
    '{"trajectory_summary": "', '", "root_cause_analysis": ', '"Step ', " is wrong: ",
    '", "trajectory_outcome": "failure", "improvement_suggestion": "', '", "retry_from_step": ',
    ', "trajectory_outcome": "success", "improvement_suggestion": null, "retry_from_step": null}',
    "Every step was right.", " correct", " incorrect",
    '{"step_checks": [{"index": ', ', "reason": "', '", "verdict": "correct"}, {"index": ',
    '", "verdict": "correct"}], "first_error_index": ', '", "verdict": "incorrect"}], "first_error_index": ',
    ', "intervention": "', '"}',
)  # fmt: skip


def phrases(pack: PromptPack) -> list[str]:
    """Every fixed stretch of the pack's prompts and answers, longest first."""
    texts = [text for messages in pack.templates.values() for text in messages.values()]
    found = {QUESTION, *ANSWERS, pack.right, pack.wrong}
    for text in [*texts, pack.step_line]:
        found.update(re.split(r"\$\{?\w+\}?", text))
    return sorted((phrase for phrase in found if len(phrase) > 1), key=lambda phrase: (-len(phrase), phrase))


def build_tokenizer(pack: PromptPack) -> PreTrainedTokenizerFast:
    """The tokenizer for a prompt pack; deterministic, nothing is learned."""
    specials = [PAD, END, *SPEAKERS]
    alphabet = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(specials)
    core.add_tokens([AddedToken(phrase, normalized=False, special=False) for phrase in phrases(pack)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        padding_side="left",
    )
