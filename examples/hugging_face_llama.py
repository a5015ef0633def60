"""A tiny Llama by Hugging Face: python examples/hugging_face_llama.py out_dir=out attention=eager

It knows nothing of xent. docs/own-training.md shows the two lines that record it.
"""

from typing import Any

import torch
from omegaconf import OmegaConf
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

defaults = {"out_dir": "out", "seed": 0, "attention": "sdpa", "rope_theta": 10000.0, "max_steps": 20}
config: Any = OmegaConf.merge(defaults, OmegaConf.from_cli())
set_seed(config.seed)

architecture: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
architecture |= {"num_attention_heads": 2, "rope_theta": config.rope_theta, "attn_implementation": config.attention}
model = LlamaForCausalLM(LlamaConfig(**architecture))
texts = torch.randint(97, (200, 1)) + torch.arange(16) * torch.randint(1, 5, (200, 1))
rows = [{"input_ids": row, "labels": row} for row in texts % 97]
arguments = TrainingArguments(
    config.out_dir,
    max_steps=config.max_steps,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    learning_rate=1e-3,
    seed=config.seed,
    use_cpu=True,
    report_to="none",
    save_strategy="no",
    disable_tqdm=True,
)
trainer = Trainer(model=model, args=arguments, train_dataset=rows)
trainer.train()
