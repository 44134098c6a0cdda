"""Sparse spectral training (Zhao et al., ICML 2025, arXiv 2405.15481): weights as their singular value decomposition.

A weight is kept as U diag(S) V^T. Every step trains all singular values; of the singular vectors only `rank` pairs,
drawn anew every `interval` steps: half of the chance goes with the singular value (exploit), half is the same for all
(explore). So the update is not held in one subspace as LoRA's is, and there is no factor of zeros to start from after
a merge, as in ReLoRA. After a step singular values are clamped at 0 and vectors brought back to length 1; when all
directions could have had their turn, a fresh decomposition restores orthogonality.

>>> saver = SST(rank=64, interval=200)  # doctest: +SKIP
>>> train(model, batches, steps=20_000, savers=[saver, "checkpointing"])  # doctest: +SKIP

Notable choices. What trains is a parameter and what waits another, so that any optimizer has state for the former
alone; a draw swaps rows in place. State of singular values follows its pair; state of vectors begins anew with each
draw, state of values with each decomposition, whose signs and rotations are arbitrary; the rate of both is warmed up
after each draw. Weights decay in their singular values alone. The *enhanced* gradient leaves out the factor S_i: under
Adam, which divides by the size of gradients, that changes next to nothing; it does under SGD. V^T x is computed again
in the backward pass, so that no more activations are kept than by a plain layer. A round is as many draws as would
visit every direction of every layer once, for all layers together. Matrices with fewer than 8 directions, output
embeddings, convolutions and embeddings stay as they are. Interval and warm-up of the paper's runs are not known to us.

Hyperbolic nets: `LorentzLinear` has one ordinary matrix inside, which is factorised as any other.
"""

from __future__ import annotations

from memspan.training.sst.layer import SpectralLinear
from memspan.training.sst.lorentz import LorentzLinear, lift, lorentz_distance, lorentz_product
from memspan.training.sst.saver import SST, SSTConfig

__all__ = [
    "SST",
    "LorentzLinear",
    "SSTConfig",
    "SpectralLinear",
    "lift",
    "lorentz_distance",
    "lorentz_product",
]
