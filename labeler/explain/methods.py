"""The ways to explain a feature, by the name that a recipe gives them. A new way is a new row here."""

from __future__ import annotations

from collections.abc import Callable

from labeler.explain import prompts
from labeler.explain.material import Material
from labeler.explain.template import template_prompt
from labeler.llm.prompt import Prompt
from labeler.recipe import EXPLAINERS, ExplainerConfig, check_prompt

METHODS: dict[str, Callable[[Material, ExplainerConfig], Prompt]] = {
    "max-activation": prompts.max_activation,
    "token-activation-pairs": prompts.token_activation_pairs,
    "contrastive": prompts.contrastive,
    "output-centric": prompts.output_centric,
    "input-and-output": prompts.input_and_output,
    "template": template_prompt,
}


def explanation_prompt(material: Material, config: ExplainerConfig) -> Prompt:
    """Write the request for one label. Raises InputError for a recipe whose prompt this version no longer writes."""
    check_prompt(config.prompt_version, EXPLAINERS[config.method])
    return METHODS[config.method](material, config)
