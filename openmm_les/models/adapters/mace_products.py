"""Couplings of MACE's products of features, brought into the form of `SymmetricContraction`."""

from __future__ import annotations

from typing import Dict, List, Sequence, Tuple

import torch
from torch import Tensor


def contraction_terms(couplings: Sequence[Sequence[Tensor]]) -> Tuple[Dict[str, int], Dict[str, Tensor]]:
    """Sizes and constant tensors of a `SymmetricContraction`.

    Parameters
    ----------
    couplings : for each degree L of the output, couplings of ν = ν_max … 1 factors, each
        ``[2L + 1,] [components] * ν, [paths]`` (no first dimension for L = 0)

    Returns
    -------
    n_components, n_outputs and the like, without what the weights tell; and the tensors

    Notes
    -----
    All factors are the same features, so that only the sum over permutations of a coupling counts:
    indices are sorted, the largest becomes the last factor, the others a monomial.
    """
    n_components = couplings[0][0].shape[-2]
    n_factors = max(1, max(len(own) for own in couplings) - 1)
    widths = [1 if own[0].dim() == len(own) + 1 else own[0].shape[0] for own in couplings]
    n_outputs = sum(widths)
    monomials: Dict[Tuple[int, ...], int] = {}
    terms: Dict[Tuple[int, int], float] = {}
    first_output, first_path = 0, 0
    for own, width in zip(couplings, widths):
        for coupling in own:
            full = coupling if width > 1 else coupling.unsqueeze(0)
            indices = torch.nonzero(full)
            values = full[tuple(indices.t())].tolist()
            for (output, *factors, path), value in zip(indices.tolist(), values):
                *rest, last = sorted(factors)
                padded = tuple(rest + [n_components] * (n_factors - len(rest)))
                monomial = monomials.setdefault(padded, len(monomials))
                row = (monomial * n_outputs + first_output + output) * n_components + last
                key = (row, first_path + path)
                terms[key] = terms.get(key, 0.0) + value
            first_path += full.shape[-1]
        first_output += width
    kept: List[Tuple[Tuple[int, int], float]] = [(k, v) for k, v in sorted(terms.items()) if abs(v) > 1e-10]
    sizes = dict(n_monomials=len(monomials), n_factors=n_factors, n_terms=len(kept))
    tensors = {
        "factors": torch.tensor(list(monomials), dtype=torch.int64).view(len(monomials), n_factors),
        "term_rows": torch.tensor([k[0] for k, _ in kept], dtype=torch.int64),
        "term_paths": torch.tensor([k[1] for k, _ in kept], dtype=torch.int64),
        "term_values": torch.tensor([v for _, v in kept], dtype=torch.float64),
    }
    return sizes, tensors


__all__ = ["contraction_terms"]
