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
KINDS: Final = (CONSTANT, UNIFORM, NORMAL, CENTRAL_NORMAL, BOUNDED_NORMAL)
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
        ("split", "<u8"),  # bounded_normal: last word of the positive side; constant: the bit pattern
        ("count", "<i8"),  # elements of the box
        ("tile", "<i8"),  # number of this job's first tile in the whole list
        ("extent", "<i8", (JOB_AXES,)),  # box, innermost axis last
        ("index_step", "<i8", (JOB_AXES,)),  # global indices per step along the axis
        ("byte_step", "<i8", (JOB_AXES,)),  # destination bytes per step along the axis
        ("parameters", "<f8", (JOB_PARAMETERS,)),  # by kind, see initium.fills
    ]
)

# --- normal quantile (printed by tools/fit_quantile.py) -------------------------------------------------
# h is the tail probability in (0, 1/2] and x = NORMAL_X_SCALE (1 - 2 h); each comes from its own integer,
# so both are relatively precise. Coefficients: lowest power first; those of float32 are exactly float32.
#   float32, central, h >= Phi(-2):  s = fma(-h, h, h);  z = fma(x A(s), 1 / B(s), x)
#   wide, h >= NORMAL_WIDE_MIN_H:    v = sqrt(s);        z = fma(x A(v), 1 / B(v), x)
#   tail:  w = -log(2 h);  r = sqrt(w);                  z = fma(SLOPE, r, A(r) / B(r))
#   float64, far, w > FAR_MIN_W:     y = fma(2, w, LOG_2_OVER_PI), l = log y; z^2 = y - l + sum FAR_k(l) / y^k
NORMAL_X_SCALE: Final = 1.5
NORMAL_WIDE_MIN_H: Final = 0.00048828125
# |z| <= 2; relative error of the unrounded fit 1.2e-08
NORMAL32_CENTRAL_A: Final = (
    0.0003657527850009501,
    0.054765716195106506,
    0.7571277618408203,
    -6.139728546142578,
    -33.753944396972656,
    -3.3391129970550537,
)
NORMAL32_CENTRAL_B: Final = (
    0.000329479604260996,
    0.09388526529073715,
    3.903855800628662,
    34.6822624206543,
    56.8271484375,
)
# h >= NORMAL_WIDE_MIN_H; relative error of the unrounded fit 1.7e-08
NORMAL32_WIDE_A: Final = (
    5.1971899665659294e-05,
    0.009776310995221138,
    0.25601890683174133,
    0.8756409883499146,
    -3.215297222137451,
    -4.8024773597717285,
)
NORMAL32_WIDE_B: Final = (
    2.3324155336013064e-05,
    0.006519720423966646,
    0.27670368552207947,
    2.8123364448547363,
    7.543595314025879,
    4.93570613861084,
)
NORMAL32_LOG: Final = (
    -0.4999999701976776,
    0.33333665132522583,
    -0.25001397728919983,
    0.19972553849220276,
    -0.16581237316131592,
    0.14820286631584167,
    -0.14212758839130402,
    0.08902020007371902,
)
NORMAL32_LN2: Final = 0.6931471824645996
# 2**-126 <= h < NORMAL_WIDE_MIN_H; unrounded 9.4e-10
NORMAL32_TAIL_SLOPE: Final = 1.3125
NORMAL32_TAIL_A: Final = (
    0.018588904291391373,
    -0.11081712692975998,
    -0.023067906498908997,
    0.009913287125527859,
    0.0012302093673497438,
)
NORMAL32_TAIL_B: Final = (
    0.042504385113716125,
    0.0987018495798111,
    0.10054001212120056,
    0.01206289418041706,
)
# h >= NORMAL_WIDE_MIN_H; relative error of the unrounded fit 2.8e-17
NORMAL64_WIDE_A: Final = (
    4.990163626316631e-11,
    5.466215505815982e-08,
    1.2788948351298418e-05,
    0.0010364008430626952,
    0.03470604939751869,
    0.5066464335711176,
    3.0033975965134925,
    3.6313912646803193,
    -22.45866570954567,
    -63.49254987545595,
    -43.88573545119587,
    -6.74808713303208,
)
NORMAL64_WIDE_B: Final = (
    1.9226173130771547e-11,
    2.7031312472525114e-08,
    7.737562088962932e-06,
    0.0007713943154821615,
    0.032982310213108566,
    0.6687932240174406,
    6.751842890707853,
    34.47076597933897,
    87.7945980802668,
    105.45549920051563,
    51.10879394815056,
    6.786434147040983,
)
NORMAL64_LOG: Final = (
    0.666666666666667,
    0.3999999999989917,
    0.28571428626107426,
    0.22222211115676732,
    0.18182890377458183,
    0.15331683795764908,
    0.14616877724775154,
)
NORMAL64_LN2_HIGH: Final = 0.6931471805599453
NORMAL64_LN2_LOW: Final = 2.3190468138462996e-17
# up to w = NORMAL64_FAR_MIN_W; unrounded 4.4e-18
NORMAL64_TAIL_SLOPE: Final = 1.375
NORMAL64_TAIL_A: Final = (
    -5.1049987045288185e-06,
    -0.001509326411234549,
    -0.0019300728264925993,
    -0.0027998636942522985,
    -0.001899725492584119,
    -0.00029153253821583914,
    2.370444340321905e-05,
    7.334105412812677e-06,
    4.522503198825014e-07,
    9.229353317552125e-09,
    4.9950038177144336e-11,
)
NORMAL64_TAIL_B: Final = (
    0.0011307803052743196,
    0.0023006585730551217,
    0.004462107891728839,
    0.004391003326671388,
    0.003769342918171648,
    0.0014354846148203744,
    0.00020848137325302628,
    1.168680455207619e-05,
    2.3542323820038612e-07,
    1.2737303225778948e-09,
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
