"""Read recipes from TOML files, checked key by key before anything is gathered or paid for.

    recipe = read_recipe("cascade", explainer="openai:gpt-5-mini")      one that comes with the package
    recipe = read_recipe("mine.toml")                                   a file; a template's path is relative to it

A file says what differs from the defaults; `labeler recipes` prints those that come with the package.
"""

from labeler.recipes.read import known_recipes, parse_recipe, read_recipe, recipe_from_values, recipe_values, text_of

__all__ = ["known_recipes", "parse_recipe", "read_recipe", "recipe_from_values", "recipe_values", "text_of"]
