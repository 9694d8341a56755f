"""LoRA training in PyTorch by transformers and peft, which `against_peft` measures against."""

import os
import warnings
from typing import Any

import numpy as np
from etils import epath

from g2is_jax.data.batches import Batch
from g2is_jax.model.lora import Leaves, LoraConfig
from g2is_jax.model.weights import tensor_name
from g2is_jax.training.optimizer import OptimizerConfig


class PeftLoop:
    """A checkpoint in torch with an adapter of these values, and AdamW on the adapter alone.

    dtype: of the base and so of the activations. adapter_dtype: of the adapter and so of its
    products; peft's own choice is float32.
    """

    def __init__(
        self,
        folder: epath.Path,
        adapter: Leaves,
        lora: LoraConfig,
        dtype: str,
        adapter_dtype: str,
        batch: Batch,
    ):
        import torch

        self.torch = torch
        self.model = adapted_model(folder, lora, getattr(torch, dtype))
        named = dict(self.model.named_parameters())
        self.leaves = {path: named[parameter_name(path)] for path in sorted(adapter)}
        trained = [name for name, parameter in named.items() if parameter.requires_grad]
        if len(trained) != len(self.leaves):
            raise ValueError(f"peft trains {len(trained)} tensors, not {len(self.leaves)}")
        self.dtype = getattr(torch, adapter_dtype)
        self.load(adapter)
        self.tokens_BT = torch.tensor(batch.tokens_BT, dtype=torch.long)
        supervised_BT = torch.tensor(batch.supervised_BT)
        self.labels_BT = self.tokens_BT.masked_fill(~supervised_BT, -100)

    def load(self, adapter: Leaves) -> None:
        """Gives the adapter these values."""
        for path, parameter in self.leaves.items():
            values = self.torch.tensor(np.asarray(adapter[path], np.float32))
            parameter.data = values.to(self.dtype)

    def optimizer(self, config: OptimizerConfig) -> Any:
        """Returns torch's AdamW of these settings, at its highest rate."""
        return self.torch.optim.AdamW(
            self.leaves.values(),
            lr=config.learning_rate,
            betas=(config.b1, config.b2),
            eps=config.eps,
            weight_decay=config.weight_decay,
        )

    def gradient(self) -> float:
        """Leaves the gradient of the mean loss of the supervised tokens in the leaves; its loss."""
        self.model.zero_grad()
        loss = self.model(input_ids=self.tokens_BT, labels=self.labels_BT).loss
        loss.backward()
        return float(loss.detach())

    def read(self, gradient: bool) -> dict[str, np.ndarray]:
        """Returns the leaves, or their gradient, in float32 by our paths."""
        return {
            path: (leaf.grad if gradient else leaf.detach()).float().numpy()
            for path, leaf in self.leaves.items()
        }


def adapted_model(folder: epath.Path, lora: LoraConfig, dtype: Any) -> Any:
    """Returns transformers' model of a folder, with peft's adapter."""
    import peft
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        os.fspath(folder), dtype=dtype, trust_remote_code=False
    )
    model.config.use_cache = False
    settings: dict[str, Any] = {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "target_modules": list(lora.targets),
        "task_type": "CAUSAL_LM",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft calls what transformers deprecates
        return peft.get_peft_model(model, peft.LoraConfig(**settings)).train()


def parameter_name(path: str) -> str:
    """Returns peft's name of an adapter's leaf."""
    return f"base_model.model.{tensor_name(path)}.default.weight"
