"""Places of a job's parameters in its row of the job table; kernels of all backends read them there."""

from __future__ import annotations

from typing import Final

# All kinds but constant: value = fma(raw, SCALE, OFFSET), then, in a narrow dtype, kept in [LOW, HIGH].
SCALE: Final = 0
OFFSET: Final = 1
LOW: Final = 2
HIGH: Final = 3

# normal, central_normal: x of the signed word w, h of its distance t from the end on its side.
X_STEP: Final = 4  # x = fma(w, X_STEP, X_START)
X_START: Final = 5
H_STEP: Final = 6  # h = fma(t, H_STEP, H_START)
H_START: Final = 7

# bounded_normal: the same for the words of each side, positive then negative, with h scaled by
# H_REFERENCE so that far tails keep their precision: h = ratio * H_REFERENCE.
POSITIVE: Final = 4
NEGATIVE: Final = 10
END: Final = 16
SIDE_X_STEP: Final = 0  # x = fma(m, X_STEP, X_START)
SIDE_X_START: Final = 1
SIDE_RATIO_STEP: Final = 2  # ratio = fma(t, RATIO_STEP, RATIO_START)
SIDE_RATIO_START: Final = 3
SIDE_H_REFERENCE: Final = 4  # h = ratio * H_REFERENCE
SIDE_W_REFERENCE: Final = 5  # -log(2 h) = W_REFERENCE - log(ratio)
