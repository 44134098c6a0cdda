"""LeMo: blocks of uninformative tokens pass layers by."""

from memspan.training.lemo.predictors import Predictors, fit_predictors
from memspan.training.lemo.profile import profile_keep, refine_keep
from memspan.training.lemo.saver import Lemo, LemoConfig

__all__ = ["Lemo", "LemoConfig", "Predictors", "fit_predictors", "profile_keep", "refine_keep"]
