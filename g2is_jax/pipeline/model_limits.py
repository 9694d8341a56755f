"""Lengths that a config asks for, lowered to those that the checkpoint takes."""

import dataclasses

from ml_collections import ConfigDict

from g2is_jax.pipeline.settings import Settings


def within_limits(settings: Settings, longest: int) -> Settings:
    """The settings with rows of at most `longest` tokens, of which replies take up to half."""
    if settings.data.max_length <= longest:
        return settings
    evaluation = settings.evaluation
    new_tokens = min(evaluation.evaluate.new_tokens, longest // 2)
    evaluate = dataclasses.replace(evaluation.evaluate, new_tokens=new_tokens)
    return dataclasses.replace(
        settings,
        data=dataclasses.replace(settings.data, max_length=longest),
        evaluation=dataclasses.replace(evaluation, evaluate=evaluate),
    )


def lowered(config: ConfigDict, settings: Settings) -> list[str]:
    """Lines on the lengths that are not those of the config."""
    pairs = {
        "model.max_length": (config.model.max_length, settings.data.max_length),
        "evaluate.new_tokens": (
            config.evaluate.new_tokens,
            settings.evaluation.evaluate.new_tokens,
        ),
    }
    return [
        f"{name} = {asked:,} is lowered to {taken:,}: {config.model.checkpoint} takes at most "
        f"{settings.data.max_length:,} tokens (max_position_embeddings)"
        for name, (asked, taken) in pairs.items()
        if asked != taken
    ]
