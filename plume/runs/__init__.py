"""A run folder, or a published Hugging Face folder, as one object with the methods its family and heads can do.

bert = plume.load("runs/bert")
bert.fill_mask("The film was [MASK].")
"""

from plume.runs.opening import load as load
from plume.runs.run import Run as Run
