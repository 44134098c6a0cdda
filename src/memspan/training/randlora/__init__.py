"""RandLoRA (Albert et al., ICLR 2025, arXiv 2502.00987): finetuning by updates of full rank with as few trained
numbers as LoRA's: fixed random matrices, of which diagonal scales are learned.

dW = sum over j of B_j Λ_j A Γ_j, with j = 1 … n and n = ceil(d / r): d the smaller side of a layer and D its larger,
A [r, d] and B_j [D, r] random and frozen, Λ_j [r, r] and Γ_j [d, d] diagonal and trained. One pair of bases serves all
layers, each taking a corner. Λ is 0 at the start, so that dW is 0, and Γ moves from the second step on.

Notable choices. Bases are PEFT's, drawn in its order from its seed, and kept in the bits that their values have, with
only the rows and columns that a layer reads; columns of B meet rows of A' as PEFT has them, which permutes the columns
of each B_j. The paper's scale is alpha / (r sqrt(n)) and PEFT's alpha / r, with another default of alpha: they are not
interchangeable, and `scale` says which is meant. A' = Λ ⊙ A ⊙ Γ is made again in the backward pass, and what is kept
of a layer's input is the smaller of it and its product with B. For many tokens dW is added to the weight for the
moment, which takes about as many operations as training the weight itself, while two products with the factors take
more than twice as many. The base weights are not touched before the end, so that removing the adapters is exact
(`remove_adapters`), where subtracting a merged update is not. The variant with DoRA's magnitudes, which stands in the
official code only, is left out, and so are several adapters at once.
"""

from memspan.training.randlora.files import load_adapter, save_adapter
from memspan.training.randlora.layer import RandLoraLinear
from memspan.training.randlora.saver import RandLora, RandLoraConfig, merge_adapters, remove_adapters

__all__ = [
    "RandLora",
    "RandLoraConfig",
    "RandLoraLinear",
    "load_adapter",
    "merge_adapters",
    "remove_adapters",
    "save_adapter",
]
