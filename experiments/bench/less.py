"""LESS's loop over rows in PyTorch, which the benchmark of gradients measures against."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.bench.models import B1, B2, EPS, Subject
from g2is_jax.data.chat import Encoded
from g2is_jax.model.weights import tensor_name

STACKED, COLUMNS = 16, 128  # rows that are projected at once, columns of signs made at once
BERNOULLI, INTEGERS, CACHED = DRAWS = ("bernoulli_", "random_", "cached")  # how signs are made


class LessLoop:
    """LESS's way to features, on one thread of torch: a row at a time, a backward pass each.

    Every 16 rows, stacked in float16, are projected in float32 by 128 columns of signs after
    another. `draw`: the signs are made anew each time, by torch's `bernoulli_`, as trak's
    BasicProjector has it, or by its faster `random_`, or kept from one time to the next (`cached`).
    `blocks`: of the columns, only so many (0: all), and `missing` has the seconds that the others
    would have taken in the last call.
    """

    def __init__(self, subject: Subject, width: int, draw: str, blocks: int = 0):
        import torch

        self.torch, self.width = torch, width
        self.model, self.leaves = torch_model(subject)
        first, second = subject.moments.first, subject.moments.second
        self.first, self.second = (
            torch.cat([tensor(torch, part[path]).view(-1) for path in self.leaves])
            for part in (first, second)
        )
        self.starts = range(0, width, COLUMNS)
        self.timed_blocks = min(blocks or len(self.starts), len(self.starts))
        self.draw, self.matrix = draw, None
        self.block = torch.empty(len(self.first), min(COLUMNS, width))
        if draw == CACHED:
            self.matrix = torch.cat([self._signs(start).clone() for start in self.starts], dim=1)
        self.missing = 0.0

    def features(self, rows: Sequence[Encoded]) -> Any:
        """Features (N, P) in float16."""
        self.missing, found, stack = 0.0, [], []
        for place, row in enumerate(rows, start=1):
            stack.append(self.direction(row))
            if len(stack) == STACKED or place == len(rows):
                found.append(self._projected(self.torch.stack(stack).to(self.torch.float16)))
                stack = []
        return self.torch.cat(found).to(self.torch.float16).numpy()

    def direction(self, row: Encoded) -> Any:
        """Adam's direction as LESS's code has it: no bias correction, eps inside the root."""
        torch = self.torch
        tokens_1T = torch.from_numpy(row.tokens_T[None].astype(np.int64))
        supervised_1T = torch.from_numpy(row.supervised_T[None])
        labels_1T = tokens_1T.masked_fill(~supervised_1T, -100)
        mask_1T = torch.ones_like(tokens_1T)
        self.model(input_ids=tokens_1T, attention_mask=mask_1T, labels=labels_1T).loss.backward()
        g = torch.cat([leaf.grad.view(-1) for leaf in self.leaves.values()])
        for leaf in self.leaves.values():
            leaf.grad = None
        u = B1 * self.first + (1 - B1) * g
        w = B2 * self.second + (1 - B2) * g**2
        return u / torch.sqrt(w + EPS)

    def _projected(self, stack_BG) -> Any:
        stack_BG = stack_BG.to(self.torch.float32)
        if self.matrix is not None:
            return stack_BG @ self.matrix
        features_BP = self.torch.zeros(len(stack_BG), self.width)
        began = time.perf_counter()
        for start in self.starts[: self.timed_blocks]:
            features_BP[:, start : start + COLUMNS] = stack_BG @ self._signs(start)
        left = len(self.starts) / self.timed_blocks - 1
        self.missing += left * (time.perf_counter() - began)
        return features_BP

    def _signs(self, start: int) -> Any:
        """Draws the signs of the columns from `start` on, in place of those before."""
        generator = self.torch.Generator().manual_seed(start)
        if self.draw == BERNOULLI:
            self.block.bernoulli_(0.5, generator=generator)
        else:
            self.block.random_(0, 2, generator=generator)
        self.block.mul_(2).sub_(1)
        return self.block[:, : self.width - start]


def torch_model(subject: Subject) -> tuple[Any, dict[str, Any]]:
    """transformers' model with the subject's weights, and the adapter's leaves in our order."""
    import torch
    import transformers

    config = transformers.CONFIG_MAPPING[subject.raw["model_type"]](**subject.raw)
    config.dtype = "float32"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    weights = {tensor_name(path): tensor(torch, leaf) for path, leaf in subject.base.items()}
    absent, unknown = model.load_state_dict(weights, strict=False)
    if unknown or set(absent) - {"lm_head.weight"}:
        raise ValueError(f"weights that do not fit: {[*absent, *unknown]}")
    model.requires_grad_(False)
    leaves = {
        path: tensor(torch, leaf).requires_grad_() for path, leaf in sorted(subject.adapter.items())
    }
    for path in leaves:
        layer = path.rpartition(".")[0]
        if path.endswith("lora_A"):
            pair = leaves[path], leaves[f"{layer}.lora_B"]
            _adapt(model.get_submodule(tensor_name(layer)), *pair, subject.model.lora.scale)
    return model, leaves


def _adapt(linear, a_RD, b_DR, scale: float) -> None:
    def with_adapter(module, inputs, output):
        return output + scale * ((inputs[0] @ a_RD.T) @ b_DR.T)

    linear.register_forward_hook(with_adapter)


def tensor(torch, leaf) -> Any:
    return torch.from_numpy(np.array(leaf, np.float32))
