"""Heavy: torch, transformers. A trained model whole, also where its weights lie in parts on several devices."""

from __future__ import annotations

from collections.abc import Callable

from peft import PeftModel
from transformers import PreTrainedModel, Trainer

from trainers.runs import check_weights

Model = PreTrainedModel | PeftModel


def whole_model(trainer: Trainer, again: Callable[[], Model]) -> Model | None:
    """The trained model on the main process; None on the others. All processes call it, since FSDP and ZeRO-3 gather
    the weights from all.

    Args:
        trainer: whose run has ended.
        again: makes the model as it was before training, to be given the gathered weights.

    Raises:
        BadConfig: a weight is infinite or no number; on the main process.
        ValueError: DeepSpeed is told not to gather (stage3_gather_16bit_weights_on_model_save).
    """
    model = trainer.model
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        weights = trainer.accelerator.get_state_dict(trainer.deepspeed if trainer.is_deepspeed_enabled else model)
        if not trainer.is_world_process_zero():
            return None
        model = again()
        model.load_state_dict(weights, assign=True)
        model.tie_weights()
    if not trainer.is_world_process_zero():
        return None
    check_weights(model)
    return model
