"""Configurations are frozen dataclasses; this turns them into strict JSON and back, and changes their leaves.

    recipe = resolve("bert:tiny")                      # a function in plume/recipes/bert.py
    recipe = override(recipe, ["training.steps=1000", "objective.noise_density=0.3"])
    tree = to_json(recipe)                             # {"class": "plume.training.settings:Pretraining", ...}
    assert from_json(tree) == recipe

A JSON tree is data from a stranger: it can only ever name frozen dataclasses that lie under ``plume.`` or in a
file the user named in this process, and only where the field's type admits them (DESIGN sections 5 and 7).
"""

from plume.config.code import load_file
from plume.config.names import copy_code, recipes, resolve
from plume.config.tree import checked, differences, digest, from_json, read, to_json
from plume.config.words import override, settings

__all__ = [
    "checked",
    "copy_code",
    "differences",
    "digest",
    "from_json",
    "load_file",
    "override",
    "read",
    "recipes",
    "resolve",
    "settings",
    "to_json",
]
