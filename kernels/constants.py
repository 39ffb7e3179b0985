"""Every constant of stream version 1 that more than one kernel needs, once.

The CPU kernels and the reference import it; the CUDA prelude is rendered from it.
"""

from __future__ import annotations

from typing import Final

import numpy as np

STREAM_VERSION: Final = 1

# --- bits: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") -------------
PHILOX_ROUNDS: Final = 10
PHILOX_M0: Final = 0xD2511F53
PHILOX_M1: Final = 0xCD9E8D57
PHILOX_W0: Final = 0x9E3779B9
PHILOX_W1: Final = 0xBB67AE85
WORDS_PER_BLOCK: Final = 4

# --- kinds of fill, as job tables and kernels name them -------------------------------------------------
#: The words themselves.
WORDS: Final = "words"
#: Every value is the same bit pattern.
CONSTANT: Final = "constant"
#: Uniform on an interval.
UNIFORM: Final = "uniform"
#: Normal, truncated symmetrically at any number of sigmas or not at all.
NORMAL: Final = "normal"
#: Normal, truncated symmetrically at no more than CENTRAL_SIGMAS.
CENTRAL_NORMAL: Final = "central_normal"
#: Normal between any two bounds, in float64 arithmetic; also every normal of float64.
BOUNDED_NORMAL: Final = "bounded_normal"
KINDS: Final = (WORDS, CONSTANT, UNIFORM, NORMAL, CENTRAL_NORMAL, BOUNDED_NORMAL)
CENTRAL_SIGMAS: Final = 2.0

# --- the job table --------------------------------------------------------------------------------------
#: Axes of a job's box after merging; a box of more axes becomes several jobs.
JOB_AXES: Final = 4
JOB_PARAMETERS: Final = 16
#: Elements of a tile, the unit of work that a core or a group of GPU threads claims.
TILE: Final = 1 << 15

#: One row per job. A CUDA struct of the same layout reads the same bytes.
JOB: Final = np.dtype(
    [
        ("address", "<u8"),  # destination of the box's first element
        ("stream", "<u8"),  # upper counter words
        ("start", "<u8"),  # global index of the box's first element
        ("split", "<u8"),  # bounded_normal: last positive word; constant: bit pattern; words: first block
        ("count", "<i8"),  # elements of the box
        ("tile", "<i8"),  # number of this job's first tile in the whole list
        ("extent", "<i8", (JOB_AXES,)),  # box, innermost axis last
        ("index_step", "<i8", (JOB_AXES,)),  # global indices per step along the axis
        ("byte_step", "<i8", (JOB_AXES,)),  # destination bytes per step along the axis
        ("parameters", "<f8", (JOB_PARAMETERS,)),  # by kind, see initium.fills
    ]
)

