"""One request under way: its plan, its steps and their progress, its checkpoints."""

from ffrt.generation.checkpoint import Checkpoint
from ffrt.generation.generation import Generation
from ffrt.generation.plan import Plan
from ffrt.generation.step import Step

__all__ = ["Checkpoint", "Generation", "Plan", "Step"]
