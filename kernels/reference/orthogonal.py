"""The definition of random orthogonal matrices: the sign-corrected Q of a Gaussian matrix, in float64.

Stewart (1980), "The efficient generation of random orthogonal matrices with an application to condition
estimators", SIAM J. Numer. Anal. 17, 403-409; Mezzadri (2007), "How to generate random matrices from the
classical compact groups", Notices AMS 54, 592-604.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["by_householder", "by_qr"]


def by_householder(gaussians: NDArray[Any]) -> NDArray[np.float64]:
    """Return a Haar matrix as the product of the reflectors of Gaussian vectors (Stewart).

    Householder's QR reflects the first column of a Gaussian matrix onto the first axis. The remaining part of
    the other columns is again Gaussian, independent of the reflector, and one dimension smaller. So
    reflectors of independent Gaussian vectors have the distribution of the reflectors of a QR, without a
    factorisation.

    Parameters
    ----------
    gaussians
        Shape (m, n), m <= n. Reflector k uses row k from column k on; the other elements are not read.

    Returns
    -------
    ndarray of float64, shape (n, m)
        H_0 H_1 ... H_(m-1) I D, with D the signs of the diagonal of R.
    """
    m, n = gaussians.shape
    q = np.eye(n, m)
    for k in range(m - 1, -1, -1):
        x = gaussians[k, k:].astype(np.float64)
        norm = np.sqrt(x @ x)
        sign = -1.0 if x[0] >= 0 else 1.0  # the sign of the diagonal of R: H x = sign |x| e
        v = x.copy()
        v[0] -= sign * norm
        if norm == 0:
            v[0] = 1.0  # any reflector gives an orthogonal matrix
        q[k:, k:] -= np.outer(v, (2 / (v @ v)) * (v @ q[k:, k:]))
        q[:, k] *= sign
    return q


def by_qr(gaussians: NDArray[Any]) -> NDArray[np.float64]:
    """Return a Haar matrix: the Q of the QR of ``gaussians.T`` whose R has a positive diagonal (Mezzadri).

    Parameters
    ----------
    gaussians
        Shape (..., m, n), m <= n.

    Returns
    -------
    ndarray of float64, shape (..., n, m)
    """
    q, r = np.linalg.qr(np.swapaxes(gaussians, -1, -2).astype(np.float64))
    diagonal = np.diagonal(r, axis1=-2, axis2=-1)
    signed: NDArray[np.float64] = q * np.where(diagonal < 0, -1.0, 1.0)[..., None, :]
    return signed