# --- normal quantile (printed by tools/fit_quantile.py) -------------------------------------------------
# h is the tail probability in (0, 1/2] and x = S (1 - 2 h), S the block's X_SCALE; each comes from its own
# integer by one fma, so both are relatively precise. Coefficients: lowest power first; those of float32
# are exactly float32.
#   float32, central, h >= Phi(-2):  s = fma(-h, h, h);  z = fma(x A(s), 1 / B(s), x)
#   wide, h >= NORMAL_WIDE_MIN_H:    v = sqrt(s);        z = fma(x A(v), 1 / B(v), x)
#   tail:  w = -log(2 h);  r = sqrt(w);                  z = fma(SLOPE, r, A(r) / B(r))
#   float64, far, w > FAR_MIN_W:     y = fma(2, w, LOG_2_OVER_PI), l = log y; z^2 = y - l + sum FAR_k(l) / y^k
NORMAL_WIDE_MIN_H: Final = 0.00048828125
# |z| <= 2; relative error of the unrounded fit 1.2e-08
NORMAL32_CENTRAL_X_SCALE: Final = 1.40234375
NORMAL32_CENTRAL_A: Final = (
    0.0005206085625104606,
    0.0818529725074768,
    1.3597215414047241,
    -5.219177722930908,
    -40.409568786621094,
    -4.489659786224365,
)
NORMAL32_CENTRAL_B: Final = (
    0.0004141560348216444,
    0.1180141344666481,
    4.907177448272705,
    43.59607696533203,
    71.43287658691406,
)
# h >= NORMAL_WIDE_MIN_H; unrounded 1.7e-08
NORMAL32_WIDE_X_SCALE: Final = 1.4375
NORMAL32_WIDE_A: Final = (
    7.70488622947596e-05,
    0.014623044058680534,
    0.38937732577323914,
    1.4449561834335327,
    -4.221963405609131,
    -6.690302848815918,
)
NORMAL32_WIDE_B: Final = (
    3.252919123042375e-05,
    0.009092927910387516,
    0.3859196901321411,
    3.9224438667297363,
    10.521434783935547,
    6.884212017059326,
)
NORMAL32_LOG: Final = (
    -0.4999999701976776,
    0.33333665132522583,
    -0.25001394748687744,
    0.19972553849220276,
    -0.1658124029636383,
    0.14820288121700287,
    -0.14212745428085327,
    0.08901997655630112,
)
NORMAL32_LN2: Final = 0.6931471824645996
# 2**-126 <= h < NORMAL_WIDE_MIN_H; unrounded 9.4e-10
NORMAL32_TAIL_SLOPE: Final = 1.3125
NORMAL32_TAIL_A: Final = (
    0.01269657164812088,
    -0.07569034397602081,
    -0.01575583405792713,
    0.006770975887775421,
    0.0008402571547776461,
)
NORMAL32_TAIL_B: Final = (
    0.029031412675976753,
    0.06741534918546677,
    0.0686708614230156,
    0.008239193819463253,
)
# h >= NORMAL_WIDE_MIN_H; unrounded 2.8e-17
NORMAL64_WIDE_X_SCALE: Final = 1.5
NORMAL64_WIDE_A: Final = (
    4.989846212655925e-11,
    5.465915876894129e-08,
    1.27883610201153e-05,
    0.0010363626614185314,
    0.034705097539106354,
    0.5066376625810192,
    3.003382809110674,
    3.6315106948429183,
    -22.458392105779442,
    -63.49290805400571,
    -43.88640854754222,
    -6.748241482449309,
)
NORMAL64_WIDE_B: Final = (
    1.9224935520209236e-11,
    2.7029799426280984e-08,
    7.737194321020415e-06,
    0.0007713641949996816,
    0.03298130240071208,
    0.6687784352556332,
    6.751749753896847,
    34.470569397758744,
    87.79477768021897,
    105.45648655200799,
    51.109627634132,
    6.786589634161954,
)
NORMAL64_LOG: Final = (
    0.666666666666667,
    0.3999999999989918,
    0.2857142862610609,
    0.22222211115835475,
    0.18182890368918625,
    0.15331684010116525,
    0.14616875683592787,
)
NORMAL64_LN2_HIGH: Final = 0.6931471805599453
NORMAL64_LN2_LOW: Final = 2.3190468138462996e-17
# up to w = NORMAL64_FAR_MIN_W; unrounded 4.4e-18
NORMAL64_TAIL_SLOPE: Final = 1.375
NORMAL64_TAIL_A: Final = (
    -5.098276893898217e-06,
    -0.0015092575391362699,
    -0.0019299262226071365,
    -0.0027998694621774265,
    -0.0018997488116735185,
    -0.00029153237971572273,
    2.3705119534312178e-05,
    7.334113562041096e-06,
    4.5224526082392975e-07,
    9.229143191166608e-09,
    4.994831229498114e-11,
)
NORMAL64_TAIL_B: Final = (
    0.0011307033595256753,
    0.0023005460288346084,
    0.004461931300206884,
    0.004390923691076839,
    0.0037693703111794014,
    0.0014354946280297292,
    0.00020848114175220367,
    1.1686670499087046e-05,
    2.3541787680234658e-07,
    1.2736863139850399e-09,
)
NORMAL64_FAR_MIN_W: Final = 729.0
NORMAL64_LOG_2_OVER_PI: Final = -0.4515827052894549
NORMAL64_FAR_1: Final = (
    -2.0,
    1.0,
)
NORMAL64_FAR_2: Final = (
    7.0,
    -3.0,
    0.5,
)
NORMAL64_FAR_3: Final = (
    -35.666666666666664,
    17.0,
    -3.5,
    0.3333333333333333,
)
NORMAL64_FAR_4: Final = (
    248.16666666666666,
    -124.0,
    29.0,
    -3.8333333333333335,
    0.25,
)
NORMAL64_FAR_5: Final = (
    -2191.9,
    1116.6666666666667,
    -277.0,
    42.5,
    -4.083333333333333,
    0.2,
)
